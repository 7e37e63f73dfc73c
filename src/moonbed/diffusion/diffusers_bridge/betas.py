"""Noise as diffusers tells it: a list of betas, one a timestep.

    alphas_cumprod_k = product of (1 - beta_j) over j <= k = alpha²,   1 - alphas_cumprod_k = sigma²

(Ho et al. 2020.) Time t in [0, 1] is timestep t (T - 1). Any other schedule has betas too, in the coordinates that
preserve the variance: x_t / sqrt(alpha² + sigma²).
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge

from moonbed._lazy import lazy_import
from moonbed.diffusion.schedules import Schedule

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = lazy_import("torch")

__all__ = ["DiffusersBetas", "betas_of"]


class DiffusersBetas(Schedule):
    """The noise schedule of diffusers' DDPMScheduler: alpha² = alphas_cumprod, sigma² = 1 - alphas_cumprod.

    Equal to its `add_noise` at the timesteps 0..steps-1; between them, log(alpha/sigma) is linear.
    """

    betas: Literal["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"] = "linear"
    steps: Annotated[int, Ge(2)] = 1000

    @cached_property
    def _scheduler(self) -> Any:
        from diffusers import DDPMScheduler

        return DDPMScheduler(num_train_timesteps=self.steps, beta_schedule=self.betas)

    @cached_property
    def _half_logsnr(self) -> Tensor:
        return torch.logit(self._scheduler.alphas_cumprod.double()) / 2

    def _interpolate(self, t: Tensor) -> Tensor:
        table = self._half_logsnr
        place = t * (self.steps - 1)
        k = place.detach().floor().clamp(0, self.steps - 2).long()
        return table[k] + (place - k) * (table[k + 1] - table[k])

    def logsnr(self, t: Tensor) -> Tensor:
        return 2 * self._interpolate(t)

    def alpha(self, t: Tensor) -> Tensor:
        return torch.sqrt(torch.sigmoid(self.logsnr(t)))

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sqrt(torch.sigmoid(-self.logsnr(t)))


def betas_of(schedule: Schedule, steps: int = 1000) -> Tensor:
    """(steps,): what tells a scheduler of diffusers its noise schedule."""
    if isinstance(schedule, DiffusersBetas):
        return schedule._scheduler.betas
    logsnr = schedule.logsnr(torch.linspace(0, 1, steps, dtype=torch.float64))
    kept = torch.sigmoid(logsnr)  # alphas_cumprod
    return 1 - kept / torch.cat([torch.ones(1, dtype=torch.float64), kept[:-1]])
