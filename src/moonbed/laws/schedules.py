"""Schedules: alpha, sigma > 0 and falling SNR on [0, 1]; time(logsnr(t)) = t; derivatives = finite differences."""

from __future__ import annotations

from collections.abc import Callable

import torch

from moonbed.diffusion import Schedule
from moonbed.laws.base import close, hold, times
from moonbed.rng import Rng


def schedule_is_positive(schedule: Schedule) -> None:
    """alpha and sigma are positive, finite and float64 on [0, 1]."""
    t = times(2001)
    for name, value in (("alpha", schedule.alpha(t)), ("sigma", schedule.sigma(t))):
        hold(value.dtype == torch.float64 and value.shape == t.shape, f"{name} is {value.dtype} {tuple(value.shape)}")
        hold((value > 0).all() and value.isfinite().all(), f"{name} is not positive and finite on [0, 1]")
    close(schedule.alpha(t[7]), schedule.alpha(t)[7], "alpha at one time")


def schedule_falls(schedule: Schedule) -> None:
    """The signal-to-noise ratio falls strictly."""
    t = times(2001)
    logsnr = schedule.logsnr(t)
    hold((logsnr.diff() < 0).all(), "logsnr does not fall strictly")
    close(logsnr, 2 * torch.log(schedule.alpha(t) / schedule.sigma(t)), "logsnr = log(alpha²/sigma²)", 1e-7, 1e-7)


def schedule_inverts(schedule: Schedule) -> None:
    """`time` is the inverse of `logsnr`, and the nearer end beyond it."""
    t = times(301)
    close(schedule.time(schedule.logsnr(t)), t, "time(logsnr(t)) = t", 0, 1e-9)
    beyond = schedule.logsnr(times(2)) + torch.tensor([5.0, -5.0], dtype=torch.float64)
    close(schedule.time(beyond), times(2), "times out of range are the ends", 0, 1e-9)


def schedule_derives(schedule: Schedule, h: float = 1e-7) -> None:
    """At random times: where a schedule is piecewise, few of them lie within h of a corner."""
    t = h + (1 - 2 * h) * Rng(1).stream("times").uniform((500,), torch.float64)
    for name, f, d in zip(("alpha", "sigma"), (schedule.alpha, schedule.sigma), schedule.derivatives(t), strict=True):
        close(d, (f(t + h) - f(t - h)) / (2 * h), f"derivative of {name}", 1e-4, 1e-4)
    with torch.inference_mode():
        close(schedule.derivatives(t)[0], schedule.derivatives(t.clone())[0], "derivatives in inference mode")


SCHEDULE_LAWS: list[Callable[[Schedule], None]] = [
    schedule_is_positive,
    schedule_falls,
    schedule_inverts,
    schedule_derives,
]
