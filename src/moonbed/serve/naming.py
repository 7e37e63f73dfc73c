"""What a reader calls a stored training: the preset that it is nearest to, and what differs from it.

A stored configuration is read as the JSON that it is, not as a component: a run of somebody's own class can be listed
where that class is not known. Two configurations are compared place by place; where the class itself differs, its
fields are held against that class's defaults.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from moonbed.component import Component, SpecError, kinds, members
from moonbed.experiments.presets import BUDGETS, PRESETS, published

__all__ = ["brief", "described"]

_APART = frozenset({"type", "source", "seed"})


def described(spec: Mapping[str, Any]) -> tuple[str, list[list[str]]]:
    """The nearest preset and what differs from it as [place, value]; the seed of the training is not looked at."""
    name, differs = _nearest(json.dumps({**spec, "seed": None}))
    return name, [list(pair) for pair in differs]


@cache
def _nearest(text: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    spec = json.loads(text)
    preset, _ = _least(spec, {name: variants[name] for name, variants in _presets().items()})
    name, found = _least(spec, _presets()[preset])
    return name, tuple((place, _text(value)) for place, value in found)


def _least(spec: Any, bases: Mapping[str, Any]) -> tuple[str, list[tuple[str, Any]]]:
    found = {name: list(_differences(spec, base)) for name, base in bases.items()}
    return min(found.items(), key=lambda item: len(item[1]))


@cache
def _presets() -> dict[str, dict[str, dict[str, Any]]]:
    """Preset -> what it is called -> its training: as it is, on the published data, and both under every budget."""
    out: dict[str, dict[str, dict[str, Any]]] = {}
    for name, preset in PRESETS.items():
        out[name] = {}
        for data, experiment in (("", preset), (", published data", published(preset))):
            out[name][name + data] = experiment.training.spec()
            for budget, found in BUDGETS.items():
                out[name][f"{name}{data}, {budget}"] = experiment.replace(**found.changes).training.spec()
    return out


def _differences(spec: Any, base: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted place, value in `spec`) wherever it is not that of `base`; of a component the name of its class."""
    if spec == base:
        return
    if not isinstance(spec, dict):
        yield place, spec
        return
    kind = spec.get("type")
    if not isinstance(base, dict) or base.get("type") != kind:
        yield place, kind
        base = _defaults(str(kind))
    for key, value in spec.items():
        if key in _APART and (key != "seed" or not place):
            continue
        inner = f"{place}.{key}" if place else key
        if base is None or key not in base:
            yield inner, value["type"] if isinstance(value, dict) and "type" in value else value
        else:
            yield from _differences(value, base[key], inner)


def brief(spec: Any) -> str:
    """A component in a few words: its class, and the fields that are not its defaults."""
    if not isinstance(spec, dict) or "type" not in spec:
        return _text(spec)
    base = _defaults(str(spec["type"])) or {}
    odd = [
        f"{key}={brief(value)}"
        for key, value in spec.items()
        if key not in ("type", "source") and not (key in base and base[key] == value) and value not in ({}, None)
    ]
    return f"{spec['type']}({', '.join(odd)})" if odd else str(spec["type"])


@cache
def _defaults(name: str) -> dict[str, Any] | None:
    """The spec of a class built from its defaults, None for a class that is not known or has none."""
    found: dict[str, type[Component]] = {}
    for kind in kinds().values():
        found |= members(kind)
    try:
        return found[name]().spec() if name in found else None
    except (SpecError, TypeError):
        return None


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
