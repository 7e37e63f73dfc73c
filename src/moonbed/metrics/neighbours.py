"""Metrics of nearest neighbours: who lies among the points of the law, which parts of it have samples, who is a copy.

Each class says what it does with samples that are not finite.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING, ClassVar

from moonbed._lazy import lazy_import
from moonbed.component import Positive, PositiveFloat
from moonbed.metrics.base import Evaluation, Metric, MissingError, Need

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy_import("numpy")

__all__ = ["Balls", "Coverage", "Memorisation", "Precision"]


class Balls(Metric):
    """Metrics of the balls around reference points, each as wide as the distance to its k-th neighbour among them."""

    unit = "share"

    symmetric = False
    k: Positive = 5
    least = 0.0
    most = 1.0

    @property
    def lower_is_better(self) -> bool | None:
        return False

    @property
    def label(self) -> str:
        return type(self).__name__.lower()


class Precision(Balls):
    """Share of samples that lie in the ball of some reference point, whose radius is that to its k-th neighbour.

    No units, 0 to 1; its ideal is below 1: 0.994 at n = m = 5,000 on two moons. O(n log m), 0.02 s there. Two-sample:
    the reference is drawn from the law where none was given. Blind to missing pieces, weights, duplicates; a ball is as
    wide as the points are apart, so to anything finer than that. Samples that are not finite are in no ball.
    Source: Kynkäänniemi et al., Improved precision and recall metric, 2019.
    """

    def __call__(self, evaluation: Evaluation) -> float:
        return _balls(self, self.k, evaluation)[0]


class Coverage(Balls):
    """Share of reference points with a sample in their ball, whose radius is that to their k-th neighbour.

    No units, 0 to 1; its ideal is about 1 - 2^-k, 0.969 for k = 5 and n = m. O(n log m), 0.02 s at 5,000. Two-sample.
    Blind to samples off the support and to weights that leave no ball empty.
    Source: Naeem et al., Reliable fidelity and diversity metrics for generative models, 2020.
    """

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
        radius = cKDTree(y, balanced_tree=False).query(y, k + 1)[0][:, -1]
        inside = cKDTree(finite, balanced_tree=False).query_ball_point(y, radius)
        hit = np.zeros(len(finite), dtype=bool)
        hit[list(chain.from_iterable(inside))] = True
        return float(hit.sum() / len(x)), float(np.mean([bool(points) for points in inside]))

    return evaluation.once(("balls", k), compute)


class Memorisation(Metric):
    """Median distance of a sample to its nearest training point, relative to that of fresh draws from the exact law.

    No units, never negative; 1 for samples as far from the training points as fresh ones are, below 1 for copies.
    `quantile` is that of the distances, 1/2 unless said: a share s of exact copies moves the median as the
    (1/2 - s)/(1 - s) quantile of the others, so one in ten makes 0.92 of it. O((n + 32,768) log k), 0.03 s. Standard
    error about 1/sqrt(n). Two-sided: above 1, samples lie off the support or in its gaps. Blind to which points are
    copied; sees every other defect a little, so read it beside the panel. Samples that are not finite are infinitely
    far.
    Source: nearest-neighbour ratios as in Meehan, Chaudhuri and Dasgupta, A non-parametric test to detect data-copying
    in generative models, 2020.
    """

    unit = "ratio"
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

        law, train, whole = self.need(evaluation), evaluation.train, evaluation.whole
        if train is None or not (np.abs(train) <= 1e150).all():
            return math.nan

        def nearest(x: np.ndarray) -> np.ndarray:
            finite, out = (np.abs(x) <= 1e150).all(1), np.full(len(x), np.inf)
            out[finite] = tree().query(x[finite])[0]
            return out

        def tree() -> cKDTree:
            return whole.once("train tree", lambda: cKDTree(train, balanced_tree=False))

        distance = evaluation.each("train distance", nearest)
        among = whole.once("law's train distance", lambda: nearest(law.draws))
        fresh = np.quantile(among, self.quantile)
        return float(np.quantile(distance, self.quantile, method="higher") / fresh) if fresh > 0 else math.nan
