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

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy_import("numpy")

__all__ = ["C2ST", "MMD", "Energy", "SlicedW1"]

_FAR = 1e150  # squares of what is nearer stay finite in float64
_BLOCK = 1 << 18  # pairs at once: 2 MB, stays in the cache
_KEPT = 1 << 28  # pairs of which a hundredth may be kept to find their median
_TIE = 2.0**30  # decision values are multiples of 1/this: equal points have equal ones in spite of rounding
_GRAM = 10_000  # training points up to which a kernel matrix is held (800 MB)


class MMD(Metric):
    """Maximum mean discrepancy with Gaussian kernels exp(-gamma |x-y|²), U-statistic, mean over several gamma.

    gamma runs over `multiples` of gamma0 = 1/s², where s² is half the median squared distance between distinct points
    of both samples together. `root` takes sqrt(max(0, .)) of the mean, as is often published: that maps every value
    below 0, and so most perfect samplers, to exactly 0.

    No units, from -1/(n-1) - 1/(m-1) to 2. O((n+m)²) time, 1 s at n = m = 5,000; memory O(n + m).
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

    Units of x (root: their square root). O((n+m)²) time, 0.3 s at n = m = 5,000; memory O(n + m).
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

    Units of x, never negative, biased up by O(1/sqrt n). O(directions n log n) time, 0.05 s for 256 at n = 5,000.
    Two directions' values differ, so the value depends a little on the draw: its sd is that over directions divided by
    sqrt(directions). Blind to the same things as the energy distance, whose values it follows closely.
    An infinite sample makes it infinite.
    """

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
        width, i, j = quantile_steps(len(x), len(y))
        distances = [np.abs(np.sort(x @ v)[i] - np.sort(y @ v)[j]) @ width for v in u]
        return math.fsum(distances) / self.directions


