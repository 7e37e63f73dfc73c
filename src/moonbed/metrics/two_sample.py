"""Two-sample metrics: how far samples X (n, dim) are from reference points Y (m, dim), neither law being known.

    MMD²      E k(X,X') + E k(Y,Y') - 2 E k(X,Y)              a distance of means in the kernel's feature space
    energy    2 E|X-Y| - E|X-X'| - E|Y-Y'|                    the same with the kernel -|x-y|
    sliced W1 mean over directions u of W1(<u,X>, <u,Y>)      the area between two distribution functions
    C2ST      can a classifier tell X from Y, held out?

A U-statistic averages over distinct pairs, is unbiased and falls below 0 about half the time when the laws are equal; a
V-statistic includes the pairs of a point with itself, is never negative and biased up by O(1/n). Whatever the metric,
its value means something only beside its values for perfect samples (`significance`).

Points that exploded are neither dropped nor an error. A coordinate beyond 1e150 counts as infinite, since its square
would be. Each class says what an infinite sample makes of its value; NaN in samples or reference, or an infinite
reference, makes it NaN.

Gretton et al., A kernel two-sample test, JMLR 2012. Székely and Rizzo, Energy statistics, JSPI 2013. Bonneel et al.,
Sliced and Radon Wasserstein barycenters, JMIV 2015. Lopez-Paz and Oquab, Revisiting classifier two-sample tests, 2017.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge, Le

from moonbed._lazy import lazy_import
from moonbed.component import Positive, PositiveFloat
from moonbed.metrics.base import Evaluation, Metric
from moonbed.metrics.classifiers import CLASSIFIERS, area_under_curve
from moonbed.metrics.energy import SORTED, energy_statistics
from moonbed.metrics.pairs import gaussian_sums, median_squared_distance

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy_import("numpy")

__all__ = ["C2ST", "MMD", "Energy", "SlicedW1"]

_FAR = 1e150  # squares of what is nearer stay finite in float64


class MMD(Metric):
    """Maximum mean discrepancy with Gaussian kernels exp(-gamma |x-y|²), U-statistic, mean over several gamma.

    gamma runs over `multiples` of gamma0 = 1/s², where s² is half the median squared distance between distinct points
    of both samples together. `root` takes sqrt(max(0, .)) of the mean, as is often published: that maps every value
    below 0, and so most perfect samplers, to exactly 0.

    In one or two dimensions the sums over pairs are taken by plane waves (see `fourier`), equal to those pair by pair
    to rounding. The median is exact up to 50,000 points together; above that it is that of 8 million pairs, off by 1
    part in 1,000 (one sd), and the value by less.

    No units, from -1/(n-1) - 1/(m-1) to 2. On one core and two moons 0.09 s at n = m = 5,000, of which the median is
    0.06 s, 5 s and 0.3 GB at a million, O(n + m); in more dimensions 0.7 s and O((n+m)²). Points far away from the
    others, and kernels much narrower than the points' extent, are summed pair by pair if that is faster.
    Blind to detail below s/2: at these bandwidths a noise 20 % too wide passes unseen.
    An infinite sample has kernel 0 with all others: the value stays finite. NaN if the median is 0 or infinite.
    """

    multiples: tuple[PositiveFloat, ...] = (0.25, 0.5, 1.0, 2.0, 4.0)
    root: bool = False

    def check(self) -> Iterator[tuple[str, str]]:
        if not self.multiples:
            yield "multiples", "give at least one"

    @property
    def label(self) -> str:
        return "MMD" if self.root else "MMD²"

    @property
    def least(self) -> float:
        return 0.0 if self.root else -math.inf

    def __call__(self, evaluation: Evaluation) -> float:
        if math.isnan(_limit(evaluation, far=math.inf)):
            return math.nan
        ladder = tuple(sorted(set(self.multiples)))
        squared = evaluation.once(("MMD²", ladder), lambda: _mmd_squared(evaluation, ladder))
        value = math.fsum(squared[multiple] for multiple in self.multiples) / len(self.multiples)
        return math.sqrt(max(0.0, value)) if self.root and not math.isnan(value) else value


class Energy(Metric):
    """Energy distance 2 E|X-Y| - E|X-X'| - E|Y-Y'|, and with `root` its square root.

    `statistic` "U" is unbiased and signed; "V" includes the pairs of a point with itself, which add (E|X-X'|)/n +
    (E|Y-Y'|)/m under equal laws. The root needs "V".

    Exact up to 2,000 points together and on a line. Above that, in the plane, a mean over 128 directions of the exact
    distance on a line, but for points far from the others: off by 3e-8 (one sd) for two moons at n = m = 5,000, where
    "V" of perfect samples is 6e-4. In more dimensions exact up to 40,000 points, above that a mean over 256 fixed
    directions, off by about 1 %.

    Units of x (root: their square root). O((n+m) log(n+m)) time, on one core 0.04 s at n = m = 5,000, 20 s and 0.2 GB
    at a million; in more dimensions 0.3 s and O((n+m)²) where it is exact.
    Blind to what hardly moves mass: the width of the noise, a few points between the modes.
    An infinite sample makes "V" infinite and "U" NaN: its leading terms cancel, one exploded point moves it by O(1/n).
    """

    statistic: Literal["U", "V"] = "U"
    root: bool = False

    def check(self) -> Iterator[tuple[str, str]]:
        if self.root and self.statistic == "U":
            yield "root", 'the U-statistic can be negative and has no root; use statistic="V", or root=false'

    @property
    def label(self) -> str:
        return "energy" if self.root else "energy²"

    @property
    def unit(self) -> str:
        return "√(units of x)" if self.root else "units of x"

    @property
    def least(self) -> float:
        return 0.0 if self.statistic == "V" else -math.inf

    def __call__(self, evaluation: Evaluation) -> float:
        limit = _limit(evaluation, far=math.inf if self.statistic == "V" else math.nan)
        if limit:
            return limit
        value = evaluation.once("energy", lambda: energy_statistics(evaluation))[self.statistic]
        return math.sqrt(max(0.0, value)) if self.root else value


class SlicedW1(Metric):
    """Mean over uniformly random directions of the exact Wasserstein-1 distance between the projected samples.

    Per direction, W1 is the mean difference of the sorted projections; with n != m, the integral of the difference of
    the two quantile functions.

    Units of x, never negative, biased up by O(1/sqrt n). O(directions n log n) time, for 256 on one core 0.06 s at n =
    5,000, 30 s and 0.1 GB at a million, nearly all of it sorting.
    Two directions' values differ, so the value depends a little on the draw: its sd is that over directions divided by
    sqrt(directions). Blind to the same things as the energy distance, whose values it follows closely.
    An infinite sample makes it infinite.
    """

    unit = "units of x"

    directions: Positive = 256
    least = 0.0

    @property
    def label(self) -> str:
        return "sliced W1"

    def __call__(self, evaluation: Evaluation) -> float:
        limit = _limit(evaluation, far=math.inf)
        if limit:
            return limit
        x, y = evaluation.samples, evaluation.reference
        u = evaluation.stream("sliced W1").numpy().normal(size=(self.directions, x.shape[1]))
        u /= np.linalg.norm(u, axis=1, keepdims=True)
        steps = None if len(x) == len(y) else quantile_steps(len(x), len(y))
        block, distances = max(1, SORTED // (len(x) + len(y))), []
        for start in range(0, self.directions, block):
            projected = [np.matmul(u[start : start + block], z.T) for z in (x, y)]
            for row, other in zip(*projected, strict=True):
                row.sort()
                other.sort()
                if steps is None:
                    distances.append(float(np.abs(np.subtract(row, other, out=row), out=row).mean()))
                else:
                    width, i, j = steps
                    distances.append(float(np.abs(row[i] - other[j]) @ width))
        return math.fsum(distances) / self.directions


class C2ST(Metric):
    """Classifier two-sample test: cross-validated score of a classifier that tells samples from reference.

    Standardise by the training folds, then an RBF support vector machine (C = 1, gamma = 1/(dim var), scikit-learn's
    "scale"), logistic regression (L2, C = 1) or histogram gradient boosting (20 trees at rate 0.2, 64 bins). `score`
    "auc" is the mean over folds of 2|AUC - 1/2|, which the absolute value biases up: 0.02 at n = 5,000.
    "mean-auc" takes the mean over folds first, so that folds on either side of 1/2 cancel. "accuracy" is the mean
    accuracy, for perfect samples of equal number a little below 1/2: where points are held out, fewer of their class
    are left to learn from.
    More accuracy is worse samples, but less than that is no better, it says that rows depend on each other. So
    `lower_is_better` is None there, and the test two-sided.

    `splitter_seed` None draws the folds from the evaluation's stream. A fixed seed is for reproducing published values,
    and a trap: `make_moons(n, random_state=42)` shuffles as the folds of `RepeatedStratifiedKFold(random_state=42)` do.
    With such a reference every fold of the first repeat leaves out one contiguous arc of it, where only samples remain
    to learn from, and an exact sampler gets 0.12 accuracy there.

    No units. On one core at n = m = 5,000, 15 folds: the machine 0.7 s and 50 MB in the plane, O(n) (see `svm`), but by
    libsvm 40 s and 0.6 GB where its kernel has no low rank, above two dimensions, O(n²) to O(n³); logistic regression
    0.1 s, boosting 0.5 s.
    Blind to anything small (gamma "scale" is smooth), logistic regression to all but a shift of the mean, boosting to
    less than about 20 % of the noise's width.
    NaN with an infinite sample (nothing to standardise by) or fewer points than folds; one exploded point squeezes the
    others to a single place, and the score to that of guessing.
    """

    classifier: Literal["svm", "logistic", "boosting"] = "svm"
    score: Literal["auc", "mean-auc", "accuracy"] = "auc"
    folds: Annotated[int, Ge(2)] = 5
    repeats: Positive = 3
    splitter_seed: Annotated[int, Ge(0), Le(2**32 - 1)] | None = None
    least = 0.0
    most = 1.0

    @property
    def lower_is_better(self) -> bool | None:
        return None if self.score == "accuracy" else True

    @property
    def label(self) -> str:
        score = {"auc": "2|AUC-.5|", "mean-auc": "2|mean AUC-.5|"}.get(self.score, self.score)
        return f"C2ST {score}" + ("" if self.classifier == "svm" else f" ({self.classifier})")

    def __call__(self, evaluation: Evaluation) -> float:
        if _limit(evaluation, far=math.nan) or min(len(evaluation.samples), len(evaluation.reference)) < self.folds:
            return math.nan
        seed = self.splitter_seed
        if seed is None:
            seed = evaluation.stream("c2st").seed % 2**32
        key = ("c2st", self.classifier, self.folds, self.repeats, seed)
        return evaluation.once(key, lambda: self._cross_validate(evaluation, seed))[self.score]

    def _cross_validate(self, evaluation: Evaluation, seed: int) -> dict[str, float]:
        """All scores, from one pass over the folds."""
        from sklearn.model_selection import RepeatedStratifiedKFold

        # The reference comes first: the splitter shuffles the class it meets first with its first random numbers.
        x = np.vstack([evaluation.reference, evaluation.samples])
        label = np.repeat([0, 1], [len(evaluation.reference), len(evaluation.samples)])
        decide = CLASSIFIERS[self.classifier](x, label)
        splitter = RepeatedStratifiedKFold(n_splits=self.folds, n_repeats=self.repeats, random_state=seed)
        scores = []
        for train, test in splitter.split(x, label):
            decision = decide(train, test)
            scores.append((area_under_curve(decision, label[test]), np.mean((decision > 0) == label[test])))
        auc, accuracy = np.array(scores).T
        return {
            "auc": float(np.mean(2 * np.abs(auc - 0.5))),
            "mean-auc": float(2 * np.abs(auc.mean() - 0.5)),
            "accuracy": float(accuracy.mean()),
        }


def _limit(evaluation: Evaluation, far: float) -> float:
    """0 where all points are finite, `far` where samples are infinite, NaN where a point is NaN or a reference is."""
    x, y = evaluation.samples, evaluation.reference
    if np.isnan(x).any() or not (np.abs(y) <= _FAR).all():
        return math.nan
    return far if (np.abs(x) > _FAR).any() else 0.0


def _mmd_squared(evaluation: Evaluation, multiples: tuple[float, ...]) -> dict[float, float]:
    """Multiple of gamma0 -> unbiased MMD². Infinite samples count in n and have kernel 0 with all others."""
    x, y = evaluation.samples, evaluation.reference
    n, m = len(x), len(y)
    x = x[(np.abs(x) <= _FAR).all(1)]
    median = evaluation.once("median", lambda: median_squared_distance(np.vstack([x, y]), n + m))
    gammas = [multiple * 2 / median if median > 0 else math.inf for multiple in multiples]
    if not all(0 < gamma < math.inf for gamma in gammas):
        return dict.fromkeys(multiples, math.nan)
    xx, yy, xy = gaussian_sums(x, y, gammas)
    values = 2 * xx / (n * (n - 1)) + 2 * yy / (m * (m - 1)) - 2 * xy / (n * m)
    return dict(zip(multiples, values.tolist(), strict=True))


def quantile_steps(n: int, m: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Steps of the two empirical quantile functions together: (width, index into n sorted, index into m sorted)."""
    ends = np.union1d(np.arange(1, n + 1) * m, np.arange(1, m + 1) * n)  # in units of 1/(n m), exact
    starts = np.concatenate([[0], ends[:-1]])
    return (ends - starts) / (n * m), starts // m, starts // n
