"""What a sampler is: a generator of states, from noise to data.

Beside its states a sampler declares two things. `order` is what its error is in theory: halving all steps of the log
signal-to-noise ratio divides it by 2^order. Of a deterministic sampler that is the error of the state, of a stochastic
one the error of its law (weak order; Kloeden & Platen 1992, section 9.7). `needs_score` says whether it relies on the
noise in x_t being Gaussian.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar

from moonbed.component import Component, Positive
from moonbed.diffusion.denoisers import Denoiser
from moonbed.diffusion.samplers.spacings import Spacing, UniformLogSNR
from moonbed.rng import Stream

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Sampler", "SpacedSampler", "SteppingSampler"]


class Sampler(Component):
    """Turns noise into samples with a denoiser."""

    steps: Positive = 64

    adaptive: ClassVar[bool] = False
    """Whether it chooses its steps itself; `steps` then is the most that it may take."""

    flow_map: ClassVar[bool] = False
    """Whether it takes the denoiser for a flow map: with an exact E[x_0 | x_t] its samples have another law."""

    @property
    def order(self) -> int | None:
        """Global order in the step of the log SNR, weak where noise is drawn; None where none is claimed."""
        return None

    @property
    def needs_score(self) -> bool:
        """Whether it adds noise or asks for the score: right only where the noise in x_t is Gaussian."""
        return False

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
