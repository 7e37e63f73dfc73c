"""Runs of a store, filtered and sorted by what they are and by what came of them.

A condition is a field, one of `= != < <= > >=`, and a value; several are all to hold. A field is what the list shows of
a run (`status`, `n`, `seconds`, ...), a field of its configuration by its dotted name as in changes
(`training.optimizer.lr`), or a metric by its label, its class where only one metric has it, or its id. A component is
called by its class: `training.prediction=V`. A run that lacks the field fits `=None` only, and is sorted last.
"""

from __future__ import annotations

import json
import math
import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from difflib import get_close_matches
from typing import Any

from moonbed.component import SpecError, nearest
from moonbed.experiments.spec import Experiment
from moonbed.experiments.storage.index import Index, Run
from moonbed.experiments.storage.store import Store
from moonbed.experiments.stored import names_of
from moonbed.metrics import Metric
from moonbed.metrics.suites import SUITES

__all__ = ["Line", "Listed", "listed"]

_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "!=": operator.ne,
    "=": operator.eq,
    "<": operator.lt,
    ">": operator.gt,
}
_CONDITION = re.compile(r"\s*(.+?)\s*(<=|>=|!=|==|=|<|>)\s*(.*?)\s*", re.DOTALL)
_OWN = ("id", "name", "status", "n", "exploded", "seconds", "time")
"""Fields of a run beside those of its configuration."""


@dataclass(frozen=True)
class Line:
    """A run of the list; `values` by the label of the metric, or by its id where two have the same label."""

    run: Run
    name: str
    values: Mapping[str, float]


@dataclass(frozen=True)
class Listed:
    """The lines that were asked for, of `total` that fit; `asked` are the fields of conditions and order, with values.

    `damaged` says of each folder that cannot be read what is wrong.
    """

    lines: Sequence[Line]
    total: int
    asked: Mapping[str, Sequence[Any]]
    damaged: Sequence[str]


def listed(
    store: Store, where: Sequence[str] = (), sort: str | None = None, limit: int | None = None, values: bool = False
) -> Listed:
    """The finished runs that fit all conditions, the newest first or by a field (`-field`: the largest first).

    With `values`, or where a metric is asked for, lines have the values of their metrics. Raises `SpecError` for a
    condition that is none and for an unknown field, with the nearest.
    """
    index = store.index()
    everything = index.look()
    runs = [run for run in reversed(everything) if run.status not in ("unfinished", "damaged")]
    fields = _Fields(index, runs)
    asked: dict[str, Callable[[Run], Any]] = {}
    for text in where:
        found = _CONDITION.fullmatch(text)
        if found is None:
            raise SpecError([("--where", f"{text!r} is no condition: write FIELD=VALUE, or <, <=, >, >=, !=")])
        field, sign, value = found.groups()
        asked[field] = fields.reader(field, "--where")
        fits = _test(field, "=" if sign == "==" else sign, value)
        runs = [run for run in runs if fits(asked[field](run))]
    if sort:
        field = sort.removeprefix("-")
        asked[field] = fields.reader(field, "--sort")
        runs = _sorted(runs, asked[field], sort.startswith("-"))
    shown = runs if limit is None else runs[:limit]
    names = names_of(index, shown)
    told = fields.told(shown) if values else {}
    lines = [Line(run, names[run.configuration] or run.id[:8], told.get(run.id, {})) for run in shown]
    more = {name: [read(run) for run in shown] for name, read in asked.items() if name not in _OWN}
    return Listed(lines, len(runs), more, [run.message for run in everything if run.status == "damaged"])


