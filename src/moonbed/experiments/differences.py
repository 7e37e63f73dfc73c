"""Where configurations differ, by dotted names, and a value of one in a line of text."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from moonbed.component import Component, kinds, members
from moonbed.experiments.spec import Experiment

__all__ = ["between_experiments", "changes", "differing", "short"]


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


def changes(spec: Any, base: Any, most: int, place: str = "") -> dict[str, Any] | None:
    """Dotted place -> value in a spec, where it is not that of another; None for more than `most` of them."""
    if spec == base:
        return {}
    if not _alike(spec, base):
        return {place: spec} if most > 0 else None
    out: dict[str, Any] = {}
    for key, value in spec.items():
        if value == base.get(key):
            continue
        found = changes(value, base.get(key), most - len(out), f"{place}.{key}" if place else key)
        if found is None:
            return None
        out |= found
    return out


def _alike(spec: Any, base: Any) -> bool:
    """Whether both are specs of one class."""
    if not (isinstance(spec, dict) and isinstance(base, dict) and "type" in spec):
        return False
    return spec["type"] == base.get("type") and spec.get("source") == base.get("source")


def short(value: Any) -> str:
    """A value in a line: of a component or its spec the class, and those of its fields that are not the defaults."""
    if isinstance(value, Component):
        value = value.spec()
    if isinstance(value, Mapping) and "type" in value:
        usual = _defaults(str(value["type"]))
        unlike = [
            f"{name}={short(found)}"
            for name, found in value.items()
            if name not in ("type", "source") and not (name in usual and usual[name] == found)
        ]
        return str(value["type"]) + (f"({', '.join(unlike)})" if unlike else "")
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(short, value))}]"
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


@cache
def _defaults(name: str) -> dict[str, Any]:
    """Field of a class -> its default in a spec, of fields that have one; nothing of a class that is not known."""
    found = next((members(kind)[name] for kind in kinds().values() if name in members(kind)), None)
    if found is None:
        return {}
    plain = {f.name: f.default for f in dataclasses.fields(found) if f.default is not dataclasses.MISSING}
    return {key: _as_json(value) for key, value in plain.items()}


def _as_json(value: Any) -> Any:
    if isinstance(value, Component):
        return value.spec()
    return [_as_json(v) for v in value] if isinstance(value, list | tuple) else value
