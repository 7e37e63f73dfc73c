"""Predictions: the right F gives back x_0; eps, score and velocity follow from it; F and x_0 determine each other."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from moonbed.diffusion import Learned, Prediction, Schedule
from moonbed.laws.base import close, hold, times
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
    """c_in x_t has unit variance for data of unit variance, c_noise is finite and tells times apart."""
    case = Case(schedule)
    data_sd = getattr(prediction, "sigma_data", 1.0)
    sd = prediction.c_in(schedule, case.t) * torch.sqrt((case.a * data_sd) ** 2 + case.s**2).squeeze(1)
    close(sd, torch.ones_like(sd), "standard deviation of the network's input")
    steps = prediction.c_noise(schedule, case.t).diff()
    hold((steps > 0).all() or (steps < 0).all(), "c_noise is not strictly monotone in t")
    oracle = Oracle(case.x0)
    Learned(oracle, prediction, schedule)(case.x_t, case.t)
    x, c_noise = oracle.asked
    close(x, prediction.c_in(schedule, case.t)[:, None] * case.x_t, "what the network is given", 1e-9, 1e-9)
    close(c_noise, prediction.c_noise(schedule, case.t), "the noise level that the network is told")


PREDICTION_LAWS: list[Callable[[Prediction, Schedule], None]] = [
    prediction_is_textbook,
    prediction_identities,
    prediction_scales_input,
]
