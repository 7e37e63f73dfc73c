"""Trackers: what a command computes, told to the tools where people already look.

A tracker hears of every experiment by its id: its configuration, the loss curve of its training, and at the end its
metrics with their floors and intervals. It is fed by the events of `execute` in the process of the command, so it hears
the same under every engine; what was trained before, or elsewhere, it hears from the log in the store. Each step is
told once: a tracker says what it has, and a command that is given again goes on from there. A tracker is part of no
configuration and of no id, and one that fails costs no result: a warning, and the runs go on without it.
"""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from moonbed.component import Component
from moonbed.experiments.engines.base import Failure, Progress
from moonbed.experiments.floors import load_floor
from moonbed.experiments.results import Result
from moonbed.experiments.spec import Experiment
from moonbed.experiments.storage.folder import StoreError
from moonbed.experiments.storage.runs import log_of
from moonbed.experiments.storage.store import Store
from moonbed.experiments.train import BLOCK
from moonbed.metrics import Metric
from moonbed.metrics.significance import Floor

__all__ = ["Log", "Run", "Tracker", "telling", "tracked"]


@dataclass(frozen=True)
class Run:
    """What is tracked: an experiment, and what the user calls it."""

    name: str
    experiment: Experiment

    @property
    def id(self) -> str:
        """The id of the experiment."""
        return self.experiment.id

    @property
    def configuration(self) -> dict[str, Any]:
        """Dotted name -> value of every field, and the ids."""
        ids = {"id": self.id, "training.id": self.experiment.training.id}
        return ids | dict(_flat(self.experiment.spec()))


class Log(ABC):
    """One run in a tracker. `seen` is the last step that it holds already, and `over` whether it is finished there."""

    seen: int = 0
    over: bool = False

    @abstractmethod
    def step(self, step: int, values: Mapping[str, float]) -> None:
        """What was measured at a step of the training: `{"loss": 0.12}`. Steps rise, each comes once."""

    @abstractmethod
    def finish(self, values: Mapping[str, float], status: str) -> None:
        """The numbers of the run; `status` is done or diverged."""

    def close(self) -> None:  # noqa: B027  (many have nothing to do)
        """Nothing more comes from this command."""


class Tracker(Component):
    """A tool that is told of runs."""

    def require(self) -> None:
        """Raises `SpecError` where what it needs is not installed."""

    @abstractmethod
    def open(self, run: Run) -> Log:
        """The run's log: a new one, or that which a command before has begun."""


Event = tuple[list[Experiment], Progress | Result | Failure]


Told = Callable[[Sequence[Experiment], Progress | Result | Failure], None]


@contextmanager
def telling(
    trackers: Sequence[Tracker],
    store: Store,
    metrics: Sequence[Metric],
    draws: int = 0,
    names: Mapping[str, str] | None = None,
) -> Iterator[Told]:
    """A function that tells trackers of an event. `names` is id -> what the user calls an experiment."""
    for tracker in trackers:
        tracker.require()
    feeds = [_Feed(tracker, store, metrics, draws, {} if names is None else names) for tracker in trackers]

    def tell(group: Sequence[Experiment], event: Progress | Result | Failure) -> None:
        for feed in feeds:
            feed.take(group, event)

    try:
        yield tell
        for feed in feeds:
            feed.end()
    finally:
        for feed in feeds:
            feed.close()


def tracked(
    events: Iterable[Event],
    trackers: Sequence[Tracker],
    store: Store,
    metrics: Sequence[Metric],
    draws: int = 0,
    names: Mapping[str, str] | None = None,
) -> Iterator[Event]:
    """The same events, and what they say told to the trackers, as by `telling`."""
    with telling(trackers, store, metrics, draws, names) as tell:
        for group, event in events:
            tell(group, event)
            yield group, event


