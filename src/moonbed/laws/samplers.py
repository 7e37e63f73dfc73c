"""Samplers: order of convergence on the exact denoiser; the law of what they return."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from moonbed.diffusion import Denoiser, Exact, Sampler, Schedule
from moonbed.laws.base import hold
from moonbed.rng import Rng, Stream
from moonbed.targets import Target


def final(sampler: Sampler, denoiser: Denoiser, noise: Tensor, stream: Stream | None = None) -> Tensor:
    """(n, dim): what the sampler makes of the noise."""
    *_, x = sampler.trajectory(denoiser, noise, stream or Rng(0).stream("sampler"))
    return x


def convergence_order(sampler: Sampler, schedule: Schedule, target: Target, steps: int = 48) -> float:
    """Measured from steps, 2 steps and 4 steps: log2 |x_n - x_2n| / |x_2n - x_4n|."""
    noise = Rng(6).stream("noise").normal((32, target.dim), torch.float64)
    exact = Exact(target, schedule)
    x, y, z = (final(sampler.replace(steps=k * steps), exact, noise) for k in (1, 2, 4))
    return math.log2(float((x - y).norm() / (y - z).norm()))


def sampler_yields_every_step(sampler: Sampler, schedule: Schedule, target: Target) -> None:
    """A finite state of the right shape and type each step; one noise and one stream give one sample."""
    noise = Rng(7).stream("noise").normal((5, target.dim))
    states = list(sampler.trajectory(Exact(target, schedule), noise, Rng(7).stream("s")))
    hold(len(states) >= sampler.steps, f"{len(states)} states from {sampler.steps} steps")
    hold(all(x.shape == noise.shape and x.dtype == noise.dtype for x in states), "a state of another shape or type")
    hold(all(bool(x.isfinite().all()) for x in states), "a state that is not finite")
    again = final(sampler, Exact(target, schedule), noise, Rng(7).stream("s"))
    hold(torch.equal(states[-1], again), "one noise and one stream give two samples")


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
