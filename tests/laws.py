"""What every member of a kind must satisfy, as plain functions that raise `Broken` and say which law and by how much.

schedules     alpha, sigma > 0 and falling SNR on [0, 1]; time(logsnr(t)) = t; derivatives = finite differences
predictions   the right F gives back x_0; eps, score and velocity follow from it; F and x_0 determine each other
targets       mass one; denoiser = (x + sigma² grad log p_t)/alpha (Tweedie); samples follow the density
samplers      order of convergence on the exact denoiser; the law of what they return
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from moonbed.diffusion import Denoiser, Exact, Learned, Prediction, Sampler, Schedule
from moonbed.rng import Rng, Stream
from moonbed.targets import Target

LEVELS = [(1.0, 0.0), (1.0, 0.1), (0.8, 0.6), (0.3, 1.0), (1.0, 3.0)]
"""Pairs (alpha, sigma) at which targets are looked at."""


class Broken(AssertionError):
    """A law that does not hold."""


def hold(condition: object, message: str) -> None:
    if not condition:
        raise Broken(message)


def close(got: Tensor, wanted: Tensor, what: str, rtol: float = 1e-9, atol: float = 1e-9) -> None:
    """|got - wanted| <= atol + rtol |wanted| everywhere; NaN is never close."""
    hold(got.shape == wanted.shape, f"{what}: shape {tuple(got.shape)}, not {tuple(wanted.shape)}")
    excess = (got - wanted).abs() - rtol * wanted.abs()
    hold((excess <= atol).all(), f"{what}: off by {(got - wanted).abs().max():.3g} (rtol {rtol:g}, atol {atol:g})")


def times(n: int = 501) -> Tensor:
    return torch.linspace(0, 1, n, dtype=torch.float64)


# Schedules


def schedule_is_positive(schedule: Schedule) -> None:
    t = times(2001)
    for name, value in (("alpha", schedule.alpha(t)), ("sigma", schedule.sigma(t))):
        hold(value.dtype == torch.float64 and value.shape == t.shape, f"{name} is {value.dtype} {tuple(value.shape)}")
        hold((value > 0).all() and value.isfinite().all(), f"{name} is not positive and finite on [0, 1]")
    close(schedule.alpha(t[7]), schedule.alpha(t)[7], "alpha at one time")


def schedule_falls(schedule: Schedule) -> None:
    t = times(2001)
    logsnr = schedule.logsnr(t)
    hold((logsnr.diff() < 0).all(), "logsnr does not fall strictly")
    close(logsnr, 2 * torch.log(schedule.alpha(t) / schedule.sigma(t)), "logsnr = log(alpha²/sigma²)", 1e-7, 1e-7)


def schedule_inverts(schedule: Schedule) -> None:
    t = times(301)
    close(schedule.time(schedule.logsnr(t)), t, "time(logsnr(t)) = t", 0, 1e-9)
    beyond = schedule.logsnr(times(2)) + torch.tensor([5.0, -5.0], dtype=torch.float64)
    close(schedule.time(beyond), times(2), "times out of range are the ends", 0, 1e-9)


def schedule_derives(schedule: Schedule, h: float = 1e-7) -> None:
    """At random times: where a schedule is piecewise, few of them lie within h of a corner."""
    t = h + (1 - 2 * h) * torch.rand(500, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
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


# Predictions


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
        g = torch.Generator().manual_seed(0)
        self.schedule = schedule
        self.t = times(n)
        self.x0 = torch.randn(n, 2, generator=g, dtype=torch.float64)
        self.eps = torch.randn(n, 2, generator=g, dtype=torch.float64)
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
    case = Case(schedule)
    raw = case.textbook.get(type(prediction).__name__)
    if raw is not None:
        close(case.denoiser(prediction, raw)(case.x_t, case.t), case.x0, "x0_hat from the textbook F", 1e-7, 1e-7)
        close(case.raw(prediction), raw, "F from x_0 is the textbook F", 1e-5, 1e-5)


def prediction_identities(prediction: Prediction, schedule: Schedule) -> None:
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
    denoiser = case.denoiser(prediction, case.x0)
    denoiser(case.x_t, case.t)
    x, c_noise = denoiser.network.asked
    close(x, prediction.c_in(schedule, case.t)[:, None] * case.x_t, "what the network is given", 1e-9, 1e-9)
    close(c_noise, prediction.c_noise(schedule, case.t), "the noise level that the network is told")


PREDICTION_LAWS: list[Callable[[Prediction, Schedule], None]] = [
    prediction_is_textbook,
    prediction_identities,
    prediction_scales_input,
]


# Targets


def _box(target: Target, alpha: float, sigma: float, stream: Stream) -> tuple[Tensor, Tensor]:
    x = alpha * target.sample(20_000, stream)
    low, high = x.amin(0), x.amax(0)
    margin = 0.3 * (high - low) + 7 * sigma
    return low - margin, high + margin


def grid(low: Tensor, high: Tensor, n: int) -> tuple[Tensor, float]:
    """(n^dim, dim) midpoints of a grid over a box, and the volume of a cell."""
    axes = [a + (b - a) * (torch.arange(n, dtype=torch.float64) + 0.5) / n for a, b in zip(low, high, strict=True)]
    return torch.cartesian_prod(*axes).reshape(-1, len(axes)), float(((high - low) / n).prod())


def target_has_mass_one(target: Target, tolerance: float = 1e-3, n: int = 160) -> None:
    for alpha, sigma in LEVELS:
        points, cell = grid(*_box(target, alpha, sigma, Rng(0).stream("box")), n)
        mass = float(target.log_prob(points, alpha, sigma).exp().sum()) * cell
        hold(abs(mass - 1) < tolerance, f"mass {mass:.6f} at alpha = {alpha}, sigma = {sigma}")


def target_is_tweedie(target: Target) -> None:
    """E[x_0 | x_t] = (x_t + sigma² grad log p_t(x_t))/alpha, with the gradient by automatic differentiation."""
    for alpha, sigma in LEVELS[1:]:
        stream = Rng(1).stream("tweedie")
        x = alpha * target.sample(300, stream) + 1.5 * sigma * stream.normal((300, target.dim), torch.float64)
        x.requires_grad_()
        (score,) = torch.autograd.grad(target.log_prob(x, alpha, sigma).sum(), x)
        x = x.detach()
        wanted = (x + sigma**2 * score) / alpha
        close(target.denoise(x, alpha, sigma), wanted, f"Tweedie at alpha = {alpha}, sigma = {sigma}", 1e-7, 1e-7)


def target_accepts_float32(target: Target) -> None:
    x = target.sample(50, Rng(2).stream("x"))
    for got, wanted in (
        (target.log_prob(x.float(), 0.8, 0.6), target.log_prob(x, 0.8, 0.6)),
        (target.denoise(x.float(), 0.8, 0.6), target.denoise(x, 0.8, 0.6)),
    ):
        hold(got.dtype == torch.float64, f"float32 points give {got.dtype}")
        close(got, wanted, "float32 points", 1e-4, 1e-4)
    hold(target.log_prob(x[:0]).shape == (0,), "no points, no densities")


def target_samples_follow_density(target: Target, n: int = 20_000, level: float = 1e-4) -> None:
    """Chi-square of counts in cells of a grid, whose probabilities are integrals of the density."""
    x = target.sample(n, Rng(3).stream("sample"))
    hold(x.shape == (n, target.dim) and x.dtype == torch.float64, f"samples are {x.dtype} {tuple(x.shape)}")
    cells, fine = 24, 12
    low, high = _box(target, 1.0, 0.0, Rng(4).stream("box"))
    points, volume = grid(low, high, cells * fine)

    def place(y: Tensor) -> Tensor:
        index = ((y - low) / (high - low) * cells).long().clamp(0, cells - 1)
        return (index * cells ** torch.arange(target.dim)).sum(1)

    size = cells**target.dim
    expected = n * torch.bincount(place(points), weights=target.log_prob(points).exp() * volume, minlength=size)
    hold(chi_square_p(torch.bincount(place(x), minlength=size), expected) > level, "samples do not follow the density")


def chi_square_p(counts: Tensor, expected: Tensor) -> float:
    """p of Pearson's test; cells with less than 10 expected are taken together."""
    from scipy.stats import chi2

    big = expected >= 10
    o = torch.cat([counts[big].double(), counts[~big].sum()[None].double()])
    e = torch.cat([expected[big], (counts.sum() - expected[big].sum()).clamp(min=1e-9)[None]])
    if e[-1] < 1 and o[-1] <= 5:  # too few to say anything
        o, e = o[:-1], e[:-1]
    return float(chi2.sf(float(((o - e) ** 2 / e).sum()), len(e) - 1))