class _Feed:
    """One tracker, the logs that are open, and the results that wait for their floors."""

    def __init__(
        self, tracker: Tracker, store: Store, metrics: Sequence[Metric], draws: int, names: Mapping[str, str]
    ) -> None:
        self.tracker, self.store, self.metrics = tracker, store, metrics
        self.draws, self.names, self.works = draws, names, True
        self.logs: dict[str, Log] = {}
        self.last: dict[str, int] = {}
        self.waiting: dict[str, Result] = {}

    def take(self, group: Sequence[Experiment], event: Progress | Result | Failure) -> None:
        if isinstance(event, Progress) and event.stage == "train" and event.values:
            for experiment in group:
                self._try(self._live, experiment, event)
        elif isinstance(event, Result):
            self._try(self._result, event)

    def end(self) -> None:
        for result in list(self.waiting.values()):
            self._try(self._finish, result)

    def close(self) -> None:
        for key in list(self.logs):
            log = self.logs.pop(key)
            self._try(log.close)

    def _try(self, action: Any, *args: Any) -> None:
        if not self.works:
            return
        try:
            action(*args)
        except Exception as error:
            self.works = False
            why = " ".join(f"{type(error).__name__}: {error}".split())
            warnings.warn(f"{type(self.tracker).__name__} failed and is told no more: {why}", stacklevel=2)

    def _log(self, experiment: Experiment) -> Log:
        key = experiment.id
        if key not in self.logs:
            self.logs[key] = self.tracker.open(Run(self.names.get(key, key), experiment))
            self.last[key] = self.logs[key].seen
        return self.logs[key]

    def _live(self, experiment: Experiment, event: Progress) -> None:
        """A step as it comes; with a gap before it, what the store knows of that, or all of it at the end."""
        if event.total != experiment.training.steps or experiment.exact:  # of a teacher
            return
        self._log(experiment)
        if event.done > self.last[experiment.id] + BLOCK:
            self._stored(experiment, event.done - 1)
        if self.last[experiment.id] < event.done <= self.last[experiment.id] + BLOCK:
            self._step(experiment, event.done, event.values)

    def _stored(self, experiment: Experiment, upto: float = math.inf) -> None:
        try:
            lines = log_of(self.store.training(experiment.training))
        except StoreError:  # of a training that never began, as one whose teacher diverged
            return
        for step, loss in lines:
            if step <= upto:
                self._step(experiment, step, {"loss": loss})

    def _step(self, experiment: Experiment, step: int, values: Mapping[str, float]) -> None:
        if step > self.last[experiment.id]:
            self._log(experiment).step(step, values)
            self.last[experiment.id] = step

    def _result(self, result: Result) -> None:
        log = self._log(result.experiment)
        if not result.experiment.exact:
            self._stored(result.experiment)
        if log.over:
            self._done(result.experiment.id)
        elif all(self._floor(result, m) for m in self.metrics if m.id in result.answers) or self.draws == 0:
            self._finish(result)
        else:
            self.waiting[result.experiment.id] = result

    def _floor(self, result: Result, metric: Metric) -> Floor | None:
        """The floor, None while it lacks draws."""
        draws = load_floor(self.store, result.experiment.law, metric, result.experiment.n)
        return Floor(draws) if draws and len(draws) >= self.draws else None

    def _finish(self, result: Result) -> None:
        values = {"exploded": float(result.exploded), "parameters": float(result.parameters)}
        values |= {"training seconds": result.training_seconds, "sampling seconds": result.sampling_seconds}
        for metric in self.metrics:
            if (answer := result.answers.get(metric.id)) is None:
                continue
            ends = {"": answer.value}
            if answer.interval is not None:
                ends |= dict(zip((" interval low", " interval high"), answer.interval, strict=True))
            if (floor := self._floor(result, metric)) is not None:
                ends |= {" floor low": floor.lo, " floor high": floor.hi}
            label = metric.label if f"{metric.label}" not in values else f"{metric.label} {metric.id[:6]}"
            values |= {f"{label}{end}": float(v) for end, v in ends.items() if math.isfinite(v)}
        self._log(result.experiment).finish(values, result.status)
        self._done(result.experiment.id)

    def _done(self, key: str) -> None:
        self.waiting.pop(key, None)
        self.logs.pop(key).close()


def _flat(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for name, inner in value.items():
            key = place if name == "type" and place else f"{place}.{name}" if place else str(name)
            yield from _flat(inner, key)
    elif place != "type":
        yield place, value if isinstance(value, str | int | float | bool) else str(value)
