"""Schedules: how much data and how much noise there is at a time.

    x_t = alpha(t) x_0 + sigma(t) eps,   t in [0, 1], 0 = data, 1 = noise

alpha and sigma are positive on the closed interval and the signal-to-noise ratio falls. All is computed in float64. A
member gives alpha and sigma; derivatives come from automatic differentiation, `time(logsnr)` from bisection.
Reference: Kingma et al. 2021, "Variational Diffusion Models".
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, cast

from annotated_types import Gt, Lt

from moonbed._lazy import lazy_import
from moonbed.component import Component, PositiveFloat

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = lazy_import("torch")

__all__ = ["Schedule", "at"]

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


class VE(Schedule):
    """Variance exploding (Song et al. 2021): alpha = 1, log sigma linear in t, `sigma_min` to `sigma_max`.

    With `EDM`, the noise levels and coordinates of Karras et al. 2022. Samplers start at N(0, sigma_max²): it has to be
    many times as wide as the data.
    """

    sigma_min: PositiveFloat = 0.002
    sigma_max: PositiveFloat = 80.0

    def check(self) -> Iterator[tuple[str, str]]:
        if self.sigma_max <= self.sigma_min:
            yield "sigma_max", f"should be above sigma_min ({self.sigma_min:g}), given {self.sigma_max:g}"

    @property
    def _range(self) -> float:
        return math.log(self.sigma_max / self.sigma_min)

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        return self.sigma_min * torch.exp(self._range * t)

    def time(self, logsnr: Tensor) -> Tensor:
        return ((-logsnr / 2 - math.log(self.sigma_min)) / self._range).clamp(0, 1)
