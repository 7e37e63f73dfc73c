"""Weights: a factor of the loss, by noise level.

    loss = w_F |F - F*|² = w_F/c_out² |x0_hat - x_0|² = w_F/(c_out² SNR) |eps_hat - eps|²

The literature states weights for one of the three. A `Weight` is w_F, and is told c_out, so that a weight of the x_0
loss is `w * c_out²`, one of the eps loss `w * SNR * c_out²`, whatever the network predicts.
Reference: Kingma & Gao, Understanding Diffusion Objectives as the ELBO with Simple Data Augmentation, 2023.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

from moonbed._lazy import lazy_import
from moonbed.component import Component, NonNegative, PositiveFloat
from moonbed.diffusion.schedules import Schedule

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = lazy_import("torch")

__all__ = ["Weight"]


class Weight(Component):
    """A factor of the squared error of F, by time."""

    learned: ClassVar[bool] = False
    """Whether the network has another output u(t), and the loss is `loss exp(-u) + u`."""

    @abstractmethod
    def __call__(self, schedule: Schedule, t: Tensor, c_out: Tensor) -> Tensor | float:
        """(n,) float64, or one number; c_out (n,) is that of the prediction at t (n,)."""


class Natural(Weight):
    """1: the plain squared error of what the network predicts."""

    def __call__(self, schedule: Schedule, t: Tensor, c_out: Tensor) -> Tensor | float:
        return 1.0


class P2(Weight):
    """1/(k + SNR)^gamma (Choi et al. 2022); with k = gamma = 1 the weight 1/(SNR + 1) = sigma²/(alpha² + sigma²)."""

    k: NonNegative = 1.0
    gamma: NonNegative = 1.0

    def __call__(self, schedule: Schedule, t: Tensor, c_out: Tensor) -> Tensor | float:
        return (self.k + _snr(schedule, t)) ** -self.gamma


class MinSNR(Weight):
    """min(SNR, gamma) on the x_0 loss (Hang et al., Efficient Diffusion Training via Min-SNR Weighting, 2023)."""

    gamma: PositiveFloat = 5.0

    def __call__(self, schedule: Schedule, t: Tensor, c_out: Tensor) -> Tensor | float:
        return _snr(schedule, t).clamp(max=self.gamma) * c_out**2


class EDMWeight(Weight):
    """SNR + 1/sigma_data² on the x_0 loss (Karras et al. 2022): 1 on what a network behind `EDM` puts out."""

    sigma_data: PositiveFloat = 1.0

    def __call__(self, schedule: Schedule, t: Tensor, c_out: Tensor) -> Tensor | float:
        return (_snr(schedule, t) + self.sigma_data**-2) * c_out**2


class Likelihood(Weight):
    """-dSNR/dt/2 on the x_0 loss: the likelihood bound, nats a dimension (Kingma et al. 2021, equation 15).

    For uniform times. It is the weight g(t)²/2 of the score loss (Song et al. 2021). Heavy where there is no noise.
    """

    def __call__(self, schedule: Schedule, t: Tensor, c_out: Tensor) -> Tensor | float:
        return _snr(schedule, t) * _fall(schedule, t) / 2 * c_out**2


class SigmoidWeight(Weight):
    """sigmoid(bias - logsnr) on the eps loss (Kingma & Gao 2023; Hoogeboom et al., Simpler Diffusion, 2024).

    Stated there for a logsnr that is drawn uniformly; -dlogsnr/dt makes it so for uniform times.
    """

    bias: float = 2.0

    def __call__(self, schedule: Schedule, t: Tensor, c_out: Tensor) -> Tensor | float:
        eps = torch.sigmoid(self.bias - schedule.logsnr(t)) * _fall(schedule, t)
        return eps * _snr(schedule, t) * c_out**2


class Uncertainty(Weight):
    """exp(-u(t)), u learned with the network by adding u to the loss (Karras et al., EDM2, 2024, equation 21).

    u is the logarithm of the loss at t, so every noise level comes to weigh the same.
    """

    learned = True

    def __call__(self, schedule: Schedule, t: Tensor, c_out: Tensor) -> Tensor | float:
        return 1.0


def _snr(schedule: Schedule, t: Tensor) -> Tensor:
    return torch.exp(schedule.logsnr(t))


def _fall(schedule: Schedule, t: Tensor) -> Tensor:
    """-dlogsnr/dt, > 0."""
    da, ds = schedule.derivatives(t)
    return 2 * (ds / schedule.sigma(t) - da / schedule.alpha(t))
