"""Metrics of the log density under a law p that is known exactly: mean, distribution, level, and weights of modes.

    log density    mean and distribution of log p(x_i) against those of log p(X), X ~ p

Where the law gives the expectations there is no reference sample, and none of its variance. Null means and quantiles
come from the table of `KnownLaw`, exact to a few parts in 10,000.

The log density is no score to be made small: samples that are too sharp have a better one than the law itself, and it
sees neither weights nor missing pieces of a mode. It is read two-sided, against the law's own.

A sample that is NaN or infinite has the log density minus infinity: it is off the support, not missing. Each class says
what else it does with one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar, Literal

from moonbed._lazy import lazy_import
from moonbed.component import PositiveFloat
from moonbed.metrics.base import Evaluation, Mean, Metric, Need, Share
from moonbed.metrics.law import KnownLaw

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy_import("numpy")

__all__ = ["NLL", "Exploded", "LogDensityKS", "ModeWeights", "OffSupport"]


class NLL(Mean):
    """Mean negative log density of the samples minus the law's entropy; `statistic` "z" divides by its standard error.

    Nats (as an estimate of KL(model || law) + entropy(law) - entropy(model), signed). "z" is the mean log density
    minus its expectation in standard errors under the law, positive where the density is too high: too sharp. O(n K),
    0.01 s at n = 5,000. Ideal: 0, from both sides. Blind to weights, to missing pieces of a mode, to shifts along it.
    A sample that is not finite makes it infinite (z: minus infinity), an exploded one very large.
    Source: the log score of Good, Rational decisions, 1952.
    """

    needs: ClassVar[tuple[Need, ...]] = ("law",)
    statistic: Literal["nats", "z"] = "nats"

    @property
    def lower_is_better(self) -> bool | None:
        return None

    @property
    def label(self) -> str:
        return "NLL - entropy" if self.statistic == "nats" else "log density z"

    @property
    def unit(self) -> str:
        return "nats" if self.statistic == "nats" else "standard errors"

    def terms(self, evaluation: Evaluation) -> np.ndarray:
        mean, sd = self.need(evaluation).log_density_moments
        excess = evaluation.log_density() - mean
        if self.statistic == "nats":
            return -excess
        with np.errstate(divide="ignore", invalid="ignore"):  # a uniform law's log density does not vary
            return np.where(excess == 0, 0.0, excess * math.sqrt(len(excess)) / sd)


class LogDensityKS(Metric):
    """Largest difference between the distribution functions of log p(x_i) and of log p(X): Kolmogorov and Smirnov.

    No units, 0 to 1; 0.87/sqrt(n) on average under the law. O(n K), 0.01 s at n = 5,000; the law's side from the table.
    Blind to whatever leaves densities as they are: weights of equal modes, missing pieces, a few far points.
    Samples that are not finite count as of density 0.
    Source: Kolmogorov 1933; on log densities, Hyndman, Computing and graphing highest density regions, 1996.
    """

    needs: ClassVar[tuple[Need, ...]] = ("law",)
    least = 0.0
    most = 1.0

    @property
    def label(self) -> str:
        return "log density KS"

    def __call__(self, evaluation: Evaluation) -> float:
        law, log_density = self.need(evaluation), np.sort(evaluation.log_density())
        n = len(log_density)
        above = np.searchsorted(log_density, log_density, side="right") / n - law.below(log_density, closed=True)
        under = law.below(log_density) - np.searchsorted(log_density, log_density, side="left") / n
        return float(max(above.max(), under.max(), 0.0))


class OffSupport(Share):
    """Share of samples where the density is below the level that the law itself exceeds but for `mass` of its draws.

    No units, 0 to 1; its ideal is `mass` (0 for a uniform law). O(n K), 0.01 s at n = 5,000. Blind to all that happens
    on the support. Samples that are not finite are off it.
    Source: minimum volume sets, Einmahl and Mason, Generalized quantile processes, 1992.
    """

    unit = "share"
    needs: ClassVar[tuple[Need, ...]] = ("law",)
    mass: PositiveFloat = 1e-3

    def check(self) -> Iterator[tuple[str, str]]:
        if self.mass >= 1:
            yield "mass", f"should be less than 1, given {self.mass}"

    @property
    def lower_is_better(self) -> bool | None:
        return None

    @property
    def label(self) -> str:
        return "off support"

    def terms(self, evaluation: Evaluation) -> np.ndarray:
        level, _ = self.need(evaluation).level(self.mass)
        return evaluation.log_density() < level


class Exploded(Share):
    """Share of samples that are not finite, or farther out than `far` times the farthest reference point.

    No units, 0 to 1, ideal 0. O(n), nothing to compute. Blind to everything nearer; needs no law. Source: our own; a
    share with the interval of Wilson 1927.
    """

    unit = "share"

    symmetric = False
    far: PositiveFloat = 10.0

    @property
    def label(self) -> str:
        return "exploded"

    def terms(self, evaluation: Evaluation) -> np.ndarray:
        with np.errstate(over="ignore", invalid="ignore"):
            norm = np.sqrt((evaluation.samples**2).sum(1))
            limit = self.far * np.sqrt((evaluation.reference**2).sum(1)).max()
        return ~(norm <= limit) if math.isfinite(limit) else np.full(len(norm), np.nan)


class ModeWeights(Metric):
    """Largest deviation of a mode's weight from the law's, in standard errors under the law.

    Modes are arcs, Gaussians or labels; the weight is the mean posterior probability over the samples on the support
    (log density above the 0.05 % level). Unit: standard errors, folded: |z| of the worst mode; 0.7 for two modes, more
    for more. O(n K), 0.01 s at n = 5,000. Blind to everything within a mode and off the support. NaN with no sample on
    the support. Source: Rao 1948, the score test of the mixing weight; imbalance as a multinomial count.
    """

    unit = "standard errors"
    growth = 0.5
    needs: ClassVar[tuple[Need, ...]] = ("law", "modes")
    least = 0.0

    @property
    def label(self) -> str:
        return "mode weights |z|"

    def __call__(self, evaluation: Evaluation) -> float:
        law = self.need(evaluation)
        core = evaluation.log_density() >= law.level(5e-4)[0]
        if not core.any():
            return math.nan
        mean, sd = _mode_moments(law)
        deviation = evaluation.each("modes", lambda x: _mode_probs(law, x))[core].mean(0) - mean
        return float(np.abs(deviation / sd).max() * math.sqrt(core.sum()))


def _mode_probs(law: KnownLaw, x: np.ndarray) -> np.ndarray:
    """(n, modes) posterior probabilities, zero at points that are not finite."""
    finite, out = (np.abs(x) <= 1e150).all(1), np.zeros((len(x), len(law.mode_names)))
    out[finite] = law.mode_probs(x[finite])
    return out


@lru_cache(16)
def _mode_moments(law: KnownLaw) -> tuple[np.ndarray, np.ndarray]:
    probs = law.mode_probs(law.draws[: 1 << 14])
    return law.mode_weights, np.sqrt(((probs - law.mode_weights) ** 2).mean(0))
