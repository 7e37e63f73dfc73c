"""Variance exploding: alpha = 1, and noise is added to data that stay as they are.

Samplers start at N(0, sigma_max²): it has to be many times as wide as the data.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge, Le

from moonbed._lazy import lazy_import
from moonbed.diffusion.schedules.base import Schedule

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = lazy_import("torch")

Level = Annotated[float, Ge(1e-12), Le(1e12)]


class Exploding(Schedule):
    """alpha = 1 and sigma from `sigma_min` at t = 0 to `sigma_max` at t = 1; a member gives sigma(t)."""

    sigma_min: Level = 0.002
    sigma_max: Level = 80.0

    def check(self) -> Iterator[tuple[str, str]]:
        if self.sigma_max < 1.01 * self.sigma_min:
            yield "sigma_max", f"should be above 1.01 sigma_min ({self.sigma_min:g}), given {self.sigma_max:g}"

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)


class VE(Exploding):
    """Variance exploding (Song et al. 2021): alpha = 1, log sigma linear in t, `sigma_min` to `sigma_max`.

    With `EDM`, the noise levels and coordinates of Karras et al. 2022.
    """

    @property
    def _range(self) -> float:
        return math.log(self.sigma_max / self.sigma_min)

    def sigma(self, t: Tensor) -> Tensor:
        return self.sigma_min * torch.exp(self._range * t)

    def time(self, logsnr: Tensor) -> Tensor:
        return ((-logsnr / 2 - math.log(self.sigma_min)) / self._range).clamp(0, 1)


class EDMSchedule(Exploding):
    """EDM's steps as a schedule (Karras et al. 2022, equation 5): alpha = 1, sigma^(1/rho) linear in t.

        sigma = (sigma_min^(1/rho) + t (sigma_max^(1/rho) - sigma_min^(1/rho)))^rho

    With `UniformTime` a sampler goes through EDM's noise levels: t = 1 - i/(N - 1) for their i. rho = 1 is linear in
    sigma, and as rho grows it becomes `VE`.
    """

    rho: Annotated[float, Ge(1), Le(1000)] = 7.0

    @property
    def _roots(self) -> tuple[float, float]:
        return self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)

    def sigma(self, t: Tensor) -> Tensor:
        low, high = self._roots
        return (low + t * (high - low)) ** self.rho

    def time(self, logsnr: Tensor) -> Tensor:
        low, high = self._roots
        return ((torch.exp(-logsnr / 2 / self.rho) - low) / (high - low)).clamp(0, 1)
