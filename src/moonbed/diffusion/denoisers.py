"""Denoisers: E[x_0 | x_t], learned or exact, behind one interface.

Everything that samplers need is a linear combination of x_t and x0_hat:

    eps = (x_t - alpha x0_hat)/sigma     score = -eps/sigma     velocity = alpha' x0_hat + sigma' eps

`combine` is the one place where such a combination is formed; a learned denoiser merges its coefficients with those of
its prediction in float64, so that a network that predicts eps returns exactly its own output as eps.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from itertools import repeat
from typing import TYPE_CHECKING, Protocol

from moonbed._lazy import lazy_import
from moonbed.diffusion.predictions import Prediction
from moonbed.diffusion.schedules import Schedule

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
else:
    torch = lazy_import("torch")

__all__ = ["Denoiser", "Exact", "Learned", "column"]

ROWS = 1700
"""Rows that a network sees at once when it samples on a CPU: what is between two layers then stays in the cache."""


class Law(Protocol):
    """What `Exact` needs of a target."""

    def denoise(self, x_t: Tensor, alpha: float, sigma: float) -> Tensor:
        """(n, dim): E[x_0 | alpha x_0 + sigma eps = x_t]."""


class Denoiser(ABC):
    """A function of x_t (n, dim) and t (a number, or (n,) float64), and the schedule that it belongs to."""

    schedule: Schedule

    @abstractmethod
    def combine(self, x_t: Tensor, t: Tensor, w_x: Tensor | float, w_d: Tensor | float) -> Tensor:
        """(n, dim): w_x x_t + w_d E[x_0 | x_t]; the weights are float64, of the shape of t."""

    def __call__(self, x_t: Tensor, t: float | Tensor) -> Tensor:
        """(n, dim): the estimate of E[x_0 | x_t]."""
        return self.combine(x_t, _time(t), 0.0, 1.0)

    def eps(self, x_t: Tensor, t: float | Tensor) -> Tensor:
        """(n, dim): the estimate of E[eps | x_t]."""
        t = _time(t)
        s = self.schedule.sigma(t)
        return self.combine(x_t, t, 1 / s, -self.schedule.alpha(t) / s)

    def score(self, x_t: Tensor, t: float | Tensor) -> Tensor:
        """(n, dim): the estimate of grad log p_t(x_t)."""
        t = _time(t)
        s2 = self.schedule.sigma(t) ** 2
        return self.combine(x_t, t, -1 / s2, self.schedule.alpha(t) / s2)

    def velocity(self, x_t: Tensor, t: float | Tensor) -> Tensor:
        """(n, dim): dx/dt of the probability-flow ODE."""
        t = _time(t)
        a, s = self.schedule.alpha(t), self.schedule.sigma(t)
        da, ds = self.schedule.derivatives(t)
        return self.combine(x_t, t, ds / s, da - ds * a / s)


class Learned(Denoiser):
    """A network behind a prediction and a schedule."""

    def __init__(self, network: nn.Module, prediction: Prediction, schedule: Schedule) -> None:
        self.network, self.prediction, self.schedule = network, prediction, schedule

    def raw(self, x_t: Tensor, t: Tensor) -> Tensor:
        """(n, dim): F(c_in x_t, c_noise), in the type and on the device of x_t."""
        c_in, c_noise = self.prediction.c_in(self.schedule, t), self.prediction.c_noise(self.schedule, t)
        x, c_noise = column(c_in, x_t) * x_t, c_noise.reshape(-1).to(x_t)
        if len(x) <= ROWS or x.device.type != "cpu" or torch.is_grad_enabled():
            return self.network(x, c_noise)
        levels = c_noise.split(ROWS) if len(c_noise) > 1 else repeat(c_noise)
        return torch.cat([self.network(rows, level) for rows, level in zip(x.split(ROWS), levels, strict=False)])

    def combine(self, x_t: Tensor, t: Tensor, w_x: Tensor | float, w_d: Tensor | float) -> Tensor:
        c_skip, c_out = self.prediction.scalings(self.schedule, t)
        return column(w_x + w_d * c_skip, x_t) * x_t + column(w_d * c_out, x_t) * self.raw(x_t, t)


class Exact(Denoiser):
    """The truth: the exact denoiser of a target under a schedule. One time for all points."""

    def __init__(self, law: Law, schedule: Schedule) -> None:
        self.law, self.schedule = law, schedule

    def combine(self, x_t: Tensor, t: Tensor, w_x: Tensor | float, w_d: Tensor | float) -> Tensor:
        if t.numel() != 1:
            raise ValueError(f"Exact denoises one time for all points, given {t.numel()} times")
        a, s = float(self.schedule.alpha(t)), float(self.schedule.sigma(t))
        x0 = self.law.denoise(x_t.double(), a, s)
        return (float(w_x) * x_t.double() + float(w_d) * x0).to(x_t)


def _time(t: float | Tensor) -> Tensor:
    return torch.as_tensor(t, dtype=torch.float64)


def column(c: Tensor | float, x: Tensor) -> Tensor:
    """A coefficient, () or (n,), as something that multiplies the rows of x."""
    return torch.as_tensor(c).to(x).reshape(-1, 1)
