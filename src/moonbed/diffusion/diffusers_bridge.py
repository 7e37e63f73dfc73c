"""The bridge to diffusers: its schedulers as schedules and as samplers, unchanged.

diffusers keeps noise schedule, parameterisation and solver in one scheduler object; here they are three axes.
`DiffusersBetas` takes the schedule out of a scheduler, `Diffusers` the solver. Time t in [0, 1] is timestep t (T - 1).
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import field
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge

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


_OURS = frozenset(
    {"beta_start", "beta_end", "beta_schedule", "trained_betas", "num_train_timesteps", "prediction_type"}
)


class Diffusers(Sampler):
    """A scheduler of diffusers as the solver, by class name, with its own options.

    The scheduler takes its betas from the schedule of the denoiser (those of a `DiffusersBetas`, or of any other one at
    1,000 timesteps in variance-preserving coordinates); one that keeps a noise schedule of its own, as those for flows
    do, is refused, so the two cannot disagree. The denoiser's eps at the scheduler's scaled input is the model output.
    `clip_sample`, on by default there, would clip the data to [-1, 1]: it is off here.
    """

    scheduler: str = "DDPMScheduler"
    steps: Positive = 1000
    options: dict[str, Any] = field(default_factory=dict)

    def check(self) -> Iterator[tuple[str, str]]:
        if not self.scheduler.endswith("Scheduler"):
            yield "scheduler", f"{self.scheduler!r} is no diffusers scheduler, as DDPMScheduler or DDIMScheduler are"
        for name in sorted(_OURS & set(self.options)):
            yield f"options.{name}", "comes from the schedule of the training, and the model output is eps"

    def make(self, schedule: Schedule) -> Any:
        """The scheduler, with its timesteps set. Raises `SpecError` for a name or an option that diffusers lacks, and
        for a scheduler that cannot follow the schedule.
        """
        import diffusers

        names = [n for n in dir(diffusers) if n.endswith("Scheduler") and not n.startswith("Flax")]
        if self.scheduler not in names:
            message = f"diffusers has no {self.scheduler!r}; {nearest(self.scheduler, names)}"
            raise SpecError([("sampler.scheduler", message)])
        cls = getattr(diffusers, self.scheduler)
        known = set(inspect.signature(cls.__init__).parameters) - {"self"}
        unknown = sorted(set(self.options) - known)
        if unknown:
            problems = [(n, f"{self.scheduler} has no such option; {nearest(n, known)}") for n in unknown]
            raise SpecError([(f"sampler.options.{n}", message) for n, message in problems])
        betas = _betas(schedule)
        options = {"clip_sample": False, "prediction_type": "epsilon"}
        options |= {"trained_betas": betas.numpy(), "num_train_timesteps": len(betas)}
        try:
            scheduler = cls(**({k: v for k, v in options.items() if k in known} | self.options))
            scheduler.set_timesteps(self.steps)
            misfit = _misfit(scheduler, betas)
        except Exception as error:
            misfit = f"cannot be used here ({type(error).__name__}: {error})"
        if misfit:
            raise SpecError([("sampler", f"{self.scheduler} {misfit}")])
        return scheduler

    def trajectory(self, denoiser: Denoiser, noise: Tensor, stream: Stream) -> Iterator[Tensor]:
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


def _misfit(scheduler: Any, betas: Tensor) -> str | None:
    kept = getattr(scheduler, "alphas_cumprod", None)
    wanted = torch.cumprod(1 - betas.double(), 0)
    if kept is None or kept.shape != wanted.shape or not torch.allclose(kept.double(), wanted, rtol=1e-3, atol=0):
        return "keeps a noise schedule of its own and would not follow the denoiser's"
    if kept.max() == 1:
        return "computes in float32, where the schedule's least noise is none"
    if scheduler.timesteps[0] < scheduler.timesteps[-1]:
        return "goes from data to noise"
    needed = [n for n, p in inspect.signature(scheduler.step).parameters.items() if p.default is p.empty]
    return None if needed == ["model_output", "timestep", "sample"] else f"steps with more than eps: {needed}"


def _betas(schedule: Schedule, steps: int = 1000) -> Tensor:
    """(steps,): what tells a scheduler of diffusers its noise schedule."""
    if isinstance(schedule, DiffusersBetas):
        return schedule._scheduler.betas
    logsnr = schedule.logsnr(torch.linspace(0, 1, steps, dtype=torch.float64))
    kept = torch.sigmoid(logsnr)  # alphas_cumprod
    return 1 - kept / torch.cat([torch.ones(1, dtype=torch.float64), kept[:-1]])
