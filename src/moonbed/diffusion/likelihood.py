"""The density of a model: its probability-flow ODE, followed from the data to the noise.

In the coordinates y = x_t/alpha with the noise ratio s = sigma/alpha, a denoiser D(y, s) = y - s eps(y, s) moves points
along a flow, which takes a density q with it (Chen et al., Neural Ordinary Differential Equations, 2018; Song et al.,
Score-Based Generative Modeling through Stochastic Differential Equations, 2021):

    dy/dlog s = y - D(y, s)        dlog q/dlog s = -(dim - tr dD/dy)        q = N(0, s² I) at t = 1

where samplers start. At t = 0, the least noise of the schedule, q is the law of a deterministic sampler of many steps,
before its last denoising; the truth there is the target with that much noise. The trace is exact, one vector-Jacobian
product a dimension: dim is small, and Hutchinson's estimate would add variance. So q has mass one for any network.

*Coordinates.* y grows as s where there is much noise. The solver follows u = y/r with r² = 1 + s² and w = s/r instead,
which is about constant at both ends, however far they are:

    du/dlog s = w (eps - w u)      log q(y) = log N(u(1); 0, w² I) - dim log r(0) + integral of div(du/dlog s)

*Solver.* Adams and Bashforth's of order 4, in even steps of log s, started by three steps of Runge and Kutta's. It asks
the denoiser once a step. A network that is told the time by sinusoids wavers along it, with periods of a few timesteps
of a thousand; for the same number of evaluations this solver looks at twice as many noise levels as Runge-Kutta's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from moonbed._lazy import lazy_import
from moonbed.diffusion.denoisers import Denoiser
from moonbed.diffusion.schedules import Schedule

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = lazy_import("torch")

__all__ = ["STEPS", "Flow"]

STEPS = 512
"""Steps of a likelihood, in twice as many of which the following changes by (root mean square, and in the mean):

the exact two moons by 1e-5 nats and 1e-6; trained networks with sinusoids of 1,000 timesteps by 2e-3 and 4e-4.
"""
_ADAMS = (55 / 24, -59 / 24, 37 / 24, -9 / 24)  # of the newest slope first
_BLOCK = 4096  # rows at once
_SLACK = 1e-9  # a noise ratio may miss the range by rounding


class Flow:
    """A denoiser's probability flow: its density, and the denoiser itself in the coordinates y = x_0 + s eps.

    `sigma_min` and `sigma_max` are the noise ratios sigma/alpha of the schedule at t = 0 and t = 1. Rows are points
    (n, dim); results are float64 and carry no gradient. Coefficients are float64 throughout. The network of a `Learned`
    is asked as it is, in its own type and on its own device, and in the mode it is in: `eval()` is the caller's part.
    Any other denoiser is given float64, and must let gradients through to its points.
    """

    def __init__(self, denoiser: Denoiser) -> None:
        self._denoiser = denoiser
        with torch.inference_mode(False):  # what a schedule keeps must serve gradients too
            ends = denoiser.schedule.logsnr(torch.tensor([0.0, 1.0], dtype=torch.float64))
        self.sigma_min, self.sigma_max = (math.exp(-end / 2) for end in ends.tolist())

    @property
    def schedule(self) -> Schedule:
        """The schedule of the denoiser."""
        return self._denoiser.schedule

    def denoise(self, y: Tensor, sigma: float) -> Tensor:
        """(n, dim): the model's E[x_0 | x_0 + sigma eps = y].

        Raises ValueError for a noise ratio outside of [sigma_min, sigma_max].
        """
        if not self.sigma_min * (1 - _SLACK) <= sigma <= self.sigma_max * (1 + _SLACK):
            raise ValueError(f"the noise ratio lies in [{self.sigma_min:g}, {self.sigma_max:g}], given {sigma:g}")
        t = self.schedule.time(torch.tensor(-2 * math.log(sigma), dtype=torch.float64))
        with torch.inference_mode(False), torch.no_grad():
            rows = y.to(torch.float64).split(_BLOCK)
            return torch.cat([self._denoiser(self.schedule.alpha(t) * part, t) for part in rows])

    def log_prob(self, y: Tensor, steps: int = STEPS, sigma: float | None = None) -> Tensor:
        """(n,): log density at a noise ratio, sigma_min unless said, in nats. NaN for points that are not finite.

        It costs `steps` + 9 evaluations, each with `dim` vector-Jacobian products. Half-way between modes, where the
        flow is stiff, densities below about exp(-15) come out too high, by some nats. Raises ValueError for no steps.
        """
        if steps < 1:
            raise ValueError(f"a likelihood takes at least 1 step, given {steps}")
        ends = math.log(self.sigma_min if sigma is None else sigma), math.log(self.sigma_max)
        with torch.inference_mode(False), torch.no_grad():
            log_s = torch.linspace(*ends, 2 * steps + 1, dtype=torch.float64)  # ends and middles of the steps
            t = self.schedule.time(-2 * log_s)
            rows = y.detach().to(torch.float64).clone().split(_BLOCK)
            return torch.cat([self._log_prob(part, log_s, t) for part in rows])

    def _log_prob(self, y: Tensor, log_s: Tensor, t: Tensor) -> Tensor:
        s, dim, h = torch.exp(log_s), y.shape[1], float(log_s[2] - log_s[0])
        r = torch.sqrt(1 + s**2)

        def slope(k: int, state: Tensor) -> Tensor:
            return self._slope(state, s[k], t[k])

        state = torch.cat([y / r[0], y.new_zeros(len(y), 1)], dim=1)  # u, and the integral of its divergence
        slopes: list[Tensor] = []
        for k in range(0, len(t) - 1, 2):
            slopes = [slope(k, state), *slopes[: len(_ADAMS) - 1]]
            if len(slopes) < len(_ADAMS):
                state = _runge_kutta(slope, k, state, slopes[0], h)
            else:
                state = state + h * sum(c * past for c, past in zip(_ADAMS, slopes, strict=True))
        u, integral = state[:, :-1], state[:, -1]
        w = s[-1] / r[-1]
        log_prior = -(u**2).sum(1) / (2 * w**2) - dim / 2 * torch.log(2 * math.pi * w**2)
        return log_prior - dim * torch.log(r[0]) + integral

    def _slope(self, state: Tensor, s: Tensor, t: Tensor) -> Tensor:
        """(n, dim + 1): du/dlog s and its divergence, where u are the first columns of the state."""
        r = torch.sqrt(1 + s**2)
        w = s / r
        with torch.enable_grad():
            u = state[:, :-1].clone().requires_grad_()
            f = w * (self._denoiser.eps(self.schedule.alpha(t) * r * u, t) - w * u)
            columns = f.sum(0).unbind()
            parts = [torch.autograd.grad(c, u, retain_graph=True)[0][:, j] for j, c in enumerate(columns)]
        return torch.cat([f.detach(), torch.stack(parts).sum(0)[:, None]], dim=1)


def _runge_kutta(f: Callable[[int, Tensor], Tensor], k: int, x: Tensor, first: Tensor, h: float) -> Tensor:
    """The state at node k + 2 from the state x at node k, a step h away, with its slope there."""
    second = f(k + 1, x + h / 2 * first)
    third = f(k + 1, x + h / 2 * second)
    return x + h / 6 * (first + 2 * second + 2 * third + f(k + 2, x + h * third))
