"""Metrics that ask the model: closed forms, identities, and what they say of a perfect model."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moonbed.component import SpecError
from moonbed.diffusion import Denoiser, Exact, Learned
from moonbed.diffusion.likelihood import Flow
from moonbed.diffusion.predictions import EDM
from moonbed.diffusion.schedules import Linear, Trigonometric
from moonbed.metrics import Evaluation, MissingError
from moonbed.metrics.model import KL, Girsanov, score_error
from moonbed.networks.mlp import MLP
from moonbed.rng import Rng
from moonbed.targets.boxes import Checkerboard
from moonbed.targets.curves import TwoMoons
from moonbed.targets.lifted import Lifted
from moonbed.targets.mixtures import EightGaussians
from moonbed.targets.published import PublishedMoons

COARSE = Trigonometric(margin=0.05)
"""Noise ratios .08 to 12.7: little to integrate over."""


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Normal:
    """N(0, v I) in two dimensions: a law, and the model that has learned it."""

    def __init__(self, v=1.0, sigma_min=0.01, sigma_max=100.0):
        self.v, self.sigma_min, self.sigma_max = v, sigma_min, sigma_max

    def sample(self, n, stream):
        return math.sqrt(self.v) * stream.normal((n, 2), torch.float64)

    def log_prob(self, x, alpha=1.0, sigma=None):
        """Without a noise level, the model's density: the flow goes on to infinity."""
        v = alpha**2 * self.v + (self.sigma_min if sigma is None else sigma) ** 2
        return -(x**2).sum(1) / (2 * v) - math.log(2 * math.pi * v)

    def denoise(self, x, *level):
        alpha, sigma = (1.0, *level) if len(level) == 1 else level
        return alpha * self.v / (alpha**2 * self.v + sigma**2) * x


class Law(Normal):
    """The same law, where log_prob is that of x_0 by default."""

    def log_prob(self, x, alpha=1.0, sigma=0.0):
        return super().log_prob(x, alpha, sigma)


class Swirl(Denoiser):
    """The denoiser of N(0, I) plus `much` s²/(1 + s²) times y turned by 90 degrees: a flow that turns a round law."""

    def __init__(self, much, schedule):
        self.much, self.schedule = much, schedule

    def combine(self, x_t, t, w_x, w_d):
        a, s = self.schedule.alpha(t), self.schedule.sigma(t)
        turned = torch.stack([-x_t[:, 1], x_t[:, 0]], dim=1)
        x0 = (a * x_t + self.much * s**2 / a * turned) / (a**2 + s**2)
        return w_x * x_t + w_d * x0


class Quick:
    """A model whose likelihood takes few steps."""

    def __init__(self, denoiser, steps=100):
        self.flow, self.steps = Flow(denoiser), steps
        self.sigma_min, self.sigma_max = self.flow.sigma_min, self.flow.sigma_max

    def sample(self, n, number):
        raise NotImplementedError

    def denoise(self, y, sigma):
        return self.flow.denoise(y, sigma)

    def log_prob(self, y):
        return self.flow.log_prob(y, self.steps)


def evaluation(law, model, seed=0, dim=2, n=3):
    return Evaluation(np.zeros((n, dim)), np.zeros((n, dim)), Rng(seed), law=law, model=model)


def mean_and_error(metric, of):
    terms = metric.terms(of)
    assert metric(of) == pytest.approx(terms.mean())
    return terms.mean(), terms.std() / math.sqrt(len(terms))


# Closed forms


def gaussian_kl(v, sigma):
    r = (1 + sigma**2) / (v + sigma**2)
    return r - 1 - math.log(r)


@settings(max_examples=20, deadline=None)
@given(st.floats(0.3, 3), st.integers(0, 1000), st.sampled_from([0.01, 0.1, 1.0]))
def test_a_gaussian_of_the_wrong_width(v, seed, low):
    """KL in closed form; the bound is the KL at its low end minus that at its high end."""
    of = evaluation(Law(), Normal(v, sigma_min=low), seed)
    value, error = mean_and_error(KL(points=400), of)
    assert abs(value - gaussian_kl(v, low)) <= 5 * error + 1e-9
    value, error = mean_and_error(Girsanov(points=400), of)
    assert abs(value - gaussian_kl(v, low) + gaussian_kl(v, 20)) <= 5 * error + 1e-9


def test_intervals_cover_what_is_estimated():
    truth = gaussian_kl(0.7, 0.01), gaussian_kl(0.7, 0.01) - gaussian_kl(0.7, 20)
    for metric, wanted in zip((KL(points=100), Girsanov(points=100, levels=16)), truth, strict=True):
        hits = 0
        for seed in range(100):
            of = evaluation(Law(), Normal(0.7), seed)
            low, high = metric.interval(of, metric(of))
            hits += low <= wanted <= high
        assert 85 <= hits <= 100


