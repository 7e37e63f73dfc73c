"""What a search ranges over: an experiment to start from, places with a range or choices, and what is measured.

    Search(base=PRESETS["ema"], over={"training.optimizer.lr": "1e-4..1e-2:log", "sampler": ["DDIM", "Heun"]})

A range is written `low..high`, of whole numbers where both ends are, with `:log` behind it for even odds of every
factor. Choices are values, or components by name or as JSON, with commas between them. Samples, their number and the
law that they are held against are the same for all trials: values of different questions cannot be ranked.
"""

from __future__ import annotations

import json
import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import field
from typing import Any, Literal, Self

from moonbed.component import (
    Component,
    Fraction,
    NonNegativeInt,
    Positive,
    SpecError,
    members,
    split_values,
)
from moonbed.experiments.differences import short
from moonbed.experiments.evaluate import askable_of
from moonbed.experiments.presets import PRESETS
from moonbed.experiments.spec import Experiment
from moonbed.metrics import Metric
from moonbed.metrics.two_sample import SlicedW1

__all__ = ["Choice", "Float", "Int", "Pruning", "Search", "Space"]

FIXED = ("n", "label", "seed", "training.seed", "training.target")
"""Places that say what is measured, and which seeds."""
DIGITS = 3
"""Significant digits of a number that is tried: nobody could tell the others apart."""


class Space(Component):
    """The values that one place may take."""

    @classmethod
    def parse(cls, data: Any) -> Self:
        """As for every component, and from `low..high`, `low..high:log`, `a,b,c` and a list."""
        if isinstance(data, list | tuple):
            data = Choice(values=tuple(data))
        elif isinstance(data, str) and not (data.lstrip().startswith("{") and len(split_values(data)) == 1):
            data = data if data in members(Space) else _written(data)
        return super().parse(data)

    @abstractmethod
    def ends(self) -> list[Any]:
        """Values that show whether others can be: the least and the largest, or all choices."""

    def value(self, drawn: Any) -> Any:
        """What stands in the experiment for what was drawn."""
        return drawn


class Float(Space):
    """Numbers between two, evenly or with `log` by their logarithm; three significant digits of them are kept."""

    low: float = 0.0
    high: float = 1.0
    log: bool = False

    def check(self) -> Iterator[tuple[str, str]]:
        yield from _order(self.low, self.high, self.log)

    def ends(self) -> list[Any]:
        return [self.low, self.high]

    def value(self, drawn: Any) -> Any:
        return min(max(float(f"{drawn:.{DIGITS}g}"), self.low), self.high)


class Int(Space):
    """Whole numbers between two, both included, evenly or with `log` by their logarithm."""

    low: int = 1
    high: int = 2
    log: bool = False

    def check(self) -> Iterator[tuple[str, str]]:
        yield from _order(self.low, self.high, self.log)

    def ends(self) -> list[Any]:
        return [self.low, self.high]


class Choice(Space):
    """One of several values; components by name, as JSON, or as they are."""

    values: tuple[Any, ...] = ()

    def check(self) -> Iterator[tuple[str, str]]:
        if len(set(self.keys())) < max(2, len(self.values)):
            yield "values", f"should be two or more different ones, given {list(self.values)}"

    def keys(self) -> list[Any]:
        """The values as the study names them: numbers and texts as they are, others as JSON."""
        return [v if isinstance(v, str | int | float | bool | None) else _json(v) for v in self.values]

    def ends(self) -> list[Any]:
        return list(self.values)

    def value(self, drawn: Any) -> Any:
        return self.values[self.keys().index(drawn)]


class Pruning(Component):
    """When a training is given up: at a share of its steps, unless it is among the better ones that came so far.

    At each of `rungs` it is sampled with its average as it stands, `n` points, and measured. It goes on where it is
    within the best `keep` of all that reached this rung in earlier batches, once they are `after` or more. 1/2 is the
    median rule, 1/3 successive halving by thirds (Li et al., A System for Massively Parallel Hyperparameter Tuning).
    """

    rungs: tuple[Fraction, ...] = (0.25, 0.5)
    keep: Fraction = 0.5
    after: Positive = 8
    n: Positive = 1_000

    def check(self) -> Iterator[tuple[str, str]]:
        if list(self.rungs) != sorted(set(self.rungs)) or not all(0 < rung < 1 for rung in self.rungs):
            yield "rungs", f"should rise between 0 and 1, given {list(self.rungs)}"

    def limit(self, values: list[float]) -> float | None:
        """The worst value that goes on, by those that came before; None while they are too few."""
        return sorted(values)[max(0, math.ceil(self.keep * len(values)) - 1)] if len(values) >= self.after else None


