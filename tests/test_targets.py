"""Targets against the laws, and the two moons against quadrature, published figures and scikit-learn."""

import itertools
import math
from functools import partial

import laws
import numpy as np
import pytest
import torch
from scipy import integrate, stats
from scipy.special import logsumexp
from sklearn.datasets import make_moons

from moonbed.component import SpecError, members
from moonbed.rng import Rng
from moonbed.targets import Curve, Target
from moonbed.targets.curves import TwoMoons
from moonbed.targets.published import PublishedMoons

TARGETS = [cls() for cls in members(Target).values()]


@pytest.mark.parametrize("law", laws.TARGET_LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("target", TARGETS, ids=lambda target: type(target).__name__)
def test_law(target, law):
    law(target)


@pytest.mark.parametrize("target", [t for t in TARGETS if isinstance(t, Curve)], ids=lambda t: type(t).__name__)
def test_curves_are_standardised_by_their_population(target):
    weights, centres, std = target.mixture
    laws.close(weights.sum(), torch.tensor(1.0, dtype=torch.float64), "weights")
    laws.close(weights @ centres, torch.zeros(target.dim, dtype=torch.float64), "mean")
    laws.close(weights @ centres**2 + std**2, torch.ones(target.dim, dtype=torch.float64), "variance")
    n = 200_000
    x = target.sample(n, Rng(0).stream("x"))
    assert (x.mean(0).abs() < 4 / n**0.5).all()
    assert ((x.std(0) - 1).abs() < 4 / n**0.5).all()  # the curves have less kurtosis than a Gaussian


@pytest.mark.parametrize("target", [t for t in TARGETS if isinstance(t, Curve)], ids=lambda t: type(t).__name__)
def test_blocks_change_nothing(target, monkeypatch):
    x = target.sample(300, Rng(0).stream("x"))
    log_prob, denoised, r = target.log_prob(x), target.denoise(x, 0.8, 0.6), target.responsibilities(x)
    monkeypatch.setattr("moonbed.targets.base._BLOCK", 1)
    laws.close(target.log_prob(x), log_prob, "log_prob row by row", 1e-12, 1e-12)
    laws.close(target.denoise(x, 0.8, 0.6), denoised, "denoise row by row", 1e-12, 1e-12)
    laws.close(target.responsibilities(x), r, "responsibilities row by row", 1e-12, 1e-12)


# The two moons


def moons(angle, arc):
    """The textbook curve, not the code under test."""
    return np.array([np.cos(angle), np.sin(angle)]) if arc == 0 else np.array([1 - np.cos(angle), 0.5 - np.sin(angle)])


def moments(noise):
    """Population mean and standard deviation by hand: each coordinate's integral over both arcs."""
    mean = np.array([0.5, 0.25])
    x2 = (0.5 + (1 + 0.5)) / 2  # E cos² = E sin² = 1/2, E cos = 0, E sin = 2/pi
    y2 = (0.5 + (0.25 - 2 / math.pi + 0.5)) / 2
    return mean, np.sqrt(np.array([x2, y2]) - mean**2 + noise**2)


def by_quadrature(x, noise, alpha, sigma):
    """(log p_t, E[x_0 | x_t]) at one standardised point by adaptive quadrature along the arcs."""
    mean, scale = moments(noise)
    d = noise / scale
    v = alpha**2 * d**2 + sigma**2

    def centre(angle, arc):
        return ((moons(angle, arc).T - mean) / scale).T

    def log_joint(angle, arc):
        r = (x - alpha * centre(angle, arc).T) / np.sqrt(v)
        return -0.5 * (r**2).sum(-1) - math.log(2 * math.pi) - 0.5 * np.log(v).sum()

    angles = np.linspace(0, math.pi, 4001)
    heights = [log_joint(angles, arc) for arc in (0, 1)]
    top = max(h.max() for h in heights)
    peaks = [angles[h.argmax()] for h in heights]

    def integral(f):
        total = 0.0
        for arc, peak in enumerate(peaks):
            cuts = np.clip(peak + np.array([-99, -30, -8, -2, 0, 2, 8, 30, 99]) * noise, 0, math.pi)
            for pair in itertools.pairwise([0.0, *cuts, math.pi]):
                g = partial(lambda a, arc: math.exp(log_joint(a, arc) - top) * f(a, arc), arc=arc)
                total += integrate.quad(g, *pair, epsabs=1e-14, epsrel=1e-11, limit=200)[0]
        return total

    mass = integral(lambda a, arc: 1.0)
    mean_centre = np.array([integral(lambda a, arc, i=i: centre(a, arc)[i] + 2.0) for i in (0, 1)]) / mass - 2.0
    denoised = mean_centre + alpha * d**2 / v * (x - alpha * mean_centre)
    return top + math.log(mass / (2 * math.pi)), denoised


@pytest.mark.parametrize("noise", [0.05, 0.2])
@pytest.mark.parametrize(("alpha", "sigma"), [(1.0, 0.0), (0.95, 0.05), (0.7, 0.7), (0.2, 0.98), (1.0, 5.0)])
def test_two_moons_equal_adaptive_quadrature(noise, alpha, sigma):
    target = TwoMoons(noise=noise)
    stream = Rng(0).stream("points", str(sigma))
    x = alpha * target.sample(6, stream) + (sigma + 0.1) * stream.normal((6, 2), torch.float64)
    log_p, denoised = target.log_prob(x, alpha, sigma), target.denoise(x, alpha, sigma)
    for row, got_log, got in zip(x.numpy(), log_p.tolist(), denoised.numpy(), strict=True):
        wanted_log, wanted = by_quadrature(row, noise, alpha, sigma)
        assert got_log == pytest.approx(wanted_log, rel=1e-8, abs=1e-8)
        assert got == pytest.approx(wanted, rel=1e-8, abs=1e-8)


def test_two_moons_mass_of_a_box_by_dblquad():
    target = TwoMoons(noise=0.3)

    def p(y, x):
        return float(target.log_prob(torch.tensor([[x, y]])).exp())

    mass, _ = integrate.dblquad(p, -0.5, 0.7, -1.0, 0.4, epsabs=1e-5)
    sample = target.sample(400_000, Rng(0).stream("x"))
    inside = ((sample > torch.tensor([-0.5, -1.0])) & (sample < torch.tensor([0.7, 0.4]))).all(1).double().mean()
    assert mass == pytest.approx(float(inside), abs=4 * (mass / 400_000) ** 0.5)


@pytest.mark.parametrize("noise", [0.01, 0.05, 0.3, 1.0])
def test_two_moons_moments_by_hand(noise):
    mean, scale = moments(noise)
    target = TwoMoons(noise=noise)
    assert target.mean.numpy() == pytest.approx(mean, abs=1e-12)
    assert target.scale.numpy() == pytest.approx(scale, abs=1e-12)


@pytest.mark.parametrize("noise", [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0])
def test_the_nodes_suffice(noise):
    """Against a composite rule: 40 panels of 64 nodes an arc."""
    target = TwoMoons(noise=noise)
    x = target.sample(40, Rng(0).stream("x"))
    u, w = np.polynomial.legendre.leggauss(64)
    u, w = ((np.arange(40)[:, None] + (u + 1) / 2) / 40).ravel(), np.tile(w / 40, 40)
    mean, scale = moments(noise)
    centres = np.concatenate([moons(u * math.pi, arc).T for arc in (0, 1)])
    r = ((x.numpy() * scale + mean)[:, None] - centres) / noise
    log_p = logsumexp(-0.5 * (r**2).sum(2), axis=1, b=np.tile(w, 2) / 4)
    log_p += np.log(scale).sum() - math.log(2 * math.pi * noise**2)
    assert target.log_prob(x).numpy() == pytest.approx(log_p, rel=1e-8, abs=1e-8)


def entropy(noise):
    """-E[log p] in nats before standardisation, on a float64 grid."""
    target = TwoMoons(noise=noise)
    points, cell = laws.grid(*laws._box(target, 1.0, 0.0, Rng(0).stream("box")), 200)
    log_p = target.log_prob(points)
    assert log_p.dtype == torch.float64
    return -float((log_p.exp() * log_p).sum()) * cell + float(target.scale.log().sum())


def test_mean_log_density_at_the_published_noise():
    """Published, by Monte Carlo: -0.2898 ± 0.0005, here within two standard errors; the digits below are converged."""
    assert entropy(0.05) == pytest.approx(0.2898, abs=0.0010)
    assert entropy(0.05) == pytest.approx(0.2892337376, abs=1e-9)


@pytest.mark.parametrize(("noise", "nats"), [(0.05, 0.287), (0.08, 0.773), (0.1, 1.006), (0.15, 1.418), (0.2, 1.681)])
def test_entropies(noise, nats):
    assert entropy(noise) == pytest.approx(nats, abs=0.005)


def test_mean_log_density_of_samples():
    target = TwoMoons()
    log_p = target.log_prob(target.sample(50_000, Rng(0).stream("x"))) - target.scale.log().sum()
    assert float(log_p.mean()) == pytest.approx(-0.28923, abs=4 * float(log_p.std()) / 50_000**0.5)


@pytest.mark.parametrize("bad", [0.045, 0.055])
def test_the_law_sees_a_wrong_noise(bad):
    """The tests above can fail: the log density tells 10 % of noise at once (FACTS, section 6)."""
    target = TwoMoons()
    raw = TwoMoons(noise=bad).sample(5_000, Rng(1).stream("x")) * TwoMoons(noise=bad).scale
    truth = target.log_prob(target.sample(5_000, Rng(2).stream("x")))
    assert stats.ks_2samp(target.log_prob(raw / target.scale).numpy(), truth.numpy()).pvalue < 1e-3


def test_half_of_the_points_lie_on_each_arc_and_independently():
    target = TwoMoons(noise=0.01)
    r = target.responsibilities(target.sample(20_000, Rng(0).stream("x")))
    first = (r[:, : target.nodes].sum(1) > 0.5).double()
    assert float(first.mean()) == pytest.approx(0.5, abs=4 * 0.5 / 20_000**0.5)
    assert abs(float(torch.corrcoef(torch.stack([first[:-1], first[1:]]))[0, 1])) < 4 / 20_000**0.5


def test_published_moons_are_scikit_learns():
    x, _ = make_moons(5_000, noise=0.05, random_state=42)
    data = PublishedMoons().dataset(5_000, Rng(0).stream("a"))
    assert data.dtype == torch.float64
    assert data.numpy() == pytest.approx((x - x.mean(0)) / x.std(0), abs=1e-12)
    assert torch.equal(data, PublishedMoons().dataset(5_000, Rng(9).stream("b")))
    assert not torch.equal(data, PublishedMoons(seed=43).dataset(5_000, Rng(0).stream("a")))


def test_published_moons_have_the_law_of_two_moons():
    published, law = PublishedMoons(noise=0.1), TwoMoons(noise=0.1)
    x = published.sample(200, Rng(0).stream("x"))
    assert torch.equal(x, law.sample(200, Rng(0).stream("x")))
    assert torch.equal(published.log_prob(x, 0.8, 0.6), law.log_prob(x, 0.8, 0.6))
    assert torch.equal(published.denoise(x, 0.8, 0.6), law.denoise(x, 0.8, 0.6))
    assert torch.equal(law.dataset(200, Rng(0).stream("x")), x)


@pytest.mark.parametrize("noise", [0, -0.1, float("nan"), float("inf"), "wide"])
def test_impossible_noise_is_refused(noise):
    with pytest.raises(SpecError, match="noise"):
        TwoMoons(noise=noise)


def test_far_points_have_finite_densities():
    far = torch.tensor([[1e3, -1e3], [60.0, 0.0]])
    target = TwoMoons()
    assert target.log_prob(far).isfinite().all()
    assert target.denoise(far, 0.9, 0.1).isfinite().all()
