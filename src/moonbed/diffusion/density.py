"""Models with a density of their own, trained by maximum likelihood: no noise, no schedule, one evaluation a sample.

A baseline for densities: a normalising flow is an invertible network from the data to normal noise, so its density is
known, and diffusion has to do better than it (Papamakarios et al., Normalizing Flows, 2021).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from moonbed._lazy import lazy_import
from moonbed.component import Positive
from moonbed.diffusion.data import Data, Rows
from moonbed.diffusion.denoisers import Denoiser
from moonbed.diffusion.objectives import NetworkFunction, Objective
from moonbed.diffusion.predictions import Prediction
from moonbed.diffusion.samplers import Sampler
from moonbed.diffusion.schedules import Schedule
from moonbed.rng import Stream

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
else:
    torch = lazy_import("torch")

__all__ = ["Density"]


class Points(NamedTuple):
    """x (n, dim), and zeros (n,) in place of a noise level."""

    x: Tensor
    c_noise: Tensor


class MaximumLikelihood(Objective):
    """-log q(x_0): the mean is the negative log likelihood in nats. For networks that are a density."""

    row_type: ClassVar[type] = Points
    posterior: ClassVar[bool] = False
    density = True

    def examples(self, prediction: Prediction, schedule: Schedule, rows: Rows, data: Data, stream: Stream) -> Points:
        return Points(rows.x0, rows.x0.new_zeros(len(rows.x0)))

    def loss(self, network: NetworkFunction, examples: NamedTuple) -> Tensor:
        x, c_noise = examples
        return -network(x, c_noise)

    def denoiser(self, network: nn.Module, prediction: Prediction, schedule: Schedule, classes: int) -> Denoiser:
        return Density(network, schedule)


class Density(Denoiser):
    """A network that is a density: `log_prob` and `draw`, and no denoiser.

    Its module returns log q (n,) for x (n, dim), and has `draw`, the samples (n, dim) that noise (n, dim) becomes.
    """

    gaussian = False

    def __init__(self, network: nn.Module, schedule: Schedule) -> None:
        self.network, self.schedule = network, schedule

    def combine(self, x_t: Tensor, t: Tensor, w_x: Tensor | float, w_d: Tensor | float) -> Tensor:
        raise ValueError("a density has no denoiser: sample with Draw")

    def log_prob(self, x: Tensor) -> Tensor:
        """(n,) float64: log q at the rows of x (n, dim), in nats."""
        with torch.no_grad():
            return self.network(x.float(), x.new_zeros(len(x)).float()).double()

    def draw(self, noise: Tensor) -> Tensor:
        """(n, dim): the samples that standard normal noise (n, dim) becomes."""
        with torch.no_grad():
            draw: Callable[[Tensor], Tensor] = self.network.draw  # type: ignore[assignment]
            return draw(noise)


class Draw(Sampler):
    """The samples of a density, in one evaluation."""

    steps: Positive = 1

    def check(self) -> Iterator[tuple[str, str]]:
        if self.steps != 1:
            yield "steps", f"should be 1, given {self.steps}"

    def trajectory(self, denoiser: Denoiser, noise: Tensor, stream: Stream) -> Iterator[Tensor]:
        if not isinstance(denoiser, Density):
            raise ValueError(f"Draw is for densities, given {type(denoiser).__name__}")
        yield denoiser.draw(noise)
