"""Spacings: where the steps of a sampler end.

A spacing is the discretisation of a sampler apart from its solver (Karras et al. 2022, table 1). `steps` steps have
`steps + 1` times; at the last one a sampler denoises, so that it asks its denoiser at `steps + 1` noise levels. A
library that counts the denoising among its steps calls that many `steps + 1`.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge

from moonbed._lazy import lazy_import
from moonbed.component import Component, PositiveFloat, SpecError
from moonbed.diffusion.schedules import Schedule

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = lazy_import("torch")

__all__ = ["Spacing"]


class Spacing(Component):
    """Where a sampler's steps end."""

    @abstractmethod
    def times(self, schedule: Schedule, steps: int) -> Tensor:
        """(steps + 1,) float64, falling from 1, or from where there is noise enough, to 0 or near it."""


class UniformTime(Spacing):
    """Evenly spaced in t."""

    def times(self, schedule: Schedule, steps: int) -> Tensor:
        return torch.linspace(1, 0, steps + 1, dtype=torch.float64)


class Quadratic(Spacing):
    """t = (1 - k/steps)², close together at the data (Song et al. 2021, appendix D.2), not rounded to timesteps."""

    def times(self, schedule: Schedule, steps: int) -> Tensor:
        return torch.linspace(1, 0, steps + 1, dtype=torch.float64) ** 2


class UniformLogSNR(Spacing):
    """Evenly spaced in the log signal-to-noise ratio (Lu et al. 2022)."""

    def times(self, schedule: Schedule, steps: int) -> Tensor:
        ends = torch.tensor([1.0, 0.0], dtype=torch.float64)
        hi, lo = schedule.logsnr(ends).tolist()
        t = schedule.time(torch.linspace(hi, lo, steps + 1, dtype=torch.float64))
        t[0], t[-1] = 1, 0
        return t


class SinhLogSNR(Spacing):
    """Even in u with log(sigma/alpha) = log(centre) + width sinh(u): close together about `centre`, wider away from it.

    From `high` to `low`, noise ratios sigma/alpha, as far as the schedule has them. Data of unit variance are decided
    between ratios of a tenth and one, and few steps are best spent there. The defaults are the best of a coarse search
    for `DPMSolver2M` with 20 evaluations of the exact two moons.
    """

    centre: PositiveFloat = 0.3
    width: PositiveFloat = 1.4
    low: PositiveFloat = 0.015
    high: PositiveFloat = 10.0

    def check(self) -> Iterator[tuple[str, str]]:
        yield from _falling(self.low, self.high)

    def times(self, schedule: Schedule, steps: int) -> Tensor:
        ends = _ratios(schedule, self.low, self.high)
        first, last = (math.asinh(math.log(s / self.centre) / self.width) for s in ends)
        u = torch.linspace(first, last, steps + 1, dtype=torch.float64)
        return schedule.time(-2 * (math.log(self.centre) + self.width * torch.sinh(u)))


class Karras(Spacing):
    """Even in (sigma/alpha)^(1/rho) (Karras et al. 2022, equation 5).

    From `high` to `low`, noise ratios sigma/alpha, as far as the schedule has them. rho = 1 is even in the noise ratio;
    a large rho is even in its logarithm.
    """

    rho: PositiveFloat = 7.0
    low: PositiveFloat = 0.002
    high: PositiveFloat = 80.0

    def check(self) -> Iterator[tuple[str, str]]:
        yield from _falling(self.low, self.high)

    def times(self, schedule: Schedule, steps: int) -> Tensor:
        first, last = (ratio ** (1 / self.rho) for ratio in _ratios(schedule, self.low, self.high))
        roots = torch.linspace(first, last, steps + 1, dtype=torch.float64)
        return schedule.time(-2 * self.rho * torch.log(roots))


Timesteps = Annotated[int, Ge(2)]


class Trailing(Spacing):
    """Timesteps k = round(T - i T/(steps + 1)) - 1, t = k/(T - 1): from the last one down (Lin et al. 2024, table 2).

    Those of a diffusers scheduler with `timestep_spacing="trailing"` and `steps + 1` inference steps.
    """

    num_train_timesteps: Timesteps = 1000

    def times(self, schedule: Schedule, steps: int) -> Tensor:
        total = _enough(self.num_train_timesteps, steps)
        gap = (total - total / (steps + 1)) - total  # to the last bit, as numpy.arange counts: it may decide a rounding
        return _timesteps([round(total + i * gap) - 1 for i in range(steps + 1)], total)


class Leading(Spacing):
    """Timesteps k = i floor(T/(steps + 1)) + offset, t = k/(T - 1): up from the first one (Lin et al. 2024, table 2).

    Those of a diffusers scheduler with `timestep_spacing="leading"`, `steps_offset=offset` and `steps + 1` inference
    steps. The last timesteps, which have the most noise, are left out.
    """

    num_train_timesteps: Timesteps = 1000
    offset: Annotated[int, Ge(0)] = 0

    def times(self, schedule: Schedule, steps: int) -> Tensor:
        total = _enough(self.num_train_timesteps, steps)
        k = [i * (total // (steps + 1)) + self.offset for i in reversed(range(steps + 1))]
        if k[0] >= total:
            raise SpecError([("sampler.spacing.offset", f"timestep {k[0]} is beyond the last one, {total - 1}")])
        return _timesteps(k, total)


def _falling(low: float, high: float) -> Iterator[tuple[str, str]]:
    if high <= low:
        yield "high", f"should be above low ({low:g}), given {high:g}"


def _ratios(schedule: Schedule, low: float, high: float) -> tuple[float, float]:
    """The greatest and the least noise ratio sigma/alpha from `low` to `high` that the schedule has."""
    ends = torch.exp(-schedule.logsnr(torch.tensor([1.0, 0.0], dtype=torch.float64)) / 2).tolist()
    first, last = min(high, ends[0]), max(low, ends[1])
    if first <= last:
        raise SpecError([("sampler.spacing", f"the schedule has no noise ratios from {low:g} to {high:g}")])
    return first, last


def _enough(total: int, steps: int) -> int:
    if steps + 1 > total:
        message = f"{steps} steps end at {steps + 1} timesteps, and there are {total} (num_train_timesteps)"
        raise SpecError([("sampler.steps", message)])
    return total


def _timesteps(k: list[int], total: int) -> Tensor:
    return torch.tensor(k, dtype=torch.float64) / (total - 1)
