"""The probability-flow ODE dx/dt = alpha' x0_hat + sigma' eps_hat (Song et al. 2021) by Runge-Kutta methods.

Its solution has the law of x_t at every t. The methods are those of the textbooks (Hairer, Nørsett & Wanner 1993,
chapter II), with steps in t, or in the log signal-to-noise ratio where the steps choose themselves.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, ClassVar

from moonbed._lazy import lazy_import
from moonbed.component import Positive, PositiveFloat, SpecError
from moonbed.diffusion.denoisers import Denoiser
from moonbed.diffusion.samplers.base import Sampler, SteppingSampler
from moonbed.rng import Stream

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = lazy_import("torch")


class Euler(SteppingSampler):
    """The probability-flow ODE dx/dt = velocity by Euler's method: first order."""

    @property
    def order(self) -> int:
        return 1

    def step(self, denoiser: Denoiser, x: Tensor, t: Tensor, u: Tensor, stream: Stream) -> Tensor:
        return x + float(u - t) * denoiser.velocity(x, t)


class Heun(SteppingSampler):
    """The probability-flow ODE by Heun's method: second order, two evaluations a step."""

    @property
    def order(self) -> int:
        return 2

    def step(self, denoiser: Denoiser, x: Tensor, t: Tensor, u: Tensor, stream: Stream) -> Tensor:
        slope = denoiser.velocity(x, t)
        ahead = denoiser.velocity(x + float(u - t) * slope, u)
        return x + float(u - t) / 2 * (slope + ahead)


class Midpoint(SteppingSampler):
    """The probability-flow ODE by the midpoint method: second order, two evaluations a step."""

    @property
    def order(self) -> int:
        return 2

    def step(self, denoiser: Denoiser, x: Tensor, t: Tensor, u: Tensor, stream: Stream) -> Tensor:
        middle = x + float(u - t) / 2 * denoiser.velocity(x, t)
        return x + float(u - t) * denoiser.velocity(middle, (t + u) / 2)


class RK4(SteppingSampler):
    """The probability-flow ODE by Kutta's classical method of 1901: fourth order, four evaluations a step."""

    @property
    def order(self) -> int:
        return 4

    def step(self, denoiser: Denoiser, x: Tensor, t: Tensor, u: Tensor, stream: Stream) -> Tensor:
        h, middle = float(u - t), (t + u) / 2
        first = denoiser.velocity(x, t)
        second = denoiser.velocity(x + h / 2 * first, middle)
        third = denoiser.velocity(x + h / 2 * second, middle)
        fourth = denoiser.velocity(x + h * third, u)
        return x + h / 6 * (first + 2 * second + 2 * third + fourth)


NODES = (1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
STAGES = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
ERROR = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)
"""The pair of Dormand & Prince: the last stage is the solution of fifth order, ERROR what differs from the fourth."""


class RK45(Sampler):
    """The probability-flow ODE in lambda = log(alpha/sigma) by Dormand & Prince 1980, with steps of its own choice.

    A step is kept where the root mean square of its error over the whole batch is below `atol + rtol` times that of the
    state; the next one is 0.9 error^(-1/5) times as long, within a fifth and five, and never longer than one, beyond
    which the error is not seen: what the data are is decided within a few. From the most to the least noise of the
    schedule; six evaluations a step, kept or not. Raises `SpecError` where `steps` of them do not reach the end.
    """

    steps: Positive = 1000
    rtol: PositiveFloat = 1e-5
    atol: PositiveFloat = 1e-5

    adaptive: ClassVar[bool] = True

    def trajectory(self, denoiser: Denoiser, noise: Tensor, stream: Stream) -> Iterator[Tensor]:
        ends = torch.tensor([1.0, 0.0], dtype=torch.float64)
        start, end = (denoiser.schedule.logsnr(ends) / 2).tolist()
        x = noise * float(denoiser.schedule.sigma(ends[0]))
        at, h, slope = start, (end - start) / 20, _slope(denoiser, x, ends[0])
        for _ in range(self.steps):
            h = min(h, end - at)
            new, slopes = _dormand_prince(denoiser, x, at, h, slope)
            size = self.atol + self.rtol * max(_rms(x), _rms(new))
            error = h * _rms(_sum(ERROR, slopes)) / size
            if error <= 1:
                x, at, slope = new, at + h, slopes[-1]
                yield x
            if end - at <= 1e-12 * (end - start):
                yield denoiser(x, ends[1])
                return
            h = min(1.0, h * min(5.0, max(0.2, 0.9 * max(error, 1e-10) ** -0.2)))
        message = (
            f"RK45 took all its {self.steps} steps and came to log(alpha/sigma) = {at:.3g} of {end:.3g}: it needs more "
            f"of them, or a coarser rtol ({self.rtol:g}) or atol ({self.atol:g})"
        )
        raise SpecError([("sampler.steps", message)])


def _dormand_prince(denoiser: Denoiser, x: Tensor, at: float, h: float, slope: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The state (n, dim) after a step h of lambda, and its seven slopes; the first one is given."""
    times = denoiser.schedule.time(2 * (at + h * torch.tensor(NODES, dtype=torch.float64)))
    new, slopes = x, [slope]
    for t, weights in zip(times, STAGES, strict=True):
        new = x + h * _sum(weights, slopes)
        slopes.append(_slope(denoiser, new, t))
    return new, slopes


def _slope(denoiser: Denoiser, x: Tensor, t: Tensor) -> Tensor:
    """(n, dim): dx/dlambda."""
    a, s = denoiser.schedule.alpha(t), denoiser.schedule.sigma(t)
    da, ds = denoiser.schedule.derivatives(t)
    rate = da / a - ds / s
    return denoiser.combine(x, t, ds / s / rate, (da - ds * a / s) / rate)


def _sum(weights: Sequence[float], slopes: Sequence[Tensor]) -> Tensor:
    return sum((w * k for w, k in zip(weights[1:], slopes[1:], strict=True)), weights[0] * slopes[0])


def _rms(x: Tensor) -> float:
    return float(x.square().mean().sqrt())
