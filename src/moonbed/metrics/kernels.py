"""Kernel metrics of samples against a law p that is known exactly, aggregated over bandwidths.

    KSD    mean over pairs of u(x_i, x_j) = (grad log p + grad_x)·(grad log p + grad_y) k(x, y), mean 0 under p
    MMD    mean k(x_i, x_j) - 2 mean E k(x_i, X) + E k(X, X'), a Gaussian kernel's means being p itself, blurred

Where the law gives the expectations there is no reference sample, and none of its variance: half the variance of the
two-sample statistic. Each class says what it does with samples that are not finite.

*Precision.* Squared distances and inner products are taken in float64 and rounded to float32, kernels are computed in
float32, and sums over more than a tile of pairs are float64 again. Rounding errors of pairs are independent of each
other and add up to some 1e-5 of a standard deviation of the statistic. Pairs with a point too far out for float32 stay
in float64.

Points are put in an order in which tiles are compact: then most pairs of tiles are too far apart for a narrow Gaussian
kernel, and are left out.

*Halves.* With Z the halves as columns of 0 and 1 and U the values of all pairs, the sums within the halves are the
column sums of Z * (U Z): pairs are computed once for all of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar

from moonbed._lazy import lazy_import
from moonbed.component import Positive, PositiveFloat
from moonbed.metrics.base import Evaluation, Metric, Need
from moonbed.metrics.law import KnownLaw

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor
else:
    np = lazy_import("numpy")
    torch = lazy_import("torch")

__all__ = ["KSD", "MMDAggregated"]

_TILE = 256  # points a side of what is computed at once: in single precision its arrays nearly fit a 1 MB cache
_FAR = 1e70  # squares of scores and distances of what is nearer stay finite in float64
_SINGLE = 1e14  # the same in float32, with as much to spare
_LOG2E = math.log2(math.e)
_REACH = 27.0  # Gaussian kernels below exp(-this) = 2e-12 may count as 0
_FLOOR = -100.0  # 2 to the power of less is lost beside 1, and denormals are many times slower
_SOME = 2048  # points of the table for the null spread of a statistic over pairs


class KSD(Metric):
    """Kernel Stein discrepancy with the exact score, U-statistic, aggregated over kernels and bandwidths.

    Kernels: inverse multiquadric (1 + r²/h²)^(-1/2) and Gaussian exp(-r²/(2 h²)), each at every h² of `bandwidths` (in
    squared units of x). The value is the largest U/sd(U), sd under the law; each U is unbiased, signed and unclamped.
    The mean instead of the largest would see less: wide kernels dilute the narrow ones.
    Unit: standard deviations of U; 0.6 on average under the law, right-skewed. O(n²) time, 0.15 s at n = 5,000, and
    0.2 s for the interval; memory O(n).
    Blind to what leaves the local shape as it is: weights of well separated modes, and missing pieces nearly so; wants
    the score of the law, so not for uniform laws. Infinite samples, or beyond 1e70, make it infinite; NaN: NaN.
    Source: Liu, Lee and Jordan 2016; Chwialkowski, Strathmann and Gretton 2016; aggregation as Schrab et al., KSD
    aggregated goodness-of-fit test, 2022.
    """

    unit = "standard deviations"
    growth = 1.0
    needs: ClassVar[tuple[Need, ...]] = ("law", "score")
    bandwidths: tuple[PositiveFloat, ...] = (1.0, 0.1, 0.01)

    def check(self) -> Iterator[tuple[str, str]]:
        if not self.bandwidths:
            yield "bandwidths", "give at least one"

    def __call__(self, evaluation: Evaluation) -> float:
        self.need(evaluation)
        x = evaluation.samples
        if np.isnan(x).any():
            return math.nan
        if (np.abs(x) > _FAR).any():
            return math.inf
        return float(self._values(evaluation, np.ones((len(x), 1), dtype=bool)).max())

    def halves(self, evaluation: Evaluation) -> Sequence[float]:
        self.need(evaluation)
        if not (np.abs(evaluation.samples) <= _FAR).all():
            return super().halves(evaluation)
        return self._values(evaluation, evaluation.members()).max(0).tolist()

    def _values(self, evaluation: Evaluation, subsets: np.ndarray) -> np.ndarray:
        """(kernels, subsets) U/sd(U) of each subset of the samples (n, subsets)."""
        law = self.need(evaluation)

        def scores(x: np.ndarray) -> np.ndarray:
            near, out = (np.abs(x) <= _FAR).all(1), np.zeros(x.shape)
            out[near] = law.score(x[near])
            return out

        return _stein(law, evaluation.samples, evaluation.each("score", scores), self.bandwidths, subsets)


def _stein(
    law: KnownLaw, x: np.ndarray, score: np.ndarray, bandwidths: tuple[float, ...], subsets: np.ndarray
) -> np.ndarray:
    sums, _ = _stein_sums(x, score, bandwidths, subsets)
    count = subsets.sum(0)
    return sums / _stein_spread(law, bandwidths)[:, None] / np.sqrt(count * (count - 1) / 2)


@lru_cache(16)
def _stein_spread(law: KnownLaw, bandwidths: tuple[float, ...]) -> np.ndarray:
    """(kernels,) root of E u(X, X')² under the law."""
    x = law.draws[:_SOME]
    _, squares = _stein_sums(x, law.score(x), bandwidths, squares=True)
    return np.sqrt(squares / (len(x) * (len(x) - 1) / 2))


def _stein_sums(
    x: np.ndarray,
    score: np.ndarray,
    bandwidths: Sequence[float],
    subsets: np.ndarray | None = None,
    squares: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Sums over pairs i < j of u within each subset (kernels, subsets); where asked, of u² over all pairs (kernels,).

    Subsets are columns of booleans (n, subsets), None for one that holds all. Kernels: first all inverse
    multiquadrics, then all Gaussians. With r² = |x - y|², S = <s(x), s(y)>, D = <s(x) - s(y), x - y> + dim and
    g = (r² + h²)^(-1/2),

        u = h g (S + g² (D - 3 r² g²))        and for the Gaussian        u = k (S + (D - r²/h²)/h²)
    """
    size = np.maximum(np.sqrt((x**2).sum(1)), np.sqrt((score**2).sum(1)))
    near = size / min(1.0, *bandwidths) < _SINGLE
    order = _order(x, near)
    x, score = x[order], score[order]
    own = (x * score).sum(1, keepdims=True)
    one = np.ones_like(own)
    bend = np.hstack([own + x.shape[1], one, -score, -x]), np.hstack([one, own, x, score])
    totals = _Totals(2 * len(bandwidths), len(x), subsets if subsets is None else subsets[order], squares)
    tiles = _tiles(x, None, int(near.sum()), [(score, score), bend], spare=3)
    for rows, columns, least, (r2, inner, bent, k, q, u) in tiles:
        for i, h2 in enumerate(bandwidths):
            torch.add(r2, h2, out=k).rsqrt_()
            torch.square(k, out=q)
            torch.addcmul(bent, r2, q, value=-3, out=u)
            torch.addcmul(inner, u, q, out=u).mul_(k)
            totals.add(i, rows, columns, u)
            if least > _REACH * 2 * h2:
                continue
            torch.mul(r2, -_LOG2E / (2 * h2), out=k).clamp_(min=_FLOOR).exp2_()
            torch.add(bent, r2, alpha=-1 / h2, out=u)
            torch.add(inner, u, alpha=1 / h2, out=u).mul_(k)
            totals.add(len(bandwidths) + i, rows, columns, u)
    factor = np.concatenate([np.sqrt(bandwidths), np.ones(len(bandwidths))])
    return totals.sums() * factor[:, None], totals.squares * factor**2


# Sums over pairs


def _order(x: np.ndarray, near: np.ndarray) -> np.ndarray:
    """(n,) an order of points in which tiles are compact, and those that are not near come last.

    The points are halved across their longer side, between two tiles, again and again.
    """

    def halved(rows: np.ndarray) -> list[np.ndarray]:
        if len(rows) <= _TILE:
            return [rows]
        middle = _TILE * (math.ceil(len(rows) / _TILE) // 2)
        rows = rows[np.argpartition(x[rows, np.ptp(x[rows], axis=0).argmax()], middle)]
        return halved(rows[:middle]) + halved(rows[middle:])

    return np.concatenate([*halved(np.flatnonzero(near)), np.flatnonzero(~near)])


def _tiles(
    x: np.ndarray,
    y: np.ndarray | None,
    near: int,
    forms: Sequence[tuple[np.ndarray, np.ndarray]],
    spare: int,
) -> Iterator[tuple[slice, slice, float, list[Tensor]]]:
    """Tiles of the pairs of x and y, without y of the pairs i <= j of x: rows, columns, a bound, and matrices.

    The bound is one from below on their squared distances. The matrices are the squared distances, the values of each
    form (left (n, f), right (m, f), of which they are the products of rows), and as many spare ones. Single precision
    where rows and columns are among the first `near`. The next tile overwrites this one.
    """
    other = x if y is None else y
    p, q = (x**2).sum(1, keepdims=True), (other**2).sum(1, keepdims=True)
    distance = np.hstack([p, np.ones_like(p), -2 * x]), np.hstack([np.ones_like(q), q, other])
    turned = [(left, np.ascontiguousarray(right.T)) for left, right in (distance, *forms)]
    boxes, others = _boxes(x), _boxes(other)
    exact = np.empty(_TILE * _TILE)
    memory = {kind: [np.empty(_TILE * _TILE, kind) for _ in range(len(turned) + spare)] for kind in ("f4", "f8")}
    for top, (low, high) in boxes.items():
        for start, (lower, upper) in others.items():
            if y is None and start < top:
                continue
            rows, columns = slice(top, min(top + _TILE, len(x))), slice(start, min(start + _TILE, len(other)))
            shape = rows.stop - top, columns.stop - start
            kind = "f4" if max(rows.stop, columns.stop) <= near else "f8"
            out = [torch.from_numpy(flat[: shape[0] * shape[1]].reshape(shape)) for flat in memory[kind]]
            product = exact[: shape[0] * shape[1]].reshape(shape)
            for (left, right), values in zip(turned, out, strict=False):
                np.matmul(left[rows], right[:, columns], out=product)
                values.copy_(torch.from_numpy(product))
            out[0].clamp_(min=0)
            gap = np.maximum(0.0, np.maximum(low - upper, lower - high))
            yield rows, columns, float(gap @ gap), out


def _boxes(x: np.ndarray) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """First point of each tile -> the least and largest coordinates of its points."""
    parts = {start: x[start : start + _TILE] for start in range(0, len(x), _TILE)}
    return {start: (part.min(0), part.max(0)) for start, part in parts.items()}


class _Totals:
    """Sums of terms over the pairs i < j within each subset (n, subsets), from tiles that hold the pairs i <= j.

    One product a tile serves all subsets (see the module). `squares` are sums over all pairs, 0 where not asked for.
    """

    def __init__(self, count: int, n: int, subsets: np.ndarray | None, squares: bool = False) -> None:
        self._member = np.ones((n, 1), dtype="f4") if subsets is None else subsets.astype("f4")
        self._rows = np.zeros((count, *self._member.shape))
        self._square = squares
        self.squares = np.zeros(count)

    def add(self, k: int, rows: slice, columns: slice, terms: Tensor) -> None:
        """Terms of number k in a tile, which this may overwrite on and below the diagonal."""
        if rows == columns:
            terms.triu_(1)
        self._rows[k, rows] += terms.numpy() @ self._member[columns]
        if self._square:
            self.squares[k] += float(torch.linalg.vector_norm(terms, dtype=torch.float64)) ** 2

    def sums(self) -> np.ndarray:
        """(count, subsets)"""
        return (self._member * self._rows).sum(1)


class MMDAggregated(Metric):
    """Squared maximum mean discrepancy with Gaussian kernels of many widths, U-statistic, signed, unclamped.

    Kernels exp(-r²/(2 h²)), h = L/2^j for j < `widths`, L² the law's mean variance a coordinate. One-sample: a
    Gaussian kernel's mean under the law is the law's own density after noise h, E k(x, X) = (2 pi h²)^(dim/2) p_h(x).
    The value is the mean over h of MMD²/sd, sd that of the statistic under the law: unit standard deviations, skewed to
    the right. O(n²) time, 0.1 s at n = 5,000, and as much for the interval; memory O(n). Blind to a few points between
    the modes, and weak for anything finer than L/2^(widths - 1). An infinite sample has kernel 0 with all others; NaN:
    NaN.
    Source: Gretton et al. 2012; aggregation as Schrab et al., MMD aggregated two-sample test, 2023, with a mean.
    Without the law it is two-sample against the reference, with sd and L from the reference, and half as sharp.
    """

    unit = "standard deviations"
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
            return float(self._values(evaluation, law, np.ones((len(x), 1), dtype=bool))[0])
        y = evaluation.reference
        if not (np.abs(y) <= 1e150).all():
            return math.nan
        values, sd = _two_sample_mmd(x, y, self.widths)
        return float((values / sd).mean())

    def halves(self, evaluation: Evaluation) -> Sequence[float]:
        law = evaluation.law
        if law is None or np.isnan(evaluation.samples).any():
            return super().halves(evaluation)
        return self._values(evaluation, law, evaluation.members()).tolist()

    def _values(self, evaluation: Evaluation, law: KnownLaw, subsets: np.ndarray) -> np.ndarray:
        """(subsets,) the value of each subset of the samples (n, subsets)."""

        def means(x: np.ndarray) -> np.ndarray:
            return np.column_stack([law.kernel_mean(x, h) for h in spread.h])

        spread, count = _kernel_moments(law, self.widths), subsets.sum(0)
        pairs = count * (count - 1) / 2
        inner = _kernel_sums(evaluation.samples, spread.h, subsets) / pairs
        cross = evaluation.each(("kernel means", self.widths), means).T @ subsets / count
        return ((inner - 2 * cross + spread.constant[:, None]) / spread.sd[:, None] * np.sqrt(pairs)).mean(0)


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
        np.array([(law.kernel_mean(points, width) ** 2).mean() for width in h]),
    )


def _constant(law: KnownLaw, h: float) -> float:
    """E k(X, X'): for a mixture in closed form, since X - X' is one too."""
    if not law.is_mixture or len(law.weights) > 4096:
        return float(law.table.mean(law.kernel_mean(law.table.x, h)))
    log_k = torch.zeros(len(law.weights), len(law.weights), dtype=torch.float64)
    for c, v in zip(law.centres.T, (law.std**2).T, strict=True):
        total = v[:, None] + v + h**2
        log_k += 0.5 * (torch.log(h**2 / total) - (c[:, None] - c) ** 2 / total)
    return float(law.weights @ torch.exp(log_k) @ law.weights)


def _kernel_sums(x: np.ndarray, h: np.ndarray, subsets: np.ndarray | None = None) -> np.ndarray:
    """(widths, subsets) sums of the kernels of widths h, h/2, h/4, ... over the pairs i < j within each subset of x.

    Subsets are columns of booleans (n, subsets), None for one that holds all.
    """
    finite = np.flatnonzero((np.abs(x / h[0]) <= 1e150).all(1))
    finite = finite[_order(x[finite], np.ones(len(finite), dtype=bool))]
    totals = _Totals(len(h), len(finite), subsets if subsets is None else subsets[finite])
    for rows, columns, i, k in _kernels(x[finite] / h[0], None, len(h)):
        totals.add(i, rows, columns, k)
    return totals.sums()


def _cross_sums(x: np.ndarray, y: np.ndarray, h: np.ndarray) -> np.ndarray:
    """(widths,) sums of the same kernels over all pairs of x and y."""
    sums = np.zeros(len(h))
    x, y = (points[(np.abs(points) <= 1e150).all(1)] for points in (x / h[0], y / h[0]))
    x, y = (points[_order(points, np.ones(len(points), dtype=bool))] for points in (x, y))
    for _, _, i, k in _kernels(x, y, len(h)):
        sums[i] += float(k.sum(dtype=torch.float64))
    return sums


def _kernels(x: np.ndarray, y: np.ndarray | None, widths: int) -> Iterator[tuple[slice, slice, int, Tensor]]:
    """Tiles (rows, columns, j, kernel of width 1/2^j) of all pairs, without y of the pairs i <= j of x.

    Tiles where a kernel is nowhere above exp(-_REACH) are left out.
    """
    for rows, columns, least, (r2, k) in _tiles(x, y, len(x) if y is None else max(len(x), len(y)), [], spare=1):
        for j in range(widths):
            if least * 4**j > _REACH * 2:
                break
            if j % 3:
                k.clamp_(min=2**-25).square_().square_()  # half the width is the fourth power
            else:
                torch.mul(r2, -_LOG2E / 2 * 4**j, out=k).clamp_(min=_FLOOR).exp2_()
            yield rows, columns, j, k


def _two_sample_mmd(x: np.ndarray, y: np.ndarray, widths: int) -> tuple[np.ndarray, np.ndarray]:
    """Unbiased MMD² for every width, and its standard deviation under equal laws, estimated from the reference."""
    n, m = len(x), len(y)
    h = math.sqrt(y.var(0).mean()) / 2.0 ** np.arange(widths)
    if not h[0] > 0:
        return np.full(widths, math.nan), np.ones(widths)
    some = y[:_SOME]
    inner = _kernel_sums(x, h)[:, 0] * 2 / (n * (n - 1)) + _kernel_sums(y, h)[:, 0] * 2 / (m * (m - 1))
    variances = []
    r2 = torch.cdist(torch.from_numpy(some), torch.from_numpy(some)) ** 2
    for width in h:
        k = torch.exp((r2 / (-2 * width**2)).clamp(min=-700)).fill_diagonal_(0)
        centred = k - k.sum(1, keepdim=True) / len(k) - k.sum(0) / len(k) + k.mean()
        variances.append(float(centred.fill_diagonal_(0).square().mean()) * len(k) / (len(k) - 1))
    sd = np.sqrt(np.array(variances) * (2 / (n * (n - 1)) + 2 / (m * (m - 1)) + 4 / (n * m)))
    return inner - 2 * _cross_sums(x, y, h) / (n * m), sd
