"""Samplers: order of convergence on an exact denoiser; the law of what they return; what they cost.

A deterministic sampler has an order: how fast its states come to stand still as the steps become finer. One that draws
noise has a weak order, that of the law of its states. For Gaussian data N(0, d²) the exact denoiser is linear, and so
is the sampler, in its first noise and in all that it draws. Each row of one batch is given one of these noises as one,
and all others as zero: the sum of the squares of the rows at the end is the variance of the sample, without any chance
in it. A Gaussian cannot tell everything: two-sample tests on the law of a curved target stand beside it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from moonbed.diffusion import Denoiser, Exact, Sampler, Schedule
from moonbed.diffusion.counting import Counted
from moonbed.laws.base import Broken, hold
from moonbed.rng import Rng, Stream
from moonbed.targets import Target


def final(sampler: Sampler, denoiser: Denoiser, noise: Tensor, stream: Stream | None = None) -> Tensor:
    """(n, dim): what the sampler makes of the noise."""
    *_, x = sampler.trajectory(denoiser, noise, stream or Rng(0).stream("sampler"))
    return x


# Order


def convergence_order(sampler: Sampler, schedule: Schedule, target: Target, steps: int = 48) -> float:
    """Measured from steps, 2 steps and 4 steps: log2 |x_n - x_2n| / |x_2n - x_4n|."""
    noise = Rng(6).stream("noise").normal((32, target.dim), torch.float64)
    exact = Exact(target, schedule)
    x, y, z = (final(sampler.replace(steps=k * steps), exact, noise) for k in (1, 2, 4))
    return math.log2(float((x - y).norm() / (y - z).norm()))


class Impulses(Stream):
    """Draws that are 1 in one row and 0 in all others: row 1 at the first draw, row 2 at the second, and so on.

    With `mixed`, the last row has a part in every draw beside: that size, up and down in turn.
    """

    def __init__(self, mixed: float = 0.0) -> None:
        super().__init__(0)
        self.mixed, self.draws = mixed, 0

    def normal(self, shape: Sequence[int], dtype: torch.dtype | None = None) -> Tensor:
        self.draws += 1
        return self.into(torch.zeros(tuple(shape), dtype=dtype or torch.float64), self.draws)

    @property
    def generator(self) -> torch.Generator:
        raise Broken("draws from the generator behind its stream, where nobody sees what")

    def into(self, x: Tensor, row: int) -> Tensor:
        """x with the impulse in its row, where it has that row."""
        x[row : row + 1] = 1
        if self.mixed:
            x[-1] = self.mixed * (-1) ** row
        return x


class _Gaussian:
    """N(0, scale²) in each coordinate."""

    def __init__(self, scale: Sequence[float]) -> None:
        self.scale = torch.tensor(scale, dtype=torch.float64)

    def denoise(self, x_t: Tensor, alpha: float, sigma: float) -> Tensor:
        return alpha * self.scale**2 / ((alpha * self.scale) ** 2 + sigma**2) * x_t


def _response(sampler: Sampler, exact: Exact, dim: int, rows: int, mixed: float = 0.0) -> tuple[Tensor, int]:
    """(rows, dim) what becomes of an impulse in each noise, and how many noises there were, the first one included."""
    stream = Impulses(mixed)
    noise = stream.into(torch.zeros(rows, dim, dtype=torch.float64), 0)
    x = final(sampler, exact, noise, stream)
    return x, stream.draws + 1


def draws(sampler: Sampler, schedule: Schedule) -> int:
    """How often the sampler draws noise after the first, on its way to one sample."""
    return _response(sampler, Exact(_Gaussian([1.0]), schedule), 1, 2)[1] - 1


def sampler_is_linear(sampler: Sampler, schedule: Schedule, scale: Sequence[float] = (0.1, 0.5, 1.0)) -> None:
    """In few steps: where the denoiser is linear, so is the sampler in all its noises; no row knows of another."""
    exact, few = Exact(_Gaussian(scale), schedule), sampler.replace(steps=min(sampler.steps, 4))
    _, rows = _response(few, exact, len(scale), 2)
    alone, _ = _response(few, exact, len(scale), rows)
    beside, _ = _response(few, exact, len(scale), rows + 1, mixed=3.0)
    hold(torch.allclose(beside[:-1], alone, rtol=1e-6, atol=1e-9), "its rows depend on one another")
    turns = torch.tensor([[3.0 * (-1) ** k] for k in range(rows)], dtype=torch.float64)
    hold(torch.allclose(beside[-1], (turns * alone).sum(0), rtol=1e-6, atol=1e-9), "not linear where the denoiser is")


def gaussian_variance(sampler: Sampler, schedule: Schedule, scale: Sequence[float] = (0.1, 0.5, 1.0)) -> Tensor:
    """(coordinates,) float64: the exact variance of what the sampler makes of N(0, scale²), one for each scale.

    Raises `Broken` for a sampler that is not linear in its noise there.
    """
    if not sampler.adaptive:
        sampler_is_linear(sampler, schedule, scale)
    exact, rows = Exact(_Gaussian(scale), schedule), sampler.steps + 1
    x, needed = _response(sampler, exact, len(scale), rows)
    if needed > rows:
        x, _ = _response(sampler, exact, len(scale), needed)
    return x.square().sum(0)


def gaussian_bias(sampler: Sampler, schedule: Schedule, scale: Sequence[float] = (0.1, 0.5, 1.0)) -> Tensor:
    """(coordinates,) float64: by what share the variance of a Gaussian is too large, the ends' error included."""
    return gaussian_variance(sampler, schedule, scale) / torch.tensor(scale, dtype=torch.float64) ** 2 - 1


