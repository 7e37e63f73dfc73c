"""Objectives: what training minimises.

    loss = weight(t) |F - F*|²/dim,   t from a distribution of times,   F* = the raw output that would give x_0

Plain squared error on F is the x_0 loss weighted by 1/c_out², so an objective is a weight and a distribution of times,
and does not depend on the prediction. A weight of one is "the simple loss" of whatever the network predicts.

The minimum over all F is at E[x_0 | x_t] whether x_0 itself is regressed on or any other variable of that conditional
mean; what differs is the variance of the gradient (Xu et al., Stable Target Field for Reduced Variance Score Estimation
in Diffusion Models, 2023). A `Regression` says which.

None of this depends on the weights of the network: an objective turns data into `Examples` of a plain regression, as
many at once as one likes, and a training step is that regression and nothing else.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, Protocol

from moonbed._lazy import lazy_import
from moonbed.component import Component, NonNegative, NonNegativeInt, Positive, PositiveFloat
from moonbed.diffusion.denoisers import column
from moonbed.diffusion.predictions import Prediction
from moonbed.diffusion.schedules import Schedule, at
from moonbed.rng import Stream

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = lazy_import("torch")

__all__ = ["Examples", "Law", "Objective", "Regression", "Source", "Times", "Weight"]


class Law(Protocol):
    """What a regression may ask of the target."""

    def denoise(self, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """(n, dim): E[x_0 | alpha x_0 + sigma eps = x_t], with a noise level (n,) for each row."""


class Source(NamedTuple):
    """Where data come from: the exact law, and the training points (k, dim)."""

    law: Law
    points: Tensor


class Examples(NamedTuple):
    """Rows of a regression, weight |F(x, c_noise) - target|²/dim: (n, dim), (n,), (n, dim), (n,) in the data's type."""

    x: Tensor
    c_noise: Tensor
    target: Tensor
    weight: Tensor


class Times(Component):
    """A distribution of training times in [0, 1]."""

    @abstractmethod
    def sample(self, n: int, schedule: Schedule, stream: Stream) -> Tensor:
        """(n,) float64."""


class Uniform(Times):
    """Uniform on [0, 1)."""

    def sample(self, n: int, schedule: Schedule, stream: Stream) -> Tensor:
        return stream.uniform((n,), torch.float64)


class Discrete(Times):
    """Uniform on 0, 1/(steps-1), ..., 1: the integer timesteps of DDPM (Ho et al. 2020)."""

    steps: Positive = 1000

    def sample(self, n: int, schedule: Schedule, stream: Stream) -> Tensor:
        return stream.integers(self.steps, (n,)).to(torch.float64) / max(1, self.steps - 1)


class LogNormal(Times):
    """log(sigma/alpha) normal (Karras et al. 2022), cut to the schedule's range: the same noise levels under any one.

    EDM has mean -1.2 and std 1.2, for images.
    """

    mean: float = -1.2
    std: PositiveFloat = 1.2

    def sample(self, n: int, schedule: Schedule, stream: Stream) -> Tensor:
        return schedule.time(-2 * (self.mean + self.std * stream.normal((n,), torch.float64)))


class Weight(Component):
    """A factor of the squared error of F, by time."""

    @abstractmethod
    def __call__(self, schedule: Schedule, t: Tensor) -> Tensor | float:
        """(n,) float64, or one number."""


class Natural(Weight):
    """1: the plain squared error of what the network predicts."""

    def __call__(self, schedule: Schedule, t: Tensor) -> Tensor | float:
        return 1.0


class P2(Weight):
    """1/(k + SNR)^gamma (Choi et al. 2022); with k = gamma = 1 the weight 1/(SNR + 1) = sigma²/(alpha² + sigma²)."""

    k: NonNegative = 1.0
    gamma: NonNegative = 1.0

    def __call__(self, schedule: Schedule, t: Tensor) -> Tensor | float:
        return (self.k + torch.exp(schedule.logsnr(t))) ** -self.gamma


