"""Objectives: what training minimises.

    loss = weight(t) |F - F*|²/dim,   t from a distribution of times,   F* = the raw output that would give x_0

Plain squared error on F is the x_0 loss weighted by 1/c_out², so an objective is a weight and a distribution of times,
and does not depend on the prediction. A weight of one is "the simple loss" of whatever the network predicts.

The minimum over all F is at E[x_0 | x_t] whether x_0 itself is regressed on or any other variable of that conditional
mean; what differs is the variance of the gradient (Xu et al., Stable Target Field for Reduced Variance Score Estimation
in Diffusion Models, 2023). A `Regression` says which.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Protocol

from moonbed._lazy import lazy_import
from moonbed.component import Component, NonNegative, Positive
from moonbed.diffusion.denoisers import Learned, column
from moonbed.diffusion.schedules import Schedule
from moonbed.rng import Stream

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = lazy_import("torch")

__all__ = ["Law", "Objective", "Regression", "Times", "Weight"]


class Law(Protocol):
    """What a regression may ask of the target."""

    def denoise(self, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """(n, dim): E[x_0 | alpha x_0 + sigma eps = x_t], with a noise level (n,) for each row."""


class Times(Component):
    """A distribution of training times in [0, 1]."""

    @abstractmethod
    def sample(self, n: int, stream: Stream) -> Tensor:
        """(n,) float64."""


class Uniform(Times):
    """Uniform on [0, 1)."""

    def sample(self, n: int, stream: Stream) -> Tensor:
        return stream.uniform((n,), torch.float64)


class Discrete(Times):
    """Uniform on 0, 1/(steps-1), ..., 1: the integer timesteps of DDPM (Ho et al. 2020)."""

    steps: Positive = 1000

    def sample(self, n: int, stream: Stream) -> Tensor:
        return stream.integers(self.steps, (n,)).to(torch.float64) / max(1, self.steps - 1)


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
    def correction(self, law: Law, x0: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor | None:
        """(n, dim) what to add to x0 (n, dim), at noise levels (n,); None for nothing."""


class Drawn(Regression):
    """x_0 as it was drawn: denoising score matching (Vincent 2011)."""

    def correction(self, law: Law, x0: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor | None:
        return None


class ExactMean(Regression):
    """E[x_0 | x_t] of the target's exact law: no noise in the regression, so what is left is the network's capacity.

    A diagnosis, not a method: no data set has it.
    """

    def correction(self, law: Law, x0: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor | None:
        return law.denoise(x_t.double(), alpha, sigma).to(x0.device) - x0


class Objective(Component):
    """Denoising regression: a distribution of times, a weight, and what is regressed on."""

    times: Times = Uniform()
    weight: Weight = Natural()
    regression: Regression = Drawn()

    def loss(self, denoiser: Learned, x0: Tensor, stream: Stream, law: Law) -> Tensor:
        """(n,): the weighted loss of each row of x0 (n, dim) at a random time with random noise."""
        schedule = denoiser.schedule
        t = self.times.sample(len(x0), stream)
        eps = stream.normal(x0.shape).to(x0)
        a, s = schedule.alpha(t), schedule.sigma(t)
        c_skip, c_out = denoiser.prediction.scalings(schedule, t)
        x_t = column(a, x0) * x0 + column(s, x0) * eps
        # F* = (x_0 - c_skip x_t)/c_out, with its coefficients merged in float64: exactly eps where F is eps
        target = column((1 - c_skip * a) / c_out, x0) * x0 + column(-c_skip * s / c_out, x0) * eps
        correction = self.regression.correction(law, x0, x_t, a, s)
        if correction is not None:
            target = target + column(1 / c_out, x0) * correction.to(x0)
        error = (denoiser.raw(x_t, t) - target).square().mean(-1)
        weight = self.weight(schedule, t)
        return error if isinstance(weight, float) else weight.to(error) * error
