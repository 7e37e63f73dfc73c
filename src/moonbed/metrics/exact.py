"""One-sample metrics: how far samples are from a law p that is known exactly.

    log density    mean and distribution of log p(x_i) against those of log p(X), X ~ p
    KSD            mean over pairs of u(x_i, x_j) = (grad log p + grad_x)·(grad log p + grad_y) k(x, y), mean 0 under p
    MMD            mean k(x_i, x_j) - 2 mean E k(x_i, X) + E k(X, X'), a Gaussian kernel's means being p itself, blurred
    neighbours     who lies among the points of the law, and which parts of the law have samples
    transport      the cost of moving the samples onto the law

Where the law gives the expectations there is no reference sample, and none of its variance: half the variance of the
two-sample statistic. Null means and quantiles come from the table of `KnownLaw`, exact to a few parts in 10,000.

*The log density* is no score to be made small: samples that are too sharp have a better one than the law itself, and
it sees neither weights nor missing pieces of a mode. It is read two-sided, against the law's own.

A sample that is NaN or infinite has the log density minus infinity: it is off the support, not missing. Each class says
what else it does with one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar, Literal

from moonbed._lazy import lazy_import
from moonbed.component import Positive, PositiveFloat
from moonbed.metrics.base import Evaluation, Mean, Metric, MissingError, Need, Share
from moonbed.metrics.law import KnownLaw

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor
else:
    np = lazy_import("numpy")
    torch = lazy_import("torch")

__all__ = [
    "KSD",
    "NLL",
    "W1",
    "W2",
    "Coverage",
    "Exploded",
    "LogDensityKS",
    "MMDAggregated",
    "Memorisation",
    "ModeWeights",
    "OffSupport",
    "Precision",
]

_BLOCK = 1 << 16  # pairs at once
_SOME = 2048  # points of the table for the null spread of a statistic over pairs


# The log density


class NLL(Mean):
    """Mean negative log density of the samples minus the law's entropy; `statistic` "z" divides by its standard error.

    Nats (as an estimate of KL(model || law) + entropy(law) - entropy(model), signed). "z" is the mean log density
    minus its expectation in standard errors under the law, positive where the density is too high: too sharp. O(n K),
    0.03 s at n = 5,000. Ideal: 0, from both sides. Blind to weights, to missing pieces of a mode, to shifts along it.
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

    def terms(self, evaluation: Evaluation) -> np.ndarray:
        mean, sd = self.need(evaluation).log_density_moments
        excess = evaluation.log_density() - mean
        if self.statistic == "nats":
            return -excess
        with np.errstate(divide="ignore", invalid="ignore"):  # a uniform law's log density does not vary
            return np.where(excess == 0, 0.0, excess * math.sqrt(len(excess)) / sd)


