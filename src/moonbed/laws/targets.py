"""Targets: mass one; Tweedie's formula; samples follow the density; labels, Bayes."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from moonbed.laws.base import close, hold, numbers
from moonbed.rng import Rng, Stream
from moonbed.targets import Target

LEVELS = [(1.0, 0.0), (1.0, 0.1), (0.8, 0.6), (0.3, 1.0), (1.0, 3.0)]
"""Pairs (alpha, sigma) at which targets are looked at."""


def box(target: Target, alpha: float, sigma: float, stream: Stream) -> tuple[Tensor, Tensor]:
    """Corners (dim,) of a box that holds next to all of the mass at a noise level."""
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
    """The density has mass one at every noise level.

    On a grid, up to 480 points a side; in more than two dimensions by importance sampling, at much noise.
    """
    for alpha, sigma in LEVELS:
        if target.dim > 2:
            if sigma > 0.5:
                x, log_q = _proposal(target, alpha, sigma, 4_000, Rng(0).stream("proposal"))
                _is_one((target.log_prob(x, alpha, sigma) - log_q).exp(), f"mass at alpha = {alpha}, sigma = {sigma}")
            continue
        for n in (120, 240, 480):
            points, cell = grid(*box(target, alpha, sigma, Rng(0).stream("box")), n)
            log_p = target.log_prob(points, alpha, sigma)
            hold(log_p.shape == (len(points),), f"log_prob: shape {tuple(log_p.shape)}, not {(len(points),)}")
            mass = float(log_p.exp().sum()) * cell
            allowed = tolerance if log_p.isfinite().all() else 10 * tolerance  # a grid does not see edges well
            if abs(mass - 1) < allowed:
                break
        else:
            hold(False, f"mass {mass:.6f}, not 1, at alpha = {alpha}, sigma = {sigma}")


def target_is_tweedie(target: Target) -> None:
    """`denoise` is (x_t + sigma² grad log p_t(x_t))/alpha: Tweedie's formula, by automatic differentiation."""
    for alpha, sigma in LEVELS[1:]:
        stream = Rng(1).stream("tweedie")
        x = alpha * target.sample(300, stream) + 1.5 * sigma * stream.normal((300, target.dim), torch.float64)
        x.requires_grad_()
        (score,) = torch.autograd.grad(target.log_prob(x, alpha, sigma).sum(), x)
        x = x.detach()
        wanted = (x + sigma**2 * score) / alpha
        close(target.denoise(x, alpha, sigma), wanted, f"Tweedie at alpha = {alpha}, sigma = {sigma}", 1e-7, 1e-7)


def target_score_is_gradient(target: Target) -> None:
    """`score` is the gradient of the log density, by automatic differentiation; without noise where it exists."""
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
    """Density, denoiser, score and posterior are finite far from the data."""
    far = torch.tensor([[1e3], [-1e3], [60.0]]) * torch.ones(target.dim) / torch.arange(1, target.dim + 1)
    for alpha, sigma in [(1.0, 0.01), (0.9, 0.1), (0.01, 1.0), (5e-5, 1.0), (1.0, 50.0)]:
        for name in ("log_prob", "denoise", "score", "label_probs"):
            value = getattr(target, name)(far, alpha, sigma)
            hold(value.isfinite().all(), f"{name} is not finite at {far.tolist()}, alpha = {alpha}, sigma = {sigma}")


def target_labels_follow_bayes(target: Target) -> None:
    """Labels follow Bayes: sum_y P(y) p_t(x | y) = p_t(x), and P(y | x) = P(y) p_t(x | y)/p_t(x)."""
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
            means = [posterior[:, [y]] * part.denoise(x, alpha, sigma) for y, part in enumerate(parts)]
            mean = torch.stack(means).sum(0)
            close(target.denoise(x, alpha, sigma), mean, "denoise = mean over labels of theirs", 1e-8, 1e-8)
    for unknown in (target.classes, -1):
        try:
            target.given(unknown)
        except ValueError:
            continue
        hold(False, f"label {unknown} is accepted")