class Search(Component):
    """A search for what makes `metric` best, over the places of `over`, from `base`."""

    base: Experiment = Experiment()
    over: dict[str, Space] = field(default_factory=dict)
    metric: Metric = SlicedW1()
    seeds: Positive = 1
    """Trainings a trial, whose mean is its value; pruning looks at the first."""
    prune: Pruning | None = Pruning()
    """None for trainings that all go to their end."""
    method: Literal["TPE", "Random"] = "TPE"
    together: Positive = 4
    """Trials that are proposed at once, and may run at once: what is proposed next knows of all before them."""
    seed: NonNegativeInt = 0
    """Seed of what is proposed."""

    def check(self) -> Iterator[tuple[str, str]]:
        if not self.over:
            yield "over", "names no place: write training.optimizer.lr=1e-4..1e-2:log or training.prediction=Epsilon,V"
            return
        fixed = [p for p in self.over if any(p == f or p.startswith(f"{f}.") for f in FIXED)]
        for place in fixed:
            yield f"over.{place}", "is the question itself: values are ranked that answer the same one"
        if lacks := askable_of(self.base, [self.metric]).get(self.metric.id):
            yield "metric", f"{self.metric.label} {lacks}"
        if not fixed:
            yield from self._check_places()

    def _check_places(self) -> Iterator[tuple[str, str]]:
        """Whether anything in the space can be: each end and choice of a place, the others at their first."""
        first = {place: space.ends()[0] for place, space in self.over.items()}
        tried = [first, *({**first, place: v} for place, space in self.over.items() for v in space.ends()[1:])]
        problems: list[tuple[str, str]] = []
        for changes in tried:
            try:
                self.base.replace(**changes)
                return
            except SpecError as error:
                problems = problems or error.problems
        yield from ((f"over.{place}", message) for place, message in problems)

    @property
    def places(self) -> dict[str, Space]:
        """The places by name: what is proposed does not depend on the order in which they were written."""
        return dict(sorted(self.over.items()))

    def experiment(self, drawn: Mapping[str, Any]) -> Experiment:
        """The experiment of what was drawn. Raises `SpecError` for a combination that cannot be."""
        return self.base.replace(**self.changes(drawn))

    def changes(self, drawn: Mapping[str, Any]) -> dict[str, Any]:
        """Place -> value of what was drawn."""
        return {place: space.value(drawn[place]) for place, space in self.places.items()}

    def drawn_of_base(self) -> dict[str, Any] | None:
        """What would have to be drawn for the base; None where it lies outside of the space."""
        out: dict[str, Any] = {}
        for place, space in self.places.items():
            keys = space.keys() if isinstance(space, Choice) else [self._now(place)]
            same = [key for key in keys if self._is_base(place, space, key)]
            if not same:
                return None
            out[place] = same[0]
        return out

    def _now(self, place: str) -> Any:
        found: Any = self.base.spec()
        for name in place.split("."):
            found = found.get(name) if isinstance(found, dict) else None
        return found

    def _is_base(self, place: str, space: Space, key: Any) -> bool:
        if isinstance(space, Float | Int) and not (isinstance(key, int | float) and space.low <= key <= space.high):
            return False
        try:
            return self.base.replace(**{place: space.value(key)}) == self.base
        except SpecError:
            return False


def base_name(experiment: Experiment) -> str:
    """The preset that it is, "" if it is none."""
    return next((name for name, preset in PRESETS.items() if preset == experiment), "")


def word(place: str, value: Any) -> str:
    """A change as the command line takes it, without a space."""
    if isinstance(value, float):
        return f"{place}={value!r}"
    return f"{place}={value if isinstance(value, str | int | None) else _json(value)}"


def words(changes: Mapping[str, Any]) -> str:
    """Changes for a reader."""
    return " ".join(f"{place}={short(value)}" for place, value in changes.items())


def _json(value: Any) -> str:
    plain = value.spec() if isinstance(value, Component) else value
    return json.dumps(plain, separators=(",", ":"), sort_keys=True)


def _written(text: str) -> Space:
    """`1e-4..1e-2:log`, `4..64`, `Epsilon,V`."""
    body, colon, scale = text.partition(":")
    low, dots, high = body.partition("..")
    if not dots or text.lstrip().startswith(("{", "[")):
        return Choice(values=tuple(split_values(text)))
    if colon and scale != "log":
        raise SpecError([("", f"write low..high or low..high:log, given {text!r}")])
    for kind, number in ((Int, int), (Float, float)):
        try:
            ends = [number(low), number(high)]
        except ValueError:
            continue
        return kind.parse({"low": ends[0], "high": ends[1], "log": bool(colon)})
    raise SpecError([("", f"the ends of a range are numbers, given {text!r}")])


def _order(low: float, high: float, log: bool) -> Iterator[tuple[str, str]]:
    if not low < high:
        yield "high", f"should be above low ({low:g}), given {high:g}"
    if log and low <= 0:
        yield "low", f"should be above 0 for a logarithm, given {low:g}"
