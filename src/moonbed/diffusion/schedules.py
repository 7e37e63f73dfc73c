"""Schedules: how much data and how much noise there is at a time.

    x_t = alpha(t) x_0 + sigma(t) eps,   t in [0, 1], 0 = data, 1 = noise

alpha and sigma are positive on the closed interval and the signal-to-noise ratio falls. All is computed in float64. A
member gives alpha and sigma; derivatives come from automatic differentiation, `time(logsnr)` from bisection.
Reference: Kingma et al. 2021, "Variational Diffusion Models".
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Annotated

from annotated_types import Gt, Lt

from moonbed._lazy import lazy_import
from moonbed.component import Component

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = lazy_import("torch")

__all__ = ["Schedule"]

Margin = Annotated[float, Gt(0), Lt(0.5)]


class Schedule(Component):
    """alpha(t) and sigma(t) for t in [0, 1]. Times and results are float64 tensors of one shape."""

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """The factor of the data, > 0."""

    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        """The standard deviation of the noise, > 0."""

    def logsnr(self, t: Tensor) -> Tensor:
        """log(alpha²/sigma²), falling in t."""
        return 2 * (torch.log(self.alpha(t)) - torch.log(self.sigma(t)))

    def derivatives(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(d alpha/dt, d sigma/dt)."""
        with torch.enable_grad(), torch.inference_mode(False):
            t = t.detach().clone().requires_grad_()
            one = torch.ones_like(t)
            (da,) = torch.autograd.grad(self.alpha(t), t, one, allow_unused=True)
            (ds,) = torch.autograd.grad(self.sigma(t), t, one, allow_unused=True)
        zero = torch.zeros_like(one)
        return (zero if da is None else da), (zero if ds is None else ds)

    def time(self, logsnr: Tensor) -> Tensor:
        """The t at which `logsnr(t)` has a value; the nearer end where it is out of the schedule's range."""
        lo, hi = torch.zeros_like(logsnr), torch.ones_like(logsnr)
        for _ in range(60):
            mid = (lo + hi) / 2
            early = self.logsnr(mid) > logsnr
            lo, hi = torch.where(early, mid, lo), torch.where(early, hi, mid)
        return (lo + hi) / 2


class Cosine(Schedule):
    """Variance preserving: alpha = cos(pi u/2), sigma = sin(pi u/2), u = margin + (1 - 2 margin) t.

    Nichol & Dhariwal 2021 in continuous time; the margin keeps alpha and sigma positive at the ends.
    """

    margin: Margin = 2e-3

    def alpha(self, t: Tensor) -> Tensor:
        return torch.cos(torch.pi / 2 * (self.margin + (1 - 2 * self.margin) * t))

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sin(torch.pi / 2 * (self.margin + (1 - 2 * self.margin) * t))


class Linear(Schedule):
    """Flow matching (Lipman et al. 2023, Liu et al. 2023): alpha = 1 - u, sigma = u, u = margin + (1 - 2 margin) t."""

    margin: Margin = 1e-3

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - (self.margin + (1 - 2 * self.margin) * t)

    def sigma(self, t: Tensor) -> Tensor:
        return self.margin + (1 - 2 * self.margin) * t
