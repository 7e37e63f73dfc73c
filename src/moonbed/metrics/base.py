"""What a metric is: one number about an `Evaluation`, that is, about samples and what they are held against."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any, TypeVar

from moonbed._lazy import lazy_import
from moonbed.component import Component
from moonbed.rng import Rng, Stream

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy_import("numpy")

__all__ = ["Evaluation", "Metric"]

T = TypeVar("T")


class Evaluation:
    """Samples (n, dim) and reference points (m, dim), float64, with a random stream for whoever needs one.

    Work that several metrics share (pairwise distances, cross-validated scores) is done once, through `once`.
    Raises ValueError for arrays that are not 2-D, do not fit each other or hold fewer than two points.
    """

    def __init__(self, samples: Any, reference: Any, rng: Rng) -> None:
        self.samples = np.ascontiguousarray(samples, dtype=np.float64)
        self.reference = np.ascontiguousarray(reference, dtype=np.float64)
        for name, x in (("samples", self.samples), ("reference", self.reference)):
            if x.ndim != 2 or len(x) < 2:
                raise ValueError(f"{name} must be an array (n, dim) with n >= 2, given the shape {x.shape}")
        if self.samples.shape[1] != self.reference.shape[1]:
            raise ValueError(f"samples {self.samples.shape} and reference {self.reference.shape} differ in dimension")
        self._rng = rng
        self._memo: dict[Hashable, Any] = {}

    def once(self, key: Hashable, compute: Callable[[], T]) -> T:
        """The result of `compute()`, from memory if something of that key was computed before."""
        if key not in self._memo:
            self._memo[key] = compute()
        return self._memo[key]

    def stream(self, *name: str | int) -> Stream:
        """A random stream of this evaluation; no metric's draws depend on which other metrics run."""
        return self._rng.stream(*name)


class Metric(Component):
    """A number about samples. The class's docstring states estimator, cost, what it is blind to, and its source."""

    @abstractmethod
    def __call__(self, evaluation: Evaluation) -> float:
        """The value; not averaged over what it cannot measure."""

    @property
    def lower_is_better(self) -> bool | None:
        """Which way is better; None where the ideal lies in between, as 1/2 does for an accuracy."""
        return True

    @property
    def label(self) -> str:
        """Short name for tables."""
        return type(self).__name__
