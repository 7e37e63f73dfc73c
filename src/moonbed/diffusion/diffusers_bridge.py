"""The bridge to diffusers: its schedulers as schedules and as samplers, unchanged.

diffusers keeps the noise schedule, the parameterisation and the solver in one scheduler object; here they are three axes.
`DiffusersBetas` takes the schedule out of a scheduler, `Diffusers` the solver. Time t in [0, 1] is timestep t (T - 1).
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from moonbed._lazy import lazy_import
from moonbed.component import Positive, SpecError, nearest
from moonbed.diffusion.denoisers import Denoiser
from moonbed.diffusion.samplers import Sampler
from moonbed.diffusion.schedules import Schedule
from moonbed.rng import Stream

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = lazy_import("torch")


class DiffusersBetas(Schedule):
    """The noise schedule of diffusers' DDPMScheduler: alpha² = alphas_cumprod, sigma² = 1 - alphas_cumprod.

    Equal to its `add_noise` at the timesteps 0..steps-1; between them, log(alpha/sigma) is linear.
    """

    betas: Literal["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"] = "linear"
    steps: Positive = 1000

    @cached_property
    def _half_logsnr(self) -> Tensor:
        from diffusers import DDPMScheduler

        scheduler = DDPMScheduler(num_train_timesteps=self.steps, beta_schedule=self.betas)
        return torch.logit(scheduler.alphas_cumprod.double()) / 2

    def _interpolate(self, t: Tensor) -> Tensor:
        table = self._half_logsnr
        place = t * (self.steps - 1)
        k = place.detach().floor().clamp(0, max(0, self.steps - 2)).long()
        low = table[k]
        return low + (place - k) * (table[(k + 1).clamp(max=self.steps - 1)] - low)

    def logsnr(self, t: Tensor) -> Tensor:  # noqa: D102
        return 2 * self._interpolate(t)

    def alpha(self, t: Tensor) -> Tensor:  # noqa: D102
        return torch.sqrt(torch.sigmoid(self.logsnr(t)))

    def sigma(self, t: Tensor) -> Tensor:  # noqa: D102
        return torch.sqrt(torch.sigmoid(-self.logsnr(t)))


class Diffusers(Sampler):
    """A scheduler of diffusers as the solver, by class name, with its own options.

    The scheduler takes its betas from the schedule of the denoiser (a `DiffusersBetas` by name, any other one through
    `trained_betas` at 1,000 timesteps, in variance-preserving coordinates), so the two cannot disagree. The denoiser's eps
    at the scheduler's scaled input is the model output. `clip_sample`, on by default there, would clip the data to
    [-1, 1]: it is off here.
    """

    scheduler: str = "DDPMScheduler"
    steps: Positive = 1000
    options: dict[str, Any] = {}

    def check(self) -> Iterator[tuple[str, str]]:  # noqa: D102
        if not self.scheduler.endswith("Scheduler"):
            yield "scheduler", f"{self.scheduler!r} is no diffusers scheduler, as DDPMScheduler or DDIMScheduler are"

    def make(self, schedule: Schedule) -> Any:
        """The scheduler, with its timesteps set. Raises `SpecError` for a name or an option that diffusers lacks."""
        import diffusers

        names = [n for n in dir(diffusers) if n.endswith("Scheduler") and not n.startswith("Flax")]
        if self.scheduler not in names:
            raise SpecError([("sampler.scheduler", f"diffusers has no {self.scheduler!r}; {nearest(self.scheduler, names)}")])
        cls = getattr(diffusers, self.scheduler)
        known = set(inspect.signature(cls.__init__).parameters) - {"self"}
        unknown = sorted(set(self.options) - known)
        if unknown:
            raise SpecError([(f"sampler.options.{n}", f"{self.scheduler} has no such option; {nearest(n, known)}") for n in unknown])
        options = {"clip_sample": False, "prediction_type": "epsilon", **_betas(schedule)}
        scheduler = cls(**({k: v for k, v in options.items() if k in known} | self.options))
        scheduler.set_timesteps(self.steps)
        return scheduler

    def trajectory(self, denoiser: Denoiser, noise: Tensor, stream: Stream) -> Iterator[Tensor]:  # noqa: D102
        schedule = denoiser.schedule
        scheduler = self.make(schedule)
        last = scheduler.config.num_train_timesteps - 1
        takes_generator = "generator" in inspect.signature(scheduler.step).parameters
        extra = {"generator": stream.generator} if takes_generator else {}
        x = noise * scheduler.init_noise_sigma
        for k in scheduler.timesteps:
            t = k.double() / last
            norm = torch.sqrt(schedule.alpha(t) ** 2 + schedule.sigma(t) ** 2)  # 1 where the variance is preserved
            eps = denoiser.eps(scheduler.scale_model_input(x, k) * float(norm), t)
            x = scheduler.step(eps, k, x, **extra).prev_sample
            yield x


def _betas(schedule: Schedule, steps: int = 1000) -> dict[str, Any]:
    """What tells a scheduler of diffusers its noise schedule."""
    if isinstance(schedule, DiffusersBetas):
        return {"beta_schedule": schedule.betas, "num_train_timesteps": schedule.steps}
    logsnr = schedule.logsnr(torch.linspace(0, 1, steps, dtype=torch.float64))
    kept = torch.sigmoid(logsnr)  # alphas_cumprod
    betas = 1 - kept / torch.cat([torch.ones(1, dtype=torch.float64), kept[:-1]])
    return {"trained_betas": betas.numpy(), "num_train_timesteps": steps}
