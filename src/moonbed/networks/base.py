"""What a network is: a raw function F(x, c_noise) that a prediction scales into a denoiser."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

from moonbed.component import Component, Positive

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Embedding", "Network"]


class Network(Component):
    """Configuration of a function F(x, c_noise): x (n, dim), c_noise (n,) or (1,) -> (n, dim)."""

    density: ClassVar[bool] = False
    """Whether it is a log density (n,) instead; see `moonbed.networks.flow`."""

    @abstractmethod
    def build(self, dim: int) -> nn.Module:
        """A new module with random weights from torch's global generator; its forward takes (x, c_noise)."""


class Embedding(Component):
    """Configuration of the features of the noise level: c_noise (n,) -> (n, width)."""

    width: Positive = 64

    @abstractmethod
    def build(self) -> nn.Module:
        """A new module with random weights from torch's global generator."""
