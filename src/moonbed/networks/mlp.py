"""The plain network: x and the noise features side by side, and a multilayer perceptron."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moonbed.component import Positive
from moonbed.networks.base import Embedding, Network
from moonbed.networks.embeddings import Timestep

if TYPE_CHECKING:
    from torch import nn


class MLP(Network):
    """[x, embedding] -> Linear, SiLU, ..., Linear; the last layer is zero at the start, so F = 0 there."""

    hidden: tuple[Positive, ...] = (128, 128)
    embedding: Embedding = Timestep()

    def build(self, dim: int) -> nn.Module:
        from moonbed.networks._modules import MLPModule

        return MLPModule(dim, self.hidden, self.embedding.build(), self.embedding.width)
