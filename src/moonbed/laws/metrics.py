"""Metrics: a number that exact samples have and defective ones have not, twice the same where it is asked twice.

A metric is held against draws from an exact law: `NULLS` of them are its floor, and of each gross defect there are
`TRIES` draws. It sees a defect if it puts all of these beyond the whole floor, on the side that it calls bad: by chance
that happens once in some 40,000 times. Which defects a metric may be blind to is its own matter; one of them it sees.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from moonbed.diffusion import Exact
from moonbed.diffusion.likelihood import Flow
from moonbed.diffusion.schedules import Cosine
from moonbed.laws.base import Broken, Law, hold
from moonbed.metrics import Evaluation, Metric
from moonbed.rng import Rng, Stream
from moonbed.targets import Target
from moonbed.targets.curves import TwoMoons

N = 100
NULLS = 60
TRIES = 3
SHIFT = 0.5
LAW: Target = TwoMoons(noise=0.1)


def _replaced(x: Tensor, stream: Stream) -> Tensor:
    x = x.clone()
    x[::2] = stream.normal(x[::2].shape, torch.float64)
    return x


DEFECTS: dict[str, Callable[[Tensor, Tensor, Stream], Tensor]] = {
    f"samples shifted by {SHIFT}": lambda x, train, stream: x + SHIFT,
    "half of the samples replaced by normal noise": lambda x, train, stream: _replaced(x, stream),
    "one of two modes missing": lambda x, train, stream: LAW.given(0).sample(len(x), stream),
    "twenty points, each repeated": lambda x, train, stream: x[: len(x) // 10].repeat(10, 1),
    "copies of training points": lambda x, train, stream: train,
    "a tenth of the samples far away": lambda x, train, stream: torch.cat(
        [x[: -len(x) // 10], 100 + x[-len(x) // 10 :]]
    ),
}
"""What it is -> what it makes of exact samples, all (n, 2)."""


class _Moved:
    """The law shifted by a constant."""

    def __init__(self, shift: float) -> None:
        self.shift = shift

    def denoise(self, x_t: Tensor, alpha: float, sigma: float) -> Tensor:
        return LAW.denoise(x_t - alpha * self.shift, alpha, sigma) + self.shift


class _Perfect:
    """A model without error but for a shift: what metrics may ask of a model."""

    has_score = has_density = True

    def __init__(self, shift: float) -> None:
        flow = Flow(Exact(_Moved(shift), Cosine()))
        self.sigma_min, self.sigma_max = flow.sigma_min, flow.sigma_max
        self.denoise, self.log_prob, self.shift = flow.denoise, flow.log_prob, shift

    def sample(self, n: int, number: int) -> Tensor:
        return LAW.sample(n, Rng(7).stream("model", number)) + self.shift


def evaluation(
    metric: Metric, number: int, defect: str = "", swap: bool = False, needs: tuple[str, ...] = ()
) -> Evaluation:
    """Draw `number` of N samples, with a defect if wanted, and what the metric says that it needs, and `needs`."""
    rng, needs = Rng(0).child("metric", number), (*metric.needs, *needs)
    x, reference, train = (LAW.sample(N, rng.stream(name)) for name in ("samples", "reference", "train"))
    if defect:
        x = DEFECTS[defect](x, train, rng.stream("defect"))
    if swap:
        x, reference = reference, x
    return Evaluation(
        x.numpy(),
        reference.numpy(),
        rng.child("metrics"),
        law=LAW if {"law", "score", "modes"} & {*needs} else None,
        train=train.numpy() if "train" in needs else None,
        model=_Perfect(SHIFT if "shifted" in defect else 0.0) if "model" in needs else None,
    )


def _value(metric: Metric, asked: Evaluation) -> float:
    """The value, if it is one number and not NaN."""
    value = metric(asked)
    single = isinstance(value, int | float | np.number) or getattr(value, "shape", None) == ()
    shape = f" of shape {tuple(value.shape)}" if hasattr(value, "shape") else ""
    hold(single, f"the value is a {type(value).__name__}{shape}, not a number")
    hold(not math.isnan(float(value)), "the value is NaN")
    return float(value)


@lru_cache(maxsize=256)
def _known(metric: Metric, number: int, defect: str = "") -> float:
    return _value(metric, evaluation(metric, number, defect))


def _floor(metric: Metric) -> tuple[float, ...]:
    """Values of exact samples; of a metric whose null does not vary, one."""
    return tuple(_known(metric, k) for k in range(NULLS if metric.null is None else 1))


def metric_needs_what_it_says(metric: Metric) -> None:
    """Asked with no more than `needs` names, it answers."""
    try:
        _known(metric, 0)
    except Broken:
        raise
    except Exception as error:
        for need in ("law", "train", "model"):
            try:
                metric(evaluation(metric, 0, needs=(need,)))
            except Exception:
                continue
            says = f"{metric.needs or 'nothing'} is what it says that it needs"
            hold(
                False, f'it works with "{need}" only, and {says}: needs = ("{need}",) ({type(error).__name__}: {error})'
            )
        raise


def metric_is_finite(metric: Metric) -> None:
    """On exact samples the value is a number: not NaN, and infinite only where that is the best there can be."""
    best = {True: -math.inf, False: math.inf, None: None}[metric.lower_is_better]
    infinite = [value for value in _floor(metric) if math.isinf(value) and value != best]
    hold(not infinite, f"{len(infinite)} of {len(_floor(metric))} draws of exact samples have the value {infinite[:1]}")
    if metric.null is not None:
        off = max(abs(value - metric.null) for value in _floor(metric))
        hold(
            off < 1e-2, f"exact samples and an exact model are off by {off:.3g} from the declared null {metric.null:g}"
        )


def metric_is_reproducible(metric: Metric) -> None:
    """The same evaluation has the same value, and is left as it was."""
    asked = evaluation(metric, 0)
    a, b = _known(metric, 0), _value(metric, asked)
    hold(a == b, f"one evaluation has the values {a:.6g} and {b:.6g}: draw from evaluation.stream(...)")
    fresh = evaluation(metric, 0)
    same = np.array_equal(asked.samples, fresh.samples) and np.array_equal(asked.reference, fresh.reference)
    hold(same, "the samples or the reference are changed in place")


def metric_is_symmetric(metric: Metric) -> None:
    """Samples and reference may change places, if it needs no law and does not say `symmetric = False`.

    To six standard deviations of its floor, for metrics that draw at random.
    """
    if metric.needs or not metric.symmetric:
        return
    spread = float(np.std(_floor(metric)))
    for defect in ("", next(iter(DEFECTS))):
        a, b = (_value(metric, evaluation(metric, 0, defect, swap)) for swap in (False, True))
        fits = a == b or abs(a - b) <= 6 * spread + 1e-9 * abs(a)
        hold(fits, f"{defect or 'exact samples'}: {a:.6g}, and {b:.6g} with samples and reference changing places")


def metric_has_one_floor(metric: Metric) -> None:
    """Exact samples have uniform p-values: the later half of the draws does not differ from the earlier half."""
    from scipy.stats import ks_2samp

    if metric.null is not None:
        return
    values = np.array(_floor(metric))
    early, late = values[: NULLS // 2], values[NULLS // 2 :]
    found = ks_2samp(np.nan_to_num(early), np.nan_to_num(late), method="asymp")
    means = f"{early.mean():.4g} and {late.mean():.4g} on average, p = {found.pvalue:.2g}"
    hold(
        found.pvalue > 1e-4,
        f"earlier and later draws of exact samples differ: {means}; is something kept between them?",
    )


def metric_sees_a_defect(metric: Metric) -> None:
    """At least one gross defect is beyond all exact draws, on the bad side."""
    floor = np.array(_floor(metric) if metric.null is None else [metric.null])
    centre, seen = float(floor.mean()), dict[str, list[float]]()
    worst = max(metric.badness(value, centre) for value in floor)
    slack = 1e-9 * (1 + abs(worst)) if metric.null is None else 1e-2
    for defect in list(DEFECTS)[: 1 if "model" in metric.needs else None]:
        tries = range(100, 100 + (TRIES if metric.null is None else 1))
        values = seen[defect] = [_known(metric, k, defect) for k in tries]
        if all(metric.badness(value, centre) > worst + slack for value in values):
            return
    found = {value for values in seen.values() for value in values} | {*floor.tolist()}
    hold(len(found) > 1, f"the value is {centre:.4g} whatever the samples are")
    nearest = "; ".join(f"{defect}: {np.mean(values):.4g}" for defect, values in seen.items())
    side = {True: "above", False: "below", None: "away from"}[metric.lower_is_better]
    span = f"{floor.min():.4g} to {floor.max():.4g}"
    hold(False, f"exact samples have {span}, and no defect is all {side} that on average ({nearest})")


def metric_interval_holds_the_value(metric: Metric) -> None:
    """The interval goes from below the value to above it."""
    for defect in ("", next(iter(DEFECTS)))[: 2 if metric.null is None else 1]:
        asked = evaluation(metric, 0, defect)
        value = _value(metric, asked)
        low, high = metric.interval(asked, value)
        inside = low <= value <= high or (not math.isfinite(value) and low <= high)
        hold(inside, f"{defect or 'exact samples'}: the value {value:.6g} has the interval {low:.6g} to {high:.6g}")


METRIC_LAWS: list[Law] = [
    metric_needs_what_it_says,
    metric_is_finite,
    metric_is_reproducible,
    metric_is_symmetric,
    metric_has_one_floor,
    metric_sees_a_defect,
    metric_interval_holds_the_value,
]