def weak_order(
    sampler: Sampler, schedule: Schedule, scale: Sequence[float] = (0.1, 0.5, 1.0), steps: int = 48
) -> list[float]:
    """For each scale of Gaussian data: log2 |v_n - v_2n| / |v_2n - v_4n| of variances after n, 2 n and 4 n steps.

    Differences, because the limit of many steps is not the variance itself: samplers start at the noise's own variance
    and end by denoising (see `gaussian_bias`).
    """
    x, y, z = (gaussian_variance(sampler.replace(steps=k * steps), schedule, scale) for k in (1, 2, 4))
    return torch.log2(((x - y) / (y - z)).abs()).tolist()


def measured_order(sampler: Sampler, schedule: Schedule, target: Target, steps: int = 48) -> float:
    """`convergence_order` of a sampler that needs no score, else `weak_order` for data N(0, 1/4)."""
    if not sampler.needs_score:
        return convergence_order(sampler, schedule, target, steps)
    return weak_order(sampler, schedule, (0.5,), steps)[0]


def sampler_has_its_order(
    sampler: Sampler, schedule: Schedule, target: Target, steps: int = 48, tolerance: float = 0.25
) -> None:
    """The order that is measured is the one that the sampler declares. Samplers that declare none are left alone."""
    if sampler.order is None:
        return
    measured = measured_order(sampler, schedule, target, steps)
    message = f"{sampler} declares order {sampler.order}; from {steps} steps on it is {measured:.2f}"
    hold(abs(measured - sampler.order) <= tolerance, message)


def sampler_keeps_gaussians(
    sampler: Sampler, schedule: Schedule, scale: Sequence[float] = (0.1, 0.5, 1.0), tolerance: float = 0.05
) -> None:
    """The exact variance of its samples of Gaussian data is right but for a share of at most `tolerance`."""
    bias = gaussian_bias(sampler, schedule, scale)
    worst = float(bias[bias.abs().argmax()])
    hold(bool((bias.abs() <= tolerance).all()), f"the variance of Gaussian data is off by {100 * worst:+.2g} percent")


# States and law


