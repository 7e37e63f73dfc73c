"""Paths of flow matching: alpha and sigma themselves are simple functions of time (Albergo & Vanden-Eijnden 2023).

u = margin + (1 - 2 margin) t: at u = 0 there would be no noise, at u = 1 no data.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from moonbed._lazy import lazy_import
from moonbed.diffusion.schedules.base import Margin, Schedule

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = lazy_import("torch")


class Linear(Schedule):
    """Flow matching (Lipman et al. 2023, Liu et al. 2023): alpha = 1 - u, sigma = u, u = margin + (1 - 2 margin) t."""

    margin: Margin = 1e-3

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - (self.margin + (1 - 2 * self.margin) * t)

    def sigma(self, t: Tensor) -> Tensor:
        return self.margin + (1 - 2 * self.margin) * t


class Trigonometric(Schedule):
    """Variance preserving: alpha = cos(pi u/2), sigma = sin(pi u/2), u = margin + (1 - 2 margin) t.

    The trigonometric interpolant of Albergo & Vanden-Eijnden 2023, SiT's GVP (Ma et al. 2024) and, for data of unit
    variance, TrigFlow (Lu & Song 2024), whose time is pi u/2. Speed is constant on the circle: F = V is the velocity
    over pi (1 - 2 margin)/2.
    """

    margin: Margin = 2e-3

    def alpha(self, t: Tensor) -> Tensor:
        return torch.cos(torch.pi / 2 * (self.margin + (1 - 2 * self.margin) * t))

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sin(torch.pi / 2 * (self.margin + (1 - 2 * self.margin) * t))