def test_a_flow_that_turns_a_round_law_is_bounded_and_better():
    """KL 0, while the bound is much² log((1 + high²)/(1 + low²))."""
    of = evaluation(Law(), Quick(Swirl(0.3, COARSE)))
    assert np.abs(KL(points=30).terms(of)).max() < 0.05  # the prior N(0, sigma_max²) for N(0, 1 + sigma_max²)
    value, error = mean_and_error(Girsanov(low=0.1, high=10, points=2000), of)
    assert error < 0.02 * value
    assert abs(value - 0.3**2 * math.log(101 / 1.01)) <= 5 * error


# Identities


PAIRS = [
    (TwoMoons(noise=0.1), TwoMoons(noise=0.15)),
    (EightGaussians(), EightGaussians(std=0.4)),
    (Lifted(dim=3, noise=0.1), Lifted(dim=3, noise=0.15)),
]


@pytest.mark.parametrize(("law", "other"), PAIRS, ids=["moons", "eight", "lifted"])
def test_the_bound_is_the_kl_where_the_model_is_another_law(law, other):
    """Verdú 2010. Of the whole range of the schedule, and up to the KL at its end, which is next to nothing."""
    model = Quick(Exact(other, COARSE))
    of = evaluation(law, model, dim=law.dim)
    kl, kl_error = mean_and_error(KL(points=200), of)
    bound, error = mean_and_error(Girsanov(low=1e-3, high=1e3, points=1000), of)
    assert bound > 10 * error
    assert abs(kl - bound) <= 4 * math.hypot(kl_error, error) + 1e-3
    y = law.sample(4000, Rng(1).stream("y"))
    y = y + model.sigma_min * Rng(1).stream("eps").normal(y.shape, torch.float64)
    log_ratio = law.log_prob(y, 1.0, model.sigma_min) - other.log_prob(y, 1.0, model.sigma_min)
    exact, spread = float(log_ratio.mean()), float(log_ratio.std()) / math.sqrt(len(y))
    assert abs(bound - exact) <= 4 * math.hypot(error, spread) + 1e-3


@pytest.mark.parametrize("seed", range(2))
def test_the_bound_is_above_the_kl_of_a_network(seed):
    """Within their errors. No theorem for the flow: networks after few steps have been seen above it."""
    with Rng(seed).stream("init").as_global():
        net = MLP(hidden=(16,)).build(2)
        torch.nn.init.normal_(net.layers[-1].weight, std=0.3)
    law = EightGaussians(std=1.0)
    of = evaluation(law, Quick(Learned(net.eval(), EDM(), COARSE)))
    kl, kl_error = mean_and_error(KL(points=100), of)
    bound, error = mean_and_error(Girsanov(low=1e-3, high=1e3, points=200), of)
    assert 0 < kl < bound + 3 * math.hypot(kl_error, error)


@pytest.mark.parametrize(
    ("law", "schedule"),
    [(TwoMoons(), Linear()), (EightGaussians(), Trigonometric()), (PublishedMoons(), COARSE), (Lifted(dim=3), COARSE)],
    ids=lambda x: type(x).__name__,
)
def test_a_perfect_model_has_none(law, schedule):
    of = evaluation(law, Quick(Exact(law, schedule), 200), dim=law.dim)
    # COARSE ends at a sigma_max of 12.7, so its prior is wrong by some thousandths of a nat
    assert np.abs(KL(points=16).terms(of)).max() < (0.1 if schedule == COARSE else 2e-3)
    assert abs(KL(points=16)(of)) < (0.02 if schedule == COARSE else 1e-3)
    assert 0 <= Girsanov(points=50)(of) < 1e-12


def test_a_uniform_law_has_both():
    """It has no score without noise, and needs none."""
    of = evaluation(Checkerboard(), Quick(Exact(Checkerboard(), COARSE), 60))
    assert abs(KL(points=30)(of)) < 0.02
    assert Girsanov(points=50)(of) < 1e-12


