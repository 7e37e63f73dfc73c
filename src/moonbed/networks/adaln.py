"""Residual blocks that the noise level modulates: adaptive layer norm zero (Peebles & Xie, DiT, 2023)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moonbed.component import Positive
from moonbed.networks.base import Embedding, Network
from moonbed.networks.embeddings import Timestep

if TYPE_CHECKING:
    from torch import nn


class AdaLN(Network):
    """DiT's block for one vector, which has no attention: the noise level scales, shifts and gates each block.

        h = Linear(x);  h <- h + gate * MLP((1 + scale) * LN(h) + shift);  Linear0((1 + scale) * LN(h) + shift)

    (shift, scale, gate) = Linear0(SiLU(emb)), each block its own; the last layer has no gate. LN has no weights, MLP is
    Linear to `expansion * width`, GELU, Linear. `Linear0` starts at zero, so every block starts as the identity and
    F = 0 at the start.
    """

    width: Positive = 64
    blocks: Positive = 3
    expansion: Positive = 4
    embedding: Embedding = Timestep()

    def build(self, dim: int) -> nn.Module:
        from moonbed.networks._modules import AdaLNModule

        embedding = self.embedding.build()
        return AdaLNModule(dim, self.width, self.blocks, self.expansion, embedding, self.embedding.width)
