"""The energy distance of two samples, pair by pair or by projections on directions.

Székely and Rizzo, Energy statistics, JSPI 2013.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from moonbed._lazy import lazy_import
from moonbed.metrics.base import Evaluation
from moonbed.metrics.pairs import pairs
from moonbed.rng import Rng

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy_import("numpy")

__all__ = ["energy_statistics"]

_DIRECT = {1: 2_000, 2: 2_000, 3: 40_000}  # points together up to which the energy is summed pair by pair, a dimension
_ANGLES = 128  # directions in the plane
_RANDOM = 256  # and in more dimensions
SORTED = 1 << 20  # projections at once: 8 MB


def energy_statistics(evaluation: Evaluation) -> dict[str, float]:
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
    """Sums of g (see `energy_statistics`) over distinct pairs of x, of y, and pairs of x and y, all with their norms.

    Up to the norm `limit` |x-y| is c times the mean over directions u of |<u,x-y>|, and the sum over pairs of a sorted
    sample z that of (2i - n + 1) z_i, i = 0, 1, ...; pairs of x and y are those of both together but of neither alone.
    """
    far = [(points[norms > limit], norms[norms > limit]) for points, norms in (x, y)]
    near = [(points[norms <= limit], norms[norms <= limit]) for points, norms in (x, y)]
    (x_far, y_far), (x_near, y_near) = far, near
    n, m, dim = len(x_near[0]), len(y_near[0]), x[0].shape[1]
    directions = _directions(dim)
    sums = np.zeros(3)
    block = max(1, SORTED // (n + m))
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
    """Sum of g (see `energy_statistics`) over all pairs of x and others (points, norms), or the distinct pairs of x."""
    y, y_norm = others or (x, x_norm)
    left, right = np.column_stack([x, x_norm]), np.column_stack([y, y_norm])
    tiny = np.finfo(float).tiny  # g(0,0) = 0, not 0/0
    sums = []
    for rows, points, distance in pairs(x, y if others else None):
        np.sqrt(distance, out=distance)
        distance += x_norm[rows, None] + tiny
        distance += y_norm[points]
        sums.append(np.sum(left[rows] @ right[points].T / distance))
    return -2 * math.fsum(sums)
