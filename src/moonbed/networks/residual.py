"""Residual blocks with layer norm; the noise features enter each block after its first norm."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge, Lt

from moonbed.component import Positive
from moonbed.networks.base import Embedding, Network
from moonbed.networks.embeddings import Timestep

if TYPE_CHECKING:
    from torch import nn


class Residual(Network):
    """h = Linear(x); blocks `h + Linear0(SiLU(LN(dropout(Linear(SiLU(LN(h) + Linear(emb)))))))`; LN, SiLU, Linear0.

    `Linear0` starts at zero, so every block starts as the identity and F = 0 at the start.
    """

    width: Positive = 128
    blocks: Positive = 3
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.0
    embedding: Embedding = Timestep()

    def build(self, dim: int) -> nn.Module:
        from moonbed.networks._modules import ResidualModule

        return ResidualModule(dim, self.width, self.blocks, self.dropout, self.embedding.build(), self.embedding.width)
