"""Features of the noise level."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from moonbed.component import Positive, PositiveFloat
from moonbed.networks.base import Embedding

if TYPE_CHECKING:
    from torch import nn


class Timestep(Embedding):
    """Sinusoids of `scale * c_noise` (Vaswani et al. 2017), then Linear, SiLU, Linear: diffusers' own two modules.

    `scale` takes a time in [0, 1] back to the 0..999 that diffusers counts. `Timesteps(flip_sin_to_cos=True,
    downscale_freq_shift=0)` and `TimestepEmbedding` are the library's, not copies.
    """

    channels: Positive = 64
    scale: PositiveFloat = 999.0

    def build(self) -> nn.Module:
        from moonbed.networks._modules import TimestepModule

        return TimestepModule(self.channels, self.width, self.scale)


class Fourier(Embedding):
    """cos(w c_noise) and sin(w c_noise) for width/2 frequencies w from `low` to `high`, evenly spaced in log w.

    No weights. For smooth functions of the noise level: `high` is radians a unit of c_noise, which spans 2 to 3 units
    where it is log(sigma/alpha)/4, and 1 where it is the time.
    """

    width: Positive = 16
    low: PositiveFloat = 0.8
    high: PositiveFloat = 12.5

    def check(self) -> Iterator[tuple[str, str]]:
        if self.width % 2:
            yield "width", f"should be even, given {self.width}"
        if self.high < self.low:
            yield "high", f"should be at least low ({self.low:g}), given {self.high:g}"

    def build(self) -> nn.Module:
        from moonbed.networks._modules import FourierModule

        return FourierModule(self.width // 2, self.low, self.high)


class GaussianFourier(Embedding):
    """cos(2 pi w c_noise) and sin(2 pi w c_noise) for width/2 frequencies w drawn from N(0, scale²).

    As Song et al. 2021 and Karras et al. 2022 tell their networks the noise level (Tancik et al. 2020); `scale` is 16
    there, 1 in EDM2 (Karras et al. 2024): the greater, the faster F may change along the noise levels, and waver. The
    frequencies are drawn with the weights, are not trained, and are part of the state dict.
    """

    scale: PositiveFloat = 1.0

    def check(self) -> Iterator[tuple[str, str]]:
        if self.width % 2:
            yield "width", f"should be even, given {self.width}"

    def build(self) -> nn.Module:
        from moonbed.networks._modules import GaussianFourierModule

        return GaussianFourierModule(self.width // 2, self.scale)
