"""Predictions: what the raw network F stands for.

A prediction is two coefficients around the raw network, one for its input, and the noise level that it is told:

    x0_hat = c_skip(t) x_t + c_out(t) F(c_in(t) x_t, c_noise(t))

(Karras et al. 2022, equation 7, for any schedule.) All else follows from x0_hat; nobody writes a converter.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

from moonbed._lazy import lazy_import
from moonbed.component import Component, PositiveFloat
from moonbed.diffusion.schedules import Schedule

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = lazy_import("torch")

__all__ = ["Prediction"]


class Prediction(Component):
    """Coefficients at the times t; float64 tensors of the shape of t."""

    @abstractmethod
    def scalings(self, schedule: Schedule, t: Tensor) -> tuple[Tensor, Tensor]:
        """(c_skip, c_out)."""

    def c_in(self, schedule: Schedule, t: Tensor) -> Tensor:
        """Factor of the network's input: 1/sqrt(alpha² + sigma²), which is 1 where the variance is preserved."""
        return torch.rsqrt(schedule.alpha(t) ** 2 + schedule.sigma(t) ** 2)

    def c_noise(self, schedule: Schedule, t: Tensor) -> Tensor:
        """The noise level as the network is told it: the time."""
        return t


class X0(Prediction):
    """F = x0_hat."""

    def scalings(self, schedule: Schedule, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(t), torch.ones_like(t)


class Epsilon(Prediction):
    """F = eps_hat (Ho et al. 2020): x0_hat = (x_t - sigma F)/alpha."""

    def scalings(self, schedule: Schedule, t: Tensor) -> tuple[Tensor, Tensor]:
        a, s = schedule.alpha(t), schedule.sigma(t)
        return 1 / a, -s / a


class V(Prediction):
    """F = v = alpha eps - sigma x_0 (Salimans & Ho 2022), for any alpha and sigma."""

    def scalings(self, schedule: Schedule, t: Tensor) -> tuple[Tensor, Tensor]:
        a, s = schedule.alpha(t), schedule.sigma(t)
        return a / (a**2 + s**2), -s / (a**2 + s**2)


class Velocity(Prediction):
    """F = dx_t/dt = alpha' x_0 + sigma' eps (flow matching)."""

    def scalings(self, schedule: Schedule, t: Tensor) -> tuple[Tensor, Tensor]:
        a, s = schedule.alpha(t), schedule.sigma(t)
        da, ds = schedule.derivatives(t)
        det = da * s - ds * a
        return -ds / det, s / det


class Score(Prediction):
    """F = grad log p_t(x_t) (Song et al. 2021): x0_hat = (x_t + sigma² F)/alpha."""

    def scalings(self, schedule: Schedule, t: Tensor) -> tuple[Tensor, Tensor]:
        a, s = schedule.alpha(t), schedule.sigma(t)
        return 1 / a, s**2 / a


class EDM(Prediction):
    """Unit variance in and out for data of standard deviation `sigma_data` (Karras et al. 2022, table 1)."""

    sigma_data: PositiveFloat = 1.0

    def scalings(self, schedule: Schedule, t: Tensor) -> tuple[Tensor, Tensor]:
        a, s, d = schedule.alpha(t), schedule.sigma(t), self.sigma_data
        total = (a * d) ** 2 + s**2
        return a * d**2 / total, s * d * torch.rsqrt(total)

    def c_in(self, schedule: Schedule, t: Tensor) -> Tensor:
        return torch.rsqrt((schedule.alpha(t) * self.sigma_data) ** 2 + schedule.sigma(t) ** 2)

    def c_noise(self, schedule: Schedule, t: Tensor) -> Tensor:
        """log(sigma/alpha)/4."""
        return -schedule.logsnr(t) / 8
