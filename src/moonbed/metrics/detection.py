"""How many samples it takes to tell a model from the truth.

A distance saturates: once it lies on its floor at n samples, better models have the same value. The number of samples
at which a test rejects half the time does not. For a defect of size theta the panel's z grows as theta sqrt(n), so the
number goes as 1/theta², and reads the same for every model: "250" is a model that a plot of 250 points gives away.

The test is the panel's (see `panel`): any question rejected by Holm at the stated level, which is any p below
level/questions. Its power at m samples is measured, not computed: in random orders of a pool of N samples, the share of
first m that it rejects. Sums over the first m are all that it needs.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, NamedTuple

from annotated_types import Gt, Lt

from moonbed._lazy import lazy_import
from moonbed.component import Positive
from moonbed.metrics.base import Evaluation, Metric, Need
from moonbed.metrics.panel import Evidence, evidence, observed, tail_z

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy_import("numpy")

__all__ = ["N50"]

_ORDERS = 64  # random orders behind a power: its standard error is at most 0.06
_LEAST = 4  # samples; where half of the sets of so few are rejected, N50 is this or less
_CLEAR = 8.0  # with a z above it the samples at hand are enough, without a second look at the same null


class N50(Metric):
    """Samples at which the panel's test, family-wise at `level`, tells the model from the exact law half the time.

    Unit: samples; higher is better. Infinite, read "> n_max", where the test does not reject the whole pool: true of an
    exact sampler but for `level` of the time. The pool is the samples, and where the model behind them is there and it
    takes more, as many in all as `n_max`. Interval: z at N50 is the test's critical value and z at N has the standard
    error 1, to first order. Cost: that of the panel on the pool, and 64 sums over it: 0.03 s for 5,000 samples.
    Blind to what the panel is blind to: copies of training points, wiggles finer than the fourth polynomial along an
    arc. Its floor is drawn without further samples, which can only make p larger.
    Source: Rao 1948 for the test; the number of samples at which its power is one half is our own measure.
    """

    unit = "samples"
    needs: ClassVar[tuple[Need, ...]] = ("law",)
    n_max: Positive = 20_000
    level: Annotated[float, Gt(0), Lt(0.5)] = 0.05

    @property
    def lower_is_better(self) -> bool | None:
        return False

    def badness(self, value: float, centre: float) -> float:
        """Minus its logarithm: ratios count, and beyond `n_max` nothing is known."""
        return -math.log(min(value, self.n_max))

    def __call__(self, evaluation: Evaluation) -> float:
        return self._found(evaluation).n50

    def interval(self, evaluation: Evaluation, value: float, level: float = 0.95) -> tuple[float, float]:
        from scipy.special import ndtri

        found, far = self._found(evaluation), float(ndtri((1 + level) / 2))
        if math.isfinite(value):
            z = found.critical * math.sqrt(found.pool / value)
            return value / (1 + far / z) ** 2, value / (1 - far / z) ** 2 if z > far else math.inf
        return found.pool * (found.critical / (min(found.z, found.critical) + far)) ** 2, math.inf

    def details(self, evaluation: Evaluation) -> dict[str, Any]:
        found = self._found(evaluation)
        text = f"> {found.pool:,}" if math.isinf(found.n50) else f"{'≤ ' * (found.n50 <= _LEAST)}{found.n50:,.0f}"
        return {"n_max": found.pool, "text": text}

    def _found(self, evaluation: Evaluation) -> _Found:
        return evaluation.once(("N50", self.id), lambda: self._measure(evaluation))

    def _measure(self, evaluation: Evaluation) -> _Found:
        law, model = self.need(evaluation), evaluation.model
        seen = observed(evaluation)
        step = number = len(seen.inside)
        if model is not None and _largest_z(seen) < _CLEAR:
            for part, number in enumerate(range(step, self.n_max, step)):
                more = model.sample(min(step, self.n_max - number), part).numpy()
                seen = seen.joined(evidence(law, np.ascontiguousarray(more, dtype=np.float64)))
        return _measured(seen, self.level, evaluation.stream("N50").numpy())


class _Found(NamedTuple):
    n50: float
    pool: int
    critical: float
    z: float


def _measured(seen: Evidence, level: float, generator: np.random.Generator) -> _Found:
    """N50 of a pool, infinite where its test does not reject all of it."""
    from scipy.special import ndtri

    pool, questions = len(seen.inside), seen.scores.shape[1] + 1
    critical = -float(ndtri(level / (2 * questions)))
    sizes = np.unique(np.geomspace(min(_LEAST, pool), pool, 2 + int(2 * math.log2(pool))).astype(int))
    power = _power(seen, sizes, critical, level / questions, generator)
    below = np.flatnonzero(power < 0.5)
    if not len(below):
        n50 = float(sizes[0])
    elif below[-1] == len(sizes) - 1:
        n50 = math.inf
    else:
        k = below[-1]
        share = (0.5 - power[k]) / (power[k + 1] - power[k])
        n50 = float(sizes[k] ** (1 - share) * sizes[k + 1] ** share)
    return _Found(n50, pool, critical, _largest_z(seen))


def _power(
    seen: Evidence, sizes: np.ndarray, critical: float, level: float, generator: np.random.Generator
) -> np.ndarray:
    """(sizes,) share of random orders whose first m samples are rejected; the last size is the pool's."""
    from scipy.stats import binom

    off = binom.isf(level, sizes, seen.mass) + 1  # so many points off the support, or more, are rejected
    starts, rejected = np.r_[0, sizes[:-1]], np.zeros(len(sizes))
    for _ in range(_ORDERS):
        order = generator.permutation(len(seen.inside))
        inside = np.add.reduceat(seen.inside[order].astype(float), starts).cumsum()
        sums = np.add.reduceat(seen.scores[order], starts, axis=0).cumsum(0)
        z = sums / np.sqrt(np.maximum(inside, 1.0))[:, None]
        rejected += (np.abs(z) > critical).any(1) | (sizes - inside >= off)
    return rejected / _ORDERS


def _largest_z(seen: Evidence) -> float:
    inside = max(1.0, float(seen.inside.sum()))
    n = len(seen.inside)
    tail = tail_z(n - int(seen.inside.sum()), n, seen.mass)
    return max(tail, float(np.abs(seen.scores.sum(0)).max(initial=0.0)) / math.sqrt(inside))
