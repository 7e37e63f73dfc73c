"""Exponential multistep methods: the linear part of the ODE exactly, the denoised points as a polynomial.

In lambda = log(alpha/sigma), from t to u with h = lambda_u - lambda_t, the probability-flow ODE is solved by

    x_u = sigma_u/sigma_t x_t + alpha_u ∫_0^h e^(-(h - s)) x0_hat(lambda_t + s) ds

(Lu et al. 2022, "DPM-Solver++", proposition 4.1), and the reverse SDE by the same with rates 1 + eta and noise. What is
left to approximate is x0_hat (or eps_hat: Zhang & Chen 2023), by a polynomial through what the steps before have found:
one evaluation a step. The first steps know less and are of lower order; they lie where there is hardly any signal, and
their errors are smaller than those of the others by the signal-to-noise ratio there.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections import deque
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import islice, pairwise
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from moonbed._lazy import lazy_import
from moonbed.component import NonNegative
from moonbed.diffusion.denoisers import Denoiser
from moonbed.diffusion.samplers.base import SpacedSampler
from moonbed.diffusion.schedules import Schedule
from moonbed.rng import Stream

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor
else:
    np = lazy_import("numpy")
    torch = lazy_import("torch")

__all__ = ["Level", "MultistepSampler", "Point"]


class Level(NamedTuple):
    """What a schedule says of a time t: alpha, sigma, and lam = log(alpha/sigma)."""

    t: Tensor
    alpha: float
    sigma: float
    lam: float


class Point(NamedTuple):
    """A state x (n, dim) on the way, its noise level, and what it was denoised to, x0 (n, dim)."""

    at: Level
    x: Tensor
    x0: Tensor


class MultistepSampler(SpacedSampler):
    """Those of which a step looks back on the points before it, as many as `reach`."""

    reach: ClassVar[int] = 4

    @abstractmethod
    def step(self, schedule: Schedule, past: Sequence[Point], to: Level, stream: Stream) -> Tensor:
        """(n, dim): the state at `to`; past[0] is where the step starts, past[1] the point before it, and so on."""

    def correct(self, past: Sequence[Point], new: Point) -> Tensor:
        """(n, dim): the state at the level of `new`, now that it is denoised; past[0] is where the step to it began."""
        return new.x

    def trajectory(self, denoiser: Denoiser, noise: Tensor, stream: Stream) -> Iterator[Tensor]:
        levels = _levels(denoiser.schedule, self.spacing.times(denoiser.schedule, self.steps))
        x, past = noise * levels[0].sigma, deque[Point](maxlen=self.reach)
        for here, to in pairwise(levels):
            new = Point(here, x, denoiser(x, here.t))
            past.appendleft(new._replace(x=self.correct(past, new) if past else x))
            x = self.step(denoiser.schedule, past, to, stream)
            yield x
        yield denoiser(x, levels[-1].t)


def _levels(schedule: Schedule, times: Tensor) -> list[Level]:
    alpha, sigma = schedule.alpha(times).tolist(), schedule.sigma(times).tolist()
    return [*map(Level, times, alpha, sigma, (schedule.logsnr(times) / 2).tolist())]


class DPMSolver2M(MultistepSampler):
    """DPM-Solver++ (2M) (Lu et al. 2022, algorithm 2), and with `eta` > 0 its form for the reverse SDE, 2M SDE.

        x_u = sigma_u/sigma_t e^(-eta h) x_t + alpha_u (1 - e^(-(1 + eta) h)) D + sigma_u sqrt(1 - e^(-2 eta h)) z

    with h = lambda_u - lambda_t, lambda = log(alpha/sigma), standard normal z, and D = x0_hat + (x0_hat - x0_hat
    before)/(2 r), r the step before over this one. One evaluation a step; second order, weak with noise (as measured).
    The first step is DDIM's. Noise corrects what earlier steps did wrong, and wants more of them: eta = 1 is that of
    the SDE, and what is called 2M SDE elsewhere.
    """

    eta: NonNegative = 0.0

    reach: ClassVar[int] = 2

    @property
    def order(self) -> int:
        return 2

    @property
    def needs_score(self) -> bool:
        return self.eta > 0

    def step(self, schedule: Schedule, past: Sequence[Point], to: Level, stream: Stream) -> Tensor:
        at, x, x0 = past[0]
        h = to.lam - at.lam
        ahead = x0 if len(past) == 1 else x0 + (x0 - past[1].x0) * (h / (2 * (at.lam - past[1].at.lam)))
        x = _kept(at, to, self.eta) * x - to.alpha * math.expm1(-(1 + self.eta) * h) * ahead
        return _noised(x, at, to, self.eta, stream)


class DPMSolver3M(MultistepSampler):
    """DPM-Solver++ (3M) for the reverse SDE, 3M SDE; with eta = 0, that for the ODE.

    As `DPMSolver2M`, with D a parabola in lambda: with the moments m_k = (1 + eta) ∫_0^h e^(-(1 + eta)(h - s)) s^k ds,
    the step adds alpha_u (m_0 x0_hat + m_1 D' + m_2 D''/2), the derivatives from the last three x0_hat. One evaluation
    a step. The published programs (k-diffusion's `sample_dpmpp_3m_sde`, diffusers' third order) have half of the last
    term: `halved` is their method, which is of second order; without, it is third. With noise the weak order is two.
    """

    eta: NonNegative = 0.0
    halved: bool = True

    reach: ClassVar[int] = 3

    @property
    def order(self) -> int:
        return 2 if self.eta or self.halved else 3

    @property
    def needs_score(self) -> bool:
        return self.eta > 0

    def step(self, schedule: Schedule, past: Sequence[Point], to: Level, stream: Stream) -> Tensor:
        at, x, x0 = past[0]
        m0, m1, m2 = _moments(to.lam - at.lam, 1 + self.eta)
        slopes = [(b.x0 - a.x0) / (b.at.lam - a.at.lam) for b, a in pairwise(past)]
        ahead = m0 * x0
        if len(slopes) == 1:
            ahead = ahead + m1 * slopes[0]
        elif slopes:
            bend = (slopes[0] - slopes[1]) / (at.lam - past[2].at.lam)  # D''/2
            ahead = ahead + m1 * (slopes[0] + (at.lam - past[1].at.lam) * bend) + m2 * bend / (2 if self.halved else 1)
        return _noised(_kept(at, to, self.eta) * x + to.alpha * ahead, at, to, self.eta, stream)


class UniPC(MultistepSampler):
    """UniPC with B(h) = e^h - 1, "bh2" (Zhao et al. 2023, algorithms 5-8), a predictor with the corrector UniC.

    The predictor puts a polynomial through the last `points` x0_hat; once the new state is denoised, for the step after
    it, the corrector goes the same way again with one more point. A line through two points is taken at the middle of
    the step, as published; with three or more, B(h) drops out. One evaluation a step; order `points` + 1, without the
    corrector `points`.
    """

    points: Literal[1, 2, 3] = 2
    corrector: bool = True

    @property
    def order(self) -> int:
        return self.points + self.corrector

    def step(self, schedule: Schedule, past: Sequence[Point], to: Level, stream: Stream) -> Tensor:
        return _through([*islice(past, self.points)], to)

    def correct(self, past: Sequence[Point], new: Point) -> Tensor:
        return _through([*islice(past, self.points), new], new.at) if self.corrector else new.x


class DEIS(MultistepSampler):
    """Exponential Adams-Bashforth, tAB-DEIS (Zhang & Chen 2023, equations 14-15).

        x_u/alpha_u = x_t/alpha_t + ∫ eps_hat d(sigma/alpha)

    with eps_hat a polynomial through the last `points` ones, in t, in the noise ratio "rho" = sigma/alpha, or in
    "logrho", as diffusers has it. The integral is by Gauss-Legendre quadrature. One evaluation a step; order `points`.
    """

    points: Literal[1, 2, 3] = 3
    variable: Literal["t", "rho", "logrho"] = "t"

    @property
    def order(self) -> int:
        return self.points

    def step(self, schedule: Schedule, past: Sequence[Point], to: Level, stream: Stream) -> Tensor:
        used, at = [*islice(past, self.points)], past[0].at
        s, w = _gauss(to.lam - at.lam)
        lam = at.lam + s
        t = schedule.time(torch.from_numpy(2 * lam)).numpy() if self.variable == "t" else lam
        places = [self._place(float(p.at.t), p.at.lam) for p in used]
        c = _lagrange(places, self._place(t, lam)) @ (-w * np.exp(-lam))  # d(sigma/alpha) = -e^-lambda dlambda
        eps = ((p.x - p.at.alpha * p.x0) / p.at.sigma for p in used)
        return to.alpha / at.alpha * past[0].x + sum(float(c_j) * to.alpha * e for c_j, e in zip(c, eps, strict=True))

    def _place(self, t: Any, lam: Any) -> Any:
        return {"t": t, "rho": np.exp(-lam), "logrho": -lam}[self.variable]


# What the methods share


def _kept(at: Level, to: Level, eta: float) -> float:
    """The factor of x_t that the linear part of the ODE, or of the SDE, leaves."""
    return to.sigma / at.sigma * math.exp(-eta * (to.lam - at.lam))


def _noised(x: Tensor, at: Level, to: Level, eta: float, stream: Stream) -> Tensor:
    """x with the noise that the reverse SDE adds on its way."""
    if not eta:
        return x
    return x + to.sigma * math.sqrt(-math.expm1(-2 * eta * (to.lam - at.lam))) * stream.normal(x.shape).to(x)


def _moments(h: float, rate: float) -> tuple[float, float, float]:
    """rate ∫_0^h e^(-rate (h - s)) s^k ds for k = 0, 1, 2."""
    m0 = -math.expm1(-rate * h)
    m1 = h - m0 / rate
    return m0, m1, h**2 - 2 * m1 / rate


def _through(points: Sequence[Point], to: Level) -> Tensor:
    """(n, dim): the state at `to` from the first of the points, x0_hat being the polynomial through all of them."""
    at, x, _ = points[0]
    h = to.lam - at.lam
    places = [p.at.lam - at.lam for p in points]
    if len(points) == 2:
        w = -math.expm1(-h) * _lagrange(places, np.array([h / 2]))[:, 0]
    else:
        s, w = _gauss(h)
        w = _lagrange(places, s) @ (w * np.exp(s - h))
    return to.sigma / at.sigma * x + sum(float(c) * to.alpha * p.x0 for c, p in zip(w, points, strict=True))


def _gauss(h: float) -> tuple[np.ndarray, np.ndarray]:
    """Places and weights of Gauss-Legendre quadrature on [0, h]."""
    s, w = _nodes()
    return h * (s + 1) / 2, h * w / 2


@cache
def _nodes() -> tuple[np.ndarray, np.ndarray]:
    return np.polynomial.legendre.leggauss(16)


def _lagrange(places: Sequence[float], s: np.ndarray) -> np.ndarray:
    """(places, len(s)): the polynomials that are one at a place and zero at the others, at s."""
    rows = []
    for j, p in enumerate(places):
        others = [q for i, q in enumerate(places) if i != j]
        rows.append(math.prod([(s - q) / (p - q) for q in others], start=np.ones_like(s)))
    return np.stack(rows)
