"""Schedules: how much data and how much noise there is at a time.

    x_t = alpha(t) x_0 + sigma(t) eps,   t in [0, 1], 0 = data, 1 = noise

alpha and sigma are positive on the closed interval and the signal-to-noise ratio falls. All is computed in float64. A
member gives alpha and sigma, or logsnr where it preserves the variance; derivatives come from automatic
differentiation, `time(logsnr)` from bisection where a member has no formula.
Reference: Kingma et al. 2021, "Variational Diffusion Models".

*Margins.* Many a textbook schedule has no noise at all at its beginning, or no data at its end: its own time u stops
short of those ends by `margin`.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Annotated, Any, cast

from annotated_types import Ge, Le

from moonbed._lazy import lazy_import
from moonbed.component import Component

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = lazy_import("torch")

__all__ = ["Margin", "Schedule", "VariancePreserving", "at", "log_expm1"]

Margin = Annotated[float, Ge(1e-9), Le(0.49)]
"""How far the time u of a textbook schedule stays from 0 and 1."""


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
            alpha, sigma = (f(t) + 0 * t for f in (self.alpha, self.sigma))  # a constant has a derivative too
            (da,) = torch.autograd.grad(alpha, t, one)
            (ds,) = torch.autograd.grad(sigma, t, one)
        return da, ds

    def time(self, logsnr: Tensor) -> Tensor:
        """The t at which `logsnr(t)` has a value; the nearer end where it is out of the schedule's range."""
        lo, hi = torch.zeros_like(logsnr), torch.ones_like(logsnr)
        for _ in range(60):
            mid = (lo + hi) / 2
            early = self.logsnr(mid) > logsnr
            lo, hi = torch.where(early, mid, lo), torch.where(early, hi, mid)
        return (lo + hi) / 2


def at(schedule: Schedule, t: Tensor) -> Schedule:
    """The schedule for someone who asks it several times at the same t: each coefficient is computed once."""
    return cast(Schedule, _At(schedule, t))


class _At:
    def __init__(self, schedule: Schedule, t: Tensor) -> None:
        self._schedule, self._t, self._known = schedule, t, dict[str, Any]()

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._schedule, name)
        if name not in ("alpha", "sigma", "logsnr", "derivatives"):
            return method

        def once(t: Tensor) -> Any:
            if t is not self._t:
                return method(t)
            if name not in self._known:
                self._known[name] = method(t)
            return self._known[name]

        return once


class VariancePreserving(Schedule):
    """Schedules with alpha² + sigma² = 1, which their logsnr alone defines: alpha² = sigmoid(logsnr)."""

    @abstractmethod
    def logsnr(self, t: Tensor) -> Tensor:
        """log(alpha²/sigma²), falling in t; within +-700, beyond which alpha or sigma would not be positive."""

    def alpha(self, t: Tensor) -> Tensor:
        return torch.sqrt(torch.sigmoid(self.logsnr(t)))

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sqrt(torch.sigmoid(-self.logsnr(t)))


def log_expm1(x: Tensor) -> Tensor:
    """log(exp(x) - 1) for x > 0, however small or large."""
    return x + torch.log(-torch.expm1(-x))