class LogDensityKS(Metric):
    """Largest difference between the distribution functions of log p(x_i) and of log p(X): Kolmogorov and Smirnov.

    No units, 0 to 1; 0.87/sqrt(n) on average under the law. O(n K), 0.03 s at n = 5,000; the law's side from the table.
    Blind to whatever leaves densities as they are: weights of equal modes, missing pieces, a few far points.
    Samples that are not finite count as of density 0.
    Source: Kolmogorov 1933; on log densities, Hyndman, Computing and graphing highest density regions, 1996.
    """

    needs: ClassVar[tuple[Need, ...]] = ("law",)
    least = 0.0

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

    No units, 0 to 1; its ideal is `mass` (0 for a uniform law). O(n K), 0.03 s at n = 5,000. Blind to all that happens
    on the support. Samples that are not finite are off it.
    Source: minimum volume sets, Einmahl and Mason, Generalized quantile processes, 1992.
    """

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

    No units, 0 to 1, ideal 0. O(n), nothing to compute. Blind to everything nearer; needs no law.
    """

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
    for more. O(n K), 0.05 s at n = 5,000. Blind to everything within a mode and off the support. NaN with no sample on
    the support. Source: Rao's score test of the mixing weight; imbalance as a multinomial count.
    """

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
        deviation = law.mode_probs(evaluation.samples[core]).mean(0) - mean
        return float(np.abs(deviation / sd).max() * math.sqrt(core.sum()))


@lru_cache(16)
def _mode_moments(law: KnownLaw) -> tuple[np.ndarray, np.ndarray]:
    probs = law.mode_probs(law.draws[: 1 << 14])
    return law.mode_weights, np.sqrt(((probs - law.mode_weights) ** 2).mean(0))


# Pairs


class KSD(Metric):
    """Kernel Stein discrepancy with the exact score, U-statistic, aggregated over kernels and bandwidths.

    Kernels: inverse multiquadric (1 + r²/h²)^(-1/2) and Gaussian exp(-r²/(2 h²)), each at every h² of `bandwidths` (in
    squared units of x). The value is the largest U/sd(U), sd under the law; each U is unbiased, signed and unclamped.
    The mean instead of the largest would see less: wide kernels dilute the narrow ones.
    Unit: standard deviations of U; 0.6 on average under the law, right-skewed. O(n²) time, 0.6 s at n = 5,000; memory
    O(n).
    Blind to what leaves the local shape as it is: weights of well separated modes, and missing pieces nearly so; wants
    the score of the law, so not for uniform laws. Infinite samples, or beyond 1e70, make it infinite; NaN: NaN.
    Source: Liu, Lee and Jordan 2016; Chwialkowski, Strathmann and Gretton 2016; aggregation as Schrab et al., KSD
    aggregated goodness-of-fit test, 2022.
    """

    growth = 1.0
    needs: ClassVar[tuple[Need, ...]] = ("law", "score")
    bandwidths: tuple[PositiveFloat, ...] = (1.0, 0.1, 0.01)

    def check(self) -> Iterator[tuple[str, str]]:
        if not self.bandwidths:
            yield "bandwidths", "give at least one"

    def __call__(self, evaluation: Evaluation) -> float:
        law, x = self.need(evaluation), evaluation.samples
        if np.isnan(x).any():
            return math.nan
        if (np.abs(x) > 1e70).any():
            return math.inf
        return float(_stein(law, x, self.bandwidths).max())


def _stein(law: KnownLaw, x: np.ndarray, bandwidths: tuple[float, ...]) -> np.ndarray:
    """(kernels,) U/sd(U)."""
    sums, _ = _stein_sums(x, law.score(x), bandwidths)
    return sums / _stein_spread(law, bandwidths) / math.sqrt(len(x) * (len(x) - 1) / 2)


@lru_cache(16)
def _stein_spread(law: KnownLaw, bandwidths: tuple[float, ...]) -> np.ndarray:
    """(kernels,) root of E u(X, X')² under the law."""
    x = law.draws[:_SOME]
    _, squares = _stein_sums(x, law.score(x), bandwidths, squares=True)
    return np.sqrt(squares / (len(x) * (len(x) - 1) / 2))


def _stein_sums(
    x: np.ndarray, score: np.ndarray, bandwidths: Sequence[float], squares: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Sums over pairs i < j of u and, where asked, of u²; first all inverse multiquadrics, then all Gaussians.

    With r² = |x - y|², S = <s(x), s(y)> and D = <s(x) - s(y), x - y> + dim, for the multiquadric with w = k

        u = w (S + w² (D - 3 + 3 w²)/h²)        and for the Gaussian        u = k (S + (D - r²/h²)/h²)
    """
    points, s = torch.from_numpy(x), torch.from_numpy(score)
    dim, count = x.shape[1], len(bandwidths)
    own = (points * s).sum(1, keepdim=True)
    one = torch.ones_like(own)
    left = torch.cat([own + dim, one, -s, -points], dim=1)
    right = torch.cat([one, own, points, s], dim=1).T.contiguous()
    totals = torch.zeros(2, 2 * count, dtype=torch.float64)
    for rows, start, r2 in _squared_distances(points):
        inner = s[rows] @ s[start:].T
        bend = left[rows] @ right[:, start:]
        lower = torch.ones(len(inner), len(inner), dtype=torch.bool).tril()
        for i, h2 in enumerate(bandwidths):
            w2 = (r2 / h2).add_(1).reciprocal_()
            u = (3 * w2).add_(bend).sub_(3).mul_(w2).div_(h2).add_(inner).mul_(w2.sqrt_())
            k = (r2 / (-2 * h2)).clamp_(min=-60).exp_()
            v = torch.sub(bend, r2, alpha=1 / h2).div_(h2).add_(inner).mul_(k)
            for column, terms in ((i, u), (count + i, v)):
                terms[:, : len(inner)].masked_fill_(lower, 0.0)
                totals[0, column] += terms.sum()
                if squares:
                    totals[1, column] += terms.square_().sum()
    return totals[0].numpy(), totals[1].numpy()


def _squared_distances(x: Tensor) -> Iterator[tuple[slice, int, Tensor]]:
    """Blocks (rows, first column, squared distances of these rows to all points from that column on)."""
    norm = (x**2).sum(1)
    step = max(1, _BLOCK // len(x))
    for start in range(0, len(x), step):
        rows = slice(start, start + step)
        r2 = torch.addmm(norm[start:], x[rows], x[start:].T, alpha=-2).add_(norm[rows, None]).clamp_(min=0)
        yield rows, start, r2


class MMDAggregated(Metric):
    """Squared maximum mean discrepancy with Gaussian kernels of many widths, U-statistic, signed, unclamped.

    Kernels exp(-r²/(2 h²)), h = L/2^j for j < `widths`, L² the law's mean variance a coordinate. One-sample: a
    Gaussian kernel's mean under the law is the law's own density after noise h, E k(x, X) = (2 pi h²)^(dim/2) p_h(x).
    The value is the mean over h of MMD²/sd, sd that of the statistic under the law: unit standard deviations, skewed to
    the right. O(n²) time, 0.4 s at n = 5,000; memory O(n). Blind to a few points between the modes, and weak for
    anything finer than L/2^(widths - 1). An infinite sample has kernel 0 with all others; NaN: NaN.
    Source: Gretton et al. 2012; aggregation as Schrab et al., MMD aggregated two-sample test, 2023, with a mean.
    Without the law it is two-sample against the reference, with sd and L from the reference, and half as sharp.
    """

    growth = 1.0
    widths: Positive = 7

    @property
    def label(self) -> str:
        return "MMD² aggregated"

    def __call__(self, evaluation: Evaluation) -> float:
        x, law = evaluation.samples, evaluation.law
        if np.isnan(x).any():
            return math.nan
        if law is not None:
            spread = _kernel_moments(law, self.widths)
            means = np.array([_kernel_mean(law, x, h).mean() for h in spread.h])
            inner = _kernel_sums(x, None, spread.h) * 2 / (len(x) * (len(x) - 1))
            values, sd = inner - 2 * means + spread.constant, spread.sd * math.sqrt(2 / (len(x) * (len(x) - 1)))
        else:
            y = evaluation.reference
            if not (np.abs(y) <= 1e150).all():
                return math.nan
            values, sd = _two_sample_mmd(x, y, self.widths)
        return float((values / sd).mean())


class _Moments:
    """Of the kernels of all widths h under a law: E k(X, X') and the root of the variance of the centred kernel."""

    def __init__(self, h: np.ndarray, constant: np.ndarray, squared: np.ndarray, means: np.ndarray) -> None:
        self.h, self.constant = h, constant
        self.sd = np.sqrt(np.maximum(squared - 2 * means + constant**2, 1e-300))


@lru_cache(16)
def _kernel_moments(law: KnownLaw, widths: int) -> _Moments:
    points = law.draws[: 1 << 13]
    h = math.sqrt(points.var(0).mean()) / 2.0 ** np.arange(widths)
    return _Moments(
        h,
        np.array([_constant(law, width) for width in h]),
        np.array([_constant(law, width / math.sqrt(2)) for width in h]),  # the square of a kernel is one of width h/√2
        np.array([(_kernel_mean(law, points, width) ** 2).mean() for width in h]),
    )


def _kernel_mean(law: KnownLaw, x: np.ndarray, h: float) -> np.ndarray:
    """(n,) E k(x, X): 0 for points that are not finite."""
    return np.exp(law.log_density(x, blur=h) + law.dim / 2 * math.log(2 * math.pi * h**2))


def _constant(law: KnownLaw, h: float) -> float:
    """E k(X, X'): for a mixture in closed form, since X - X' is one too."""
    if not law.is_mixture or len(law.weights) > 4096:
        return float(law.table.mean(_kernel_mean(law, law.table.x, h)))
    log_k = torch.zeros(len(law.weights), len(law.weights), dtype=torch.float64)
    for c, v in zip(law.centres.T, (law.std**2).T, strict=True):
        total = v[:, None] + v + h**2
        log_k += 0.5 * (torch.log(h**2 / total) - (c[:, None] - c) ** 2 / total)
    return float(law.weights @ torch.exp(log_k) @ law.weights)


def _kernel_sums(x: np.ndarray, y: np.ndarray | None, h: np.ndarray) -> np.ndarray:
    """Sums of the kernels of widths h, h/2, h/4, ... over the pairs i < j of x, or over all pairs of x and y."""
    points = torch.from_numpy(x[(np.abs(x) <= 1e150).all(1)])
    sums = torch.zeros(len(h), dtype=torch.float64)
    others = None if y is None else torch.from_numpy(y)
    step = max(1, _BLOCK // max(1, len(points if others is None else others)))
    norm = None if others is None else (others**2).sum(1)
    for start in range(0, len(points), step):
        rows = points[start : start + step]
        against = points[start:] if others is None else others
        square = (against**2).sum(1) if norm is None else norm
        r2 = torch.addmm(square, rows, against.T, alpha=-2).add_((rows**2).sum(1, keepdim=True)).clamp_(min=0)
        k = r2.mul_(-0.5 / h[0] ** 2).clamp_(min=-700).exp_()
        if others is None:
            k[:, : len(rows)].masked_fill_(torch.ones(len(rows), len(rows), dtype=torch.bool).tril(), 0.0)
        for i in range(len(h)):
            if i:
                k.square_().square_()  # half the width is the fourth power
            sums[i] += k.sum()
    return sums.numpy()


def _two_sample_mmd(x: np.ndarray, y: np.ndarray, widths: int) -> tuple[np.ndarray, np.ndarray]:
    """Unbiased MMD² for every width, and its standard deviation under equal laws, estimated from the reference."""
    n, m = len(x), len(y)
    h = math.sqrt(y.var(0).mean()) / 2.0 ** np.arange(widths)
    if not h[0] > 0:
        return np.full(widths, math.nan), np.ones(widths)
    some = y[:_SOME]
    inner = _kernel_sums(x, None, h) * 2 / (n * (n - 1)) + _kernel_sums(y, None, h) * 2 / (m * (m - 1))
    variances = []
    r2 = torch.cdist(torch.from_numpy(some), torch.from_numpy(some)) ** 2
    for width in h:
        k = torch.exp((r2 / (-2 * width**2)).clamp(min=-700)).fill_diagonal_(0)
        centred = k - k.sum(1, keepdim=True) / len(k) - k.sum(0) / len(k) + k.mean()
        variances.append(float(centred.fill_diagonal_(0).square().mean()) * len(k) / (len(k) - 1))
    sd = np.sqrt(np.array(variances) * (2 / (n * (n - 1)) + 2 / (m * (m - 1)) + 4 / (n * m)))
    return inner - 2 * _kernel_sums(x, y, h) / (n * m), sd


# Neighbours


class Precision(Metric):
    """Share of samples that lie in the ball of some reference point, whose radius is that to its k-th neighbour.

    No units, 0 to 1; its ideal is below 1: 0.994 at n = m = 5,000 on two moons. O(n log m), 0.1 s at 5,000. Two-sample:
    the reference is drawn from the law where none was given. Blind to missing pieces, weights, duplicates; a ball is as
    wide as the points are apart, so to anything finer than that. Samples that are not finite are in no ball.
    Source: Kynkäänniemi et al., Improved precision and recall metric, 2019.
    """

    k: Positive = 5
    least = 0.0

    @property
    def lower_is_better(self) -> bool | None:
        return False

    @property
    def label(self) -> str:
        return "precision"

    def __call__(self, evaluation: Evaluation) -> float:
        return _balls(self, self.k, evaluation)[0]


class Coverage(Metric):
    """Share of reference points with a sample in their ball, whose radius is that to their k-th neighbour.

    No units, 0 to 1; its ideal is about 1 - 2^-k, 0.969 for k = 5 and n = m. O(n log m), 0.1 s at 5,000. Two-sample.
    Blind to samples off the support and to weights that leave no ball empty.
    Source: Naeem et al., Reliable fidelity and diversity metrics for generative models, 2020.
    """

    k: Positive = 5
    least = 0.0

    @property
    def lower_is_better(self) -> bool | None:
        return False

    @property
    def label(self) -> str:
        return "coverage"

    def __call__(self, evaluation: Evaluation) -> float:
        return _balls(self, self.k, evaluation)[1]


def _balls(metric: Metric, k: int, evaluation: Evaluation) -> tuple[float, float]:
    """Precision and coverage."""
    x, y = evaluation.samples, evaluation.reference
    if len(y) <= k:
        raise MissingError(f"{metric.label} needs more than k = {k} reference points, given {len(y)}")
    if not (np.abs(y) <= 1e150).all():
        return math.nan, math.nan

    def compute() -> tuple[float, float]:
        from scipy.spatial import cKDTree

        finite = x[(np.abs(x) <= 1e150).all(1)]
        if not len(finite):
            return 0.0, 0.0
        radius = cKDTree(y).query(y, k + 1)[0][:, -1]
        inside = cKDTree(finite).query_ball_point(y, radius)
        hit = np.zeros(len(finite), dtype=bool)
        for points in inside:
            hit[points] = True
        return float(hit.sum() / len(x)), float(np.mean([bool(points) for points in inside]))

    return evaluation.once(("balls", k), compute)


class Memorisation(Metric):
    """Median distance of a sample to its nearest training point, relative to that of fresh draws from the exact law.

    No units, never negative; 1 for samples as far from the training points as fresh ones are, below 1 for copies.
    `quantile` is that of the distances, 1/2 unless said: a share s of exact copies moves the median as the
    (1/2 - s)/(1 - s) quantile of the others, so one in ten makes 0.92 of it. O((n + 32,768) log k), 0.1 s. Standard
    error about 1/sqrt(n). Two-sided: above 1, samples lie off the support or in its gaps. Blind to which points are
    copied; sees every other defect a little, so read it beside the panel. Samples that are not finite are infinitely
    far.
    Source: nearest-neighbour ratios as in Meehan, Chaudhuri and Dasgupta, A non-parametric test to detect data-copying
    in generative models, 2020.
    """

    needs: ClassVar[tuple[Need, ...]] = ("law", "train")
    quantile: PositiveFloat = 0.5

    def check(self) -> Iterator[tuple[str, str]]:
        if self.quantile > 1:
            yield "quantile", f"should be at most 1, given {self.quantile}"

    least = 0.0

    @property
    def lower_is_better(self) -> bool | None:
        return None

    @property
    def label(self) -> str:
        return "train distance"

    def __call__(self, evaluation: Evaluation) -> float:
        from scipy.spatial import cKDTree

        law, x, train = self.need(evaluation), evaluation.samples, evaluation.train
        if train is None or not (np.abs(train) <= 1e150).all():
            return math.nan
        tree = cKDTree(train)
        distance = np.full(len(x), np.inf)
        finite = (np.abs(x) <= 1e150).all(1)
        distance[finite] = tree.query(x[finite])[0]
        fresh = np.quantile(tree.query(law.draws)[0], self.quantile)
        return float(np.quantile(distance, self.quantile, method="higher") / fresh) if fresh > 0 else math.nan


# Transport


class W1(Metric):
    """Wasserstein-1 distance to the reference: the least mean distance over all ways to move one sample onto the other.

    Units of x, never negative, biased up: 0.05 between two exact samples of 2,000 from two moons. Exact for the points
    it takes: all up to `points`, above that as many at random of each. O(points³) at worst, 1 s at 2,000; needs POT.
    Two-sample. Blind to anything that moves little mass a little: its floor falls as slowly as 1/sqrt(n). Infinite
    samples make it infinite.
    Source: Kantorovich 1942; network simplex of Bonneel et al., Displacement interpolation, 2011, as in POT.
    """

    points: Positive = 2000
    least = 0.0

    def __call__(self, evaluation: Evaluation) -> float:
        return _transport(evaluation, self.points, "euclidean")


class W2(Metric):
    """Wasserstein-2 distance to the reference: the root of the least mean squared distance. The root, not the square.

    Units of x, never negative, biased up: 0.09 between two exact samples of 2,000 from two moons. Exact for the points
    it takes: all up to `points`, above that as many at random of each. O(points³) at worst, 1 s at 2,000; needs POT.
    Two-sample. Blind as W1, but far points count more. Infinite samples make it infinite.
    Source: Kantorovich 1942; network simplex of Bonneel et al., Displacement interpolation, 2011, as in POT.
    """

    points: Positive = 2000
    least = 0.0

    def __call__(self, evaluation: Evaluation) -> float:
        return math.sqrt(_transport(evaluation, self.points, "sqeuclidean"))


def _transport(evaluation: Evaluation, points: int, cost: Literal["euclidean", "sqeuclidean"]) -> float:
    """The least mean cost between at most `points` samples and as many reference points."""
    from scipy.spatial.distance import cdist

    try:
        from ot import emd2
    except ImportError:
        raise MissingError("exact transport needs POT: pip install pot") from None
    generator = evaluation.stream("transport", points).numpy()
    x, y = (
        z if len(z) <= points else z[generator.choice(len(z), points, replace=False)]
        for z in (evaluation.samples, evaluation.reference)
    )
    if np.isnan(x).any() or not (np.abs(y) <= 1e150).all():
        return math.nan
    if (np.abs(x) > 1e150).any():
        return math.inf
    costs = cdist(x, y, cost)
    value, log = emd2(np.full(len(x), 1 / len(x)), np.full(len(y), 1 / len(y)), costs, numItermax=10**8, log=True)
    if log.get("warning"):
        raise RuntimeError(f"the transport problem was not solved: {log['warning']}")
    return max(0.0, float(value))
