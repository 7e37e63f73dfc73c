"""Schedules: alpha, sigma > 0 and falling SNR on [0, 1]; time(logsnr(t)) = t; derivatives = finite differences."""

from __future__ import annotations

from collections.abc import Callable

import torch

from moonbed.diffusion import Schedule
from moonbed.laws.base import close, hold, numbers, times
from moonbed.rng import Rng


def schedule_is_positive(schedule: Schedule) -> None:
    """alpha and sigma are positive, finite and float64 on [0, 1]."""
    t = times(2001)
    for name, f in (("alpha", schedule.alpha), ("sigma", schedule.sigma)):
        value = numbers(f(t), (len(t),), name)
        k = int(value.argmin())
        hold(value[k] > 0, f"{name} is {value[k]:.3g} at t = {t[k]:.4g}, not positive")
        close(f(t[7]), value[7], f"{name} at one time")


def schedule_falls(schedule: Schedule) -> None:
    """The signal-to-noise ratio falls strictly in t."""
    t = times(2001)
    logsnr = numbers(schedule.logsnr(t), (len(t),), "logsnr")
    rise = logsnr.diff()
    k = int(rise.argmax())
    hold(rise[k] < 0, f"logsnr rises by {rise[k]:.3g} between t = {t[k]:.4g} and {t[k + 1]:.4g}")
    close(logsnr, 2 * torch.log(schedule.alpha(t) / schedule.sigma(t)), "logsnr = log(alpha²/sigma²)", 1e-7, 1e-7)


def schedule_inverts(schedule: Schedule) -> None:
    """`time` is the inverse of `logsnr`, and gives the nearer end beyond it."""
    t = times(301)
    close(schedule.time(schedule.logsnr(t)), t, "time(logsnr(t)) = t", 0, 1e-9)
    beyond = schedule.logsnr(times(2)) + torch.tensor([5.0, -5.0], dtype=torch.float64)
    close(schedule.time(beyond), times(2), "times out of range are the ends", 0, 1e-9)


def schedule_derives(schedule: Schedule, h: float = 1e-7) -> None:
    """`derivatives` are those of alpha and sigma.

    At random times: where a schedule is piecewise, few of them lie within h of a corner.
    """
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
