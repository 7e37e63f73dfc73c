"""Every combination of values, as experiments with names: what a sweep is made of.

A combination is a plain dict, dotted place -> value, so a list that is no product (pairs, conditions) is written as
Python and goes through the same `varied`. What sweeps tells the names apart: a place with one value is in none of them.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import Any

from moonbed.component import Component, SpecError
from moonbed.experiments.differences import short
from moonbed.experiments.presets import PRESETS
from moonbed.experiments.spec import Experiment

__all__ = ["grid", "varied"]

SHOWN = 5
"""Combinations that a warning names."""


def grid(
    base: Experiment | Mapping[str, Experiment], *, skip_invalid: bool = False, **over: Sequence[Any]
) -> dict[str, Experiment]:
    """Name -> experiment, for each combination of the values listed behind dotted places.

    `grid(PRESETS["ema"], **{"training.prediction": ["Epsilon", "V"], "sampler.steps": [8, 32]})` has four, named as
    `moonbed run ema training.prediction=Epsilon,V sampler.steps=8,32` names them. Raises `SpecError` that names every
    combination that cannot be; with `skip_invalid` these are left out, and a warning says which.
    """
    lone = [(place, f"list its values, given {values!r}") for place, values in over.items() if not _listed(values)]
    if lone:
        raise SpecError(lone)
    named = {_name(base): base} if isinstance(base, Experiment) else base
    return varied(named, [dict(zip(over, values, strict=True)) for values in product(*over.values())], skip_invalid)


def varied(
    named: Mapping[str, Experiment], combinations: Iterable[Mapping[str, Any]], skip_invalid: bool = False
) -> dict[str, Experiment]:
    """Each experiment under each combination of changes, with what sweeps in its name. Raises and warns as `grid`."""
    every = [dict(combination) for combination in combinations]
    places = list(dict.fromkeys(place for combination in every for place in combination))
    swept = [p for p in places if len({_key(c[p]) if p in c else None for c in every}) > 1]
    out: dict[str, Experiment] = {}
    problems: dict[str, list[tuple[str, str]]] = {}
    for name, experiment in named.items():
        for combination in every:
            tag = " ".join(f"{place}={short(combination[place])}" for place in swept if place in combination)
            title = f"{name} {tag}".strip() or experiment.id[:8]
            try:
                out[title] = experiment.replace(**combination)
            except SpecError as error:
                problems[title] = error.problems
    if not problems or (skip_invalid and out):
        if problems:
            names = ", ".join([*list(problems)[:SHOWN], *["..."] * (len(problems) > SHOWN)])
            warnings.warn(f"{len(problems)} of {len(problems) + len(out)} left out: {names}", stacklevel=3)
        return out
    if len(every) * len(named) == 1:
        raise SpecError(next(iter(problems.values())))
    raise SpecError([(f"{name}: {place}", message) for name, found in problems.items() for place, message in found])


def _listed(values: object) -> bool:
    return isinstance(values, Sequence) and not isinstance(values, str) and len(values) > 0


def _name(experiment: Experiment) -> str:
    return next((name for name, preset in PRESETS.items() if preset == experiment), "")


def _key(value: Any) -> str:
    return value.id if isinstance(value, Component) else repr(value)
