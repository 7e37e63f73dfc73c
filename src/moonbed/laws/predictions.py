"""Predictions: the right F gives back x_0; eps, score and velocity follow from it; F and x_0 determine each other."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from moonbed.diffusion import Learned, Prediction, Schedule
from moonbed.laws.base import close, hold, numbers, times
from moonbed.rng import Rng


class Oracle(torch.nn.Module):
    """A network that returns what it was given, and keeps what it was asked."""

    def __init__(self, answer: Tensor) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, x: Tensor, c_noise: Tensor) -> Tensor:
        self.asked = (x, c_noise)
        return self.answer


class Case:
    """Known x_0 and eps under a schedule, one row a time t, in float64."""

    def __init__(self, schedule: Schedule, n: int = 200) -> None:
        stream = Rng(0).stream("case")
        self.schedule = schedule
        self.t = times(n)
        self.x0 = stream.normal((n, 2), torch.float64)
        self.eps = stream.normal((n, 2), torch.float64)
        self.a, self.s = schedule.alpha(self.t)[:, None], schedule.sigma(self.t)[:, None]
        self.da, self.ds = (d[:, None] for d in schedule.derivatives(self.t))
        self.x_t = self.a * self.x0 + self.s * self.eps

    @property
    def textbook(self) -> dict[str, Tensor]:
        """Name of a prediction -> the value of F that it is defined by. EDM has none of its own: see `edm_is_unit`."""
        return {
            "X0": self.x0,
            "Epsilon": self.eps,
            "V": self.a * self.eps - self.s * self.x0,
            "Velocity": self.da * self.x0 + self.ds * self.eps,
            "Score": -self.eps / self.s,
        }

    def raw(self, prediction: Prediction) -> Tensor:
        """The F that gives x_0 by the definition x0_hat = c_skip x_t + c_out F."""
        c_skip, c_out = (c[:, None] for c in prediction.scalings(self.schedule, self.t))
        return (self.x0 - c_skip * self.x_t) / c_out

    def denoiser(self, prediction: Prediction, raw: Tensor) -> Learned:
        return Learned(Oracle(raw), prediction, self.schedule)


def prediction_is_textbook(prediction: Prediction, schedule: Schedule) -> None:
    """F is what the literature calls by that name."""
    case = Case(schedule)
    raw = case.textbook.get(type(prediction).__name__)
    if raw is not None:
        close(case.denoiser(prediction, raw)(case.x_t, case.t), case.x0, "x0_hat from the textbook F", 1e-7, 1e-7)
        close(case.raw(prediction), raw, "F from x_0 is the textbook F", 1e-5, 1e-5)


def prediction_identities(prediction: Prediction, schedule: Schedule) -> None:
    """x_0, eps, score and velocity follow from the right F."""
    case = Case(schedule)
    denoiser = case.denoiser(prediction, case.raw(prediction))
    close(denoiser(case.x_t, case.t), case.x0, "round trip x_0 -> F -> x0_hat", 1e-7, 1e-7)
    close(denoiser.eps(case.x_t, case.t), case.eps, "eps", 1e-6, 1e-6)
    close(denoiser.score(case.x_t, case.t) * case.s, -case.eps, "score = -eps/sigma", 1e-6, 1e-6)
    velocity = case.da * case.x0 + case.ds * case.eps
    close(denoiser.velocity(case.x_t, case.t), velocity, "velocity = alpha' x_0 + sigma' eps", 1e-5, 1e-5)


def prediction_scales_input(prediction: Prediction, schedule: Schedule) -> None:
    """The network's input has unit variance for data of unit variance, and c_noise tells times apart."""
    case = Case(schedule)
    data_sd = getattr(prediction, "sigma_data", 1.0)
    sd = prediction.c_in(schedule, case.t) * torch.sqrt((case.a * data_sd) ** 2 + case.s**2).squeeze(1)
    close(sd, torch.ones_like(sd), "standard deviation of the network's input")
    steps = prediction.c_noise(schedule, case.t).diff()
    up, down = int((steps > 0).sum()), int((steps < 0).sum())
    hold(len(steps) in (up, down), f"c_noise is not strictly monotone in t: it rises {up} times and falls {down} times")
    oracle = Oracle(case.x0)
    Learned(oracle, prediction, schedule)(case.x_t, case.t)
    x, c_noise = oracle.asked
    close(x, prediction.c_in(schedule, case.t)[:, None] * case.x_t, "what the network is given", 1e-9, 1e-9)
    close(c_noise, prediction.c_noise(schedule, case.t), "the noise level that the network is told")


def prediction_is_finite(prediction: Prediction, schedule: Schedule) -> None:
    """c_skip, c_out, c_in and c_noise are finite float64 of the shape of t; c_out is never 0, c_in positive."""
    t = times()
    c_skip, c_out = prediction.scalings(schedule, t)
    c_in, c_noise = prediction.c_in(schedule, t), prediction.c_noise(schedule, t)
    for name, value in (("c_skip", c_skip), ("c_out", c_out), ("c_in", c_in), ("c_noise", c_noise)):
        numbers(value, (len(t),), name)
    for name, size in (("|c_out|", c_out.abs()), ("c_in", c_in)):
        k = int(size.argmin())
        hold(size[k] > 0, f"{name} is {size[k]:.3g} at t = {t[k]:.3g}")


STEEPEST = 30.0
"""Slope of F in its input: ours have at most 2 under `Cosine` and `Linear`."""


def prediction_is_learnable(prediction: Prediction, schedule: Schedule) -> None:
    """The F that is right for normal data has a moderate slope, and unit variance where sigma_data is declared.

    Any c_skip, with c_out other than 0, is *a* parameterisation: what a wrong one costs is the size of the function
    that the network has to learn. For x_0 ~ N(0, d²) the mean of x_0 is a d²/(a² d² + s²) x_t, which gives the slope.
    """
    t, d = times(), float(getattr(prediction, "sigma_data", 1.0))
    a, s = schedule.alpha(t), schedule.sigma(t)
    c_skip, c_out = prediction.scalings(schedule, t)
    slope = ((a * d**2 / ((a * d) ** 2 + s**2) - c_skip) / (c_out * prediction.c_in(schedule, t))).abs()
    k = int(slope.argmax())
    hold(slope[k] < STEEPEST, f"slope {slope[k]:.3g} at t = {t[k]:.3g}, more than {STEEPEST:g}: is c_skip right?")
    if hasattr(prediction, "sigma_data"):
        variance = (((1 - c_skip * a) * d) ** 2 + (c_skip * s) ** 2) / c_out**2
        close(variance, torch.ones_like(t), "variance of F for data of standard deviation sigma_data", 1e-6, 1e-6)


PREDICTION_LAWS: list[Callable[[Prediction, Schedule], None]] = [
    prediction_is_finite,
    prediction_is_textbook,
    prediction_identities,
    prediction_scales_input,
]
