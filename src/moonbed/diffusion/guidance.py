"""Guidance: sampling from more than the network was trained on, by extrapolating from a worse denoiser to a better one.

    D = D_weak + w (D_strong - D_weak)

*Classifier-free* (Ho & Salimans 2022): strong knows the label, weak does not. At one noise level the score is that of
p_t(x|c)^w p_t(x)^(1-w). At every noise level these are *not* the laws of one another's diffusion: the samples follow
the tilted law p(x|c)^w p(x)^(1-w) only roughly, even with exact denoisers, and by how much can be measured here.
*In an interval* (Kynkäänniemi et al. 2024): only between two noise ratios sigma/alpha.
*Autoguidance* (Karras et al. 2024): weak is a worse version of strong, on the same label; what is meant is p(x|c).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING

from moonbed._lazy import lazy_import
from moonbed.component import Component, NonNegative
from moonbed.diffusion.denoisers import Denoiser

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = lazy_import("torch")

__all__ = ["Guidance", "Guided"]


class Guidance(Component):
    """How much, and at which noise ratios sigma/alpha. A `scale` of 1 is none."""

    scale: NonNegative = 2.0
    low: NonNegative = 0.0
    high: NonNegative | None = None

    @property
    @abstractmethod
    def other(self) -> bool:
        """Whether weak is another network; else it is the same one without the label."""

    def check(self) -> Iterator[tuple[str, str]]:
        if self.high is not None and self.high <= self.low:
            yield "high", f"should be above low ({self.low:g}), given {self.high:g}"

    def __call__(self, strong: Denoiser, weak: Denoiser) -> Guided:
        """The guided denoiser."""
        return Guided(strong, weak, self)


class CFG(Guidance):
    """Classifier-free guidance, with `low` or `high` in an interval. Aims at p(x|c)^scale p(x)^(1-scale)."""

    @property
    def other(self) -> bool:
        return False


class AutoGuidance(Guidance):
    """Guidance by a worse network, the experiment's `guide`. Aims at what both were trained on, p(x|c) or p(x)."""

    @property
    def other(self) -> bool:
        return True


class Guided(Denoiser):
    """`scale` times a strong denoiser and 1 - `scale` times a weak one, where there is guidance; strong elsewhere."""

    def __init__(self, strong: Denoiser, weak: Denoiser, guidance: Guidance) -> None:
        self.strong, self.weak, self.guidance = strong, weak, guidance
        self.schedule, self.gaussian, self.posterior = strong.schedule, strong.gaussian, strong.posterior

    def combine(self, x_t: Tensor, t: Tensor, w_x: Tensor | float, w_d: Tensor | float) -> Tensor:
        strong, more = self.strong.combine(x_t, t, w_x, w_d), self._more(t).to(x_t)
        return strong + more * (strong - self.weak.combine(x_t, t, w_x, w_d)) if more.any() else strong

    def jump(self, x_t: Tensor, t: float | Tensor, u: float | Tensor) -> Tensor:
        strong, more = self.strong.jump(x_t, t, u), self._more(torch.as_tensor(t, dtype=torch.float64)).to(x_t)
        return strong + more * (strong - self.weak.jump(x_t, t, u)) if more.any() else strong

    def _more(self, t: Tensor) -> Tensor:
        """(n, 1) or (1, 1): scale - 1 where there is guidance, 0 elsewhere."""
        ratio = torch.exp(-self.schedule.logsnr(t) / 2)
        inside = ratio >= self.guidance.low
        if self.guidance.high is not None:
            inside = inside & (ratio <= self.guidance.high)
        return (self.guidance.scale - 1) * inside.double().reshape(-1, 1)
