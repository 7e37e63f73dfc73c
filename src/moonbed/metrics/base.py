"""What a metric is: one number about an `Evaluation`, that is, about samples and what they are held against.

Samples can be held against points (two-sample) or against the exact law (one-sample). Where the law is known the second
is better: the reference adds no variance of its own, and nobody has to choose it. A few metrics ask the model behind
the samples instead: its denoiser and its density.

*Intervals.* Had the samples been drawn anew, the value would be another; by how much is estimated from random halves of
them (the delete-half jackknife: Shao and Wu, A General Theory for Jackknife Variance Estimation, 1989). Without
replacement, since a bootstrap's duplicates would pass for copies and shorten distances to neighbours. The deviation of
a half's value from its mean is as large as the value's own for all statistics that are linear to first order. A metric
that is a mean of terms needs no halves.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeVar, runtime_checkable

from moonbed._lazy import lazy_import
from moonbed.component import Component
from moonbed.metrics.significance import interval, share_interval
from moonbed.rng import Rng, Stream

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from moonbed.metrics.law import KnownLaw
else:
    np = lazy_import("numpy")

__all__ = ["HALVES", "Evaluation", "Law", "Mean", "Metric", "MissingError", "Model", "Need", "Share"]

T = TypeVar("T")
Need = Literal["law", "score", "modes", "train", "model"]
HALVES = 15
"""Random halves behind an interval."""

_NEEDS: dict[str, str] = {
    "law": "the exact law (pass law=, with sample and log_prob)",
    "score": "a law with a score (law.score or law.mixture at no noise; a uniform law has none)",
    "modes": "a law with more than one mode (law.mixture with arcs or labels, or law.label_probs)",
    "train": "the training points (pass train=)",
    "model": "the model behind the samples (pass model=; samples from a file have none)",
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


@runtime_checkable
class Model(Protocol):
    """What a metric may ask of the model behind the samples; rows are points (n, dim), all is float64.

    Noise levels are ratios sigma/alpha between `sigma_min` and `sigma_max`, in the coordinates y = x_0 + sigma eps. A
    model that is no denoiser says `has_score = False`, one whose density is not known `has_density = False`.
    """

    sigma_min: float
    sigma_max: float

    def sample(self, n: int, number: int) -> Tensor:
        """(n, dim): draws that no other `number`, and no samples of the evaluation, share."""

    def denoise(self, y: Tensor, sigma: float) -> Tensor:
        """(n, dim): the model's E[x_0 | x_0 + sigma eps = y]."""

    def log_prob(self, y: Tensor) -> Tensor:
        """(n,): log density of the probability flow at the noise ratio `sigma_min`, in nats."""


