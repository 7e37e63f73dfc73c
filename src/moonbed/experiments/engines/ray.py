"""Ray (Moritz et al., Ray: A Distributed Framework for Emerging AI Applications, 2018): the machines of a cluster.

Ray places tasks by the cores and the part of a GPU that each needs, and starts one again whose process or machine
died. All that is done here is to hand them over and to take what they return. A task returns its events at its end;
those that only say how far it is come earlier by an actor on this machine, and nothing is lost with them. Task and
events are pickled by Ray between its processes, and by nobody else.
"""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

from moonbed.component import NonNegative, NonNegativeInt, Positive, PositiveFloat, SpecError
from moonbed.experiments.engines import base
from moonbed.experiments.engines.base import Engine, Failure, Task, is_progress
from moonbed.experiments.engines.distant import Parcel, import_extra, parcels

__all__ = ["Ray"]

OFTEN = 0.25
"""Seconds between two looks at how far the tasks are."""
GRACE = 20.0
"""Seconds that tasks have to save what they have, once they are interrupted."""
LOST = 60.0
"""Seconds without a machine that has room, after which no other one is waited for."""
OBJECTS = 100 * 2**20
"""Bytes that a Ray begun here keeps in shared memory: results are small."""


class Ray(Engine):
    """Tasks on a Ray cluster, each on `cpus` cores and `gpus` of a GPU.

    `address` is that of a running cluster, "auto" or host:port; without it, Ray is started on this machine with a core
    a job and ended with the command. `jobs` is the most that run at once, None for what there is room for. A task whose
    process or machine died is started again up to `retries` times, and goes on from its checkpoint.
    """

    distant = True

    address: str | None = None
    cpus: PositiveFloat = 1.0
    gpus: NonNegative = 0.0
    jobs: Positive | None = None
    retries: NonNegativeInt = 3

    @property
    def share(self) -> float:
        """The part of a GPU that a task is given."""
        return self.gpus

    @property
    def workers(self) -> int:
        """How many tasks the cluster has room for, at most `jobs`; at least 1."""
        there = self._connect().cluster_resources()
        needs = {"CPU": self.cpus, "GPU": self.gpus}
        room = min(there.get(name, 0.0) / amount for name, amount in needs.items() if amount)
        most = max(1, int(room + 1e-9))
        return most if self.jobs is None else min(most, self.jobs)

    def spare(self, tasks: int) -> bool:
        """Whether a task is given two cores."""
        return self.cpus >= 2

    def run(self, tasks: Sequence[Task]) -> Iterator[tuple[int, Any]]:
        """Yield (index of the task, event): how far it is as that becomes known, the others when it is done."""
        if not tasks:
            return
        ray = self._connect()
        if lack := self.lack(ray.nodes()):
            raise SpecError([lack])
        with parcels(tasks) as sent:
            yield from _Work(ray, self, sent).run()

    def _connect(self) -> Any:
        """The module, connected: to what this process is connected to already, or to the address, or to one begun here.

        It ends with this process.
        """
        ray = import_extra("ray", "ray", "Ray")
        if ray.is_initialized():
            return ray
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # silences a warning; we give no GPU by name
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        if self.address is None:
            count = max(1, math.ceil(self.cpus * (self.jobs or max(1, int(base.cores() / self.cpus)))))
            where = {"address": "local", "num_cpus": count, "include_dashboard": False, "object_store_memory": OBJECTS}
        else:
            where = {"address": self.address}
        on_term = signal.getsignal(signal.SIGTERM)
        try:
            ray.init(**where, log_to_driver=False, logging_level="ERROR")
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise SpecError([("address", f"no Ray answers at {self.address!r} ({error})")]) from None
        finally:
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, on_term)  # Ray's own would end this process before it has said so
        private = ray._private.worker
        if hasattr(private, "print_to_stdstream"):  # it prints deaths on standard output, which is for results
            private.print_to_stdstream = _told
        return ray

    def lack(self, nodes: Sequence[dict[str, Any]]) -> tuple[str, str] | None:
        """What no living machine has, as (field, message): a task would wait for it for ever. None: one has room."""
        there = [node["Resources"] for node in nodes if node["Alive"]]
        if any(r.get("CPU", 0.0) >= self.cpus and r.get("GPU", 0.0) >= self.gpus for r in there):
            return None
        words = [f"{r.get('CPU', 0.0):g} cores and {r.get('GPU', 0.0):g} GPUs" for r in there]
        short = "gpus" if any(r.get("CPU", 0.0) >= self.cpus for r in there) else "cpus"
        wanted = f"a task needs {self.cpus:g} cores and {self.gpus:g} GPUs"
        return short, f"{wanted}, and no machine has them; there are: {'; '.join(words) or 'none'}"


