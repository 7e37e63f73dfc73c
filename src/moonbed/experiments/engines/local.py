"""The processes of this machine.

With one job a task runs here; with more, each gets a process of its own from a server that has imported torch already.
A process that is killed loses nothing but its own unsaved work: its task is started again, and goes on from what the
store holds.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.forkserver as forkserver
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

from moonbed import signals
from moonbed.component import Positive
from moonbed.experiments.engines import base
from moonbed.experiments.engines.base import Engine, Failure, Task, events

__all__ = ["HERE", "Local", "warm_up"]

ATTEMPTS = 3
"""How often a task is started before its death counts as a failure."""


class Local(Engine):
    """Processes of this machine, `jobs` at once."""

    jobs: Positive = 1

    @property
    def workers(self) -> int:
        """As many as there are jobs."""
        return self.jobs

    def run(self, tasks: Sequence[Task]) -> Iterator[tuple[int, Any]]:
        """Yield (index of the task, event); in this process where there is one job or one task."""
        if self.jobs > 1 and len(tasks) > 1:
            yield from _Pool(tasks, self.jobs).run()
            return
        for index, task in enumerate(tasks):
            for event in events(task):
                yield index, event

    def spare(self, tasks: int) -> bool:
        """Whether there are two cores for each task that runs at once."""
        return base.cores() >= 2 * min(self.jobs, tasks)

    def warm_up(self) -> None:
        """Start the server of processes, where there will be several."""
        if self.jobs > 1:
            warm_up()


HERE = Local()
"""One task after the other, in this process."""


def warm_up() -> Any:
    """Start the server of processes, which imports what they need while this process goes on; returns its context."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["moonbed.experiments._preload"])
    forkserver.ensure_running()
    return context


def _child(task: Task, pipe: Connection) -> None:
    signals.interrupt_once()
    try:
        for event in events(task):
            pipe.send(event)
        pipe.send(None)
    except BrokenPipeError:
        pass
    except KeyboardInterrupt as stop:  # not done: whoever still wants the task starts it again
        sys.exit(signals.status(stop))


class _Pool:
    """Processes at work, each with the index of its task."""

    def __init__(self, tasks: Sequence[Task], jobs: int) -> None:
        self.context = warm_up()
        self.tasks, self.jobs = tasks, jobs
        self.waiting = list(range(len(tasks)))[::-1]
        self.attempts = [0] * len(tasks)
        self.running: dict[Connection, tuple[int, Any]] = {}

    def run(self) -> Iterator[tuple[int, Any]]:
        try:
            while self.waiting or self.running:
                while self.waiting and len(self.running) < self.jobs:
                    self._start(self.waiting.pop())
                for pipe in wait(list(self.running)):
                    yield from self._receive(pipe)  # type: ignore[arg-type]
        finally:
            self._stop()

    def _start(self, index: int) -> None:
        ours, theirs = self.context.Pipe(duplex=False)
        process = self.context.Process(target=_child, args=(self.tasks[index], theirs), daemon=True)
        process.start()
        theirs.close()
        self.attempts[index] += 1
        self.running[ours] = index, process

    def _receive(self, pipe: Connection) -> Iterator[tuple[int, Any]]:
        index, process = self.running[pipe]
        try:
            event = pipe.recv()
        except (EOFError, OSError):  # OSError: it died in the middle of a message
            event = None
            process.join()
            if process.exitcode != 0:
                del self.running[pipe]
                pipe.close()
                if self.attempts[index] < ATTEMPTS:
                    self.waiting.append(index)
                else:
                    yield index, Failure(f"its process died {ATTEMPTS} times (exit code {process.exitcode})")
                return
        if event is None:
            del self.running[pipe]
            pipe.close()
            process.join()
        else:
            yield index, event

    def _stop(self) -> None:
        """Let the running processes save what they have, then end them."""
        for _, process in self.running.values():
            if process.is_alive() and process.pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGINT)
        deadline = time.monotonic() + 10
        for _, process in self.running.values():
            process.join(max(0.0, deadline - time.monotonic()))
            if process.is_alive():
                process.kill()
