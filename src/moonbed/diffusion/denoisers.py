"""Denoisers: E[x_0 | x_t], learned or exact, behind one interface.

Everything that samplers need is a linear combination of x_t and x0_hat:

    eps = (x_t - alpha x0_hat)/sigma     score = -eps/sigma     velocity = alpha' x0_hat + sigma' eps

`combine` is the one place where such a combination is formed; a learned denoiser merges its coefficients with those of
its prediction in float64, so that a network that predicts eps returns exactly its own output as eps.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from copy import copy
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

__all__ = ["Denoiser", "Exact", "Learned", "Rescheduled", "column"]

ROWS = 1700
"""Rows that a network sees at once when it samples on a CPU: what is between two layers then stays in the cache."""


class Law(Protocol):
    """What `Exact` needs of a target."""

    def denoise(self, x_t: Tensor, alpha: float, sigma: float) -> Tensor:
        """(n, dim): E[x_0 | alpha x_0 + sigma eps = x_t]."""


class Denoiser(ABC):
    """A function of x_t (n, dim) and t (a number, or (n,) float64), and the schedule that it belongs to."""

    schedule: Schedule
    gaussian: bool = True
    """Whether x_t is alpha x_0 and independent normal noise, so that there is a score."""
    posterior: bool = True
    """Whether it is an estimate of E[x_0 | x_t]; what distilled networks put out is not."""

    @abstractmethod
    def combine(self, x_t: Tensor, t: Tensor, w_x: Tensor | float, w_d: Tensor | float) -> Tensor:
        """(n, dim): w_x x_t + w_d E[x_0 | x_t]; the weights are float64, of the shape of t."""

    def given(self, label: int | None) -> Denoiser:
        """The denoiser of the data with a label. Raises ValueError where the network was not told any."""
        if label is None:
            return self
        raise ValueError(f"{type(self).__name__} knows no labels, given {label}")

    def __call__(self, x_t: Tensor, t: float | Tensor) -> Tensor:
        """(n, dim): the estimate of E[x_0 | x_t]."""
        return self.combine(x_t, _time(t), 0.0, 1.0)

    def eps(self, x_t: Tensor, t: float | Tensor) -> Tensor:
        """(n, dim): the estimate of E[eps | x_t]."""
        t = _time(t)
        s = self.schedule.sigma(t)
        return self.combine(x_t, t, 1 / s, -self.schedule.alpha(t) / s)

    def score(self, x_t: Tensor, t: float | Tensor) -> Tensor:
        """(n, dim): the estimate of grad log p_t(x_t). Raises ValueError where it is not known."""
        if not (self.gaussian and self.posterior):
            raise ValueError("no score: that takes independent normal noise, and an estimate of E[x_0 | x_t]")
        t = _time(t)
        s2 = self.schedule.sigma(t) ** 2
        return self.combine(x_t, t, -1 / s2, self.schedule.alpha(t) / s2)

    def velocity(self, x_t: Tensor, t: float | Tensor) -> Tensor:
        """(n, dim): dx/dt of the probability-flow ODE."""
        t = _time(t)
        a, s = self.schedule.alpha(t), self.schedule.sigma(t)
        da, ds = self.schedule.derivatives(t)
        return self.combine(x_t, t, ds / s, da - ds * a / s)

    def jump(self, x_t: Tensor, t: float | Tensor, u: float | Tensor) -> Tensor:
        """(n, dim): x at time u < t on the probability flow through x_t, in one evaluation.

        Here as if E[x_0 | x_t] stayed what it is: DDIM's step. A flow map has learned where the flow leads.
        """
        t, u = _time(t), _time(u)
        kept = self.schedule.sigma(u) / self.schedule.sigma(t)
        return self.combine(x_t, t, kept, self.schedule.alpha(u) - kept * self.schedule.alpha(t))


class Learned(Denoiser):
    """A network behind a prediction and a schedule; behind x, it is told the label in `classes` columns, if any."""

    def __init__(
        self,
        network: nn.Module,
        prediction: Prediction,
        schedule: Schedule,
        classes: int = 0,
        label: int | None = None,
    ) -> None:
        self.network, self.prediction, self.schedule = network, prediction, schedule
        self.classes, self.label = classes, label
        self._own = next(network.parameters(), None) if hasattr(network, "parameters") else None

    def given(self, label: int | None) -> Learned:
        if label is not None and label not in range(self.classes):
            has = f"the labels 0 to {self.classes - 1}" if self.classes else "no labels"
            raise ValueError(f"the network was trained with {has}, given {label}")
        other = copy(self)
        other.label = label
        return other

    def raw(self, x_t: Tensor, t: Tensor, *columns: Tensor) -> Tensor:
        """(n, dim): F(c_in x_t, c_noise), computed in the network's type; further `columns` are (n, k)."""
        c_in, c_noise = self.prediction.c_in(self.schedule, t), self.prediction.c_noise(self.schedule, t)
        x, c_noise = column(c_in, x_t) * x_t, c_noise.reshape(-1).to(x_t)
        if self.classes or columns:
            told = x.new_zeros(len(x), self.classes)
            if self.label is not None:
                told[:, self.label] = 1
            x = torch.cat([x, told, *columns], dim=1)
        if self._own is not None:
            x, c_noise = x.to(self._own), c_noise.to(self._own)
        if len(x) <= ROWS or x.device.type != "cpu" or torch.is_grad_enabled():
            return self.network(x, c_noise).to(x_t)
        levels = c_noise.split(ROWS) if len(c_noise) > 1 else repeat(c_noise)
        parts = [self.network(rows, level) for rows, level in zip(x.split(ROWS), levels, strict=False)]
        return torch.cat(parts).to(x_t)

    def combine(self, x_t: Tensor, t: Tensor, w_x: Tensor | float, w_d: Tensor | float) -> Tensor:
        c_skip, c_out = self.prediction.scalings(self.schedule, t)
        return column(w_x + w_d * c_skip, x_t) * x_t + column(w_d * c_out, x_t) * self.raw(x_t, t)


class Rescheduled(Denoiser):
    """A denoiser under another schedule than it was trained with.

    All that a schedule says is which noise ratio sigma/alpha there is at t, and how large x_t is then: the denoiser is
    asked at its own time of that ratio, with x_t scaled to its own size. Noise ratios that it has not seen are taken
    for the nearest that it has, at the same variance.
    """

    def __init__(self, inner: Denoiser, schedule: Schedule) -> None:
        self.inner, self.schedule = inner, schedule
        self.gaussian, self.posterior = inner.gaussian, inner.posterior

    def given(self, label: int | None) -> Rescheduled:
        return Rescheduled(self.inner.given(label), self.schedule)

    def combine(self, x_t: Tensor, t: Tensor, w_x: Tensor | float, w_d: Tensor | float) -> Tensor:
        own, scale = self._own(t)
        return self.inner.combine(column(scale, x_t) * x_t, own, w_x / scale, w_d)

    def jump(self, x_t: Tensor, t: float | Tensor, u: float | Tensor) -> Tensor:
        (own, size), (end, end_size) = self._own(_time(t)), self._own(_time(u))
        return self.inner.jump(column(size, x_t) * x_t, own, end) / column(end_size, x_t)

    def _own(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """The inner denoiser's time of a noise ratio, and how much larger x_t is there."""
        theirs, mine = self.inner.schedule, self.schedule
        own = theirs.time(mine.logsnr(t))
        size = theirs.alpha(own) ** 2 + theirs.sigma(own) ** 2
        return own, torch.sqrt(size / (mine.alpha(t) ** 2 + mine.sigma(t) ** 2))


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