def _told(data: dict[str, Any], *_: Any, **__: Any) -> None:
    """The first sentence of what Ray says of workers and machines, on standard error."""
    line = " ".join(" ".join(data["lines"]).split()).split(". ")[0]
    sys.stderr.write(f"Ray: {line[:200]}\n")


class _Channel:
    """What tasks say of how far they are, until it is taken: an actor of Ray, on the machine of the command."""

    def __init__(self) -> None:
        self._kept: deque[tuple[int, Any]] = deque(maxlen=10_000)

    def put(self, index: int, events: list[Any]) -> None:
        self._kept.extend((index, event) for event in events)

    def take(self) -> list[tuple[int, Any]]:
        out = [*self._kept]
        self._kept.clear()
        return out


def _work(parcel: Parcel, index: int, channel: Any) -> list[Any]:
    """The events of a task, in a worker of Ray; how far it is goes through the channel meanwhile."""
    said: list[Any] = []
    kept: list[Any] = []
    last = time.monotonic()
    for event in parcel.open():
        (said if is_progress(event) else kept).append(event)
        if said and time.monotonic() - last > OFTEN:
            channel.put.remote(index, said)
            said, last = [], time.monotonic()
    return [*said, *kept]


class _Work:
    """Tasks that are handed over, and what came of them."""

    def __init__(self, ray: Any, engine: Ray, sent: Sequence[Parcel]) -> None:
        self.ray, self.engine, self.sent = ray, engine, sent
        given = {"num_cpus": engine.cpus, "num_gpus": engine.gpus, "max_retries": engine.retries}
        self.work = ray.remote(**given, retry_exceptions=False)(_work)
        here = ray.get_runtime_context().get_node_id()
        affinity = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(here, soft=True)
        self.channel = ray.remote(num_cpus=0, max_restarts=-1, scheduling_strategy=affinity)(_Channel).remote()
        self.asked: Any = None
        self.running: dict[Any, int] = {}
        self.there = self.looked = time.monotonic()

    def run(self) -> Iterator[tuple[int, Any]]:
        """Hand over as many as may run at once, and yield what they say and return."""
        waiting = deque(range(len(self.sent)))
        try:
            while waiting or self.running:
                while waiting and len(self.running) < (self.engine.jobs or len(self.sent)):
                    index = waiting.popleft()
                    self.running[self.work.remote(self.sent[index], index, self.channel)] = index
                ready, _ = self.ray.wait([*self.running], timeout=OFTEN)
                yield from self._said()
                for ref in ready:
                    index, found = self.running[ref], self._returned(ref)
                    del self.running[ref]
                    yield from ((index, event) for event in found)
                if lack := self._lost():
                    failure = Failure(f"the machines of the cluster are gone: {lack}")
                    yield from ((index, failure) for index in [*self.running.values(), *waiting])
                    return
        finally:
            self._stop()
            self.ray.kill(self.channel)

    def _said(self) -> list[tuple[int, Any]]:
        """How far the running tasks are, as far as it is known here."""
        self.asked = self.asked or self.channel.take.remote()
        ready, _ = self.ray.wait([self.asked], timeout=OFTEN)
        if not ready:
            return []
        try:
            said = self.ray.get(self.asked)
        except self.ray.exceptions.RayError:
            said = []
        self.asked = None
        return [(index, event) for index, event in said if index in self.running.values()]

    def _lost(self) -> str | None:
        """What has been lacking on all machines for so long that no result will come."""
        now = time.monotonic()
        if now < self.looked + LOST / 10:
            return None
        self.looked, lack = now, self.engine.lack(self.ray.nodes())
        if lack is None:
            self.there = now
        return lack[1] if lack and now > self.there + LOST else None

    def _returned(self, ref: Any) -> list[Any]:
        errors = self.ray.exceptions
        try:
            return list(self.ray.get(ref))
        except errors.RayTaskError as error:
            return [Failure(f"a machine of the cluster could not begin it: {error.cause}", str(error))]
        except errors.TaskCancelledError:
            return [Failure("it was cancelled")]
        except errors.RayError as error:
            times = self.engine.retries + 1
            return [Failure(f"its process or machine died {times} times ({type(error).__name__})")]

    def _stop(self) -> None:
        """Interrupt what runs, wait until it has saved what it has, then end it."""
        left, deadline = [*self.running], time.monotonic() + GRACE
        while left and time.monotonic() < deadline:
            for ref in left:
                self.ray.cancel(ref)  # once more each time: an interrupt can fall where Python drops it
            _, left = self.ray.wait(left, num_returns=len(left), timeout=3)
        for ref in left:
            self.ray.cancel(ref, force=True)