class C2ST(Metric):
    """Classifier two-sample test: cross-validated score of a classifier that tells samples from reference.

    Standardise by the training folds, then an RBF support vector machine (C = 1, gamma = 1/(dim var), scikit-learn's
    "scale"), logistic regression (L2, C = 1) or histogram gradient boosting (scikit-learn's defaults). `score` "auc" is
    the mean over folds of 2|AUC - 1/2|, which the absolute value biases up: 0.02 at n = 5,000 for perfect samples.
    "mean-auc" takes the mean over folds first, so that folds on either side of 1/2 cancel. "accuracy" is the mean
    accuracy, for perfect samples of equal number a little below 1/2: where points are held out, fewer of their class
    are left to learn from.
    More accuracy is worse samples, but less than that is no better, it says that rows depend on each other. So
    `lower_is_better` is None there, and the test two-sided.

    `splitter_seed` None draws the folds from the evaluation's stream. A fixed seed is for reproducing published values,
    and a trap: `make_moons(n, random_state=42)` shuffles as the folds of `RepeatedStratifiedKFold(random_state=42)` do.
    With such a reference every fold of the first repeat leaves out one contiguous arc of it, where only samples remain
    to learn from, and an exact sampler gets 0.12 accuracy there.

    No units. On one core at n = m = 5,000, 15 folds: the machine 0.5 s and 50 MB in the plane, O(n) (see `svm`), but by
    libsvm 40 s and 0.6 GB where its kernel has no low rank, above two dimensions, O(n²) to O(n³); logistic regression
    0.1 s, boosting 3 s.
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
    """Exact median over the n(n-1)/2 pairs of n points, of which the rows of z are the finite ones.

    Selection instead of sorting: a quick estimate brackets the median, one pass counts what lies below the bracket and
    keeps what lies within. Where that would be too much to keep, a pass before it narrows the bracket by a histogram.
    """
    pairs, largest = len(z) * (len(z) - 1) // 2, float(np.finfo(float).max)
    first, last = (n * (n - 1) // 2 - 1) // 2, n * (n - 1) // 2 // 2
    if last >= pairs:
        return math.inf
    brackets: list[tuple[float, float]] = [(0.0, largest)]
    if pairs > 4 * _BLOCK:
        shifts = np.unique(np.linspace(1, len(z) // 2, 100).astype(int))
        some = np.concatenate([np.square(z - np.roll(z, shift, axis=0)).sum(1) for shift in shifts])
        low, high = map(float, np.quantile(some, np.clip(last / pairs + np.array([-0.005, 0.005]), 0, 1)))
        brackets.insert(0, _narrowed(z, first, last, low, high) if pairs > _KEPT else (low, high))
    for low, high in brackets:
        below, within = 0, []
        for _, _, squared in _pairs(z):
            below += int(np.count_nonzero(squared < low))
            within.append(squared[(squared >= low) & (squared <= high)])
        kept = np.concatenate(within)
        if below <= first and last < below + len(kept):
            kept.partition((first - below, last - below))
            return float(kept[first - below] + kept[last - below]) / 2
    raise AssertionError("the widest bracket holds every pair")


def _narrowed(z: np.ndarray, first: int, last: int, low: float, high: float) -> tuple[float, float]:
    """The bins of a histogram between low and high where the order statistics `first` to `last` lie, and a bin more."""
    below, counts, bins = 0, np.zeros(1 << 12, dtype=np.int64), 1 << 12
    for _, _, squared in _pairs(z):
        below += int(np.count_nonzero(squared < low))
        counts += np.histogram(squared, bins, (low, high))[0]
    edges, total = np.linspace(low, high, bins + 1), below + np.cumsum(counts)
    k, j = np.searchsorted(total, [first, last], side="right")
    return float(edges[max(k - 1, 0)]), float(edges[min(j + 2, bins)])


def _mmd_squared(evaluation: Evaluation, multiples: tuple[float, ...]) -> dict[float, float]:
    """Multiple of gamma0 -> unbiased MMD². Infinite samples count in n and have kernel 0 with all others."""
    x, y = evaluation.samples, evaluation.reference
    n, m = len(x), len(y)
    x = x[(np.abs(x) <= _FAR).all(1)]
    median = evaluation.once("median", lambda: _median_squared_distance(np.vstack([x, y]), n + m))
    gammas = [multiple * 2 / median if median > 0 else math.inf for multiple in multiples]
    if not all(0 < gamma < math.inf for gamma in gammas):
        return dict.fromkeys(multiples, math.nan)
    xx, yy, xy = (_kernel_sums(blocks, gammas) for blocks in (_pairs(x), _pairs(y), _pairs(x, y)))
    values = 2 * xx / (n * (n - 1)) + 2 * yy / (m * (m - 1)) - 2 * xy / (n * m)
    return dict(zip(multiples, values.tolist(), strict=True))


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
    the others in rounding errors.
    """
    origin = evaluation.reference.mean(0)
    x, y = evaluation.samples - origin, evaluation.reference - origin
    n, m, x_norm, y_norm = len(x), len(y), np.linalg.norm(x, axis=1), np.linalg.norm(y, axis=1)
    xx, yy, xy = _g_sum(x, x_norm), _g_sum(y, y_norm), _g_sum(x, x_norm, (y, y_norm))
    x_self, y_self = -2 * math.fsum(x_norm), -2 * math.fsum(y_norm)  # the diagonal: g(x,x) = -2|x|
    return {
        "U": 2 * xy / (n * m) - 2 * xx / (n * (n - 1)) - 2 * yy / (m * (m - 1)),
        "V": 2 * xy / (n * m) - (2 * xx + x_self) / n**2 - (2 * yy + y_self) / m**2,
    }


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


def _boosting_decision(x: np.ndarray, label: np.ndarray) -> _Decision:
    from sklearn.ensemble import HistGradientBoostingClassifier
    from threadpoolctl import threadpool_limits

    def decide(train: np.ndarray, test: np.ndarray) -> np.ndarray:
        known, asked = _standardised(x, train, test)
        with threadpool_limits(1):  # the order of its sums depends on the number of threads
            machine = HistGradientBoostingClassifier(early_stopping=False, random_state=0).fit(known, label[train])
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
