"""Conventions of the schedulers that compute at noise levels (a, s) of their own choice.

The state of such a scheduler is a x_0 + s eps. Two Gaussian processes of the same noise ratio s/a are each other's
scaled copies (Karras et al. 2022, section 2; Kingma et al. 2021, section 5.1), so the denoiser is asked at the time at
which its schedule has that ratio, for the state times c, and gives what the scheduler wants as a sum with two weights:

    logsnr(t) = 2 log(a/s),   c = sqrt(alpha² + sigma²)/sqrt(a² + s²),   x_t = c x,   output = w_x x + w_d E[x_0 | x_t]

A convention gives (a, s), (w_x, w_d) and the words in which the scheduler is told the ends of the schedule.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from moonbed._lazy import lazy_import
from moonbed.diffusion.denoisers import Denoiser
from moonbed.diffusion.diffusers_bridge.betas import betas_of
from moonbed.diffusion.diffusers_bridge.conventions import BACKWARD, Convention, ends
from moonbed.diffusion.schedules import Schedule
from moonbed.rng import Stream

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor
else:
    np = lazy_import("numpy")
    torch = lazy_import("torch")

READABLE = 300.0
"""The greatest noise ratio s/a that float32 tells from its neighbours where a = sqrt(1 - s²)."""


class Levels(Convention):
    """Computes at noise levels (a, s) of its own choice, within the range that it is told."""

    def __init__(self, scheduler: Any, schedule: Schedule, steps: int) -> None:
        super().__init__(scheduler, schedule, steps)
        self.a, self.s = (c.double() for c in self.levels())
        logsnr = 2 * (torch.log(self.a) - torch.log(self.s))
        self.ratios, self.times = torch.exp(-logsnr / 2), schedule.time(logsnr)
        full = torch.hypot(schedule.alpha(self.times), schedule.sigma(self.times))
        self.scales = full / torch.hypot(self.a, self.s)

    def levels(self) -> tuple[Tensor, Tensor]:
        """(a, s), each (timesteps,): the coefficients of the state at each evaluation."""
        raise NotImplementedError

    def weights(self, a: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """(w_x, w_d): the model output as w_x x + w_d E[x_0 | x]."""
        raise NotImplementedError

    def ratio(self, i: int, k: Tensor) -> float:
        return float(self.ratios[i])

    def misfit(self) -> str | None:
        if self.ratios[0] < self.ratios[-1]:
            return BACKWARD
        return next(filter(None, (self.astray(i, k) for i, k in enumerate(self.timesteps))), None)

    @property
    def start(self) -> Any:
        return getattr(self.scheduler, "init_noise_sigma", float(self.s[0]))

    def output(self, denoiser: Denoiser, x: Tensor, i: int, k: Tensor) -> Tensor:
        c = self.scales[i]
        w_x, w_d = self.weights(self.a[i], self.s[i])
        return denoiser.combine(x * float(c), self.times[i], w_x / c, w_d)


class Sigmas(Levels):
    """Told sigma_min and sigma_max, the ends of sigma/alpha; wants F of Karras et al. 2022. State x_0 + sigma eps."""

    told, wants = "`sigma_min`, `sigma_max`", "F"
    defaults: ClassVar[Mapping[str, Any]] = {"sigma_data": 1.0, "thresholding": False}

    @classmethod
    def options(cls, schedule: Schedule, given: Mapping[str, Any]) -> dict[str, Any]:
        low, high = ends(schedule)
        return {"sigma_min": low, "sigma_max": high, "prediction_type": "epsilon"}

    def levels(self) -> tuple[Tensor, Tensor]:
        sigmas = self.scheduler.sigmas[: len(self.timesteps)]
        return torch.ones_like(sigmas), sigmas

    def weights(self, a: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        d = self.scheduler.config.sigma_data
        c_out = s * d * torch.rsqrt(s**2 + d**2)
        return -(d**2) / (s**2 + d**2) / c_out, 1 / c_out

    def output(self, denoiser: Denoiser, x: Tensor, i: int, k: Tensor) -> Tensor:
        self.scheduler.scale_model_input(x, k)  # it counts on the call; the denoiser scales its own input
        return super().output(denoiser, x, i, k)


class Flow(Levels):
    """Told its sigmas, evenly spaced before their shift; wants the velocity eps - x_0.

    State (1 - sigma) x_0 + sigma eps: under `Linear` its sigma is ours, under any other it is sigma/(alpha + sigma).
    """

    told, wants = "`sigmas`", "velocity"

    def spaced(self, steps: int) -> Any:
        """(steps,) float32: what becomes, shifted, the range of the schedule."""
        low, high = (r / (1 + r) for r in ends(self.schedule))
        return np.linspace(unshift(high, self.shift), unshift(low, self.shift), steps, dtype=np.float32)

    @property
    def shift(self) -> float:
        return float(getattr(self.scheduler.config, "shift", 1.0))

    def set_steps(self, steps: int) -> None:
        self.scheduler.set_timesteps(steps, sigmas=self.spaced(steps))

    def levels(self) -> tuple[Tensor, Tensor]:
        sigmas = self.scheduler.sigmas[: len(self.timesteps)].double()
        return 1 - sigmas, sigmas

    def misfit(self) -> str | None:
        return (
            super().misfit() if bool((self.s < 1).all()) else "has noise levels that are no sigmas of a flow, below 1"
        )

    def weights(self, a: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        return 1 / s, -1 / s


class FlowEnds(Flow):
    """Takes no sigmas, but their ends."""

    told, wants = "`sigma_min`, `sigma_max` of a flow", "velocity"

    def set_steps(self, steps: int) -> None:
        spaced = self.spaced(steps)
        self.scheduler.sigma_max, self.scheduler.sigma_min = float(spaced[0]), float(spaced[-1])
        self.scheduler.set_timesteps(steps)


class FlowToZero(Flow):
    """Takes its sigmas as they are, shifted already, with the zero at their end."""

    told, wants = "`sigmas` with the last 0", "velocity"

    def set_steps(self, steps: int) -> None:
        spaced, shift = self.spaced(steps).astype(np.float64), self.shift
        self.scheduler.set_timesteps(steps, sigmas=[*(shift * spaced / (1 + (shift - 1) * spaced)).tolist(), 0.0])

    def evaluated(self, timesteps: Tensor) -> Tensor:
        return timesteps[: len(self.scheduler.sigmas) - 1]


class BackwardFlow(FlowToZero):
    """Counts time from noise to data, and wants x_0 - eps."""

    told, wants = "`sigmas` with the last 0", "minus velocity"

    def weights(self, a: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        return -1 / s, 1 / s


class OneStageFlow(Flow):
    """Goes through stages of growing images by itself; here through one."""

    defaults: ClassVar[Mapping[str, Any]] = {"stages": 1, "stage_range": [0, 1], "thresholding": False}


class FlowOption(Flow):
    """A scheduler of betas with `use_flow_sigmas`: its highest sigma is 1 - 1/T, so it is told T."""

    told, wants = "T", "velocity"
    defaults: ClassVar[Mapping[str, Any]] = {"thresholding": False}

    @classmethod
    def options(cls, schedule: Schedule, given: Mapping[str, Any]) -> dict[str, Any]:
        high = ends(schedule)[1]
        highest = unshift(high / (1 + high), float(given.get("flow_shift", 1.0)))
        told = {"num_train_timesteps": int(1 / (1 - highest) + 1e-6), "trained_betas": betas_of(schedule).numpy()}
        return {"prediction_type": "flow_prediction", **told}

    @property
    def shift(self) -> float:
        return float(self.scheduler.config.flow_shift)

    def set_steps(self, steps: int) -> None:
        respaced = any(self.scheduler.config.get(f"use_{name}_sigmas") for name in ("karras", "exponential", "beta"))
        if "sigmas" in inspect.signature(self.scheduler.set_timesteps).parameters and not respaced:
            super().set_steps(steps)
        else:
            self.scheduler.set_timesteps(steps)

    def misfit(self) -> str | None:
        if len(self.timesteps.unique()) < len(self.timesteps):
            total = self.scheduler.config.num_train_timesteps
            return f"counts {total} timesteps up to the highest noise of the schedule, too few for these steps"
        return super().misfit()


class Angles(Levels):
    """Told sigma at every step as `trained_betas`; wants v = a eps - s x_0. State of unit variance."""

    told, wants = "sigma at every step as `trained_betas`", "v"

    def set_steps(self, steps: int) -> None:
        low, high = (math.asin(math.sqrt(r / math.hypot(1, r))) for r in map(min, ends(self.schedule), (1.0, READABLE)))
        sigmas = np.sin(np.linspace(high, low, steps)) ** 2  # the scheduler's own spacing, in the schedule's range
        self.scheduler.register_to_config(trained_betas=[*sigmas.tolist(), 0.0])
        self.scheduler.set_timesteps(steps)

    def levels(self) -> tuple[Tensor, Tensor]:
        n = len(self.timesteps)
        return self.scheduler.alphas[:n], self.scheduler.betas[:n]

    def weights(self, a: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        return a / s, -(a**2) / s - s


class OwnCosine(Levels):
    """Told nothing: noise ratios of its own from 100 to 0.01, which the schedule must have; wants eps."""

    told, wants = "nothing", "eps"

    def evaluated(self, timesteps: Tensor) -> Tensor:
        return timesteps[:-1]

    def levels(self) -> tuple[Tensor, Tensor]:
        kept = self.scheduler._alpha_cumprod(self.timesteps, torch.device("cpu")).double()
        return torch.sqrt(kept), torch.sqrt(1 - kept)

    def weights(self, a: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        return 1 / s, -a / s

    def step(self, denoiser: Denoiser, x: Tensor, i: int, k: Tensor, stream: Stream) -> Tensor:
        self.scheduler.timesteps = self.scheduler.timesteps.to(x.device)
        return super().step(denoiser, x, i, k.to(x.device).expand(len(x)), stream)


class PredictorCorrector(Levels):
    """Told sigma_min and sigma_max; wants the score, to correct and then to step (Song et al. 2021, algorithm 2)."""

    told, wants = "`sigma_min`, `sigma_max`", "score"

    @classmethod
    def options(cls, schedule: Schedule, given: Mapping[str, Any]) -> dict[str, Any]:
        low, high = ends(schedule)
        return {"sigma_min": low, "sigma_max": high}

    def set_steps(self, steps: int) -> None:
        self.scheduler.set_timesteps(steps)
        self.scheduler.set_sigmas(steps)

    def levels(self) -> tuple[Tensor, Tensor]:
        places = (self.timesteps * (len(self.timesteps) - 1)).long()
        sigmas = self.scheduler.discrete_sigmas[places]
        return torch.ones_like(sigmas), sigmas

    def weights(self, a: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        return -1 / s**2, 1 / s**2

    def step(self, denoiser: Denoiser, x: Tensor, i: int, k: Tensor, stream: Stream) -> Tensor:
        source = {"generator": stream.generator}
        for _ in range(self.scheduler.config.correct_steps):
            x = self.scheduler.step_correct(self.output(denoiser, x, i, k), x, **source).prev_sample
        moved = self.scheduler.step_pred(self.output(denoiser, x, i, k), k, x, **source)
        return moved.prev_sample_mean if i == len(self.timesteps) - 1 else moved.prev_sample


def unshift(sigma: float, shift: float) -> float:
    """What a flow's shift, shift u/(1 + (shift - 1) u), takes to sigma."""
    return sigma / (shift - (shift - 1) * sigma)
