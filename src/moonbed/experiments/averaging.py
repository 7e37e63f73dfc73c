"""Averages of the weights over training."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moonbed._lazy import lazy_import
from moonbed.component import Fraction
from moonbed.experiments.spec import Averaging

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = lazy_import("torch")


class EMA(Averaging):
    """average <- d average + (1 - d) weights, d = `decay`, or min(decay, (1 + step)/(10 + step)) with `warmup`.

    With warm-up it is diffusers' `EMAModel(decay)`: step counts from 0, and the first update takes the weights whole.
    """

    decay: Fraction = 0.999
    warmup: bool = True

    def update(self, average: list[Tensor], weights: list[Tensor], step: int) -> None:
        decay = self.decay
        if self.warmup:
            decay = 0.0 if step == 1 else min(decay, step / (9 + step))
        torch._foreach_lerp_(average, weights, 1 - decay)
