"""What a metric is: one number about an `Evaluation`, that is, about samples and what they are held against.

Samples can be held against points (two-sample) or against the exact law (one-sample). Where the law is known the second
is better: the reference adds no variance of its own, and nobody has to choose it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeVar, runtime_checkable

from moonbed._lazy import lazy_import
from moonbed.component import Component
from moonbed.rng import Rng, Stream

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from moonbed.metrics.law import KnownLaw
else:
    np = lazy_import("numpy")

__all__ = ["Evaluation", "Law", "Metric", "MissingError", "Need"]

T = TypeVar("T")
Need = Literal["law", "score", "modes", "train"]

_NEEDS: dict[str, str] = {
    "law": "the exact law (pass law=, with sample and log_prob)",
    "score": "a law with a score (law.score or law.mixture at no noise; a uniform law has none)",
    "modes": "a law with more than one mode (law.mixture with arcs or labels, or law.label_probs)",
    "train": "the training points (pass train=)",
}


class MissingError(ValueError):
    """A metric was asked of an evaluation that lacks what it needs; the message names both."""


@runtime_checkable
class Law(Protocol):
    """What a metric needs of an exact law; rows are points (n, dim), all is float64.

    Used where it is there: `score(x)`; `mixture` (weights, centres and std of Gaussians) with `arcs` or `labels`;
    `classes`, `label_probs(x)` and `label_weights`; `mean` and `scale`, which undo the standardisation; `mode_names`.
    """

    def sample(self, n: int, stream: Stream) -> Tensor:
        """(n, dim): independent draws."""

    def log_prob(self, x: Tensor, alpha: float = 1.0, sigma: float = 0.0) -> Tensor:
        """(n,): log density of `alpha x_0 + sigma eps`, in nats."""


class Evaluation:
    """Samples (n, dim), what they are held against, and a random stream for whoever needs one; all points float64.

    `reference` are points (m, dim) of the law; None draws n of them from `law` when a metric asks. `law` is the exact
    law, `train` the points (k, dim) that the model was trained on. Work that several metrics share (pairwise distances,
    log densities) is done once, through `once`.
    Raises ValueError for arrays that are not 2-D, do not fit each other or hold fewer than two points.
    """

    def __init__(self, samples: Any, reference: Any, rng: Rng, law: Law | None = None, train: Any = None) -> None:
        self.samples = np.ascontiguousarray(samples, dtype=np.float64)
        self._reference = None if reference is None else np.ascontiguousarray(reference, dtype=np.float64)
        self.train = None if train is None else np.ascontiguousarray(train, dtype=np.float64)
        for name, x in (("samples", self.samples), ("reference", self._reference), ("train", self.train)):
            if x is None:
                continue
            if x.ndim != 2 or len(x) < 2:
                raise ValueError(f"{name} must be an array (n, dim) with n >= 2, given the shape {x.shape}")
            if x.shape[1] != self.samples.shape[1]:
                raise ValueError(f"samples {self.samples.shape} and {name} {x.shape} differ in dimension")
        if reference is None and law is None:
            raise ValueError("an evaluation needs reference points or the exact law")
        if law is not None and not isinstance(law, Law):
            raise ValueError(f"a law has sample and log_prob, {type(law).__name__} has not")
        self._law = law
        self._rng = rng
        self._memo: dict[Hashable, Any] = {}

    @property
    def reference(self) -> np.ndarray:
        """(m, dim): the points given, or as many as there are samples from the exact law."""
        if self._reference is None and self._law is not None:
            self._reference = self._law.sample(len(self.samples), self.stream("reference")).numpy()
        return np.asarray(self._reference)

    @property
    def law(self) -> KnownLaw | None:
        """The exact law as metrics see it, None where it was not given."""
        if self._law is None:
            return None
        from moonbed.metrics.law import KnownLaw, known

        given = self._law
        law = known(given) if isinstance(given, Hashable) else self.once("law", lambda: KnownLaw(given))
        if law.dim != self.samples.shape[1]:
            raise ValueError(f"samples {self.samples.shape} and a law of {law.dim} dimensions do not fit")
        return law

    def once(self, key: Hashable, compute: Callable[[], T]) -> T:
        """The result of `compute()`, from memory if something of that key was computed before."""
        if key not in self._memo:
            self._memo[key] = compute()
        return self._memo[key]

    def log_density(self) -> np.ndarray:
        """(n,) exact log densities of the samples, -inf for those that are not finite."""
        law = self.law
        if law is None:
            raise MissingError(f"log densities need {_NEEDS['law']}")
        return self.once("log density", lambda: law.log_density(self.samples))

    def stream(self, *name: str | int) -> Stream:
        """A random stream of this evaluation; no metric's draws depend on which other metrics run."""
        return self._rng.stream(*name)


class Metric(Component):
    """A number about samples. The class's docstring states estimator, units, cost, what it is blind to, its source."""

    needs: ClassVar[tuple[Need, ...]] = ()
    """What an evaluation must have beside samples and reference."""

    @abstractmethod
    def __call__(self, evaluation: Evaluation) -> float:
        """The value; not averaged over what it cannot measure."""

    def missing(self, evaluation: Evaluation) -> list[str]:
        """In words, what this metric needs and the evaluation has not: empty where it can be computed."""
        law = evaluation.law
        has = {
            "law": law is not None,
            "score": law is not None and law.has_score,
            "modes": law is not None and len(law.mode_names) > 1,
            "train": evaluation.train is not None,
        }
        if law is None and "law" in self.needs:
            return [_NEEDS[need] for need in self.needs if not has[need] and need not in ("score", "modes")]
        return [_NEEDS[need] for need in self.needs if not has[need]]

    def need(self, evaluation: Evaluation) -> KnownLaw:
        """The law, for a metric that needs it. Raises `MissingError` naming the metric and all that it lacks."""
        missing, law = self.missing(evaluation), evaluation.law
        if missing or law is None:
            raise MissingError(f"{self.label} ({type(self).__name__}) needs {' and '.join(missing)}")
        return law

    @property
    def lower_is_better(self) -> bool | None:
        """Which way is better; None where the ideal lies in between, as 1/2 does for an accuracy."""
        return True

    @property
    def label(self) -> str:
        """Short name for tables."""
        return type(self).__name__
