"""Optimisers: how a gradient becomes a step; and how long steps are over the course of a training."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from moonbed._lazy import lazy_import
from moonbed.component import Component, Fraction, NonNegative, NonNegativeInt, Positive, PositiveFloat

if TYPE_CHECKING:
    import torch
    from torch import nn
else:
    torch = lazy_import("torch")


class Optimizer(Component):
    """Configuration of a `torch.optim` optimiser."""

    elementwise: ClassVar[bool] = False
    """Whether every number is updated by itself, so that all parameters may be given as one long vector."""

    lr: PositiveFloat = 1e-3

    @abstractmethod
    def build(self, parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
        """A new optimiser of these parameters, which are in the order of the network."""


class AdamW(Optimizer):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019), torch's fused kernel and defaults."""

    elementwise = True
    beta1: Fraction = 0.9
    beta2: Fraction = 0.999
    eps: NonNegative = 1e-8
    weight_decay: NonNegative = 0.01

    def build(self, parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
        betas = (self.beta1, self.beta2)
        decay = self.weight_decay
        return torch.optim.AdamW(parameters, lr=self.lr, betas=betas, eps=self.eps, weight_decay=decay, fused=True)


class Muon(Optimizer):
    """Momentum whose matrices are made orthogonal (Jordan et al., Muon, 2024), and Adam for the rest.

    The update of a matrix is U V' of the singular value decomposition U S V' of its momentum (Nesterov's), found in
    `iterations` of a quintic Newton-Schulz iteration, times lr sqrt(max(1, rows/columns)): all directions are learned
    at one pace. Vectors, and the last matrix, which makes the output, get Adam with `adam_lr`.
    """

    lr: PositiveFloat = 0.05
    momentum: Fraction = 0.95
    iterations: Positive = 5
    adam_lr: PositiveFloat = 3e-3
    beta1: Fraction = 0.9
    beta2: Fraction = 0.99

    def build(self, parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
        from moonbed.experiments._muon import MuonWithAdam

        matrices = [w for w in parameters if w.ndim == 2][:-1]
        rest = [w for w in parameters if not any(w is m for m in matrices)]
        betas = (self.beta1, self.beta2)
        return MuonWithAdam(matrices, rest, self.lr, self.momentum, self.iterations, self.adam_lr, betas)


class LearningRate(Component):
    """What the optimiser's learning rates are multiplied by, over the course of a training."""

    @abstractmethod
    def __call__(self, step: int, steps: int) -> float:
        """The factor of step 0, 1, ..., steps - 1."""


class Constant(LearningRate):
    """1."""

    def __call__(self, step: int, steps: int) -> float:
        return 1.0


class WarmupCosine(LearningRate):
    """Linear up to 1 over `warmup` steps, times (1 + cos(pi step/steps))/2 (Loshchilov & Hutter, SGDR, 2017)."""

    warmup: NonNegativeInt = 50

    def __call__(self, step: int, steps: int) -> float:
        return min(1.0, (step + 1) / max(1, self.warmup)) * (1 + math.cos(math.pi * step / steps)) / 2
