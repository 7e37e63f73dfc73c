"""Where configurations differ, by dotted names, and a value of one in a line of text."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from moonbed.component import Component
from moonbed.experiments.spec import Experiment

__all__ = ["between_experiments", "differing", "short"]


def differing(values: Sequence[Any], place: str = "") -> dict[str, tuple[Any, ...]]:
    """Dotted place -> all values, where components differ; whole components where even their classes do."""
    first = values[0]
    if not isinstance(first, Component) or any(type(value) is not type(first) for value in values):
        return {} if all(value == first for value in values) else {place: tuple(values)}
    out: dict[str, tuple[Any, ...]] = {}
    for field in dataclasses.fields(first):
        here = f"{place}.{field.name}" if place else field.name
        out |= differing([getattr(value, field.name) for value in values], here)
    return out


def between_experiments(groups: Sequence[Sequence[Experiment]]) -> dict[str, tuple[Any, ...]]:
    """Dotted place -> a value for each group of seeds; their seeds are told where the groups have different ones.

    Seeds of teachers and guides, which move along with the training's, count only where they do not.
    """
    base = [group[0].training.seed for group in groups]
    out = {}
    for place, values in differing([group[0] for group in groups]).items():
        along = place.endswith(".seed") and len({v - b for v, b in zip(values, base, strict=True)}) == 1
        if place != "training.seed" and not along:
            out[place] = values
    seeds = tuple(tuple(sorted(e.training.seed for e in group)) for group in groups)
    if len(set(seeds)) > 1:
        out["training.seed"] = tuple(", ".join(map(str, found)) for found in seeds)
    return out


def short(value: Any) -> str:
    """A value in a line: of a component its class, and those of its fields that are not the class's defaults."""
    if isinstance(value, Component):
        unlike = [
            f"{field.name}={short(getattr(value, field.name))}"
            for field in dataclasses.fields(value)
            if field.default is dataclasses.MISSING or getattr(value, field.name) != field.default
        ]
        return type(value).__name__ + (f"({', '.join(unlike)})" if unlike else "")
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(short, value))}]"
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return f"{value:g}" if isinstance(value, float) else str(value)
