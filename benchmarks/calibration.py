"""False alarms: are the p-values of an exact sampler uniform, and is 5 % of them rejected at 5 %?

    python benchmarks/calibration.py [--trials 1600] [--floor 1600] [--n 1000] [--jobs 2] [--metrics W1,W2] [--out FILE]

Trials and floor are exact samples of two moons, from random streams that share no name. A trial's p-value is what
`moonbed run` prints: `Floor.p_value`, a multiple of 1/(draws + 1), at which metrics of few values (a share of nothing)
tie with much of their floor. Such a p-value is conservative, so "rejected" may lie below 5 %, and must not lie above.

For uniformity each p-value is *randomised*: ties between trials and floor are broken at random, and the place within
its step of 1/(draws + 1) is drawn. Exchangeable values then have exactly uniform p-values, discrete or not. All trials
are held against one floor, which makes p-values dependent: the distribution of the Kolmogorov-Smirnov distance, and the
range in which the rejected share should lie, are simulated with as many trials against as many draws of uniform numbers
(no metric's own distribution matters after the ties are broken).

The panel's questions have analytic p-values, and need no floor: they are asked of all draws, trials and floor. The one
discrete question, the tail, is randomised between P(more) and P(as many or more). "Holm" is the family-wise level.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from common import spread_out, table, write
from scipy.stats import binom, kstest

from moonbed.metrics import Evaluation, Metric
from moonbed.metrics.law import known
from moonbed.metrics.panel import diagnose
from moonbed.metrics.significance import Floor, share_interval
from moonbed.metrics.suites import SUITES
from moonbed.rng import Rng
from moonbed.targets.curves import TwoMoons

LEVEL = 0.05
LAW = TwoMoons()


class Draw(NamedTuple):
    """Values of the metrics, and p-value by question of the panel, on one exact sample."""

    values: list[float]
    questions: dict[str, float]
    holm: float


class Task(NamedTuple):
    role: str
    number: int
    n: int
    metrics: tuple[Metric, ...]


def exact_evaluation(role: str, number: int, n: int) -> Evaluation:
    """n exact samples, a reference and training points; every role and number has streams of its own."""
    rng = Rng(0).child("calibration", role, n, number)
    samples, train = (LAW.sample(n, rng.stream(name)).numpy() for name in ("samples", "train"))
    return Evaluation(samples, None, rng.child("metrics"), law=LAW, train=train)


def draw(task: Task) -> Draw:
    evaluation = exact_evaluation(task.role, task.number, task.n)
    questions = {}
    diagnosis = diagnose(evaluation)
    for e in diagnosis.estimates:
        p = e.p
        if e.kind == "tail":
            mass = known(LAW).level(5e-4)[1]
            count = round(task.n * (e.value / 100 + mass))
            u = Rng(0).child("calibration", task.role, task.n, task.number).stream("tail").uniform((1,)).item()
            p = float(binom.sf(count, task.n, mass) + u * binom.pmf(count, task.n, mass))
        questions[e.name] = p
    holm = min(e.p_holm for e in diagnosis.estimates)
    return Draw([float(metric(evaluation)) for metric in task.metrics], questions, holm)


# Uniformity


def randomised(trials: Any, floor: Any, lower_is_better: bool | None, rng: np.random.Generator) -> np.ndarray:
    """(trials,) p-values with ties broken at random: uniform if trials and floor are exchangeable. NaN is worst."""
    pooled = np.concatenate([trials, floor]) * (-1.0 if lower_is_better is False else 1.0)
    pooled[np.isnan(pooled)] = math.inf
    rank = np.empty(len(pooled))
    rank[np.lexsort((rng.random(len(pooled)), pooled))] = np.arange(len(pooled))
    above = len(floor) - np.searchsorted(np.sort(rank[len(trials) :]), rank[: len(trials)])
    p = (above + rng.random(len(trials))) / (len(floor) + 1)
    return 2 * np.minimum(p, 1 - p) if lower_is_better is None else p


def distance(p: np.ndarray) -> float:
    """Kolmogorov and Smirnov's, of p-values from the uniform law."""
    p, steps = np.sort(p), np.arange(len(p) + 1) / len(p)
    return float(max((steps[1:] - p).max(), (p - steps[:-1]).max()))


class Shape(NamedTuple):
    """What p-values of exact samples look like: sorted Kolmogorov-Smirnov distances, and 95 % range of the share."""

    distances: np.ndarray
    share: tuple[float, float]


