"""A scheduler of diffusers as a sampler.

The schedule of the denoiser is handed to the scheduler, never the other way round, so that the two cannot disagree.
What is handed over is then rehearsed on a law that is a single point. There E[x_0 | x_t] is that point at every noise
level, each solver ends in it after any number of steps, and has the noise of the schedule on its way; one that misreads
its model or its noise level has not.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator
from dataclasses import field
from functools import lru_cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from moonbed._lazy import lazy_import
from moonbed.component import Positive, SpecError, nearest
from moonbed.diffusion.denoisers import Denoiser, Exact
from moonbed.diffusion.diffusers_bridge.conventions import Convention
from moonbed.diffusion.diffusers_bridge.levels import Flow
from moonbed.diffusion.diffusers_bridge.table import TABLE, Refused, Through, convention_of
from moonbed.diffusion.samplers import Sampler
from moonbed.diffusion.schedules import Schedule
from moonbed.rng import Rng, Stream

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = lazy_import("torch")

__all__ = ["Diffusers"]

_OURS = frozenset(
    {"beta_start", "beta_end", "beta_schedule", "trained_betas", "num_train_timesteps", "prediction_type"}
)


class Diffusers(Sampler):
    """A scheduler of diffusers as the solver, by class name, with its own options.

    The scheduler is told the schedule of the denoiser in its own words: betas (those of a `DiffusersBetas`, or of any
    other schedule at 1,000 timesteps in variance-preserving coordinates), the ends of sigma/alpha, or the sigmas of a
    flow. It gets from the denoiser what it wants of a model: eps, F, velocity, v or score. One that keeps a noise
    schedule of its own, or takes a denoised mean for a sample, is refused. `clip_sample`, on by default there, would
    clip the data to [-1, 1]: it is off here.
    """

    scheduler: str = "DDPMScheduler"
    steps: Positive = 1000
    options: dict[str, Any] = field(default_factory=dict)

    def check(self) -> Iterator[tuple[str, str]]:
        if not self.scheduler.endswith("Scheduler"):
            yield "scheduler", f"{self.scheduler!r} is no diffusers scheduler, as DDPMScheduler or DDIMScheduler are"
        for name in sorted(_OURS & set(self.options)):
            yield f"options.{name}", "comes from the schedule of the training, and the model output is eps"

    @property
    def needs_score(self) -> bool:
        """All but those that follow a velocity and add no noise."""
        entry = TABLE.get(self.scheduler)
        return not (isinstance(entry, Through) and issubclass(entry.convention, Flow) and not entry.noise)

    def make(self, schedule: Schedule) -> Any:
        """The scheduler, with its timesteps set. Raises `SpecError` for a name or an option that diffusers lacks, and
        for a scheduler that cannot follow the schedule.
        """
        self._prove(schedule)
        return self._bound(schedule, self.steps).scheduler

    def trajectory(self, denoiser: Denoiser, noise: Tensor, stream: Stream) -> Iterator[Tensor]:
        if self.options or self.scheduler not in TABLE:  # without options, the tests of the table are the proof
            self._prove(denoiser.schedule)
        yield from follow(self._bound(denoiser.schedule, self.steps), denoiser, noise, stream)

    def _prove(self, schedule: Schedule) -> None:
        if problem := _rehearsed(self, schedule):
            raise self._refusal(problem)

    def _refusal(self, why: str) -> SpecError:
        return SpecError([("sampler", f"{self.scheduler} {why}")])

    def _class(self) -> Any:
        import diffusers

        names = [n for n in dir(diffusers) if n.endswith("Scheduler") and not n.startswith("Flax")]
        if self.scheduler not in names:
            message = f"diffusers has no {self.scheduler!r}; {nearest(self.scheduler, names)}"
            raise SpecError([("sampler.scheduler", message)])
        return getattr(diffusers, self.scheduler)

    def _bound(self, schedule: Schedule, steps: int) -> Convention:
        """The scheduler, told the schedule. Raises what diffusers raises, and `SpecError`."""
        cls = self._class()
        missing = [name for name in getattr(cls, "_backends", ()) if find_spec(name) is None]
        if missing:  # diffusers exports a name in its place
            raise self._refusal(f"needs {' and '.join(missing)}, which is not installed")
        convention = convention_of(self.scheduler, cls, self.options)
        if isinstance(convention, Refused):
            raise self._refusal(convention.why)
        known, told = (
            set(inspect.signature(cls.__init__).parameters) - {"self"},
            convention.options(schedule, self.options),
        )
        self._hold_options(known, set(told))
        options = {k: v for k, v in {**convention.defaults, **told}.items() if k in known} | self.options
        bound = convention(cls(**options), schedule, steps)
        if problem := bound.misfit():
            raise self._refusal(problem)
        return bound

    def _hold_options(self, known: set[str], told: set[str]) -> None:
        unknown = [(n, f"{self.scheduler} has no such option; {nearest(n, known)}") for n in set(self.options) - known]
        twice = [(n, "comes from the schedule of the training") for n in told & set(self.options)]
        if problems := sorted(unknown + twice):
            raise SpecError([(f"sampler.options.{n}", message) for n, message in problems])


def follow(bound: Convention, denoiser: Denoiser, noise: Tensor, stream: Stream) -> Iterator[Tensor]:
    """Yield the state (n, dim) after each step of a scheduler."""
    x = noise * bound.start
    for i, k in enumerate(bound.timesteps):
        x = bound.step(denoiser, x, i, k, stream)
        yield x


class Astray(ValueError):
    """Where a scheduler left the schedule."""


class Point:
    """The law of one point; it keeps how much noise there was, over that of the schedule, when it was asked."""

    def __init__(self) -> None:
        self.noise: list[float] = []

    def denoise(self, x_t: Tensor, alpha: float, sigma: float) -> Tensor:
        """E[x_0 | x_t]: the point."""
        point = torch.tensor([0.75, -0.75], dtype=x_t.dtype).expand_as(x_t)
        self.noise.append(float((x_t - alpha * point).square().mean().sqrt()) / sigma)
        return point


class Gauss:
    """The law N(0, 1/4) in each coordinate."""

    def denoise(self, x_t: Tensor, alpha: float, sigma: float) -> Tensor:
        """E[x_0 | x_t]: linear in x_t."""
        return alpha / 4 / (alpha**2 / 4 + sigma**2) * x_t


@lru_cache(1024)
def _rehearsed(sampler: Diffusers, schedule: Schedule) -> str | None:
    """Why a sampler cannot go through the bridge under a schedule; None where it can."""
    try:
        problem = _missed(sampler._bound(schedule, sampler.steps))
        return problem if problem or sampler.scheduler in TABLE else _unlawful(sampler, schedule)
    except SpecError:
        raise
    except Astray as error:
        return str(error)
    except Exception as error:
        return f"cannot be used here ({type(error).__name__}: {error})"


def _missed(bound: Convention) -> str | None:
    """Whether the scheduler misses a law that is one point, by more than the noise that it leaves; or has, on its way
    there, four times the noise of the schedule or a quarter of it.
    """
    law = Point()
    x, left = rehearse(bound, law, 256)
    noise, first = list(law.noise), law.noise[0]
    if not min(first, 1) / 4 < min(noise) <= max(noise) < 4 * max(first, 1):
        worst = max(noise, key=lambda share: abs(math.log(share)))
        return f"comes to {worst:.2g} times the noise of the schedule on a law of one point"
    away = float((x - law.denoise(x, 1, 1)).square().mean().sqrt())
    return None if away < min(0.02 + 2 * left, 0.25) else f"ends {away:.2g} from the point that is all of a law"


def _unlawful(sampler: Diffusers, schedule: Schedule) -> str | None:
    """Whether a scheduler that is not in the table misses the variance of a Gaussian, or draws numbers of its own."""
    steps = max(sampler.steps, 200)
    (first, _), (again, _) = (rehearse(sampler._bound(schedule, steps), Gauss(), 4000) for _ in range(2))
    if not torch.equal(first, again):
        return "draws random numbers of its own"
    wide = float(first.std()) / 0.5
    return None if abs(wide - 1) < 0.06 else f"gives {wide:.2g} times the standard deviation of a Gaussian law"


def rehearse(bound: Convention, law: Any, n: int) -> tuple[Tensor, float]:
    """(n, 2): what becomes of noise on the exact denoiser of a law; and the noise ratio of the last evaluation."""
    stream, denoiser, ratio = Rng(0).stream("rehearsal"), Exact(law, bound.schedule), 0.0
    x = stream.normal((n, 2), torch.float64) * bound.start
    for i, k in enumerate(bound.timesteps):
        ratio = bound.ratio(i, k)
        if problem := bound.astray(i, k):
            raise Astray(problem)
        x = bound.step(denoiser, x, i, k, stream)
    return x, ratio
