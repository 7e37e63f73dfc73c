"""Schedules of a rate of noise beta(u), as the SDEs of Song et al. 2021 have it (equations 11, 12 and 29).

    dx = -beta(u)/2 x du + ...      B(u) = integral of beta from 0 to u      alpha = exp(-B/2)

There is no noise at u = 0, so u = margin + (1 - margin) t; alpha is positive at u = 1 as it is.

*Discrete betas.* T of them, beta_k = beta(k/(T - 1))/T, have u = (k + 1)/T after step k: the time t = k/(T - 1) where
margin = 1/T. Their log alpha² is lower by about the sum of beta_k²/2, 0.067 for DDPM's 1,000, which falls as 1/T.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge, Le

from moonbed._lazy import lazy_import
from moonbed.diffusion.schedules.base import Margin, Schedule, VariancePreserving, log_expm1

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = lazy_import("torch")

Rate = Annotated[float, Ge(1e-3), Le(200)]


class VPBetas(VariancePreserving):
    """alpha = exp(-B/2), sigma² = 1 - exp(-B), for beta from `beta_min` to `beta_max`; a member gives B."""

    beta_min: Rate = 0.1
    beta_max: Rate = 20.0
    margin: Margin = 1e-3

    @abstractmethod
    def integral(self, u: Tensor) -> Tensor:
        """B(u), the integral of beta from 0 to u."""

    def logsnr(self, t: Tensor) -> Tensor:
        return -log_expm1(self.integral(self.margin + (1 - self.margin) * t))


def _linear(beta_min: float, beta_max: float, u: Tensor) -> Tensor:
    """B(u) where beta is linear in u."""
    return (beta_min + (beta_max - beta_min) * u / 2) * u


class VPLinear(VPBetas):
    """DDPM's linear betas in continuous time, the VP SDE (Song et al. 2021): beta linear in u.

    B = beta_min u + (beta_max - beta_min) u²/2. The default margin is Song's end of sampling, and the first of DDPM's
    1,000 timesteps (Ho et al. 2020: betas from beta_min/1000 to beta_max/1000). alpha(1)² = exp(-10.05) = 4.3e-5.
    """

    def integral(self, u: Tensor) -> Tensor:
        return _linear(self.beta_min, self.beta_max, u)


class VPScaledLinear(VPBetas):
    """Stable Diffusion's betas in continuous time (Rombach et al. 2022): sqrt(beta) linear in u.

    B = ((p + q u)³ - p³)/(3 q) with p = sqrt(beta_min), q = sqrt(beta_max) - p. alpha(1)² = exp(-5.35) = 4.8e-3: much
    signal is left where samplers start (Lin et al. 2024).
    """

    beta_min: Rate = 0.85
    beta_max: Rate = 12.0

    def integral(self, u: Tensor) -> Tensor:
        p = self.beta_min**0.5
        q = self.beta_max**0.5 - p
        return (p**2 + p * q * u + q**2 * u**2 / 3) * u


class SubVP(Schedule):
    """The sub-VP SDE (Song et al. 2021): alpha = exp(-B/2), sigma = 1 - exp(-B), beta linear in u.

    Less noise than `VPLinear` beside the same data: sigma is the square of its sigma. alpha² + sigma² <= 1. The margin
    leaves sigma = 0.002 at t = 0; Song's 1e-3 would leave 1e-4, less than diffusers' float32 tables can hold.
    """

    beta_min: Rate = 0.1
    beta_max: Rate = 20.0
    margin: Margin = 1e-2

    def _integral(self, t: Tensor) -> Tensor:
        return _linear(self.beta_min, self.beta_max, self.margin + (1 - self.margin) * t)

    def alpha(self, t: Tensor) -> Tensor:
        return torch.exp(-self._integral(t) / 2)

    def sigma(self, t: Tensor) -> Tensor:
        return -torch.expm1(-self._integral(t))
