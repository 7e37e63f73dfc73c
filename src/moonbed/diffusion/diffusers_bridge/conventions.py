"""Conventions: how a scheduler of diffusers is told a noise schedule, and what it wants to be told by a model.

One is a class; an instance of it holds a scheduler and the schedule that it has been told. Here are those of the
schedulers that are told betas: their state at timestep k is that of the schedule in coordinates that preserve the
variance, or in those of alpha = 1, and they want eps. levels.py has the others. What a scheduler cannot be told, it
must already agree on: `misfit` and `astray` say where it does not.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from moonbed._lazy import lazy_import
from moonbed.diffusion.denoisers import Denoiser
from moonbed.diffusion.diffusers_bridge.betas import betas_of
from moonbed.diffusion.schedules import Schedule
from moonbed.rng import Stream

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor
else:
    np = lazy_import("numpy")
    torch = lazy_import("torch")

__all__ = ["Convention", "ends"]

SLACK = 0.03
"""How far beyond the ends of a schedule, relatively, a noise ratio may lie: schedulers compute in float32."""
BACKWARD = "goes from data to noise"


class Convention:
    """A scheduler bound to a schedule, with its timesteps set."""

    told: ClassVar[str]
    """What the scheduler is told of the schedule."""
    wants: ClassVar[str]
    """What it wants of a model."""
    defaults: ClassVar[Mapping[str, Any]] = {}
    """Options in place of the scheduler's own defaults."""

    def __init__(self, scheduler: Any, schedule: Schedule, steps: int) -> None:
        self.scheduler, self.schedule = scheduler, schedule
        self.set_steps(steps)
        self.timesteps = self.evaluated(scheduler.timesteps)

    @classmethod
    def options(cls, schedule: Schedule, given: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments of the scheduler that come from the schedule; those that it lacks are left out."""
        return {}

    def set_steps(self, steps: int) -> None:
        """Lay the timesteps, in the range of the schedule."""
        self.scheduler.set_timesteps(steps)

    @cached_property
    def ends(self) -> tuple[float, float]:
        """The least and the greatest noise ratio of the schedule."""
        return ends(self.schedule)

    def evaluated(self, timesteps: Tensor) -> Tensor:
        """The timesteps at which there is a step to take."""
        return timesteps

    def misfit(self) -> str | None:
        """Why the scheduler cannot follow the schedule, as far as its tables say."""
        return None

    def ratio(self, i: int, k: Tensor) -> float:
        """The noise ratio s/a with which the scheduler is about to compute."""
        raise NotImplementedError

    def astray(self, i: int, k: Tensor) -> str | None:
        """Why the noise level at which the scheduler is about to compute is none of the schedule's."""
        ratio, (low, high) = self.ratio(i, k), self.ends
        if low * (1 - SLACK) <= ratio <= high * (1 + SLACK):
            return None
        return f"computes at the noise ratio sigma/alpha = {ratio:.3g}; the schedule has {low:.3g} to {high:.3g}"

    @property
    def start(self) -> Any:
        """The standard deviation of the first state."""
        return self.scheduler.init_noise_sigma

    def output(self, denoiser: Denoiser, x: Tensor, i: int, k: Tensor) -> Tensor:
        """What the scheduler wants of a model at its state x (n, dim)."""
        raise NotImplementedError

    def step(self, denoiser: Denoiser, x: Tensor, i: int, k: Tensor, stream: Stream) -> Tensor:
        """(n, dim): the state after step i, at the timestep k."""
        return self.scheduler.step(self.output(denoiser, x, i, k), k, x, **self.noise(stream)).prev_sample

    def noise(self, stream: Stream) -> dict[str, Any]:
        """The argument that names the source of noise, where the scheduler takes one."""
        return {"generator": stream.generator} if self._takes_generator else {}

    @cached_property
    def _takes_generator(self) -> bool:
        return "generator" in inspect.signature(self.scheduler.step).parameters


class Betas(Convention):
    """Told the betas; wants eps. Timestep k is the time k/(T - 1)."""

    told, wants = "betas", "eps"
    defaults: ClassVar[Mapping[str, Any]] = {"clip_sample": False, "thresholding": False, "snr_shift_scale": 1.0}

    @classmethod
    def options(cls, schedule: Schedule, given: Mapping[str, Any]) -> dict[str, Any]:
        betas = betas_of(schedule)
        told = {"trained_betas": betas.numpy(), "num_train_timesteps": len(betas)}
        return {"prediction_type": "epsilon", **told}

    def misfit(self) -> str | None:
        kept = getattr(self.scheduler, "alphas_cumprod", None)
        wanted = torch.cumprod(1 - betas_of(self.schedule).double(), 0)
        if kept is None or kept.shape != wanted.shape or not torch.allclose(kept.double(), wanted, rtol=1e-3, atol=0):
            return "keeps a noise schedule of its own and would not follow the denoiser's"
        if kept.max() == 1:
            return "computes in float32, where the schedule's least noise is none"
        if self.timesteps[0] < self.timesteps[-1]:
            return BACKWARD
        return None

    def ratio(self, i: int, k: Tensor) -> float:
        shrunk = float(self.scheduler.scale_model_input(torch.ones(1, 1, dtype=torch.float64), k))
        if shrunk < 1 - 1e-4:  # nearer to one, float32 does not tell
            return math.sqrt(shrunk**-2 - 1)
        sigmas = getattr(self.scheduler, "sigmas", None)
        if shrunk == 1 and sigmas is not None and len(sigmas) == len(self.timesteps) + 1:
            return float(sigmas[i])
        return math.exp(-float(self.schedule.logsnr(self.time(k))) / 2)  # it looks up alphas_cumprod at k

    def astray(self, i: int, k: Tensor) -> str | None:
        t, ratio = self.time(k), self.ratio(i, k)
        if problem := super().astray(i, k):
            return problem
        told = torch.tensor(-2 * math.log(ratio), dtype=torch.float64)
        if abs(told - self.schedule.logsnr(t)) < 5 * SLACK:
            return None
        off = float(abs(self.schedule.time(told) - t)) * (len(self.scheduler.alphas_cumprod) - 1)
        return f"says timestep {float(k):g} and computes {off:.3g} timesteps from it" if off > 1.01 else None

    def output(self, denoiser: Denoiser, x: Tensor, i: int, k: Tensor) -> Tensor:
        schedule, t = self.schedule, self.time(k)
        norm = torch.sqrt(schedule.alpha(t) ** 2 + schedule.sigma(t) ** 2)  # 1 where the variance is preserved
        return denoiser.eps(self.scheduler.scale_model_input(x, k) * float(norm), t)

    def time(self, k: Tensor) -> Tensor:
        """The time of a timestep."""
        return k.double() / (self.scheduler.config.num_train_timesteps - 1)


class BetasAndNext(Betas):
    """Told the timestep after this one with every step; its betas are its own and must be the schedule's."""

    told = "the next timestep; keeps its betas"

    def step(self, denoiser: Denoiser, x: Tensor, i: int, k: Tensor, stream: Stream) -> Tensor:
        after = self.timesteps[i + 1] if i + 1 < len(self.timesteps) else None
        out = self.output(denoiser, x, i, k)
        return self.scheduler.step(out, k, x, prev_timestep=after, **self.noise(stream)).prev_sample


class BetasAndLast(Betas):
    """Told the timestep before this one, and the x_0 of that step, with every step."""

    told = "betas, the timestep before and its x_0"

    def set_steps(self, steps: int) -> None:
        super().set_steps(steps)
        self.found: Tensor | None = None

    def step(self, denoiser: Denoiser, x: Tensor, i: int, k: Tensor, stream: Stream) -> Tensor:
        out, before = self.output(denoiser, x, i, k), self.timesteps[i - 1] if i else None
        x, self.found = self.scheduler.step(out, self.found, k, before, x, **self.noise(stream))[:2]
        return x


class BetasAndSeed(Betas):
    """Draws its noise from a seed."""

    def noise(self, stream: Stream) -> dict[str, Any]:
        if self.scheduler.noise_sampler_seed is None:
            self.scheduler.noise_sampler_seed = stream.seed
        return {}


def ends(schedule: Schedule) -> tuple[float, float]:
    """The least and the greatest noise ratio sigma/alpha of a schedule."""
    logsnr = schedule.logsnr(torch.tensor([0.0, 1.0], dtype=torch.float64))
    low, high = torch.exp(-logsnr / 2).tolist()
    return low, high
