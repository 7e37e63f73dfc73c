"""Several tasks at once, one process each.

A task is a function that returns a generator of events, and its arguments. With one job it runs here; with more, each
task gets a process of its own from a server that has imported torch already. A process that is killed loses nothing
but its own unsaved work: its task is started again, and goes on from what the store holds.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.forkserver as forkserver
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any

from moonbed import signals
from moonbed.component import SpecError
from moonbed.experiments.plugins import load_file

__all__ = ["Failure", "Progress", "Task", "cores", "run_tasks"]

ATTEMPTS = 3
"""How often a task is started before its death counts as a failure."""


@dataclass(frozen=True)
class Task:
    """`function(*args)` returns an iterator of picklable events; both are picklable themselves.

    `files` are the Python files that define the plug-in classes which the arguments speak of.
    """

    function: Callable[..., Iterator[Any]]
    args: tuple[Any, ...]
    files: Sequence[str] = ()


@dataclass(frozen=True)
class Progress:
    """How far a task is: `done` of `total` steps of a stage, and what it measures by the way, as `{"loss": 0.12}`."""

    stage: str
    done: int
    total: int
    note: str = ""
    values: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Failure:
    """The last event of a task that raised. `trace` is empty where the message alone says what the user can mend."""

    message: str
    trace: str = ""


def cores() -> int:
    """Number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_tasks(tasks: Sequence[Task], jobs: int) -> Iterator[tuple[int, Any]]:
    """Yield (index of the task, event) as events come. A task that raises yields a `Failure`; the others go on."""
    if jobs == 1 or len(tasks) == 1:
        for index, task in enumerate(tasks):
            for event in _events(task):
                yield index, event
        return
    yield from _Pool(tasks, jobs).run()


def warm_up() -> Any:
    """Start the server of processes, which imports what they need while this process goes on; returns its context."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["moonbed.experiments._preload"])
    forkserver.ensure_running()
    return context


def _events(task: Task) -> Iterator[Any]:
    import torch
    from threadpoolctl import threadpool_limits

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the order of a sum depends on the number of threads, and so do the last bits
    limits = threadpool_limits(1)
    try:
        for path in task.files:
            load_file(path)
        yield from task.function(*task.args)
    except Exception as error:
        known = isinstance(error, SpecError) or type(error).__module__.startswith("moonbed.")
        yield Failure(str(error) or type(error).__name__, "" if known else traceback.format_exc())
    finally:
        limits.restore_original_limits()
        torch.set_num_threads(threads)


def _child(task: Task, pipe: Connection) -> None:
    signals.interrupt_once()
    try:
        for event in _events(task):
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
