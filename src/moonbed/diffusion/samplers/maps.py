"""Samplers for maps that go all the way, or part of it, in one evaluation: consistency models and flow maps.

A consistency function takes x_t to the end of its path (Song et al. 2023, "Consistency Models"); a flow map takes it to
any earlier time (Boffi et al. 2024). Both spend exactly `steps` evaluations: there is no denoising after the last one.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar

from moonbed.diffusion.denoisers import Denoiser
from moonbed.diffusion.samplers.base import SpacedSampler
from moonbed.rng import Stream

if TYPE_CHECKING:
    from torch import Tensor


class Renoise(SpacedSampler):
    """Multistep consistency sampling (Song et al. 2023, algorithm 1): x_0 = D(x, t), then alpha_u x_0 + sigma_u z.

    Exactly `steps` evaluations, at all times of the spacing but the last. For consistency models: an x0_hat that is the
    mean of what x_t may come from makes samples that are too narrow, however many the steps.
    """

    flow_map: ClassVar[bool] = True

    @property
    def needs_score(self) -> bool:
        return True

    def trajectory(self, denoiser: Denoiser, noise: Tensor, stream: Stream) -> Iterator[Tensor]:
        schedule = denoiser.schedule
        times = self.spacing.times(schedule, self.steps)
        x0 = denoiser(noise * float(schedule.sigma(times[0])), times[0])
        yield x0
        for t in times[1:-1]:
            z = stream.normal(x0.shape).to(x0)
            x0 = denoiser(float(schedule.alpha(t)) * x0 + float(schedule.sigma(t)) * z, t)
            yield x0


class Jump(SpacedSampler):
    """From time to time by `denoiser.jump`: exactly `steps` evaluations, and the state at the last time is the sample.

    A flow map that is right is right in any number of steps; with the jump of a denoiser, DDIM's, it is first order.
    """

    @property
    def order(self) -> int:
        return 1

    def trajectory(self, denoiser: Denoiser, noise: Tensor, stream: Stream) -> Iterator[Tensor]:
        times = self.spacing.times(denoiser.schedule, self.steps)
        x = noise * float(denoiser.schedule.sigma(times[0]))
        for t, u in pairwise(times):
            x = denoiser.jump(x, t, u)
            yield x
