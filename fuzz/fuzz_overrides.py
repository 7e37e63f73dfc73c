"""What stands on a command line behind a name: changes, sweeps, metrics, and names of runs."""

from __future__ import annotations

import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["moonbed"]):
    from common import NOISE, Draw, fuzz

    from moonbed.cli.parsing import all_kinds, changed, chosen_metrics
    from moonbed.component import SpecError, parse_overrides, split_values
    from moonbed.experiments.named import find_experiment
    from moonbed.experiments.presets import PRESETS
    from moonbed.experiments.spec import Experiment
    from moonbed.experiments.storage.folder import StoreError
    from moonbed.experiments.storage.runs import save_spec
    from moonbed.experiments.storage.store import Store

all_kinds()
STORE = Store(Path(tempfile.mkdtemp()))
EMA = PRESETS["ema"]
save_spec(STORE.experiment(EMA), EMA)
save_spec(STORE.training(EMA.training), EMA.training)


def places(spec: dict, before: str = "") -> list[str]:
    found = []
    for key, value in spec.items():
        found.append(before + key)
        found += places(value, f"{before}{key}.") if isinstance(value, dict) else []
    return found


PLACES = places(EMA.spec())
NAMES = [
    *PLACES,
    "C2ST",
    "default",
    "ema",
    EMA.id,
    EMA.training.id[:5],
    "Heun",
    "DDIM",
    *PRESETS,
    "[1,2]",
    "1,2",
    "*",
    "..",
]


def one(data: bytes) -> None:
    draw = Draw(data, NAMES)
    how = draw.below(5)
    if how == 0:
        split_values(draw.from_.ConsumeUnicode(4000))
        parse_overrides([draw.from_.ConsumeUnicode(400)])
    elif how == 1:
        chosen_metrics(f"{draw.text()},{draw.text()}")
    elif how == 2:
        STORE.find(draw.text())
        find_experiment(draw.text(), STORE)
    else:
        words = [f"{draw.one_of(PLACES)}={draw.text()}" for _ in range(1 + draw.below(3))]
        if how == 3:
            changed(EMA, draw.one_of((None, "quick", "paper")), words)
        else:
            find_experiment(f"{draw.text()} {' '.join(words)}", STORE)
    EMA.replace(**{draw.text(): draw.value()})
    Experiment.parse(EMA.spec())


if __name__ == "__main__":
    fuzz(one, (SpecError, StoreError), NOISE)