class Evaluation:
    """Samples (n, dim), what they are held against, and a random stream for whoever needs one; all points float64.

    `reference` are points (m, dim) of the law; None draws n of them from `law` when a metric asks. `law` is the exact
    law, `train` the points (k, dim) that the model was trained on, `model` what drew the samples. Work that several
    metrics share is done once, through `once`, and what is known of each sample (log density, score) through `each`.
    Raises ValueError for arrays that are not 2-D, do not fit each other or hold fewer than two points.
    """

    def __init__(
        self,
        samples: Any,
        reference: Any,
        rng: Rng,
        law: Law | None = None,
        train: Any = None,
        model: Model | None = None,
    ) -> None:
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
        self.model = model
        self._law = law
        self._rng = rng
        self._memo: dict[Hashable, Any] = {}
        self._whole: tuple[Evaluation, np.ndarray] | None = None

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

    @property
    def whole(self) -> Evaluation:
        """What this is a half of, or itself: keeps what depends on the law and the training points alone."""
        return self if self._whole is None else self._whole[0].whole

    def each(self, key: Hashable, compute: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """(n, ...) what `compute` gives of the samples, a row a sample that no other sample changes.

        Computed once; a half takes its rows from the whole.
        """

        def rows() -> np.ndarray:
            if self._whole is None:
                return compute(self.samples)
            whole, mine = self._whole
            return whole.each(key, compute)[mine]

        return self.once(("each", key), rows)

    def log_density(self) -> np.ndarray:
        """(n,) exact log densities of the samples, -inf for those that are not finite."""
        law = self.law
        if law is None:
            raise MissingError(f"log densities need {_NEEDS['law']}")
        return self.each("log density", law.log_density)

    def half(self, number: int) -> Evaluation:
        """A random half of the samples, and of the reference; the same one for every metric that asks."""

        def make() -> Evaluation:
            rows, others = self._rows(number, "samples"), self._rows(number, "reference")
            rng, points = self._rng.child("half", number), (self.samples[rows], self.reference[others])
            half = Evaluation(*points, rng, self._law, self.train, self.model)
            half._whole = self, rows
            return half

        return self.once(("half", number), make)

    def _rows(self, number: int, name: Literal["samples", "reference"]) -> np.ndarray:
        count = len(self.samples if name == "samples" else self.reference)
        order = self.stream("half", number, name).permutation(count).numpy()
        return np.sort(order[: max(2, count // 2)])

    def members(self) -> np.ndarray:
        """(n, HALVES) booleans: which samples are in which half."""
        out = np.zeros((len(self.samples), HALVES), dtype=bool)
        for number in range(HALVES):
            out[self._rows(number, "samples"), number] = True
        return out

    def stream(self, *name: str | int) -> Stream:
        """A random stream of this evaluation; no metric's draws depend on which other metrics run."""
        return self._rng.stream(*name)


class Metric(Component):
    """A number about samples. The class's docstring states estimator, units, cost, what it is blind to, its source."""

    needs: ClassVar[tuple[Need, ...]] = ()
    """What an evaluation must have beside samples and reference."""
    growth: ClassVar[float] = 0.0
    """With a fixed defect the value grows as n**growth: 0 for an estimate, 1/2 for a z, 1 for a degenerate U/sd."""

    symmetric: ClassVar[bool] = True
    """Whether samples and reference may change places; asked of metrics that need neither law nor model."""

    null: ClassVar[float | None] = None
    """What the truth itself has, for a metric whose null does not vary; None where the floor has to be drawn."""

    @abstractmethod
    def __call__(self, evaluation: Evaluation) -> float:
        """The value; not averaged over what it cannot measure."""

    def interval(self, evaluation: Evaluation, value: float, level: float = 0.95) -> tuple[float, float]:
        """Confidence interval around `value`, for what it would be on average over evaluation draws of this size.

        By random halves (see the module); a degenerate U-statistic of perfect samples gets a wider one than it needs.
        (-inf, inf) where the value or that of a half is not finite, and where a half has too few points.
        """
        if not math.isfinite(value):
            return -math.inf, math.inf
        try:
            halves = [2**self.growth * half for half in self.halves(evaluation)]
        except MissingError:
            return -math.inf, math.inf
        low, high = interval(halves, level) or (-math.inf, math.inf)
        half = (high - low) / 2 * math.sqrt(len(halves))
        if not math.isfinite(half):
            return -math.inf, math.inf
        return max(self.least, value - half), min(self.most, value + half)

    def halves(self, evaluation: Evaluation) -> Sequence[float]:
        """(HALVES,) the values of the halves: one by one, or by a member that has them sooner, all at once."""
        return [self(evaluation.half(number)) for number in range(HALVES)]

    @property
    def least(self) -> float:
        """The least value that there can be, where an interval ends."""
        return -math.inf

    @property
    def most(self) -> float:
        """The largest one."""
        return math.inf

    def badness(self, value: float, centre: float) -> float:
        """The value turned so that less is better; `centre` is what perfect samples have on average."""
        if self.lower_is_better is None:
            return abs(value - centre)
        return value if self.lower_is_better else -value

    def details(self, evaluation: Evaluation) -> dict[str, Any]:
        """More to be kept beside the value, as JSON: a `sentence` for readers, the value as a `text`."""
        return {}

    def missing(self, evaluation: Evaluation) -> list[str]:
        """In words, what this metric needs and the evaluation has not: empty where it can be computed."""
        law = evaluation.law
        has = {
            "law": law is not None,
            "score": law is not None and law.has_score,
            "modes": law is not None and len(law.mode_names) > 1,
            "train": evaluation.train is not None,
            "model": evaluation.model is not None,
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

    @property
    def unit(self) -> str:
        """What the value is counted in; empty for a number without a unit."""
        return ""


class Mean(Metric):
    """Metrics that are a mean of independent terms: a member gives `terms`, value and interval (Student's t) follow."""

    @abstractmethod
    def terms(self, evaluation: Evaluation) -> np.ndarray:
        """(m,) float64 terms, one a point."""

    def __call__(self, evaluation: Evaluation) -> float:
        return float(np.mean(evaluation.once(("terms", self.id), lambda: self.terms(evaluation))))

    def interval(self, evaluation: Evaluation, value: float, level: float = 0.95) -> tuple[float, float]:
        terms = evaluation.once(("terms", self.id), lambda: self.terms(evaluation))
        return interval(terms.tolist(), level) or (-math.inf, math.inf)


class Share(Mean):
    """The share of points of which something is true: terms are 0 or 1, and the interval is Wilson's."""

    def interval(self, evaluation: Evaluation, value: float, level: float = 0.95) -> tuple[float, float]:
        terms = evaluation.once(("terms", self.id), lambda: self.terms(evaluation))
        return share_interval(float(np.sum(terms)), len(terms), level)
