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
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge, Le

from moonbed._lazy import lazy_import
from moonbed.component import Positive, PositiveFloat
from moonbed.metrics.base import Evaluation, Metric
from moonbed.metrics.fourier import Waves
from moonbed.rng import Rng

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy_import("numpy")

__all__ = ["C2ST", "MMD", "Energy", "SlicedW1"]

_FAR = 1e150  # squares of what is nearer stay finite in float64
_BLOCK = 1 << 18  # pairs at once: 2 MB, stays in the cache
_EXACT = 50_000  # points up to which the median of their distances is exact
_TILE = 16  # points that are near or far together
_DIRECT = {1: 2_000, 2: 2_000, 3: 40_000}  # points together up to which the energy is summed pair by pair, a dimension
_ANGLES = 128  # directions in the plane
_RANDOM = 256  # and in more dimensions
_SORTED = 1 << 20  # projections at once: 8 MB
_WAVES = 1 << 22  # frequencies (128 MB for each sample)
_TIE = 2.0**30  # decision values are multiples of 1/this: equal points have equal ones in spite of rounding
_GRAM = 10_000  # training points up to which a kernel matrix is held (800 MB)


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
        value = evaluation.once("energy", lambda: _energy(evaluation))[self.statistic]
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
        block, distances = max(1, _SORTED // (len(x) + len(y))), []
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
        decide = _DECISIONS[self.classifier](x, label)
        splitter = RepeatedStratifiedKFold(n_splits=self.folds, n_repeats=self.repeats, random_state=seed)
        scores = []
        for train, test in splitter.split(x, label):
            decision = decide(train, test)
            scores.append((_auc(decision, label[test]), np.mean((decision > 0) == label[test])))
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


# Sums over pairs


def _pairs(x: np.ndarray, y: np.ndarray | None = None) -> Iterator[tuple[slice, slice, np.ndarray]]:
    """Blocks (rows of x, rows of y, squared distances) that hold each pair once; without y, each i < j of x.

    The entries of a block that are no such pair are infinite. A block is overwritten by the next.
    """
    from scipy.spatial.distance import cdist

    other = x if y is None else y
    step = max(1, _BLOCK // max(1, len(other)))
    memory = np.empty(step * len(other))
    for start in range(0, len(x), step):
        rows, points = slice(start, min(start + step, len(x))), slice(start if y is None else 0, len(other))
        squared = memory[: (rows.stop - start) * (points.stop - points.start)].reshape(rows.stop - start, -1)
        cdist(x[rows], other[points], "sqeuclidean", out=squared)
        if y is None:
            squared[:, : len(squared)][np.tri(len(squared), dtype=bool)] = np.inf
        yield rows, points, squared


def _median_squared_distance(z: np.ndarray, n: int) -> float:
    """Median over the n(n-1)/2 pairs of n points, of which the rows of z are the finite ones; exact up to `_EXACT`.

    Selection instead of sorting: some pairs bracket the median, one pass counts what lies below the bracket and keeps
    what lies within. Above `_EXACT` points it is the median of 2²³ pairs, of each point with the next few in a fixed
    random order: as each point counts as often as it should, its rank is off by 2e-4 of all pairs (one sd).
    """
    pairs, largest = len(z) * (len(z) - 1) // 2, float(np.finfo(float).max)
    first, last = (n * (n - 1) // 2 - 1) // 2, n * (n - 1) // 2 // 2
    if last >= pairs:
        return math.inf
    brackets: list[tuple[float, float]] = [(0.0, largest)]
    if pairs > 4 * _BLOCK:
        some = _some_squared_distances(z, (1 << 18) if len(z) <= _EXACT else (1 << 23))
        if len(z) > _EXACT:
            return float(np.quantile(some, (first + last) / 2 / (pairs - 1)))
        for width in (0.02, 0.004):
            low, high = map(float, np.quantile(some, np.clip(last / pairs + np.array([-width, width]), 0, 1)))
            brackets.insert(0, (low, high))
    for low, high in brackets:
        below, kept = _ordered(z, low, high)
        if below <= first and last < below + len(kept):
            kept.partition((first - below, last - below))
            return float(kept[first - below] + kept[last - below]) / 2
    raise AssertionError("the widest bracket holds every pair")


def _some_squared_distances(z: np.ndarray, count: int) -> np.ndarray:
    """Of each point to the next few in a random order, `count` in all or a few more."""
    z = z[Rng(0).stream("metrics", "pairs").numpy().permutation(len(z))]
    shifts = range(1, min(len(z) // 2, -(-count // len(z))) + 1)
    return np.concatenate([np.square(z - np.roll(z, shift, axis=0)).sum(1) for shift in shifts])


def _ordered(z: np.ndarray, low: float, high: float) -> tuple[int, np.ndarray]:
    """How many squared distances between points lie below `low`, and those between `low` and `high`."""
    below, kept = 0, []
    if z.shape[1] > 2:
        for _, _, squared in _pairs(z):
            below += int(np.count_nonzero(squared < low))
            kept.append(squared[(squared >= low) & (squared <= high)])
        return below, np.concatenate(kept)
    tiles = _tiles(z)
    least, most = np.fmin.reduce(tiles, 2), np.fmax.reduce(tiles, 2)
    sizes = np.count_nonzero(~np.isnan(tiles[0]), axis=1)

    def take(squared: np.ndarray) -> int:
        small = squared <= high
        less = squared < low
        kept.append(squared[small & ~less])
        return int(np.count_nonzero(less))

    for i in range(len(sizes)):
        others = slice(i + 1, None)
        gap = np.maximum(least[:, i, None] - most[:, others], least[:, others] - most[:, i, None]).clip(min=0)
        span = np.maximum(most[:, i, None] - least[:, others], most[:, others] - least[:, i, None])
        inside = np.square(span).sum(0) < low
        below += int(sizes[i] * sizes[others][inside].sum())
        crossing = ~inside & (np.square(gap).sum(0) <= high)
        apart = [axis[others][crossing].ravel() for axis in tiles]
        below += take(sum(np.square(axis[i][:, None] - other) for axis, other in zip(tiles, apart, strict=True)))
    first, second = np.triu_indices(_TILE, 1)
    below += take(sum(np.square(axis[:, first] - axis[:, second]) for axis in tiles))
    return below, np.concatenate(kept)


def _tiles(z: np.ndarray) -> np.ndarray:
    """(dim, tiles, points of a tile): the points in groups of near ones, the last one filled with NaN."""
    count = -(-len(z) // _TILE)
    if z.shape[1] == 2:
        strips = np.array_split(z[np.argsort(z[:, 0])], max(1, math.isqrt(count)))
        z = np.concatenate([strip[np.argsort(strip[:, 1])] for strip in strips])
    else:
        z = np.sort(z, axis=0)
    filled = np.full((count * _TILE, z.shape[1]), np.nan)
    filled[: len(z)] = z
    return np.ascontiguousarray(filled.T).reshape(-1, count, _TILE)


def _mmd_squared(evaluation: Evaluation, multiples: tuple[float, ...]) -> dict[float, float]:
    """Multiple of gamma0 -> unbiased MMD². Infinite samples count in n and have kernel 0 with all others."""
    x, y = evaluation.samples, evaluation.reference
    n, m = len(x), len(y)
    x = x[(np.abs(x) <= _FAR).all(1)]
    median = evaluation.once("median", lambda: _median_squared_distance(np.vstack([x, y]), n + m))
    gammas = [multiple * 2 / median if median > 0 else math.inf for multiple in multiples]
    if not all(0 < gamma < math.inf for gamma in gammas):
        return dict.fromkeys(multiples, math.nan)
    xx, yy, xy = _gaussian_sums(x, y, gammas)
    values = 2 * xx / (n * (n - 1)) + 2 * yy / (m * (m - 1)) - 2 * xy / (n * m)
    return dict(zip(multiples, values.tolist(), strict=True))


def _gaussian_sums(x: np.ndarray, y: np.ndarray, gammas: list[float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sums of exp(-gamma d²), for each of the ascending gammas, over distinct pairs of x, of y, and pairs of x and y.

    By waves (see `fourier`) between the points of a core, pair by pair where a point is outside of it.
    """
    core = _core(np.vstack([x, y]), gammas)
    if core is None:
        return _kernel_sums(_pairs(x), gammas), _kernel_sums(_pairs(y), gammas), _kernel_sums(_pairs(x, y), gammas)
    centre, radius = core
    near = [(np.abs(z - centre) <= radius).all(1) for z in (x, y)]
    (x, x_far), (y, y_far) = ((z[inside] - centre, z[~inside] - centre) for z, inside in zip((x, y), near, strict=True))
    xx, yy, xy = (np.zeros(len(gammas)) for _ in range(3))
    extent = tuple(np.ptp(np.vstack([x, y]), axis=0).tolist())
    for i, gamma in enumerate(gammas):
        waves = Waves(extent, gamma)
        of_x, of_y = waves.transform(x), waves.transform(y)
        xx[i] = (waves.total(of_x, of_x) - len(x)) / 2
        yy[i] = (waves.total(of_y, of_y) - len(y)) / 2
        xy[i] = waves.total(of_x, of_y)
    for sums, far, z in ((xx, x_far, x), (yy, y_far, y), (xy, x_far, y), (xy, y_far, x)):
        sums += _kernel_sums(_pairs(far, z), gammas)
    for sums, blocks in ((xx, _pairs(x_far)), (yy, _pairs(y_far)), (xy, _pairs(x_far, y_far))):
        sums += _kernel_sums(blocks, gammas)
    return xx, yy, xy


def _core(z: np.ndarray, gammas: list[float]) -> tuple[np.ndarray, float] | None:
    """Centre and radius (maximum norm) of the points that waves take, as is cheapest; None: all pairs are cheaper.

    Estimates in seconds: 10 ns a pair and kernel, 0.4 ns a point and frequency, 20 ns a point and frequency of an axis.
    """
    if z.shape[1] > 2:
        return None
    n, centre = len(z), np.median(z, axis=0)
    radii = np.sort(np.abs(z - centre).max(1))
    best, radius = 5e-9 * n * n * len(gammas), math.nan
    for far in (0, *(2**power for power in range(n.bit_length() - 1))):
        inside = n - far
        counts = [Waves((2 * float(radii[inside - 1]),) * z.shape[1], gamma).counts for gamma in gammas]
        seconds = 1e-8 * far * n * len(gammas) + 3e-4 * len(gammas)
        seconds += sum(n * (4e-10 * math.prod(count) + 2e-8 * sum(count)) for count in counts)
        if seconds < best and max(math.prod(count) for count in counts) <= _WAVES:
            best, radius = seconds, float(radii[inside - 1])
    return None if math.isnan(radius) else (centre, radius)


def _kernel_sums(blocks: Iterator[tuple[slice, slice, np.ndarray]], gammas: list[float]) -> np.ndarray:
    """Sum of exp(-gamma d²) over all pairs, for each of the ascending gammas. Doubling gamma squares the kernel."""
    sums = np.zeros(len(gammas))
    memory = np.empty(0)
    for _, _, squared in blocks:
        memory = memory if memory.size >= squared.size else np.empty(squared.size)
        k = memory[: squared.size].reshape(squared.shape)
        for i, gamma in enumerate(gammas):
            if i and gamma == 2 * gammas[i - 1]:
                np.square(k, out=k)
            else:
                with np.errstate(over="ignore"):
                    np.exp(np.multiply(squared, -gamma, out=k), out=k)
            sums[i] += k.sum()
    return sums


def _energy(evaluation: Evaluation) -> dict[str, float]:
    """The squared energy distance as U- and as V-statistic, without cancellation between far points.

    |x-y| may be replaced by g(x,y) = |x-y| - |x| - |y| about any origin, since what is taken away cancels. As
    g = -2 (<x,y> + |x||y|) / (|x-y| + |x| + |y|) is at most 2 min(|x|,|y|) in size, one exploded point no longer drowns
    the others in rounding errors. Many points are projected (see `_g_sums`), but for those far from the others.
    """
    origin = evaluation.reference.mean(0)
    x, y = evaluation.samples - origin, evaluation.reference - origin
    n, m, x_norm, y_norm = len(x), len(y), np.linalg.norm(x, axis=1), np.linalg.norm(y, axis=1)
    limit = _near(np.concatenate([x_norm, y_norm]), x.shape[1])
    if limit is None:
        xx, yy, xy = _g_sum(x, x_norm), _g_sum(y, y_norm), _g_sum(x, x_norm, (y, y_norm))
    else:
        xx, yy, xy = _g_sums((x, x_norm), (y, y_norm), limit)
    x_self, y_self = -2 * math.fsum(x_norm), -2 * math.fsum(y_norm)  # the diagonal: g(x,x) = -2|x|
    return {
        "U": 2 * xy / (n * m) - 2 * xx / (n * (n - 1)) - 2 * yy / (m * (m - 1)),
        "V": 2 * xy / (n * m) - (2 * xx + x_self) / n**2 - (2 * yy + y_self) / m**2,
    }


def _near(norms: np.ndarray, dim: int) -> float | None:
    """The norm up to which points are projected; None where all pairs are to be summed.

    That is where there are few points, or no more than 40,000 of which an eighth is far away. Beyond the norm are the
    points of more than 30 times the median norm, but no more than make 2²⁶ pairs with all others.
    """
    n = len(norms)
    if n <= _DIRECT[min(dim, 3)]:
        return None
    farthest = np.sort(norms)
    most = int(np.searchsorted(farthest, 30 * farthest[n // 2], side="right"))
    if n - most > n // 8 and n <= _DIRECT[3]:
        return None
    return float(farthest[max(most, n - max(1, (1 << 26) // n)) - 1])


_Normed = tuple["np.ndarray", "np.ndarray"]


def _g_sums(x: _Normed, y: _Normed, limit: float) -> tuple[float, float, float]:
    """Sums of g (see `_energy`) over distinct pairs of x, of y, and pairs of x and y, all with their norms.

    Up to the norm `limit` |x-y| is c times the mean over directions u of |<u,x-y>|, and the sum over pairs of a sorted
    sample z that of (2i - n + 1) z_i, i = 0, 1, ...; pairs of x and y are those of both together but of neither alone.
    """
    far = [(points[norms > limit], norms[norms > limit]) for points, norms in (x, y)]
    near = [(points[norms <= limit], norms[norms <= limit]) for points, norms in (x, y)]
    (x_far, y_far), (x_near, y_near) = far, near
    n, m, dim = len(x_near[0]), len(y_near[0]), x[0].shape[1]
    directions = _directions(dim)
    sums = np.zeros(3)
    block = max(1, _SORTED // (n + m))
    for start in range(0, len(directions), block):
        u = directions[start : start + block]
        both = np.empty((len(u), n + m))
        for columns, points in ((slice(n), x_near[0]), (slice(n, None), y_near[0])):
            np.matmul(u, points.T, out=both[:, columns])
            both[:, columns].sort(axis=1)
        sums[:2] += _spread(both[:, :n]), _spread(both[:, n:])
        both.sort(axis=1, kind="stable")  # two runs are merged
        sums[2] += _spread(both)
    constant = math.sqrt(math.pi) * math.exp(math.lgamma((dim + 1) / 2) - math.lgamma(dim / 2))
    xx, yy, all_pairs = (constant / len(directions) * sums).tolist()
    x_sum, y_sum = math.fsum(x_near[1]), math.fsum(y_near[1])
    return (
        xx - (n - 1) * x_sum + _g_sum(*x_far) + _g_sum(*x_far, x_near),
        yy - (m - 1) * y_sum + _g_sum(*y_far) + _g_sum(*y_far, y_near),
        all_pairs - xx - yy - m * x_sum - n * y_sum + _g_sum(*x_far, y) + _g_sum(*y_far, x_near),
    )


def _directions(dim: int) -> np.ndarray:
    """(directions, dim) unit vectors: the line's, evenly spaced ones of the plane, else those of random frames."""
    if dim == 1:
        return np.ones((1, 1))
    if dim == 2:
        angle = np.pi * (np.arange(_ANGLES) + 0.5) / _ANGLES
        return np.column_stack([np.cos(angle), np.sin(angle)])
    generator = Rng(0).stream("metrics", "directions").numpy()
    frames = np.linalg.qr(generator.normal(size=(-(-_RANDOM // dim), dim, dim)))[0]
    return frames.reshape(-1, dim)[:_RANDOM]


def _spread(z: np.ndarray) -> float:
    """Sum over the sorted rows of z of the sum over distinct pairs of |z_i - z_j|."""
    return float(np.sum(z @ (2.0 * np.arange(z.shape[1]) - (z.shape[1] - 1))))


def _g_sum(x: np.ndarray, x_norm: np.ndarray, others: tuple[np.ndarray, np.ndarray] | None = None) -> float:
    """Sum of g (see `_energy`) over all pairs of x and others (points, norms), or over the distinct pairs of x."""
    y, y_norm = others or (x, x_norm)
    left, right = np.column_stack([x, x_norm]), np.column_stack([y, y_norm])
    tiny = np.finfo(float).tiny  # g(0,0) = 0, not 0/0
    sums = []
    for rows, points, distance in _pairs(x, y if others else None):
        np.sqrt(distance, out=distance)
        distance += x_norm[rows, None] + tiny
        distance += y_norm[points]
        sums.append(np.sum(left[rows] @ right[points].T / distance))
    return -2 * math.fsum(sums)


def quantile_steps(n: int, m: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Steps of the two empirical quantile functions together: (width, index into n sorted, index into m sorted)."""
    ends = np.union1d(np.arange(1, n + 1) * m, np.arange(1, m + 1) * n)  # in units of 1/(n m), exact
    starts = np.concatenate([[0], ends[:-1]])
    return (ends - starts) / (n * m), starts // m, starts // n


# Classifiers: points and labels -> (training rows, test rows) -> decision values of the test rows, positive for samples

_Decision = Callable[["np.ndarray", "np.ndarray"], "np.ndarray"]


def _auc(decision: np.ndarray, label: np.ndarray) -> float:
    """Area under the curve by ranks (Mann and Whitney), ties counting half."""
    from scipy.stats import rankdata

    ones = int(label.sum())
    return float(rankdata(decision)[label > 0].sum() - ones * (ones + 1) / 2) / (ones * (len(label) - ones))


def _standardised(x: np.ndarray, train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(x[train])
    return scaler.transform(x[train]), scaler.transform(x[test])


def _logistic_decision(x: np.ndarray, label: np.ndarray) -> _Decision:
    from sklearn.linear_model import LogisticRegression

    def decide(train: np.ndarray, test: np.ndarray) -> np.ndarray:
        known, asked = _standardised(x, train, test)
        return np.asarray(LogisticRegression().fit(known, label[train]).decision_function(asked))

    return decide


# A fifth of the time of the defaults, 100 trees and 255 bins, and no less power (docs/metrics.md)
_BOOSTING = {"max_iter": 20, "learning_rate": 0.2, "max_bins": 64, "early_stopping": False, "random_state": 0}


def _boosting_decision(x: np.ndarray, label: np.ndarray) -> _Decision:
    from sklearn.ensemble import HistGradientBoostingClassifier
    from threadpoolctl import threadpool_limits

    def decide(train: np.ndarray, test: np.ndarray) -> np.ndarray:
        known, asked = _standardised(x, train, test)
        with threadpool_limits(1):  # the order of its sums depends on the number of threads
            machine = HistGradientBoostingClassifier(**_BOOSTING).fit(known, label[train])
            return np.asarray(machine.decision_function(asked))

    return decide


def _svm_decision(x: np.ndarray, label: np.ndarray) -> _Decision:
    """Of `SVC(tol=0)`; of `SVC()`, libsvm's with its tolerance of 1e-3, where the kernel has no low rank."""
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    from moonbed.metrics.svm import LowRankMachines

    def scaled(x: np.ndarray) -> tuple[StandardScaler, np.ndarray, float]:
        scaler = StandardScaler().fit(x)
        known = scaler.transform(x)
        return scaler, known, 1 / (x.shape[1] * (known.var() or 1.0))

    scaler, _, gamma = scaled(x)
    machines = LowRankMachines(x, label, math.sqrt(gamma) / scaler.scale_)

    def decide(train: np.ndarray, test: np.ndarray) -> np.ndarray:
        scaler, known, gamma = scaled(x[train])
        decision = machines.decision(train, test, math.sqrt(gamma) / scaler.scale_)
        if decision is not None:
            return np.round(decision * _TIE) / _TIE
        asked = scaler.transform(x[test])
        if len(train) > _GRAM:
            return np.asarray(SVC(cache_size=1000).fit(known, label[train]).decision_function(asked))
        gram, across = _grams(known, asked, gamma)
        machine = SVC(kernel="precomputed", cache_size=1000).fit(gram, label[train])
        return np.asarray(machine.decision_function(across))

    return decide


def _grams(x: np.ndarray, test: np.ndarray, gamma: float) -> tuple[np.ndarray, np.ndarray]:
    """Kernel matrices of x with x and of test with x: libsvm is twice as fast where they are given to it."""
    gram, across = np.zeros((len(x), len(x))), np.empty((len(test), len(x)))
    for rows, points, squared in _pairs(x):
        k = np.exp(np.multiply(squared, -gamma, out=squared), out=squared)
        gram[rows, points] = k
        gram[points, rows] += k.T
    np.fill_diagonal(gram, 1.0)
    for rows, points, squared in _pairs(test, x):
        np.exp(np.multiply(squared, -gamma, out=squared), out=across[rows, points])
    return gram, across


_DECISIONS = {"svm": _svm_decision, "logistic": _logistic_decision, "boosting": _boosting_decision}
