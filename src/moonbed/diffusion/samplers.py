"""Samplers: from noise to data along a falling sequence of times.

A sampler is a generator that yields the state after each step, so that the caller may watch, stop or draw it. The first
state is sigma(1) times standard normal noise; the last one is a denoised point.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING

from moonbed._lazy import lazy_import
from moonbed.component import Component, Fraction, NonNegative, Positive, PositiveFloat, SpecError
from moonbed.diffusion.denoisers import Denoiser
from moonbed.diffusion.schedules import Schedule
from moonbed.rng import Stream

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = lazy_import("torch")

__all__ = ["Sampler", "SpacedSampler", "Spacing", "SteppingSampler"]


class Spacing(Component):
    """Where a sampler's steps end."""

    @abstractmethod
    def times(self, schedule: Schedule, steps: int) -> Tensor:
        """(steps + 1,) float64, falling from 1, or from where there is noise enough, to 0 or near it."""


class UniformTime(Spacing):
    """Evenly spaced in t."""

    def times(self, schedule: Schedule, steps: int) -> Tensor:
        return torch.linspace(1, 0, steps + 1, dtype=torch.float64)


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
        if self.high <= self.low:
            yield "high", f"should be above low ({self.low:g}), given {self.high:g}"

    def times(self, schedule: Schedule, steps: int) -> Tensor:
        first, last = (math.asinh(math.log(s / self.centre) / self.width) for s in self._range(schedule))
        u = torch.linspace(first, last, steps + 1, dtype=torch.float64)
        return schedule.time(-2 * (math.log(self.centre) + self.width * torch.sinh(u)))

    def _range(self, schedule: Schedule) -> tuple[float, float]:
        ends = torch.exp(-schedule.logsnr(torch.tensor([1.0, 0.0], dtype=torch.float64)) / 2).tolist()
        high, low = min(self.high, ends[0]), max(self.low, ends[1])
        if high <= low:
            raise SpecError(
                [("sampler.spacing", f"the schedule has no noise ratios from {self.low:g} to {self.high:g}")]
            )
        return high, low


class Sampler(Component):
    """Turns noise into samples with a denoiser."""

    steps: Positive = 64

    @abstractmethod
    def trajectory(self, denoiser: Denoiser, noise: Tensor, stream: Stream) -> Iterator[Tensor]:
        """Yield the state (n, dim) after each step, from standard normal noise (n, dim); the last one is the sample."""


class SpacedSampler(Sampler):
    """Samplers that go through a spacing and end with the denoised point of the last time."""

    spacing: Spacing = UniformLogSNR()


class SteppingSampler(SpacedSampler):
    """Those of which a step knows nothing of the steps before it."""

    @abstractmethod
    def step(self, denoiser: Denoiser, x: Tensor, t: Tensor, u: Tensor, stream: Stream) -> Tensor:
        """(n, dim): the state at time u < t from the state x at time t."""

    def trajectory(self, denoiser: Denoiser, noise: Tensor, stream: Stream) -> Iterator[Tensor]:
        times = self.spacing.times(denoiser.schedule, self.steps)
        x = noise * float(denoiser.schedule.sigma(times[0]))
        for t, u in pairwise(times):
            x = self.step(denoiser, x, t, u, stream)
            yield x
        yield denoiser(x, times[-1])


class DDIM(SteppingSampler):
    """Denoise, then put part of the noise back (Song et al. 2021, equation 12), for any alpha and sigma.

    eta = 0 is deterministic and first order in the log signal-to-noise ratio; eta = 1 is the ancestral sampler of DDPM.
    """

    eta: Fraction = 0.0

    def step(self, denoiser: Denoiser, x: Tensor, t: Tensor, u: Tensor, stream: Stream) -> Tensor:
        schedule = denoiser.schedule
        a, s, b, r = schedule.alpha(t), schedule.sigma(t), schedule.alpha(u), schedule.sigma(u)
        fresh = self.eta * r * torch.sqrt(1 - (a * r / (b * s)) ** 2)
        kept = torch.sqrt(r**2 - fresh**2)
        x = denoiser.combine(x, t, kept / s, b - kept * a / s)
        return x + float(fresh) * stream.normal(x.shape).to(x) if self.eta else x


class Euler(SteppingSampler):
    """The probability-flow ODE dx/dt = velocity by Euler's method: first order."""

    def step(self, denoiser: Denoiser, x: Tensor, t: Tensor, u: Tensor, stream: Stream) -> Tensor:
        return x + float(u - t) * denoiser.velocity(x, t)


class Heun(SteppingSampler):
    """The probability-flow ODE by Heun's method: second order, two evaluations a step."""

    def step(self, denoiser: Denoiser, x: Tensor, t: Tensor, u: Tensor, stream: Stream) -> Tensor:
        slope = denoiser.velocity(x, t)
        ahead = denoiser.velocity(x + float(u - t) * slope, u)
        return x + float(u - t) / 2 * (slope + ahead)


class DPMSolver2M(SpacedSampler):
    """DPM-Solver++ (2M) (Lu et al. 2022, algorithm 2), and with `eta` > 0 its form for the reverse SDE (2M SDE).

        x_u = sigma_u/sigma_t e^(-eta h) x_t + alpha_u (1 - e^(-(1 + eta) h)) D + sigma_u sqrt(1 - e^(-2 eta h)) z

    with h = lambda_u - lambda_t, lambda = log(alpha/sigma), standard normal z, and D = x0_hat + (x0_hat - x0_hat
    before)/(2 r), r the step before over this one. One evaluation a step; second order with eta = 0. The first step is
    DDIM's. Noise corrects what earlier steps did wrong, and wants more of them: eta = 1 is that of the SDE.
    """

    eta: NonNegative = 0.0

    def trajectory(self, denoiser: Denoiser, noise: Tensor, stream: Stream) -> Iterator[Tensor]:
        schedule = denoiser.schedule
        times = self.spacing.times(schedule, self.steps)
        x, before = noise * float(schedule.sigma(times[0])), None
        alpha, sigma = schedule.alpha(times).tolist(), schedule.sigma(times).tolist()
        half_logsnr = (schedule.logsnr(times) / 2).tolist()
        for k in range(self.steps):
            h = half_logsnr[k + 1] - half_logsnr[k]
            x0 = denoiser(x, times[k])
            ahead = x0 if before is None else x0 + (x0 - before) * (h / (2 * (half_logsnr[k] - half_logsnr[k - 1])))
            kept = sigma[k + 1] / sigma[k] * math.exp(-self.eta * h)
            x = kept * x - alpha[k + 1] * math.expm1(-(1 + self.eta) * h) * ahead
            if self.eta:
                x = x + sigma[k + 1] * math.sqrt(-math.expm1(-2 * self.eta * h)) * stream.normal(x.shape).to(x)
            before = x0
            yield x
        yield denoiser(x, times[-1])
