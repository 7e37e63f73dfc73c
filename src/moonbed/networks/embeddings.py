"""Features of the noise level."""

from __future__ import annotations

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
