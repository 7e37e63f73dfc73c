"""Engines: where tasks run, and how one is run wherever that is.

A task is a function that returns a generator of events, and its arguments. An engine takes tasks and yields their
events as they come, each with the index of its task. It decides where and when, never what: a task gets one thread, its
plug-ins and its store, and what it leaves there is the same under every engine. So an engine is part of no
configuration, and of no id.

A task may be started again after its process, or its machine, died. It goes on from what the store holds, and its
events begin anew: whoever follows them counts the last of a kind.
"""

from __future__ import annotations

import os
import traceback
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

from moonbed.component import Component, SpecError, members, nearest
from moonbed.experiments.plugins import load_file

__all__ = ["Engine", "Failure", "Progress", "Task", "cores", "engine_of", "events", "is_progress", "one_thread"]


@dataclass(frozen=True)
class Task:
    """`function(*args)` returns an iterator of picklable events; both are picklable themselves.

    `files` are the Python files that define the plug-in classes which the arguments speak of; `store` is the root of
    the store that it works on, "" for none.
    """

    function: Callable[..., Iterator[Any]]
    args: tuple[Any, ...]
    files: Sequence[str] = ()
    store: str = ""


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


class Engine(Component):
    """Where tasks run.

    An engine of which `distant` is true runs them in processes that may be on other machines: they have the devices
    that it gives them, `gpus` of a GPU each, and not those of this machine.
    """

    distant: ClassVar[bool] = False

    @property
    @abstractmethod
    def workers(self) -> int:
        """How many tasks it runs at once. Raises `SpecError` where it cannot be reached."""

    @abstractmethod
    def run(self, tasks: Sequence[Task]) -> Iterator[tuple[int, Any]]:
        """Yield (index of the task, event) as events come. A task that raises yields a `Failure`; the others go on.

        What is interrupted, or closed early, ends its tasks, and lets them save what they have.
        """

    @abstractmethod
    def spare(self, tasks: int) -> bool:
        """Whether each of so many tasks has a second core for a thread that prepares its data."""

    @property
    def share(self) -> float:
        """The part of a GPU that a task is given; nothing unless an engine says otherwise."""
        return 0.0

    def warm_up(self) -> None:
        """Begin with what takes long, while whoever runs tasks goes on preparing them."""


def engine_of(engine: Engine | str | None = None, jobs: int | None = None, **fields: Any) -> Engine:
    """The engine of a name in any case, of JSON, or itself; `Local` unless said. Fields that are None are not given.

    Raises `SpecError` for an unknown name, and for a field that the engine does not have.
    """
    given = {name: value for name, value in {"jobs": jobs, **fields}.items() if value is not None}
    if jobs is not None and jobs < 1:
        raise SpecError([("jobs", f"should be at least 1, given {jobs}")])
    if isinstance(engine, str) and not engine.lstrip().startswith("{"):
        known = members(Engine)
        folded = {name.lower(): name for name in known}
        if engine.lower() not in folded:
            raise SpecError([("engine", f"no engine is called {engine!r}; {nearest(engine, known)}")])
        engine = folded[engine.lower()]
    return Engine.parse("Local" if engine is None else engine).replace(**given)


FULL = ("can't allocate memory", "out of memory")
"""What torch says, in a RuntimeError, of a tensor that the memory of a processor or a GPU does not hold."""


def cores() -> int:
    """Number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def is_progress(event: Any) -> bool:
    """Whether an event, alone or behind the number that says whose it is, only says how far something is."""
    return isinstance(event[-1] if isinstance(event, tuple) and event else event, Progress)


@contextmanager
def one_thread() -> Iterator[None]:
    """The block computes with one thread: the order of a sum depends on their number, and so do its last bits."""
    import torch
    from threadpoolctl import threadpool_limits

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    limits = threadpool_limits(1)
    try:
        yield
    finally:
        limits.restore_original_limits()
        torch.set_num_threads(threads)


def events(task: Task) -> Iterator[Any]:
    """The events of a task, in this process: on one thread, its plug-ins loaded; what it raises becomes a `Failure`."""
    with one_thread():
        try:
            for path in task.files:
                load_file(path)
            yield from task.function(*task.args)
        except Exception as error:
            yield failure(error)


def failure(error: Exception) -> Failure:
    """An exception as an event; with its trace where the message is not written for users."""
    if isinstance(error, MemoryError) or any(words in str(error) for words in FULL):
        first = str(error).splitlines()[0] if str(error) else "no memory is left"
        return Failure(f"more is asked for than the memory holds: {first}")
    known = isinstance(error, SpecError) or type(error).__module__.startswith("moonbed.")
    return Failure(str(error) or type(error).__name__, "" if known else traceback.format_exc())
