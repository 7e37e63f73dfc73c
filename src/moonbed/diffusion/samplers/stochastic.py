"""Samplers that go by the reverse SDE, or put noise in on the way.

    dx = (f x - g² score) dt + g dw,   f = alpha'/alpha,   g² = -2 sigma² lambda',   lambda = log(alpha/sigma)

backwards in time has the law of x_t at every t (Anderson 1982; Song et al. 2021, equation 6). Langevin steps at one
time keep that law too, and so does noise that is added and solved away again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from moonbed._lazy import lazy_import
from moonbed.component import Fraction, NonNegative, Positive, PositiveFloat
from moonbed.diffusion.denoisers import Denoiser
from moonbed.diffusion.samplers.ancestral import DDIM
from moonbed.diffusion.samplers.base import SteppingSampler
from moonbed.rng import Stream

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = lazy_import("torch")


class EulerMaruyama(SteppingSampler):
    """The reverse SDE by Euler's method in t, x + (u - t)(f x - g² score) + g sqrt(t - u) z: weak order one."""

    @property
    def order(self) -> int:
        return 1

    @property
    def needs_score(self) -> bool:
        return True

    def step(self, denoiser: Denoiser, x: Tensor, t: Tensor, u: Tensor, stream: Stream) -> Tensor:
        a, s = denoiser.schedule.alpha(t), denoiser.schedule.sigma(t)
        da, ds = denoiser.schedule.derivatives(t)
        f, g2 = da / a, 2 * s**2 * (ds / s - da / a)
        drift = denoiser.combine(x, t, f + g2 / s**2, -g2 * a / s**2)
        return x + float(u - t) * drift + float(torch.sqrt(g2 * (t - u))) * stream.normal(x.shape).to(x)


class Churn(SteppingSampler):
    """The stochastic sampler of EDM (Karras et al. 2022, algorithm 2), in y = x/alpha and the ratio s = sigma/alpha.

    Where s is from `s_min` to `s_max`, noise is added up to the ratio (1 + gamma) s, `s_noise` times as wide as it
    should be, with gamma = min(s_churn/steps, sqrt(2) - 1); then dy/ds = (y - x0_hat)/s by a step of Heun's method.
    There is no noise beyond the schedule's. Two evaluations a step; second order, weak with noise, as what is added is
    exact. s_churn = 0 is the deterministic sampler of the paper (algorithm 1), and diffusers' Heun.
    """

    s_churn: NonNegative = 10.0
    s_min: NonNegative = 0.05
    s_max: PositiveFloat = 50.0
    s_noise: PositiveFloat = 1.0

    def check(self) -> Iterator[tuple[str, str]]:
        if self.s_max <= self.s_min:
            yield "s_max", f"should be above s_min ({self.s_min:g}), given {self.s_max:g}"

    @property
    def order(self) -> int | None:
        return 2 if self.s_noise == 1 else None

    @property
    def needs_score(self) -> bool:
        return self.s_churn > 0

    def step(self, denoiser: Denoiser, x: Tensor, t: Tensor, u: Tensor, stream: Stream) -> Tensor:
        if self.s_churn:
            x, t = self._churned(denoiser, x, t, stream)
        a, s, b, r = (float(f(v)) for v in (t, u) for f in (denoiser.schedule.alpha, denoiser.schedule.sigma))
        slope = denoiser.eps(x, t)
        ahead = denoiser.eps(b / a * x + (r - b * s / a) * slope, u)
        return b / a * x + (r - b * s / a) / 2 * (slope + ahead)

    def _churned(self, denoiser: Denoiser, x: Tensor, t: Tensor, stream: Stream) -> tuple[Tensor, Tensor]:
        """The state with more noise, and its time."""
        schedule = denoiser.schedule
        a, ratio = schedule.alpha(t), torch.exp(-schedule.logsnr(t) / 2)
        gamma = min(self.s_churn / self.steps, math.sqrt(2) - 1) if self.s_min <= ratio <= self.s_max else 0.0
        later = schedule.time(-2 * torch.log((1 + gamma) * ratio)) if gamma else t
        b, more = schedule.alpha(later), torch.exp(-schedule.logsnr(later) / 2)
        std = self.s_noise * float(b * torch.sqrt((more**2 - ratio**2).clamp(min=0)))
        return float(b / a) * x + std * stream.normal(x.shape).to(x), later


class PredictorCorrector(SteppingSampler):
    """A step of `DDIM`, then Langevin steps at the time reached (Song et al. 2021, algorithms 2-5).

        x <- x + e score + sqrt(2 e) z,   e = 2 (snr |z| / |score|)²

    with the norms averaged over the batch, as in the authors' program, so that the rows depend on one another a little;
    its factor alpha_i, 1 - beta of one timestep, is left out. `corrections` evaluations more a step. Each correction
    has an error in e that does not fall with the steps: no order is claimed.
    """

    eta: Fraction = 1.0
    corrections: Positive = 1
    snr: PositiveFloat = 0.16

    @property
    def needs_score(self) -> bool:
        return True

    def step(self, denoiser: Denoiser, x: Tensor, t: Tensor, u: Tensor, stream: Stream) -> Tensor:
        x = DDIM(eta=self.eta).step(denoiser, x, t, u, stream)
        for _ in range(self.corrections):
            score, z = denoiser.score(x, u), stream.normal(x.shape).to(x)
            e = 2 * (self.snr * float(z.norm(dim=1).mean() / score.norm(dim=1).mean())) ** 2
            x = x + e * score + math.sqrt(2 * e) * z
        return x
