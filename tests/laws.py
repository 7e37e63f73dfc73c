"""What every member of a kind must satisfy, as plain functions that raise `Broken` and say which law and by how much.

schedules     alpha, sigma > 0 and falling SNR on [0, 1]; time(logsnr(t)) = t; derivatives = finite differences
predictions   the right F gives back x_0; eps, score and velocity follow from it; F and x_0 determine each other
targets       mass one; denoiser = (x + sigma² grad log p_t)/alpha (Tweedie); samples follow the density; labels, Bayes
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


def _proposal(target: Target, alpha: float, sigma: float, n: int, stream: Stream) -> tuple[Tensor, Tensor]:
    """n draws of a law near p_t (Gaussians a little wider than sigma around 1,024 samples) and its log density."""
    centres, wide = alpha * target.sample(1024, stream), 1.2 * sigma
    picked = centres[stream.integers(len(centres), (n,))]
    x = picked + wide * stream.normal((n, target.dim), torch.float64)
    return x, _log_kde(x, centres, wide)


def _log_kde(x: Tensor, centres: Tensor, std: float) -> Tensor:
    log_p = torch.logsumexp(-((torch.cdist(x, centres) / std) ** 2) / 2, dim=1)
    return log_p - math.log(len(centres)) - x.shape[1] / 2 * math.log(2 * math.pi * std**2)


def _is_one(values: Tensor, what: str) -> None:
    """The mean of independent values is one, within five standard errors and these within 0.03."""
    mean, error = float(values.mean()), float(values.std()) / len(values) ** 0.5
    hold(error < 0.03 and abs(mean - 1) < 5 * error, f"{what}: {mean:.4f} ± {error:.4f}, not 1")


def target_has_mass_one(target: Target, tolerance: float = 1e-3) -> None:
    """On a grid, up to 480 points a side; in more than two dimensions by importance sampling, at much noise."""
    for alpha, sigma in LEVELS:
        if target.dim > 2:
            if sigma > 0.5:
                x, log_q = _proposal(target, alpha, sigma, 4_000, Rng(0).stream("proposal"))
                _is_one((target.log_prob(x, alpha, sigma) - log_q).exp(), f"mass at alpha = {alpha}, sigma = {sigma}")
            continue
        for n in (120, 240, 480):
            points, cell = grid(*_box(target, alpha, sigma, Rng(0).stream("box")), n)
            log_p = target.log_prob(points, alpha, sigma)
            mass = float(log_p.exp().sum()) * cell
            allowed = tolerance if log_p.isfinite().all() else 10 * tolerance  # a grid does not see edges well
            if abs(mass - 1) < allowed:
                break
        else:
            hold(False, f"mass {mass:.6f} at alpha = {alpha}, sigma = {sigma}")


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


def target_score_is_gradient(target: Target) -> None:
    """The score is the gradient of the log density, by automatic differentiation; without noise where it exists."""
    for alpha, sigma in LEVELS:
        x = alpha * target.sample(200, Rng(9).stream("x")) + sigma * Rng(9).stream("eps").normal((200, target.dim))
        x.requires_grad_()
        (wanted,) = torch.autograd.grad(target.log_prob(x, alpha, sigma).sum(), x)
        try:
            got = target.score(x.detach(), alpha, sigma)
        except ValueError:
            hold(sigma == 0, f"no score at alpha = {alpha}, sigma = {sigma}")
            continue
        close(got, wanted, f"score at alpha = {alpha}, sigma = {sigma}", 1e-7, 1e-7)


def target_is_finite_far_out(target: Target) -> None:
    far = torch.tensor([[1e3], [-1e3], [60.0]]) * torch.ones(target.dim) / torch.arange(1, target.dim + 1)
    for alpha, sigma in [(1.0, 0.01), (0.9, 0.1), (0.01, 1.0), (5e-5, 1.0), (1.0, 50.0)]:
        for name in ("log_prob", "denoise", "score", "label_probs"):
            value = getattr(target, name)(far, alpha, sigma)
            hold(value.isfinite().all(), f"{name} is not finite at {far.tolist()}, alpha = {alpha}, sigma = {sigma}")


def target_labels_follow_bayes(target: Target) -> None:
    """sum_y P(y) p_t(x | y) = p_t(x), and P(y | x) = P(y) p_t(x | y)/p_t(x)."""
    weights = target.label_weights
    hold(weights.shape == (target.classes,) and (weights > 0).all(), f"label_weights are {weights}")
    close(weights.sum(), torch.tensor(1.0, dtype=torch.float64), "sum of label_weights")
    parts = [target.given(label) for label in range(target.classes)]
    for alpha, sigma in LEVELS:
        x = alpha * target.sample(100, Rng(10).stream("x")) + sigma * Rng(10).stream("eps").normal((100, target.dim))
        joint = torch.stack([part.log_prob(x, alpha, sigma) for part in parts], dim=1) + torch.log(weights)
        log_p = target.log_prob(x, alpha, sigma)
        close(joint.logsumexp(1), log_p, f"sum over labels at alpha = {alpha}, sigma = {sigma}")
        posterior = (joint - log_p[:, None]).exp()
        close(target.label_probs(x, alpha, sigma), posterior, f"posterior at alpha = {alpha}, sigma = {sigma}")
        if sigma > 0:
            mean = sum(posterior[:, [y]] * part.denoise(x, alpha, sigma) for y, part in enumerate(parts))
            close(target.denoise(x, alpha, sigma), mean, "denoise = mean over labels of theirs", 1e-8, 1e-8)
    for unknown in (target.classes, -1):
        try:
            target.given(unknown)
        except ValueError:
            continue
        hold(False, f"label {unknown} is accepted")


def target_samples_carry_their_labels(target: Target, n: int = 10_000, limit: float = 5.5) -> None:
    """Calibration: sum (1[y = k] - P(k | x)) f(x) is zero within its standard error, for f = 1, x_j, x_j x_l."""
    x, labels = target.sample_labelled(n, Rng(11).stream("x"))
    hold(labels.dtype == torch.int64 and labels.shape == (n,), f"labels are {labels.dtype} {tuple(labels.shape)}")
    hold(torch.equal(x, target.sample(n, Rng(11).stream("x"))), "sample is not the first part of sample_labelled")
    expected = n * target.label_weights
    z = (torch.bincount(labels, minlength=target.classes) - expected) / torch.sqrt(
        expected * (1 - target.label_weights) + 1e-9
    )
    hold(z.abs().max() < limit, f"labels are not drawn with label_weights (z = {z.tolist()})")
    probs = target.label_probs(x)
    one = torch.ones(n, 1, dtype=torch.float64)
    f = torch.cat([one, x[:, :3], x[:, :1] * x[:, :2]], dim=1)
    off = torch.nn.functional.one_hot(labels, target.classes) - probs
    spread = torch.sqrt((probs * (1 - probs)).T @ f**2 + 1)  # + 1: a label that is nearly sure has next to no spread
    hold(((off.T @ f).abs() < limit * spread).all(), "labels do not follow label_probs")


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
    """Chi-square of counts in cells of a grid, whose probabilities are integrals of the density.

    In more than two dimensions, the mean over samples of q(x)/p(x), which is one for any law q that p covers.
    """
    x = target.sample(n, Rng(3).stream("sample"))
    hold(x.shape == (n, target.dim) and x.dtype == torch.float64, f"samples are {x.dtype} {tuple(x.shape)}")
    if target.dim > 2:
        x = x[:4_000] + 0.3 * Rng(3).stream("eps").normal((4_000, target.dim), torch.float64)
        log_q = _log_kde(x, target.sample(1024, Rng(4).stream("centres")), 0.27)
        return _is_one((log_q - target.log_prob(x, 1.0, 0.3)).exp(), "mean of q/p over samples")
    sigma = 0.0 if target.log_prob(x[:1] + 1e3).isfinite().all() else 0.1  # a grid does not see edges well
    x = x + sigma * Rng(3).stream("eps").normal(x.shape, torch.float64)
    low, high = _box(target, 1.0, sigma, Rng(4).stream("box"))
    cells = 24

    def place(y: Tensor) -> Tensor:
        index = ((y - low) / (high - low) * cells).long().clamp(0, cells - 1)
        return (index * cells ** torch.arange(target.dim)).sum(1)

    size = cells**target.dim
    for fine in (8, 16):
        points, volume = grid(low, high, cells * fine)
        weights = target.log_prob(points, 1.0, sigma).exp() * volume
        if abs(float(weights.sum()) - 1) < 1e-4:
            break
    expected = n * torch.bincount(place(points), weights=weights, minlength=size)
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
    target_score_is_gradient,
    target_is_finite_far_out,
    target_accepts_float32,
    target_samples_follow_density,
    target_labels_follow_bayes,
    target_samples_carry_their_labels,
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