@lru_cache
def shape(trials: int, floor: int, two_sided: bool, times: int = 4000) -> Shape:
    """By simulation, with uniform numbers for values."""
    rng, distances, shares = np.random.default_rng(0), [], []
    for _ in range(times):
        p = randomised(rng.random(trials), rng.random(floor), None if two_sided else True, rng)
        distances.append(distance(p))
        shares.append(np.mean(p <= LEVEL))
    low, high = np.quantile(shares, [0.025, 0.975])
    return Shape(np.sort(distances), (float(low), float(high)))


def judge(metric: Metric, trials: Sequence[float], floor: Sequence[float]) -> dict[str, Any]:
    """How uniform a metric's p-values are: distance, its p-value, the share rejected as printed and as randomised."""
    better = metric.lower_is_better
    p = randomised(trials, floor, better, np.random.default_rng(0))
    expected = shape(len(trials), len(floor), better is None)
    found = distance(p)
    null = Floor(floor)
    count = sum(null.p_value(value, better) <= LEVEL for value in trials)
    beyond = len(expected.distances) - int(np.searchsorted(expected.distances, found))
    return {
        "name": metric.label,
        "distance": found,
        "p": (1 + beyond) / (1 + len(expected.distances)),
        "rejected": count / len(trials),
        "interval": share_interval(count, len(trials)),
        "randomised": float(np.mean(p <= LEVEL)),
        "expected": expected.share,
        "values": len(set(trials)),
    }


def judge_analytic(name: str, p: Sequence[float]) -> dict[str, Any]:
    """The same for p-values that need no floor; independent, so that the theory of the distance holds."""
    found, count = kstest(p, "uniform"), sum(value <= LEVEL for value in p)
    return {
        "name": name,
        "distance": float(found.statistic),
        "p": float(found.pvalue),
        "rejected": count / len(p),
        "interval": share_interval(count, len(p)),
    }


def run(trials: int, floor: int, n: int, metrics: tuple[Metric, ...], jobs: int = 1) -> dict[str, Any]:
    """All of it, as data."""
    tasks = [Task(role, k, n, metrics) for role, m in (("trial", trials), ("floor", floor)) for k in range(m)]
    draws = [*spread_out(draw, tasks, jobs, "draws")]
    values = np.array([d.values for d in draws])
    holm = sum(d.holm <= LEVEL for d in draws)
    return {
        "n": n,
        "trials": trials,
        "floor": floor,
        "metrics": [judge(m, v[:trials], v[trials:]) for m, v in zip(metrics, values.T.tolist(), strict=True)],
        "questions": [judge_analytic(q, [d.questions[q] for d in draws]) for q in draws[0].questions],
        "holm": {"rejected": holm / len(draws), "interval": share_interval(holm, len(draws))},
    }


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def span(interval: Sequence[float]) -> str:
    return f"{100 * interval[0]:.1f} .. {100 * interval[1]:.1f} %"


def report(found: dict[str, Any]) -> str:
    """Two tables and the family-wise level."""
    head = ["metric", "KS distance", "p", "rejected at 5 %", "95 % interval", "randomised", "should lie in"]
    rows = [
        [
            *(r["name"], f"{r['distance']:.3f}", f"{r['p']:.3f}", percent(r["rejected"]), span(r["interval"])),
            *(percent(r["randomised"]), span(r["expected"])),
        ]
        for r in found["metrics"]
    ]
    questions = [
        [r["name"], f"{r['distance']:.3f}", f"{r['p']:.3f}", percent(r["rejected"]), span(r["interval"])]
        for r in found["questions"]
    ]
    draws = found["trials"] + found["floor"]
    holm = found["holm"]
    return "\n\n".join(
        [
            f"n = {found['n']:,}; {found['trials']:,} trials against one floor of {found['floor']:,} draws",
            table(head, rows),
            f"the panel's questions, analytic, {draws:,} draws",
            table(["question", *head[1:5]], questions),
            f"panel, Holm over all questions: {percent(holm['rejected'])} rejected at 5 % ({span(holm['interval'])})",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1600)
    parser.add_argument("--floor", type=int, default=1600)
    parser.add_argument("--n", type=int, default=1000, help="samples a draw")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--metrics", default="", help="further metrics by name, separated by commas")
    parser.add_argument("--out", help="write the results as JSON to this file")
    given = parser.parse_args()
    metrics = (*SUITES["default"], *map(Metric.parse, filter(None, given.metrics.split(","))))
    for metric in metrics:
        if lacking := metric.missing(exact_evaluation("trial", 0, 10)):
            parser.error(f"{metric.label} needs {' and '.join(lacking)}")
    found = run(given.trials, given.floor, given.n, metrics, given.jobs)
    print(report(found))
    write(given.out, found)


if __name__ == "__main__":
    main()
