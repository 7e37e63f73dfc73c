"""What a training is made of: times and weights of the loss, steps, their length, and averages of the weights.

Optimisers, learning rates and averages are known here by what they do alone; where they live is above this layer.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from moonbed.diffusion import Prediction, Schedule, Times, Weight
from moonbed.diffusion.predictions import X0, Epsilon, Velocity
from moonbed.diffusion.schedules import VE, Cosine, Linear
from moonbed.laws.base import Law, hold, numbers
from moonbed.laws.base import times as even
from moonbed.rng import Rng

SCHEDULES: tuple[Schedule, ...] = (Cosine(), Linear(), VE(sigma_max=20.0))
PREDICTIONS: tuple[Prediction, ...] = (X0(), Epsilon(), Velocity())


def _asked(weight: Weight, schedule: Schedule, prediction: Prediction, t: Tensor) -> Any:
    return weight(schedule, t, prediction.scalings(schedule, t)[1])


def weight_is_positive(weight: Weight) -> None:
    """A positive, finite number, or one for each time, float64 (n,)."""
    t = even(301)
    for schedule in SCHEDULES:
        for prediction in PREDICTIONS:
            what = f"weight under {schedule}, {prediction}"
            value = _asked(weight, schedule, prediction, t)
            if isinstance(value, int | float):
                value = torch.full_like(t, value)
            value = numbers(value, (len(t),), what)
            k = int(value.argmin())
            hold(value[k] > 0, f"{what}: {value[k]:.3g} at t = {t[k]:.3g}, not positive")


def weight_is_of_its_time(weight: Weight) -> None:
    """The weight of a time depends on no other time, and is the same whenever it is asked."""
    t = even(11)
    for schedule in SCHEDULES:
        value = torch.as_tensor(_asked(weight, schedule, PREDICTIONS[1], t)).expand(11)
        parts = [_asked(weight, schedule, PREDICTIONS[1], t[k : k + 1]) for k in range(11)]
        alone = torch.cat([torch.as_tensor(part).to(value).reshape(1) for part in parts])
        off = float(((value - alone).abs() / value.abs()).max())
        hold(off < 1e-9, f"under {schedule}, times asked together and one by one differ by {off:.3g} of the weight")


WEIGHT_LAWS: list[Law] = [weight_is_positive, weight_is_of_its_time]


def times_lie_in_range(times: Times) -> None:
    """Quantiles u in [0, 1) become times in [0, 1], float64, each u by itself and always the same."""
    u = torch.cat([torch.arange(1000, dtype=torch.float64) / 1000, torch.tensor([1 - 2.0**-53], dtype=torch.float64)])
    for schedule in SCHEDULES:
        t = numbers(times.quantile(u, schedule), (len(u),), f"quantile under {schedule}")
        low, high = float(t.min()), float(t.max())
        hold(low >= 0 and high <= 1, f"quantile under {schedule}: from {low:.4g} to {high:.4g}, not within [0, 1]")
        again = times.quantile(u.flip(0), schedule).flip(0)
        off = float((again - t).abs().max())
        hold(off < 1e-12, f"quantile under {schedule}: the same u give times that differ by {off:.3g}")


def times_are_drawn_by_quantiles(times: Times, n: int = 4096) -> None:
    """Drawn times lie in [0, 1], have the law of the quantiles, follow the stream, and weigh one on average."""
    from scipy.stats import ks_2samp

    u = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    for schedule in SCHEDULES:
        t, weight = times.draw(n, schedule, Rng(3).stream("t"))
        numbers(t, (n,), f"draw under {schedule}")
        low, high = float(t.min()), float(t.max())
        hold(low >= 0 and high <= 1, f"draw under {schedule}: from {low:.4g} to {high:.4g}, not within [0, 1]")
        again, _ = times.draw(n, schedule, Rng(3).stream("t"))
        hold(torch.equal(t, again), "one stream draws two sets of times")
        found = ks_2samp(t.numpy(), times.quantile(u, schedule).numpy())
        sizes = f"Kolmogorov-Smirnov distance {found.statistic:.3g}, p = {found.pvalue:.2g}"
        hold(found.pvalue > 1e-4, f"drawn times do not have the law of the quantiles under {schedule}: {sizes}")
        w = torch.as_tensor(weight, dtype=torch.float64).expand(n)
        mean, error = float(w.mean()), float(w.std()) / n**0.5
        hold(w.isfinite().all() and (w > 0).all(), "the factors of the losses are not positive and finite")
        hold(abs(mean - 1) <= 5 * error + 1e-9, f"the factors of the losses are {mean:.3g} on average, not 1")


TIMES_LAWS: list[Law] = [times_lie_in_range, times_are_drawn_by_quantiles]


def spacing_falls(spacing: Any) -> None:
    """steps + 1 times, float64, falling strictly within [0, 1]."""
    for schedule in SCHEDULES:
        for steps in (1, 2, 17):
            what = f"times of {steps} steps under {schedule}"
            t = numbers(spacing.times(schedule, steps), (steps + 1,), what)
            hold(t.min() >= 0 and t.max() <= 1, f"{what}: from {t.min():.4g} to {t.max():.4g}, not within [0, 1]")
            hold(t.diff().max() < 0, f"{what}: they do not fall, but step by up to {t.diff().max():.3g}")


SPACING_LAWS: list[Law] = [spacing_falls]


def optimizer_goes_down(optimizer: Any, steps: int = 200) -> None:
    """Steps on a quadratic stay finite and make it smaller, in every parameter."""
    stream = Rng(4).stream("optimizer")
    shapes = [(8, 8), (8,), (8, 8), (8,)]
    goals = [stream.normal(shape) for shape in shapes]
    weights = [torch.nn.Parameter(goal + 1) for goal in goals]
    made = optimizer.build(weights)
    for _ in range(steps):
        made.zero_grad()
        sum((w - goal).square().sum() for w, goal in zip(weights, goals, strict=True)).backward()  # type: ignore[union-attr]
        made.step()
    for w, goal in zip(weights, goals, strict=True):
        error = float((w.detach() - goal).square().mean())
        what = f"a parameter {tuple(w.shape)} a distance of 1 away has the mean square error {error:.3g}"
        hold(error < 1, f"{what} after {steps} steps")  # NaN is not below 1 either


OPTIMIZER_LAWS: list[Law] = [optimizer_goes_down]


def rate_is_a_factor(rate: Any) -> None:
    """The factor of every step is a finite number, not negative, not zero throughout, always the same."""
    for steps in (2, 10, 1000):
        values = [rate(step, steps) for step in range(steps)]
        for step, value in enumerate(values):
            good = isinstance(value, int | float) and math.isfinite(value) and value >= 0
            hold(good, f"{value!r} at step {step} of {steps}")
        hold(max(values) > 0, f"0 at all of {steps} steps")
        hold(values == [rate(step, steps) for step in range(steps)], "asked again it gives other factors")


RATE_LAWS: list[Law] = [rate_is_a_factor]


def average_stays_between(averaging: Any) -> None:
    """The average of equal weights is these, that of others lies between them; the weights stay as they are."""
    stream, count = Rng(5).stream("averaging"), averaging.count
    same = stream.normal((50,))
    averages = same.repeat(count, 1)
    for step in range(1, 21):
        averaging.update(averages, same, step)
    off = float((averages - same).abs().max())
    hold(off < 1e-5, f"the average of 20 equal weights is off by {off:.3g}")
    averages = stream.uniform((50,)).repeat(count, 1)
    for step in range(1, 201):
        weights = stream.uniform((50,))
        kept = weights.clone()
        averaging.update(averages, weights, step)
        hold(torch.equal(kept, weights), "the weights are changed")
    numbers(averages, (count, 50), "averages", None)
    low, high = float(averages.min()), float(averages.max())
    hold(low >= -1e-5 and high <= 1 + 1e-5, f"the average of weights within [0, 1] goes from {low:.3g} to {high:.3g}")


AVERAGING_LAWS: list[Law] = [average_stays_between]
