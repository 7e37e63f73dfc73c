"""Variance-preserving schedules that say how the signal-to-noise ratio falls, which is all that matters (Kingma 2021).

alpha² = sigmoid(logsnr), sigma² = sigmoid(-logsnr). Each is the textbook's alpha² at u = margin + (1 - 2 margin) t, in
a form without cancellation: the least sigma is as exact as the greatest.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge, Le

from moonbed._lazy import lazy_import
from moonbed.diffusion.schedules.base import Margin, VariancePreserving, log_expm1

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = lazy_import("torch")

Centre = Annotated[float, Ge(-100), Le(100)]


def _u(t: Tensor, margin: float) -> tuple[Tensor, Tensor]:
    """u and 1 - u, each exact where it is small."""
    return margin + (1 - 2 * margin) * t, margin + (1 - 2 * margin) * (1 - t)


class Cosine(VariancePreserving):
    """Nichol & Dhariwal 2021, equation 17: alpha² = cos²(pi/2 (u + s)/(1 + s))/cos²(pi/2 s/(1 + s)).

    The offset s makes noise grow as sqrt(u) from the data on. With the default margin the times t = k/998 are the first
    999 timesteps of diffusers' squaredcos_cap_v2; the last one, whose beta they cap at 0.999, is beyond the margin.
    """

    s: Annotated[float, Ge(1e-6), Le(1)] = 0.008
    margin: Margin = 1e-3

    def logsnr(self, t: Tensor) -> Tensor:
        u, rest = _u(t, self.margin)
        scale = math.pi / 2 / (1 + self.s)
        # cos²(b) - cos²(a) = sin(a - b) sin(a + b); cos(a) = sin(pi/2 - a)
        kept = torch.log(torch.sin(scale * rest)) * 2
        return kept - torch.log(torch.sin(scale * u)) - torch.log(torch.sin(scale * (u + 2 * self.s)))


class Sigmoid(VariancePreserving):
    """Jabri et al. 2023; Chen 2023, algorithm 1: alpha² = (S(end) - S(v))/(S(end) - S(start)), S(v) = sigmoid(v/tau).

    v = start + (end - start) u. Not diffusers' betas called sigmoid, where S is the rate of noise, not the signal.
    """

    start: Centre = -3.0
    end: Centre = 3.0
    tau: Annotated[float, Ge(1e-2), Le(100)] = 1.0
    margin: Margin = 1e-3

    def check(self) -> Iterator[tuple[str, str]]:
        if not 0.01 <= (self.end - self.start) / self.tau <= 400:
            given = f"given {self.start:g}, {self.end:g}, {self.tau:g}"
            yield "end", f"(end - start)/tau should lie in [0.01, 400], {given}"

    def logsnr(self, t: Tensor) -> Tensor:
        # S(a) - S(b) = sinh((a - b)/2 tau)/(2 cosh(a/2 tau) cosh(b/2 tau))
        u, rest = _u(t, self.margin)
        start, end = self.start / 2 / self.tau, self.end / 2 / self.tau
        tilt = _log_2cosh(start) - _log_2cosh(end)
        return _log_2sinh((end - start) * rest) - _log_2sinh((end - start) * u) + tilt


def _log_2cosh(x: float) -> float:
    return abs(x) + math.log1p(math.exp(-2 * abs(x)))


def _log_2sinh(x: Tensor) -> Tensor:
    return log_expm1(2 * x) - x


class Laplace(VariancePreserving):
    """Hang et al. 2024, table 1: with uniform t, logsnr has a Laplace distribution about `mu` of scale `b`.

    logsnr = mu - b log(2 u) where u < 1/2, mu + b log(2 (1 - u)) beyond: training dwells where logsnr is about mu. The
    margin cuts the tails to mu +- b log(1/(2 margin)), by default +-10. Times of samplers should be spaced in logsnr.
    """

    mu: Annotated[float, Ge(-20), Le(20)] = 0.0
    b: Annotated[float, Ge(0.01), Le(10)] = 0.5
    margin: Margin = 1e-9

    def logsnr(self, t: Tensor) -> Tensor:
        u, rest = _u(t, self.margin)
        return self.mu - self.b * torch.where(u < rest, torch.log(2 * u), -torch.log(2 * rest))

    def time(self, logsnr: Tensor) -> Tensor:
        far = (logsnr - self.mu) / self.b
        tail = torch.exp(-far.abs()) / 2
        near = ((tail - self.margin) / (1 - 2 * self.margin)).clamp(0, 1)
        return torch.where(far > 0, near, 1 - near)


class LinearLogSNR(VariancePreserving):
    """Logsnr linear in t from `logsnr_max` to `logsnr_min`, as variational diffusion begins (Kingma et al. 2021).

    The defaults are theirs, 13.3 and -5; a uniform t gives every noise level the same weight in the likelihood.
    """

    logsnr_max: Centre = 13.3
    logsnr_min: Centre = -5.0

    def check(self) -> Iterator[tuple[str, str]]:
        if self.logsnr_max < self.logsnr_min + 0.01:
            yield "logsnr_max", f"should be above logsnr_min ({self.logsnr_min:g}) + 0.01, given {self.logsnr_max:g}"

    def logsnr(self, t: Tensor) -> Tensor:
        return self.logsnr_max + (self.logsnr_min - self.logsnr_max) * t

    def time(self, logsnr: Tensor) -> Tensor:
        return ((logsnr - self.logsnr_max) / (self.logsnr_min - self.logsnr_max)).clamp(0, 1)
