"""All pairs of points, a block at a time: the median of their distances, and sums of Gaussian kernels over them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from moonbed._lazy import lazy_import
from moonbed.metrics.fourier import Waves
from moonbed.rng import Rng

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy_import("numpy")

__all__ = ["gaussian_sums", "median_squared_distance", "pairs"]

_BLOCK = 1 << 18  # pairs at once: 2 MB, stays in the cache
_EXACT = 50_000  # points up to which the median of their distances is exact
_TILE = 16  # points that are near or far together
_WAVES = 1 << 22  # frequencies (128 MB for each sample)


def pairs(x: np.ndarray, y: np.ndarray | None = None) -> Iterator[tuple[slice, slice, np.ndarray]]:
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


def median_squared_distance(z: np.ndarray, n: int) -> float:
    """Median over the n(n-1)/2 pairs of n points, of which the rows of z are the finite ones; exact up to `_EXACT`.

    Selection instead of sorting: some pairs bracket the median, one pass counts what lies below the bracket and keeps
    what lies within. Above `_EXACT` points it is the median of 2²³ pairs, of each point with the next few in a fixed
    random order: as each point counts as often as it should, its rank is off by 2e-4 of all pairs (one sd).
    """
    total, largest = len(z) * (len(z) - 1) // 2, float(np.finfo(float).max)
    first, last = (n * (n - 1) // 2 - 1) // 2, n * (n - 1) // 2 // 2
    if last >= total:
        return math.inf
    brackets: list[tuple[float, float]] = [(0.0, largest)]
    if total > 4 * _BLOCK:
        some = _some_squared_distances(z, (1 << 18) if len(z) <= _EXACT else (1 << 23))
        if len(z) > _EXACT:
            return float(np.quantile(some, (first + last) / 2 / (total - 1)))
        for width in (0.02, 0.004):
            low, high = map(float, np.quantile(some, np.clip(last / total + np.array([-width, width]), 0, 1)))
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
        for _, _, squared in pairs(z):
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


def gaussian_sums(x: np.ndarray, y: np.ndarray, gammas: list[float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sums of exp(-gamma d²), for each of the ascending gammas, over distinct pairs of x, of y, and pairs of x and y.

    By waves (see `fourier`) between the points of a core, pair by pair where a point is outside of it.
    """
    core = _core(np.vstack([x, y]), gammas)
    if core is None:
        return _kernel_sums(pairs(x), gammas), _kernel_sums(pairs(y), gammas), _kernel_sums(pairs(x, y), gammas)
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
        sums += _kernel_sums(pairs(far, z), gammas)
    for sums, blocks in ((xx, pairs(x_far)), (yy, pairs(y_far)), (xy, pairs(x_far, y_far))):
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
