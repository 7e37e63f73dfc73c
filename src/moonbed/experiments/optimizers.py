"""Optimisers: how a gradient becomes a step."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from typing import TYPE_CHECKING

from moonbed._lazy import lazy_import
from moonbed.component import Component, Fraction, NonNegative, PositiveFloat

if TYPE_CHECKING:
    import torch
    from torch import nn
else:
    torch = lazy_import("torch")


class Optimizer(Component):
    """Configuration of a `torch.optim` optimiser."""

    lr: PositiveFloat = 1e-3

    @abstractmethod
    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """A new optimiser of these parameters."""


class AdamW(Optimizer):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019), torch's fused kernel and defaults."""

    beta1: Fraction = 0.9
    beta2: Fraction = 0.999
    eps: NonNegative = 1e-8
    weight_decay: NonNegative = 0.01

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        betas = (self.beta1, self.beta2)
        decay = self.weight_decay
        return torch.optim.AdamW(parameters, lr=self.lr, betas=betas, eps=self.eps, weight_decay=decay, fused=True)
