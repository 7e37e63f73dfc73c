"""What each change behind the preset `fast` buys: take one back at a time, over paired seeds, with floors and verdicts.

    python benchmarks/ablation.py [--seeds 5] [--jobs 2] [--store runs] [--out x.json]

All rows have the same data, steps, batch and number of samples; the last one is `residual` with this
budget. The verdict is that of `moonbed compare` with `fast`: worse means that the change is missed. Girsanov
bound, off support and N50 are read best; sliced W1 is nearly blind (docs/metrics.md).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from typing import Any

from common import table, write

from moonbed.experiments import Experiment
from moonbed.experiments.compare import Comparison, compare
from moonbed.experiments.engines import Failure, Local
from moonbed.experiments.presets import FAST, ROWS
from moonbed.metrics.density import NLL, OffSupport
from moonbed.metrics.detection import N50
from moonbed.metrics.model import Girsanov
from moonbed.metrics.transport import SlicedW1Law

METRICS = (Girsanov(), N50(), OffSupport(), NLL(), SlicedW1Law())
BACK: Mapping[str, dict[str, Any]] = {
    "regression on x_0 as drawn": {"training.objective.regression": "Drawn"},
    "Adam at 1e-2": {"training.optimizer": {"type": "AdamW", "lr": 1e-2, "beta2": 0.99, "weight_decay": 0.0}},
    "Adam at 1e-3": {"training.optimizer": {"type": "AdamW", "lr": 1e-3}},
    "constant learning rate": {"training.learning_rate": "Constant"},
    "constant rate, EMA": {"training.learning_rate": "Constant", "training.averaging": {"type": "EMA", "decay": 0.99}},
    "epsilon prediction": {"training.prediction": "Epsilon"},
    "EDM's noise levels (mean -1.2)": {"training.objective.times.mean": -1.2},
    "log sigma uniform": {"training.objective.times": "Uniform"},
    "sinusoids of DDPM for the level": {"training.network.embedding": {"type": "Timestep", "scale": 500.0}},
    "three layers of 64": {"training.network.hidden": [64, 64, 64]},
    "20 evaluations, ODE": {"sampler": {"type": "DPMSolver2M", "steps": 19, "spacing": "SinhLogSNR"}},
    "20 evaluations, SDE": {"sampler": {"type": "DPMSolver2M", "steps": 19, "spacing": "SinhLogSNR", "eta": 0.5}},
}


def variants() -> dict[str, Experiment]:
    """Name -> `fast` with one change taken back, and the published row with its budget."""
    rows = {name: FAST.replace(**changes) for name, changes in BACK.items()}
    return rows | {"residual, 1,000 steps": ROWS["residual"].replace(**{"training.steps": FAST.training.steps})}


def judged(name: str, experiment: Experiment, seeds: int, store: str, jobs: int) -> Comparison:
    """The comparison of `fast` with a variant."""
    found = None
    for about, event in compare(
        ("fast", FAST), (name, experiment), METRICS, seeds=seeds, store=store, engine=Local(jobs=jobs)
    ):
        if isinstance(event, Failure):
            sys.exit(f"{about}: {event.trace or event.message}")
        if isinstance(event, Comparison):
            found = event
    assert found is not None
    return found


def cells(name: str, found: Comparison, arm: str) -> list[str]:
    """A row: mean over seeds, and the effect where the verdict of that metric is clear."""
    out = [name]
    for difference in found.differences.values():
        values = getattr(difference, arm)
        mark = {"worse": " -", "better": " +"}.get(difference.verdict, "") if arm == "b" else ""
        out.append(f"{sum(values) / len(values):.3g} ({min(values):.3g}..{max(values):.3g}){mark}")
    return [*out, "" if arm == "a" else found.verdict]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--store", default="runs")
    parser.add_argument("--out", help="write the results as JSON to this file")
    given = parser.parse_args()
    rows: list[list[str]] = []
    for name, experiment in variants().items():
        found = judged(name, experiment, given.seeds, given.store, given.jobs)
        if not rows:
            floors = [d.floor for d in found.differences.values()]
            rows = [["floor, 5 % .. 95 %", *(f"{f.lo:.3g} .. {f.hi:.3g}" if f else "" for f in floors), ""]]
            rows.append(cells("fast", found, "a"))
        rows.append(cells(name, found, "b"))
        print(f"{name}: {found.sentence}", file=sys.stderr)
    head = ["taken back", *found.differences, "verdict"]
    print(
        f"mean (min..max) over {given.seeds} paired seeds, n = {FAST.n:,}; - worse and + better than fast (Holm 5 %)\n"
    )
    print(table(head, rows))
    write(given.out, {"seeds": given.seeds, "head": head, "rows": rows})


if __name__ == "__main__":
    main()