def sampler_yields_every_step(sampler: Sampler, schedule: Schedule, target: Target) -> None:
    """A finite state of the right shape and type each step; one noise and one stream give one sample."""
    noise = Rng(7).stream("noise").normal((5, target.dim))
    states = list(sampler.trajectory(Exact(target, schedule), noise, Rng(7).stream("s")))
    least = 2 if sampler.adaptive else sampler.steps
    hold(len(states) >= least, f"{len(states)} states from {sampler.steps} steps")
    hold(all(x.shape == noise.shape and x.dtype == noise.dtype for x in states), "a state of another shape or type")
    hold(all(bool(x.isfinite().all()) for x in states), "a state that is not finite")
    again = final(sampler, Exact(target, schedule), noise, Rng(7).stream("s"))
    hold(torch.equal(states[-1], again), "one noise and one stream give two samples")


def sampler_needs_what_it_says(sampler: Sampler, schedule: Schedule) -> None:
    """One that draws noise says that it needs the score, so that it can be refused where the noise is not Gaussian."""
    hold(sampler.needs_score or not draws(sampler, schedule), "draws noise, and says that it needs no score")


def sampler_has_the_law(
    sampler: Sampler, schedule: Schedule, target: Target, n: int = 2_000, level: float = 1e-3
) -> None:
    """Two-sample Kolmogorov-Smirnov tests on the log density and on each coordinate (Bonferroni)."""
    from scipy.stats import ks_2samp

    noise = Rng(8).stream("noise").normal((n, target.dim), torch.float64)
    got, truth = final(sampler, Exact(target, schedule), noise), target.sample(5_000, Rng(8).stream("truth"))
    pairs = [(target.log_prob(got), target.log_prob(truth)), *zip(got.T, truth.T, strict=True)]
    p = min(float(ks_2samp(a.numpy(), b.numpy()).pvalue) for a, b in pairs)
    hold(p * len(pairs) > level, f"the samples do not follow the target (p = {p:.2g})")


# Cost


def evaluations(sampler: Sampler, schedule: Schedule, target: Target) -> int:
    """How often the sampler asks its denoiser on the way to one sample, counted."""
    counted = Counted(Exact(target, schedule))
    final(sampler, counted, Rng(9).stream("noise").normal((8, target.dim), torch.float64))
    return counted.evaluations


class OrderRow(NamedTuple):
    """One sampler: order in theory and measured, weak where it draws noise; evaluations a step; diffusers beside it.

    `difference` is the greatest one at the end over the greatest coordinate; None where there is nothing to compare.
    `words` names the scheduler, and says why there is none, or why it differs.
    """

    sampler: Sampler
    weak: bool
    order: int | None
    measured: float | None
    evaluations: float | None
    difference: float | None
    words: str


def order_table(samplers: Sequence[Sampler], schedule: Schedule, target: Target, steps: int = 48) -> list[OrderRow]:
    """A row for each sampler. Evaluations are those of one step more, so the denoising at the end is not among them."""
    from moonbed.laws.counterparts import beside

    rows = []
    for sampler in samplers:
        one, few = (sampler.replace(steps=steps + k) for k in (1, 0))
        a_step = None
        measured = None
        if not sampler.adaptive:
            a_step = float(evaluations(one, schedule, target) - evaluations(few, schedule, target))
            try:
                measured = measured_order(sampler, schedule, target, steps)
            except Broken:  # not linear in its noise
                measured = None
        weak = draws(sampler, schedule) > 0
        rows.append(OrderRow(sampler, weak, sampler.order, measured, a_step, *beside(sampler)))
    return rows


def natives() -> list[Sampler]:
    """Each of our samplers as it is by default, and with its noise, other orders and variables."""
    from moonbed.component import members

    rows: list[Sampler] = []
    for name, cls in members(Sampler).items():
        if not cls.__module__.startswith("moonbed.diffusion.samplers"):
            continue
        fields = {f.name for f in dataclasses.fields(cls)}
        changes: list[dict[str, Any]] = [{}]
        changes += [{"eta": 1.0}] * ("eta" in fields)
        changes += [{"points": k} for k in (1, 2, 3)] if "points" in fields else []
        changes += [{"halved": False}] * ("halved" in fields) + [{"s_churn": 0.0}] * ("s_churn" in fields)
        changes += [{"variable": "logrho"}] * ("variable" in fields)
        rows += dict.fromkeys(Sampler.parse({"type": name, **change}) for change in changes)
    return rows
