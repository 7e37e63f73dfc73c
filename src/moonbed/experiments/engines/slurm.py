"""SLURM, through submitit: a job for each task, which the queue of a cluster places and starts.

A job that reaches its time limit, or makes room for another, is put back into the queue by submitit; one that ends
without a result is submitted again; both go on from the task's checkpoint. submitit hands a job its callable, and the
command its result, as pickle files in `folder`. That is its transport: nothing else reads them, and whoever can write
there can run code in the jobs. So the folder is made for its owner alone, and what a command put there is removed with
its end.
"""

from __future__ import annotations

import dataclasses
import json
import secrets
import shutil
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from moonbed.component import NonNegativeInt, Positive
from moonbed.experiments.engines.base import Engine, Failure, Progress, Task, is_progress
from moonbed.experiments.engines.distant import Parcel, import_extra, parcels

__all__ = ["Slurm"]

OFTEN = 0.5
"""Seconds between two looks at the jobs."""
GRACE = 20.0
"""Seconds that jobs have to save what they have, once they are interrupted."""
AT_ONCE = 4
"""Tasks at once that floors are divided for, where nobody says how many jobs there may be."""


class Slurm(Engine):
    """Jobs of a SLURM cluster, each on `cpus` cores and `gpus` whole GPUs, for at most `minutes` at a time.

    `folder`, which all machines see, is where submitit keeps its files; it is made for its owner alone. `jobs` is the
    most that are in the queue at once. `cluster` is for trials without SLURM: "local" runs jobs as processes of this
    machine, "debug" in this process.
    """

    distant = True

    partition: str | None = None
    minutes: Positive = 60
    cpus: Positive = 1
    gpus: NonNegativeInt = 0
    jobs: Positive | None = None
    retries: NonNegativeInt = 3
    folder: str = "slurm-jobs"
    cluster: Literal["slurm", "local", "debug"] = "slurm"

    @property
    def share(self) -> float:
        """The number of GPUs of a task."""
        return float(self.gpus)

    @property
    def workers(self) -> int:
        """The most jobs at once."""
        return self.jobs or AT_ONCE

    def spare(self, tasks: int) -> bool:
        """Whether a task is given two cores."""
        return self.cpus >= 2

    def run(self, tasks: Sequence[Task]) -> Iterator[tuple[int, Any]]:
        """Yield (index of the task, event): how far it is as its file says, the others when its job is done."""
        if not tasks:
            return
        submitit = import_extra("submitit", "slurm", "submitit")
        outer = Path(self.folder).absolute()
        outer.mkdir(mode=0o700, parents=True, exist_ok=True)
        outer.chmod(0o700)
        folder = outer / f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"
        executor = submitit.AutoExecutor(folder=folder, cluster=self.cluster)
        given: dict[str, Any] = {
            "name": "moonbed",
            "timeout_min": self.minutes,
            "cpus_per_task": self.cpus,
            "gpus_per_node": self.gpus,
        }
        if self.partition is not None:
            given["slurm_partition"] = self.partition
        executor.update_parameters(**given)
        with parcels(tasks) as sent:
            jobs = [_Job(parcel, folder / f"{k}.jsonl") for k, parcel in enumerate(sent)]
            yield from _Queue(submitit, executor, self, jobs).run()
        shutil.rmtree(folder, ignore_errors=True)


class _Job:
    """What submitit pickles, calls in a job, and submits again as it is where the job is put back into the queue."""

    def __init__(self, parcel: Parcel, said: Path) -> None:
        self.parcel, self.said = parcel, said

    def __call__(self) -> list[Any]:
        kept = []
        with self.said.open("a", encoding="utf-8") as file:
            for event in self.parcel.open():
                if is_progress(event):
                    file.write(json.dumps(_plain(event)) + "\n")
                    file.flush()
                else:
                    kept.append(event)
        return kept

    def checkpoint(self) -> Any:
        """The task again: it goes on from what its store holds."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


class _Queue:
    """Jobs that are submitted, and what came of them."""

    def __init__(self, submitit: Any, executor: Any, engine: Slurm, jobs: Sequence[_Job]) -> None:
        self.submitit, self.executor, self.engine, self.jobs = submitit, executor, engine, jobs
        self.running: dict[int, Any] = {}
        self.attempts = [0] * len(jobs)
        self.read = [0] * len(jobs)

    def run(self) -> Iterator[tuple[int, Any]]:
        """Submit as many as may be there at once, and yield what they say and return."""
        waiting = deque(range(len(self.jobs)))
        try:
            while waiting or self.running:
                while waiting and len(self.running) < (self.engine.jobs or len(self.jobs)):
                    index = waiting.popleft()
                    self.running[index] = self.executor.submit(self.jobs[index])
                    self.attempts[index] += 1
                ended = [index for index, job in self.running.items() if job.done()]
                for index in self.running:
                    yield from ((index, event) for event in self._said(index))
                for index in ended:
                    found = self._returned(index, self.running.pop(index))
                    if found is None:
                        waiting.append(index)
                    yield from ((index, event) for event in found or [])
                if self.running and not ended:
                    time.sleep(OFTEN)
        finally:
            self._stop()

    def _said(self, index: int) -> list[Any]:
        """What a task has written since the last look, whole lines of it."""
        try:
            text = self.jobs[index].said.read_bytes()
        except OSError:
            return []
        new = text[self.read[index] : text.rfind(b"\n") + 1]
        self.read[index] += len(new)
        return [_event(json.loads(line)) for line in new.splitlines()]

    def _returned(self, index: int, job: Any) -> list[Any] | None:
        """The events of a job that ended; None where it should be submitted again."""
        errors = self.submitit.core.utils
        try:
            return list(job.result())
        except errors.FailedJobError as error:
            return [Failure("its job could not begin it", str(error))]
        except errors.UncompletedJobError as error:
            if self.attempts[index] <= self.engine.retries:
                return None
            return [Failure(f"its job ended {self.attempts[index]} times without a result", str(error))]

    def _stop(self) -> None:
        """Cancel what runs, and wait until it has saved what it has."""
        for job in self.running.values():
            job.cancel(check=False)
        deadline = time.monotonic() + GRACE
        while any(not job.done() for job in self.running.values()) and time.monotonic() < deadline:
            time.sleep(OFTEN)


def _plain(event: Any) -> dict[str, Any]:
    who, progress = event if isinstance(event, tuple) else (None, event)
    return {"who": who, **dataclasses.asdict(progress)}


def _event(data: dict[str, Any]) -> Any:
    who = data.pop("who")
    progress = Progress(**data)
    return progress if who is None else (who, progress)
