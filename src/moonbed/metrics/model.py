"""Metrics that ask the model behind the samples, its density and its denoiser, against the exact ones.

With y = x_0 + s eps at the noise ratio s, let D*(y, s) = E[x_0 | y] under the law and D be the model's. Both scores
follow from Tweedie's formula, (D - y)/s², and the error of the model's is, in nats a unit of log s,

    e(s) = E |D*(y, s) - D(y, s)|²/s²,        KL(law || reverse SDE of the model) <= integral of e(s) dlog s

(Song et al., Maximum Likelihood Training of Score-Based Diffusion Models, 2021, theorem 1: Girsanov's theorem for the
two path laws, and data processing), up to KL at the largest s. It is an equality if the model's denoiser is the exact
one of another law (Verdú, Mismatched Estimation and Relative Entropy, 2010).

A sampler draws from a density of its own. The probability flow's is known (`Model.log_prob`), so its KL to the law is
an expectation of a difference of two known numbers. The bound holds for the reverse SDE only: the flow does worse where
errors add up along a path, and better where they move no mass, as a rotation of a round law does.

All points are drawn anew from the law and not taken from the samples, so these metrics do not depend on the sampler or
on the number of samples, and their doubt is that of their own points: Student's t.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, cast

from moonbed._lazy import lazy_import
from moonbed.component import Positive, PositiveFloat
from moonbed.metrics.base import Evaluation, Mean, Model, Need
from moonbed.metrics.law import KnownLaw
from moonbed.rng import Stream

if TYPE_CHECKING:
    import numpy as np
    import torch
else:
    np = lazy_import("numpy")
    torch = lazy_import("torch")

__all__ = ["KL", "Girsanov", "ScoreError", "score_error"]

_DENOISER = "a law with a denoiser (law.denoise(x_t, alpha, sigma), its E[x_0 | x_t])"


class KL(Mean):
    """Divergence KL(law || model) of the probability flow, in nats, at the least noise of the model's schedule.

    Mean of log p(y) - log q(y) over y = x_0 + sigma_min eps with fresh x_0 ~ law, p exact, q = `model.log_prob`:
    unbiased but for the solver. 0 is ideal; single terms, and so the value of a good model, can be negative. Not finite
    where the model is not. Cost: `points` densities; 1 to 4 s on one core for the networks of the presets.
    Blind to the sampler: its steps, its noise, and the last denoising, after which no density is left. What is narrower
    than sigma_min is not seen. Mass that the model puts where the law has none costs only what is missing elsewhere.
    Source: Kullback and Leibler, On information and sufficiency, 1951; densities as in Song et al. 2021.
    """

    unit = "nats"
    needs: ClassVar[tuple[Need, ...]] = ("law", "model")
    null = 0.0
    points: Positive = 512

    @property
    def label(self) -> str:
        return "KL(target||model)"

    def missing(self, evaluation: Evaluation) -> list[str]:
        model = evaluation.model
        lacking = model is not None and not getattr(model, "has_density", True)
        return super().missing(evaluation) + ["a model with a density"] * lacking

    def terms(self, evaluation: Evaluation) -> np.ndarray:
        law, model = _both(self, evaluation)
        stream = evaluation.stream("KL")
        x0 = law.sample(self.points, stream)
        y = x0 + model.sigma_min * stream.normal(x0.shape, torch.float64)
        return law.log_density(y.numpy(), model.sigma_min) - model.log_prob(y).numpy()


class Girsanov(Mean):
    """Bound on KL(law || reverse SDE of the model), in nats: the score error, integrated over the noise levels.

    Integral of E |D* - D|²/sigma² dlog sigma from `low` to `high`, cut to the noise ratios that the model has (linear
    betas of 1,000 steps: .01 to 157). Gauss-Legendre in log sigma with `levels` nodes, of which 32 are within 2 % of
    128 for networks that waver in time; a term is the integral at one fresh x_0, with noise of its own at each level,
    which halves the standard error against one noise for all. 0 is ideal, and reached by the exact denoiser only.
    Cost: `points` x `levels` evaluations of network and exact denoiser; 0.5 to 0.8 s on one core for the presets. The
    standard error is 1 to 3 % of the value.
    Blind to the sampler and to the last denoising. An upper bound: errors that cancel along the path count in full. The
    probability flow can be better or worse (`KL`), as can a sampler of few steps.
    Source: Song et al., Maximum Likelihood Training of Score-Based Diffusion Models, 2021.
    """

    unit = "nats"
    needs: ClassVar[tuple[Need, ...]] = ("law", "model")
    null = 0.0
    low: PositiveFloat = 0.01
    high: PositiveFloat = 20.0
    levels: Positive = 32
    points: Positive = 2048

    def check(self) -> Iterator[tuple[str, str]]:
        if self.high <= self.low:
            yield "high", f"should be above low ({self.low:g}), given {self.high:g}"

    @property
    def label(self) -> str:
        return "Girsanov bound"

    def missing(self, evaluation: Evaluation) -> list[str]:
        law, model = evaluation.law, evaluation.model
        lacking = law is not None and not law.has_denoiser
        unknown = model is not None and not getattr(model, "has_score", True)
        return super().missing(evaluation) + [_DENOISER] * lacking + ["a model with a score"] * unknown

    def terms(self, evaluation: Evaluation) -> np.ndarray:
        law, model = _both(self, evaluation)
        low, high = self._range(model)
        nodes, weights = np.polynomial.legendre.leggauss(self.levels)
        half = math.log(high / low) / 2
        sigmas = low * np.exp(half * (nodes + 1))
        return half * weights @ _errors(law, model, sigmas.tolist(), self.points, evaluation.stream("Girsanov"))

    def details(self, evaluation: Evaluation) -> dict[str, Any]:
        """The curve under the integral, `score_error`: at 24 noise ratios its mean and standard error."""
        sigmas = np.geomspace(*self._range(_both(self, evaluation)[1]), 24).tolist()
        curve = score_error(evaluation, sigmas, min(self.points, 512))
        return {"score_error": {name: column.tolist() for name, column in curve._asdict().items()}}

    def _range(self, model: Model) -> tuple[float, float]:
        low, high = max(self.low, model.sigma_min), min(self.high, model.sigma_max)
        if low >= high:
            ours, has = f"[{self.low:g}, {self.high:g}]", f"[{model.sigma_min:g}, {model.sigma_max:g}]"
            raise ValueError(f"{self.label}: the model has the noise ratios {has}, none of them in {ours}")
        return low, high


class ScoreError(NamedTuple):
    """The score error E |D* - D|²/sigma² by noise level: levels, means and their standard errors, (levels,) each."""

    sigma: np.ndarray
    mean: np.ndarray
    error: np.ndarray


def score_error(evaluation: Evaluation, sigmas: Sequence[float], points: int = 2048) -> ScoreError:
    """The curve whose integral over log sigma is the Girsanov bound; nats a unit of log sigma.

    At each noise ratio a mean over the same fresh x_0, with noise of its own. Raises `MissingError` without a law that
    has a denoiser and a model, ValueError for fewer than two points and, from the model, for ratios that it has not.
    """
    if points < 2:
        raise ValueError(f"a standard error takes at least 2 points, given {points}")
    law, model = _both(Girsanov(), evaluation)
    errors = _errors(law, model, sigmas, points, evaluation.stream("score error"))
    with np.errstate(invalid="ignore"):  # a model may return what is not finite
        return ScoreError(np.array(sigmas, float), errors.mean(1), errors.std(1, ddof=1) / math.sqrt(points))


def _errors(law: KnownLaw, model: Model, sigmas: Sequence[float], points: int, stream: Stream) -> np.ndarray:
    """(levels, points): |D* - D|²/sigma² at x_0 + sigma eps."""
    x0 = law.sample(points, stream)
    out = np.empty((len(sigmas), points))
    for row, sigma in zip(out, sigmas, strict=True):
        y = x0 + sigma * stream.normal(x0.shape, torch.float64)
        row[:] = ((law.denoise(y, sigma) - model.denoise(y, sigma)) / sigma).square().sum(1).numpy()
    return out


def _both(metric: Mean, evaluation: Evaluation) -> tuple[KnownLaw, Model]:
    """Law and model, for a metric that needs both."""
    return metric.need(evaluation), cast("Model", evaluation.model)