class Regression(Component):
    """What takes the place of x_0 in the loss: something with the same conditional mean, given x_t."""

    @abstractmethod
    def correction(
        self, source: Source, x0: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor, stream: Stream
    ) -> Tensor | None:
        """(n, dim) what to add to x0 (n, dim), at noise levels (n,) float64; None for nothing."""


class Drawn(Regression):
    """x_0 as it was drawn: denoising score matching (Vincent 2011)."""

    def correction(
        self, source: Source, x0: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor, stream: Stream
    ) -> Tensor | None:
        return None


class ExactMean(Regression):
    """E[x_0 | x_t] of the target's exact law: no noise in the regression, so what is left is the network's capacity.

    A diagnosis, not a method: no data set has it.
    """

    def correction(
        self, source: Source, x0: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor, stream: Stream
    ) -> Tensor | None:
        return source.law.denoise(x_t.double(), alpha, sigma).to(x0.device) - x0


class StableTarget(Regression):
    """Stable target field (Xu et al. 2023): x_0 averaged over training points by their posterior weights given x_t.

    The points are those of up to `ROWS` rows, the true x_0 among them, and `references` further ones. A priori each of
    them is as likely to be the true one, so the average is its conditional mean given x_t and the points: its mean
    given x_t is that of x_0, and its variance less, the more points there are as near as the noise reaches.
    Softmax of -|x_t - alpha x|²/(2 sigma²) over the points x, which is attention. O(n (ROWS + references)).
    """

    references: NonNegativeInt = 512

    def correction(
        self, source: Source, x0: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor, stream: Stream
    ) -> Tensor | None:
        precision = (alpha / sigma**2)[:, None]
        query = torch.cat([precision * x_t, -alpha[:, None] * precision / 2], dim=1).to(x0)
        out = torch.empty_like(x0)
        for rows in (slice(start, start + ROWS) for start in range(0, len(x0), ROWS)):
            more = source.points[stream.integers(len(source.points), (self.references,)).to(x0.device)]
            points = torch.cat([x0[rows], more])
            key = torch.cat([points, (points**2).sum(1, keepdim=True)], dim=1)[None, None]
            mean = torch.nn.functional.scaled_dot_product_attention(query[None, None, rows], key, key, scale=1.0)
            out[rows] = mean[0, 0, :, :-1]
        return out - x0


ROWS = 512
"""Rows whose own points serve one another in a `StableTarget`."""


class Objective(Component):
    """Denoising regression: a distribution of times, a weight, and what is regressed on."""

    times: Times = Uniform()
    weight: Weight = Natural()
    regression: Regression = Drawn()

    def examples(
        self, prediction: Prediction, schedule: Schedule, x0: Tensor, source: Source, stream: Stream
    ) -> Examples:
        """Each row of x0 (n, dim) at a random time with random noise."""
        t = self.times.sample(len(x0), schedule, stream).to(x0.device)
        eps, schedule = stream.normal(x0.shape).to(x0), at(schedule, t)
        a, s = schedule.alpha(t), schedule.sigma(t)
        c_skip, c_out = prediction.scalings(schedule, t)
        x_t = column(a, x0) * x0 + column(s, x0) * eps
        # F* = (x_0 - c_skip x_t)/c_out, with its coefficients merged in float64: exactly eps where F is eps
        target = column((1 - c_skip * a) / c_out, x0) * x0 + column(-c_skip * s / c_out, x0) * eps
        correction = self.regression.correction(source, x0, x_t, a, s, stream)
        if correction is not None:
            target = target + column(1 / c_out, x0) * correction.to(x0)
        x, c_noise = column(prediction.c_in(schedule, t), x0) * x_t, prediction.c_noise(schedule, t).to(x0)
        weight = torch.as_tensor(self.weight(schedule, t), device=x0.device).to(x0).expand(len(x0))
        return Examples(x, c_noise, target, weight)

    def loss(self, network: Callable[[Tensor, Tensor], Tensor], examples: Examples) -> Tensor:
        """(n,): the weighted squared error of each row."""
        return examples.weight * (network(examples.x, examples.c_noise) - examples.target).square().mean(-1)