def target_samples_carry_their_labels(target: Target, n: int = 10_000, limit: float = 5.5) -> None:
    """`sample_labelled` gives each point a label with the probabilities of `label_probs`.

    Calibration: sum (1[y = k] - P(k | x)) f(x) is zero within its standard error, for f = 1, x_j, x_j x_l.
    """
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
    """float32 points get the same float64 answers, and no points none."""
    x = target.sample(50, Rng(2).stream("x"))
    for got, wanted in (
        (target.log_prob(x.float(), 0.8, 0.6), target.log_prob(x, 0.8, 0.6)),
        (target.denoise(x.float(), 0.8, 0.6), target.denoise(x, 0.8, 0.6)),
    ):
        hold(got.dtype == torch.float64, f"float32 points give {got.dtype}")
        close(got, wanted, "float32 points", 1e-4, 1e-4)
    hold(target.log_prob(x[:0]).shape == (0,), "no points, no densities")


def target_samples_follow_density(target: Target, n: int = 20_000, level: float = 1e-4) -> None:
    """The samples follow the density.

    Chi-square of counts in cells of a grid, whose probabilities are integrals of the density. In more than two
    dimensions, the mean over samples of q(x)/p(x), which is one for any law q that p covers.
    """
    x = target.sample(n, Rng(3).stream("sample"))
    numbers(x, (n, target.dim), "samples")
    if target.dim > 2:
        x = x[:4_000] + 0.3 * Rng(3).stream("eps").normal((4_000, target.dim), torch.float64)
        log_q = _log_kde(x, target.sample(1024, Rng(4).stream("centres")), 0.27)
        return _is_one((log_q - target.log_prob(x, 1.0, 0.3)).exp(), "mean of q/p over samples")
    sigma = 0.0 if target.log_prob(x[:1] + 1e3).isfinite().all() else 0.1  # a grid does not see edges well
    x = x + sigma * Rng(3).stream("eps").normal(x.shape, torch.float64)
    low, high = box(target, 1.0, sigma, Rng(4).stream("box"))
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
    counts = torch.bincount(place(x), minlength=size)
    p, apart = chi_square_p(counts, expected), float((counts - expected).abs().sum()) / (2 * n)
    sizes = f"p = {p:.2g}, {apart:.1%} of {n:,} samples are in other cells than they should be"
    hold(p > level, f"samples do not follow the density: {sizes}")


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
    """The stream alone decides what is sampled."""
    a, b, c = (target.sample(100, Rng(5).stream(name)) for name in ("a", "a", "b"))
    same = a.shape == b.shape and torch.equal(a, b)
    hold(same, "one stream gives two different samples: draw from the stream, not from a global generator")
    hold(not torch.equal(a, c), "two streams give one sample")


def target_takes_a_level_a_row(target: Target) -> None:
    """A noise level for each row is what one row at a time would get."""
    stream = Rng(12).stream("x")
    x, levels = target.sample(len(LEVELS) - 1, stream), torch.tensor(LEVELS[1:], dtype=torch.float64)
    alpha, sigma = levels.T
    for name in ("log_prob", "denoise"):
        f = getattr(target, name)
        rows = torch.cat([f(x[k : k + 1], *LEVELS[1:][k]) for k in range(len(x))])
        close(f(x, alpha, sigma), rows, f"{name} with alpha and sigma of shape ({len(x)},)", 1e-8, 1e-8)


TARGET_LAWS: list[Callable[[Target], None]] = [
    target_has_mass_one,
    target_is_tweedie,
    target_score_is_gradient,
    target_is_finite_far_out,
    target_accepts_float32,
    target_takes_a_level_a_row,
    target_samples_follow_density,
    target_labels_follow_bayes,
    target_samples_carry_their_labels,
    target_is_reproducible,
]
