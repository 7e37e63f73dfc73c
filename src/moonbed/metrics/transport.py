"""Exact transport: the least cost of moving the samples onto as many points of the law, by POT's network simplex."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from moonbed._lazy import lazy_import
from moonbed.component import Positive
from moonbed.metrics.base import Evaluation, Metric, MissingError

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy_import("numpy")

__all__ = ["W1", "W2"]


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
