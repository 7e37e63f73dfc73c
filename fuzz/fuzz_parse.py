"""Configurations from strangers: `parse` of every kind, as a mapping and as JSON, and what is made of them."""

from __future__ import annotations

import json

import atheris

with atheris.instrument_imports(include=["moonbed"]):
    from common import NOISE, Draw, Wrong, fuzz

    from moonbed.component import Component, SpecError, kinds, members
    from moonbed.experiments.presets import PRESETS

KINDS = [*kinds().values()]


def examples() -> list[tuple[type[Component], dict]]:
    found = [(type(e), e.spec()) for e in PRESETS.values()]
    for kind in KINDS:
        for cls in members(kind).values():
            try:
                found.append((kind, cls().spec()))
            except SpecError:
                found.append((kind, {"type": cls.__name__}))
    return found


EXAMPLES = examples()
NAMES = sorted({name for _, spec in EXAMPLES for name in spec} | {spec["type"] for _, spec in EXAMPLES})
PARTS = [spec for _, spec in EXAMPLES[len(PRESETS) :]]


def one(data: bytes) -> None:
    draw = Draw(data, NAMES, PARTS)
    how = draw.below(8)
    kind, spec = draw.one_of(EXAMPLES)
    if how == 0:
        given = draw.from_.ConsumeUnicode(4000)
    elif how == 1:
        given = "{" + draw.from_.ConsumeUnicode(4000)
    else:
        given = draw.value() if how == 2 else draw.mutated(spec)
        if how == 3:
            given = json.dumps(given)
    made = kind.parse(given)
    if kind.parse(made.spec()).id != made.id:
        raise Wrong(f"{made} is not what its own spec says")
    str(made)
    hash(made)


if __name__ == "__main__":
    fuzz(one, (SpecError,), NOISE)