def test_the_bound_is_the_integral_of_the_curve():
    law = TwoMoons()
    of = evaluation(law, Quick(Exact(TwoMoons(noise=0.08), COARSE)))
    sigmas = np.geomspace(of.model.sigma_min, of.model.sigma_max, 40)
    curve = score_error(of, sigmas.tolist(), points=1000)
    assert curve.mean.shape == curve.error.shape == curve.sigma.shape == (40,)
    np.testing.assert_array_equal(curve.sigma, sigmas)
    assert (curve.error > 0).all()
    bound, error = mean_and_error(Girsanov(points=1000, high=1e3), of)
    step = np.diff(np.log(sigmas))[0]
    spread = step * math.sqrt((curve.error**2).sum())
    area = step * (curve.mean.sum() - (curve.mean[0] + curve.mean[-1]) / 2)
    assert abs(area - bound) <= 5 * math.hypot(error, spread) + 0.02 * bound


def test_levels_are_enough():
    of = evaluation(Law(), Normal(0.5))
    for levels in (16, 64):
        value, error = mean_and_error(Girsanov(points=4000, levels=levels), of)
        assert abs(value - gaussian_kl(0.5, 0.01) + gaussian_kl(0.5, 20)) <= 4 * error


# What they depend on, and what they need


def test_samples_do_not_matter_but_the_seed_does():
    for metric in (KL(points=50), Girsanov(points=50, levels=4)):
        first, more, other = (metric(evaluation(Law(), Normal(0.5), seed, n=n)) for seed, n in ((0, 3), (0, 9), (1, 3)))
        assert first == more != other


def test_the_range_is_cut_to_the_models():
    asked = []

    class Watched(Normal):
        def denoise(self, x, *level):
            asked.append(level[-1])
            return super().denoise(x, *level)

    Girsanov(points=5)(evaluation(Law(), Watched(sigma_min=0.1, sigma_max=7.0)))
    assert 0.1 <= min(asked) < 0.11
    assert 6.5 < max(asked) <= 7.0
    with pytest.raises(ValueError, match=r"noise ratios \[30, 70\], none of them in \[0.01, 20\]"):
        Girsanov()(evaluation(Law(), Normal(sigma_min=30.0, sigma_max=70.0)))


def test_a_model_that_is_not_finite_is_not_passed_over():
    class Broken(Normal):
        def denoise(self, x, sigma):
            return x / 0

        def log_prob(self, x):
            return torch.full((len(x),), -math.inf)

    of = evaluation(Law(), Broken())
    for metric in (KL(), Girsanov(points=20)):
        assert not math.isfinite(metric(of))
        assert metric.interval(of, metric(of)) == (-math.inf, math.inf)
    assert not np.isfinite(score_error(of, [0.1, 1.0], 20).mean).any()


class NoDenoiser:
    def sample(self, n, stream):
        return stream.normal((n, 2), torch.float64)

    def log_prob(self, x, alpha=1.0, sigma=0.0):
        return Law().log_prob(x, alpha, sigma)


@pytest.mark.parametrize(
    ("metric", "law", "model", "message"),
    [
        (KL(), Law(), None, r"KL\(target\|\|model\) \(KL\) needs the model behind the samples"),
        (KL(), None, Normal(), "needs the exact law"),
        (Girsanov(), Law(), None, r"Girsanov bound \(Girsanov\) needs the model behind the samples"),
        (Girsanov(), None, None, "needs the exact law .* and the model"),
        (Girsanov(), NoDenoiser(), Normal(), r"Girsanov bound \(Girsanov\) needs a law with a denoiser"),
    ],
)
def test_what_is_missing_is_named(metric, law, model, message):
    of = evaluation(law, model)
    assert metric.missing(of)
    with pytest.raises(MissingError, match=message):
        metric(of)
    if isinstance(metric, Girsanov):
        with pytest.raises(MissingError, match=message):
            score_error(of, [1.0])


def test_a_law_without_a_denoiser_has_a_kl():
    assert not KL().missing(evaluation(NoDenoiser(), Normal()))
    assert KL(points=20)(evaluation(NoDenoiser(), Normal())) == pytest.approx(0, abs=1e-9)


def test_bad_settings_are_errors():
    with pytest.raises(SpecError, match="should be above low"):
        Girsanov(low=1.0, high=0.5)
    for bad in ({"points": 0}, {"levels": 0}, {"low": 0}):
        with pytest.raises(SpecError):
            Girsanov(**bad)
    with pytest.raises(SpecError):
        KL(points=0)
    with pytest.raises(ValueError, match="at least 2 points"):
        score_error(evaluation(Law(), Normal()), [1.0], points=1)
    with pytest.raises(ValueError, match="noise ratio lies in"):
        score_error(evaluation(TwoMoons(), Quick(Exact(TwoMoons(), COARSE))), [1e3], points=5)


def test_names():
    assert [m.label for m in (KL(), Girsanov())] == ["KL(target||model)", "Girsanov bound"]
    assert all(m.lower_is_better for m in (KL(), Girsanov()))
