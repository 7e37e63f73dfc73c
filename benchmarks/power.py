"""Power: which metric sees which planted defect, at the 5 % level, and whether anything is left unseen.

    python benchmarks/power.py [--draws 60] [--floor 120] [--n 5000] [--jobs 2] [--metrics W1,W2] [--out FILE]

Each draw is a sample of two moons (noise .05) with one defect planted in it, of a size that a picture hardly shows, and
a training set of its own; its p-values are what `moonbed run` prints, against a floor of exact samples that all defects
share. "none" plants nothing: its row of shares is the false alarms of the same procedure. "panel, Holm" rejects where
any question of the panel does at the family-wise level, and needs no floor.

52/48 cannot be seen always by anyone: the best possible test of the mixing weight has a power of .81 at n = 5,000.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from common import spread_out, table, write

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from defects import DEFECTS, LAW, defective

from moonbed.metrics import Evaluation, Metric
from moonbed.metrics.panel import diagnose
from moonbed.metrics.significance import Floor, share_interval
from moonbed.metrics.suites import SUITES
from moonbed.rng import Rng

LEVEL = 0.05
SEEN = 0.8
TRAIN = 50_000
COPIES = "copies 10 %"
PLANTED = ("none", "noise .06", "bridge", "52/48", "shift .02", "missing end", COPIES)
HOLM = "panel, Holm"


class Task(NamedTuple):
    defect: str
    number: int
    n: int
    metrics: tuple[Metric, ...]


class Draw(NamedTuple):
    values: list[float]
    holm: float


def planted(defect: str, n: int, number: int) -> Evaluation:
    """Samples with a defect; "floor" has none and other random numbers than "none"."""
    rng = Rng(0).child("power", defect, n, number)
    seed = 1_000 + number + 100_000 * (defect == "floor")
    samples = defective(defect if defect in DEFECTS else "none", n, seed if defect != COPIES else seed + 200_000)
    train = LAW.sample(TRAIN, rng.stream("train")).double().numpy()
    if defect == COPIES:
        copied = rng.stream("copies").permutation(TRAIN)[: n // 10].numpy()
        samples[: n // 10] = train[copied]
    return Evaluation(samples, None, rng.child("metrics"), law=LAW, train=train)


def draw(task: Task) -> Draw:
    evaluation = planted(task.defect, task.n, task.number)
    holm = min(e.p_holm for e in diagnose(evaluation).estimates)
    return Draw([float(metric(evaluation)) for metric in task.metrics], holm)


def run(draws: int, floor: int, n: int, metrics: tuple[Metric, ...], jobs: int = 1) -> dict[str, Any]:
    """Defect -> row -> share rejected, with the intervals."""
    tasks = [Task("floor", k, n, metrics) for k in range(floor)]
    tasks += [Task(defect, k, n, metrics) for k in range(draws) for defect in PLANTED]  # all defects, should it be cut
    found: dict[str, list[Draw]] = {defect: [] for defect in ("floor", *PLANTED)}
    for task, one in zip(tasks, spread_out(draw, tasks, jobs, "draws"), strict=True):
        found[task.defect].append(one)
    floors = [Floor(values) for values in np.array([d.values for d in found["floor"]]).T]
    power: dict[str, dict[str, float]] = {}
    for defect in PLANTED:
        power[defect] = {HOLM: float(np.mean([d.holm <= LEVEL for d in found[defect]]))}
        for k, (metric, null) in enumerate(zip(metrics, floors, strict=True)):
            p = [null.p_value(d.values[k], metric.lower_is_better) for d in found[defect]]
            power[defect][metric.label] = float(np.mean(np.array(p) <= LEVEL))
    intervals = {d: {r: share_interval(s * draws, draws) for r, s in rows.items()} for d, rows in power.items()}
    return {"n": n, "draws": draws, "floor": floor, "power": power, "intervals": intervals}


def report(found: dict[str, Any]) -> str:
    """The table, bold where a defect is seen, and for each defect who sees it."""
    power, rows = found["power"], [*found["power"]["none"]]

    def cell(defect: str, row: str) -> str:
        share = f"{power[defect][row]:.2f}".removeprefix("0")
        return f"**{share}**" if power[defect][row] >= SEEN and defect != "none" else share

    out = [
        f"n = {found['n']:,}; {found['draws']} draws a defect, one floor of {found['floor']} draws; "
        f"bold from {SEEN}; standard error of a share at most {0.5 / found['draws'] ** 0.5:.2f}",
        table(["metric", *PLANTED], [[row, *(cell(defect, row) for defect in PLANTED)] for row in rows]),
    ]
    seeing = {d: [row for row in rows if power[d][row] >= SEEN] for d in PLANTED[1:]}
    out.append("\n".join(f"{defect}: {', '.join(names) or 'none'}" for defect, names in seeing.items()))
    unseen = [
        f"{d} (at best {max(power[d], key=power[d].__getitem__)}, {max(power[d].values()):.2f})"
        for d, names in seeing.items()
        if not names
    ]
    out.append(f"left unseen: {', '.join(unseen) or 'nothing'}")
    return "\n\n".join(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=60, help="samples with each defect")
    parser.add_argument("--floor", type=int, default=120, help="exact samples behind the p-values")
    parser.add_argument("--n", type=int, default=5000, help="points a sample")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--metrics", default="", help="further metrics by name, separated by commas")
    parser.add_argument("--out", help="write the results as JSON to this file")
    given = parser.parse_args()
    metrics = (*SUITES["default"], *map(Metric.parse, filter(None, given.metrics.split(","))))
    for metric in metrics:
        if lacking := metric.missing(planted("none", 10, 0)):
            parser.error(f"{metric.label} needs {' and '.join(lacking)}")
    found = run(given.draws, given.floor, given.n, metrics, given.jobs)
    print(report(found))
    write(given.out, found)


if __name__ == "__main__":
    main()
