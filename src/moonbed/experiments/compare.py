"""Is B better than A? Paired seeds, common random numbers, and a verdict that may be "cannot tell yet".

Both arms run with the same seeds, so that they see the same data, times and noise. Per metric, seed k gives a
difference of badness d_k = bad(B_k) - bad(A_k): the value itself where lower is better, its negative where higher is,
and where the ideal lies in between its distance to what perfect samples have on average (`Metric.badness`).

    difference    paired t-test of mean(d) = 0, adjusted over the metrics by Holm
    equivalence   |mean(d)| < margin sd(d): the non-central t-test of a standardised difference (Wellek, Testing
                  Statistical Hypotheses of Equivalence and Noninferiority, 2010, section 5.3)

A metric is better or worse where the first rejects, equivalent where only the second does. B is better if a metric is
and none is worse; equivalent if all are, which takes no adjustment (an intersection-union test). Otherwise it cannot be
told, and the number of seeds that would is estimated from the effects seen.

*Adding seeds until it is decided* looks several times. K planned looks at geometrically growing numbers of seeds each
get the level alpha/K (Bonferroni), which holds whatever the data and however the looks depend on one another.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from moonbed._shown import Shown
from moonbed.component import SpecError
from moonbed.experiments.engines import HERE, Engine, Failure, Progress
from moonbed.experiments.results import Result
from moonbed.experiments.rows import DRAWS, Row, follow, rows
from moonbed.experiments.spec import Experiment
from moonbed.experiments.storage.store import Store
from moonbed.experiments.trackers import Tracker
from moonbed.metrics import Metric
from moonbed.metrics.significance import (
    Floor,
    equivalence_p,
    holm,
    interval,
    paired_p,
    seeds_for_difference,
    seeds_for_equivalence,
    spread,
)

__all__ = ["LOOKS", "Comparison", "Difference", "Verdict", "compare", "judge_difference", "looks", "paired_badness"]

Verdict = Literal["better", "worse", "equivalent", "mixed", "cannot tell yet"]
LOOKS = 4
"""Seeds at the first look."""


@dataclass(frozen=True)
class Difference:
    """One metric of a comparison. `a` and `b` are values by seed; `interval` is that of the mean difference of badness.

    `effect` is that mean over the standard deviation of the differences, positive where B is worse.
    """

    metric: Metric
    a: tuple[float, ...]
    b: tuple[float, ...]
    floor: Floor | None
    mean: float
    interval: tuple[float, float]
    effect: float
    p: float
    p_holm: float
    p_equivalent: float
    verdict: Verdict


@dataclass(frozen=True, repr=False)
class Comparison(Shown):
    """B against A over paired seeds. `more` is about how many further seeds would decide, where they would."""

    a: str
    b: str
    seeds: int
    level: float
    margin: float
    differences: Mapping[str, Difference]
    verdict: Verdict
    more: int | None
    rows: tuple[Row, Row]

    @property
    def sentence(self) -> str:
        """The verdict in words."""
        by = {v: [k for k, d in self.differences.items() if d.verdict == v] for v in ("better", "worse")}
        after = f"after {self.seeds} paired seeds"
        if self.verdict in ("better", "worse"):
            return f"{self.b} is {self.verdict} than {self.a}, {after}: {self._named(by[self.verdict])}"
        if self.verdict == "mixed":
            return (
                f"{self.b} is better than {self.a} in some and worse in others, {after}: better in "
                f"{self._named(by['better'])}; worse in {self._named(by['worse'])}"
            )
        if self.verdict == "equivalent":
            return (
                f"{self.a} and {self.b} are equivalent, {after}: in every metric the difference is less than "
                f"{self.margin:g} standard deviation of a pair's"
            )
        ask = f"about {self.more} more would" if self.more is not None else "more than 1,000 would be needed"
        return f"cannot tell yet whether {self.b} is better than {self.a}, {after}; {ask}"

    def _named(self, labels: Sequence[str], most: int = 5) -> str:
        """The clearest of these metrics, and how many more."""
        clearest = sorted(labels, key=lambda label: self.differences[label].p_holm)
        words = [f"{label} (Holm p {self.differences[label].p_holm:.2g})" for label in clearest[:most]]
        return ", ".join(words + [f"and {len(labels) - most} more"] * (len(labels) > most))


def looks(cap: int) -> list[int]:
    """Numbers of seeds at which an open-ended comparison looks: from 4, growing by half, to the cap."""
    out = [min(LOOKS, cap)]
    while out[-1] < cap:
        out.append(min(cap, math.ceil(out[-1] * 1.5)))
    return out


def compare(
    a: tuple[str, Experiment],
    b: tuple[str, Experiment],
    metrics: Sequence[Metric],
    *,
    seeds: int = 5,
    until_decided: bool = False,
    level: float = 0.05,
    margin: float = 1.0,
    draws: int = DRAWS,
    store: Store | str = "runs",
    device: str = "auto",
    engine: Engine = HERE,
    track: Sequence[Tracker] = (),
) -> Iterator[tuple[str, Progress | Failure | Comparison]]:
    """Yield (what it is about, event) while both arms run, and a `Comparison` after each look; the last one counts.

    With `until_decided`, `seeds` is the most that are tried. Raises `SpecError` for fewer than two seeds and for
    experiments that cannot be compared.
    """
    if seeds < 2:
        raise SpecError([("--seeds", f"should be at least 2, given {seeds}")])
    for name, ours, theirs in (("law", a[1].law, b[1].law), ("n", a[1].n, b[1].n)):
        if ours != theirs:
            raise SpecError([(name, f"differs: {ours} and {theirs}; only like can be compared with like")])
    names = (a[0], b[0]) if a[0] != b[0] else (f"A: {a[0]}", f"B: {b[0]}")
    where, plan = Store.at(store), looks(seeds) if until_decided else [seeds]
    for count in plan:
        arms = {name: [e.shifted(k) for k in range(count)] for name, e in zip(names, (a[1], b[1]), strict=True)}
        results: dict[str, Result] = {}
        for about, event in follow(arms, metrics, draws, where, device, engine, track):
            if isinstance(event, Result):
                results[event.experiment.id] = event
            else:
                yield about, event
        if any(e.id not in results for arm in arms.values() for e in arm):
            return  # a failure, which was yielded
        table = rows({name: [results[e.id] for e in arm] for name, arm in arms.items()}, metrics, where, changes={})
        found = judge_difference(table[0], table[1], level / len(plan), margin)
        yield "verdict", found
        if found.verdict != "cannot tell yet":
            return


def judge_difference(a: Row, b: Row, level: float = 0.05, margin: float = 1.0) -> Comparison:
    """The verdict on two rows whose results are paired by their order."""
    labels = [label for label, cell in a.cells.items() if not cell.lacks]
    badness = {label: paired_badness(a, b, a.cells[label].metric) for label in labels}
    p = {label: paired_p(d) for label, d in badness.items()}
    adjusted = dict(zip(labels, holm([p[label] for label in labels]), strict=True))
    differences = {}
    for label, d in badness.items():
        mean, sd = spread(d)
        same = equivalence_p(d, margin)
        verdict: Verdict = "cannot tell yet"
        if adjusted[label] < level:
            verdict = "worse" if mean > 0 else "better"
        elif same < level:
            verdict = "equivalent"
        differences[label] = Difference(
            a.cells[label].metric,
            _values(a, a.cells[label].metric),
            _values(b, a.cells[label].metric),
            a.cells[label].floor,
            mean,
            interval(d) or (-math.inf, math.inf),
            mean / sd if sd else math.copysign(math.inf, mean) if mean else 0.0,
            p[label],
            adjusted[label],
            same,
            verdict,
        )
    verdict = _overall([d.verdict for d in differences.values()])
    count = len(a.results)
    more = _more(differences, level, margin, count) if verdict == "cannot tell yet" else None
    return Comparison(a.name, b.name, count, level, margin, differences, verdict, more, (a, b))


def _values(row: Row, metric: Metric) -> tuple[float, ...]:
    """By seed; NaN for a training that diverged."""
    return tuple(r.values.get(metric.id, math.nan) for r in row.results)


def paired_badness(a: Row, b: Row, metric: Metric) -> list[float]:
    """By seed: how much worse b is than a."""
    floor = next((cell.floor for cell in a.cells.values() if cell.metric == metric), None)
    centre = floor.mean if floor else 0.0
    pairs = zip(_values(a, metric), _values(b, metric), strict=True)
    return [metric.badness(v, centre) - metric.badness(u, centre) for u, v in pairs]


def _overall(verdicts: Sequence[Verdict]) -> Verdict:
    if "better" in verdicts or "worse" in verdicts:
        return "mixed" if {"better", "worse"} <= set(verdicts) else "better" if "better" in verdicts else "worse"
    return "equivalent" if set(verdicts) == {"equivalent"} else "cannot tell yet"


def _more(differences: Mapping[str, Difference], level: float, margin: float, count: int) -> int | None:
    """Further seeds after which a difference of the size seen would be significant, or all equivalent, in 80 %.

    Effects over few seeds come out too large: they are shrunk by Hedges' factor (Distribution Theory for Glass's
    Estimator of Effect Size, 1981), to nothing for two seeds.
    """
    shrink = 1 - 3 / (4 * (count - 1) - 1)
    effects = [shrink * d.effect if shrink else 0.0 for d in differences.values()]
    sharp = min((seeds_for_difference(e, level / len(effects)) for e in effects), default=math.inf)
    same = max((seeds_for_equivalence(e, margin, level) for e in effects), default=math.inf)
    needed = min(sharp, same)
    return max(1, int(needed) - count) if needed <= 1000 else None
