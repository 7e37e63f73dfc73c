"""What a search ranges over, and conditions on runs: `low..high:log`, choices, JSON, `FIELD<VALUE`."""

from __future__ import annotations

import atheris

with atheris.instrument_imports(include=["moonbed"]):
    import fuzz_store as store
    from common import NOISE, Draw, fuzz

    from moonbed.component import SpecError
    from moonbed.experiments.listing import listed
    from moonbed.experiments.presets import PRESETS
    from moonbed.experiments.search import choices
    from moonbed.experiments.spaces import Search, Space
    from moonbed.experiments.storage.folder import StoreError

RANGES = [
    "1e-4..1e-2:log",
    "1..10",
    "-5..5",
    "DDIM,Heun",
    '{"type": "Float"}',
    "..",
    ":log",
    "1e400..2",
    "nan..1",
    "a,b",
]
NAMES = [
    *RANGES,
    "training.optimizer.lr",
    "sampler",
    "sampler.steps",
    "n",
    "training.seed",
    "SlicedW1",
    "seconds",
    "name",
]
SIGNS = ["=", "<", "<=", "!=", "==", ">", ""]


def one(data: bytes) -> None:
    draw = Draw(data, NAMES)
    how = draw.below(4)
    if how == 0:
        space = Space.parse(draw.text() + draw.one_of(["", "..", ",", ":log"]) + draw.text())
        [space.value(end) for end in space.ends()]
    elif how == 1:
        choices({draw.text(): draw.text() for _ in range(1 + draw.below(3))})
    elif how == 2:
        over = {draw.text(): draw.value() for _ in range(1 + draw.below(3))}
        Search.parse({"base": PRESETS["ema"].spec(), "over": over})
    else:
        listed(store.STORE, [draw.text() + draw.one_of(SIGNS) + draw.text()], draw.text(), values=bool(draw.below(2)))


if __name__ == "__main__":
    try:
        fuzz(one, (SpecError, StoreError), NOISE)
    finally:
        store.shutil.rmtree(store.ROOT)