def target_is_reproducible(target: Target) -> None:
    a, b, c = (target.sample(100, Rng(5).stream(name)) for name in ("a", "a", "b"))
    hold(torch.equal(a, b), "one stream gives two different samples")
    hold(not torch.equal(a, c), "two streams give one sample")


TARGET_LAWS: list[Callable[[Target], None]] = [
    target_has_mass_one,
    target_is_tweedie,
    target_accepts_float32,
    target_samples_follow_density,
    target_is_reproducible,
]


# Samplers


def final(sampler: Sampler, denoiser: Denoiser, noise: Tensor, stream: Stream | None = None) -> Tensor:
    *_, x = sampler.trajectory(denoiser, noise, stream or Rng(0).stream("sampler"))
    return x


def convergence_order(sampler: Sampler, schedule: Schedule, target: Target, steps: int = 48) -> float:
    """Measured from steps, 2 steps and 4 steps: log2 |x_n - x_2n| / |x_2n - x_4n|."""
    noise = Rng(6).stream("noise").normal((32, target.dim), torch.float64)
    exact = Exact(target, schedule)
    x, y, z = (final(sampler.replace(steps=k * steps), exact, noise) for k in (1, 2, 4))
    return math.log2(float((x - y).norm() / (y - z).norm()))


def sampler_yields_every_step(sampler: Sampler, schedule: Schedule, target: Target) -> None:
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