class _Fields:
    """What can be asked of the runs of an index."""

    def __init__(self, index: Index, runs: Sequence[Run]) -> None:
        self.index, self.runs = index, runs
        self._specs: dict[str, dict[str, Any]] = {}
        self._values: dict[str, dict[str, float]] | None = None

    def reader(self, field: str, place: str) -> Callable[[Run], Any]:
        """What reads a field of a run. Raises `SpecError` for one that is not known."""
        if field == "name":
            names = names_of(self.index, self.runs)
            return lambda run: names[run.configuration] or run.id[:8]
        if field in _OWN:
            return lambda run: getattr(run, field)
        if field in (paths := self._paths()):
            return self._of_spec(field)
        self._read()
        metrics, here = self._labels(), self.index.metrics()
        fitting = [key for key, (label, kind) in metrics.items() if field in (label, kind, key)]
        for better in ({k for k in fitting if k in here}, {k for k in fitting if metrics[k][0] == field}):
            fitting = [key for key in fitting if key in better] or fitting
        labels = [label for label, _ in metrics.values()]
        if len(fitting) > 1:
            which = ", ".join(repr(metrics[key][0]) for key in fitting)
            raise SpecError([(place, f"{field!r} could be {len(fitting)} metrics: {which}; or write the id of one")])
        if not fitting:
            known = dict.fromkeys([*_OWN, *paths, *labels])
            near = get_close_matches(field, known, 12, 0.5) or [*_OWN, "training.prediction", "sampler.steps"]
            raise SpecError([(place, f"runs have no field or metric {field!r}; {nearest(field, near)}")])
        values, key = self._read(), fitting[0]
        return lambda run: values.get(run.id, {}).get(key)

    def told(self, runs: Sequence[Run]) -> dict[str, dict[str, float]]:
        """Id of a run -> label of a metric -> value."""
        values, metrics = self.index.values(runs), self._labels()
        labels = [metrics[key][0] for key in self.index.metrics()]
        names = {key: label if labels.count(label) == 1 else key for key, (label, _) in metrics.items()}
        return {run: {names[key]: value for key, value in found.items()} for run, found in values.items()}

    def _read(self) -> dict[str, dict[str, float]]:
        if self._values is None:
            self._values = self.index.values(self.runs)
        return self._values

    def _labels(self) -> dict[str, tuple[str, str]]:
        """Id of a metric -> its label and the name of its class."""
        out = {metric.id: (metric.label, type(metric).__name__) for suite in SUITES.values() for metric in suite}
        for key, spec in self.index.metrics().items():
            if key not in out:
                try:
                    out[key] = Metric.parse(spec).label, str(spec["type"])
                except SpecError:  # of a plug-in that is not loaded
                    out[key] = str(spec.get("type")), str(spec.get("type"))
        return out

    def _spec(self, run: Run) -> dict[str, Any]:
        if run.configuration not in self._specs:
            self._specs[run.configuration] = self.index.configuration(run)
        return self._specs[run.configuration]

    def _paths(self) -> dict[str, None]:
        """The dotted names of all fields that a stored run has, or that one has unless something is said."""
        out = dict.fromkeys(_paths(Experiment().spec()))
        for run in {run.configuration: run for run in self.runs}.values():
            out |= dict.fromkeys(_paths(self._spec(run)))
        return out

    def _of_spec(self, field: str) -> Callable[[Run], Any]:
        parts = field.split(".")
        along = parts[0] in ("training", "guide") and parts[-1] == "seed" and set(parts[1:-1]) <= {"teacher"}

        def read(run: Run) -> Any:
            found: Any = self._spec(run)
            for part in parts:
                if not isinstance(found, dict) or part not in found:
                    return None
                found = found[part]
            return found + run.seed if along and found is not None else found

        return read


def _paths(spec: Any, place: str = "") -> Iterator[str]:
    if isinstance(spec, dict):
        for key, value in spec.items():
            if key != "type":
                yield f"{place}{key}"
                yield from _paths(value, f"{place}{key}.")


def _test(field: str, sign: str, text: str) -> Callable[[Any], bool]:
    """Whether a value fits; what is compared as a number is one."""
    if sign in ("=", "!="):
        return lambda value: (
            sign == "=" and text in ("None", "null") if value is None else _equal(value, text) == (sign == "=")
        )
    try:
        limit = datetime.fromisoformat(text).timestamp() if field == "time" and "-" in text else float(text)
    except ValueError:
        raise SpecError([("--where", f"{field}{sign}{text}: {text!r} is no number to compare with")]) from None
    compare = _OPERATORS[sign]
    return lambda value: isinstance(value, int | float) and not isinstance(value, bool) and compare(value, limit)


def _equal(value: Any, text: str) -> bool:
    if isinstance(value, str):
        return value == text
    try:
        given = json.loads({"True": "true", "False": "false"}.get(text, text))
    except ValueError:
        given = text
    if isinstance(value, dict):
        if isinstance(given, dict):
            return all(key in value and value[key] == wanted for key, wanted in given.items())
        return bool(value.get("type") == given)
    if isinstance(value, bool) or isinstance(given, bool):
        return value is given
    return bool(value == given)


def _sorted(runs: Sequence[Run], read: Callable[[Run], Any], largest: bool) -> list[Run]:
    """By a field: numbers before texts, and what has none, or no number, last."""
    having, lacking = [], []
    for run in runs:
        value = read(run)
        if isinstance(value, dict):
            value = value.get("type")
        if value is None or (isinstance(value, float) and math.isnan(value)):
            lacking.append(run)
        else:
            number = isinstance(value, int | float)
            having.append(((not number, value if number else str(value)), run))
    return [run for _, run in sorted(having, key=lambda pair: pair[0], reverse=largest)] + lacking
