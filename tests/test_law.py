"""The exact law as metrics see it, and what an evaluation can be asked for."""

import math

import numpy as np
import pytest
import torch
from defects import LAW, defective

from moonbed.metrics import Evaluation, MissingError
from moonbed.metrics.base import Metric
from moonbed.metrics.density import NLL, ModeWeights
from moonbed.metrics.kernels import KSD
from moonbed.metrics.law import KnownLaw, known
from moonbed.metrics.neighbours import Memorisation, Precision
from moonbed.metrics.panel import Panel
from moonbed.metrics.two_sample import MMD
from moonbed.rng import Rng
from moonbed.targets.boxes import Checkerboard
from moonbed.targets.curves import Circles, TwoMoons
from moonbed.targets.given import Given
from moonbed.targets.lifted import Lifted
from moonbed.targets.mixtures import EightGaussians, FractalTree
from moonbed.targets.published import PublishedMoons


class Opaque:
    """A law without its mixture."""

    def __init__(self, law, score=True):
        self._law = law
        if score:
            self.score = law.score

    def sample(self, n, stream):
        return self._law.sample(n, stream)

    def log_prob(self, x, alpha=1.0, sigma=0.0):
        return self._law.log_prob(x, alpha, sigma)


LAWS = [LAW, Circles(), EightGaussians(), FractalTree(), Given(), Lifted(dim=5), Checkerboard(), Opaque(LAW)]


def name(law):
    return type(law).__name__


@pytest.mark.parametrize("law", LAWS, ids=name)
def test_densities_are_the_laws(law):
    ours, x = known(law), law.sample(300, Rng(1).stream("x"))
    far = torch.cat([x, 5 * x[:20]])
    for blur in (0.0, 0.1, 1.0):
        np.testing.assert_allclose(ours.log_density(far.numpy(), blur), law.log_prob(far, 1.0, blur), atol=1e-9)
    if ours.has_score:
        np.testing.assert_allclose(ours.score(far.numpy()), law.score(far), rtol=1e-8, atol=1e-8)
    assert ours.has_score == (not isinstance(law, Checkerboard))


@pytest.mark.parametrize("law", LAWS, ids=name)
def test_the_table_integrates(law):
    """Mean, variance, mean log density and tail mass against a large sample."""
    ours, x = known(law), law.sample(40_000, Rng(2).stream("x")).numpy()
    table, log_p = ours.table, ours.log_density(x)
    plain = 0 if ours.is_mixture else 1 / math.sqrt(len(ours.draws))
    error = 4 * (1 / math.sqrt(len(x)) + plain)
    np.testing.assert_allclose(table.mean(table.x), x.mean(0), atol=error * x.std())
    np.testing.assert_allclose(table.mean(table.x**2), (x**2).mean(0), atol=2 * error * (x**2).std())
    mean, sd = ours.log_density_moments
    assert mean == pytest.approx(log_p.mean(), abs=error * log_p.std() + 1e-9)
    assert sd == pytest.approx(log_p.std(), abs=5 * error * log_p.std() + 1e-9)
    for mass in (5e-4, 1e-2):
        level, exact = ours.level(mass)
        assert exact <= mass * 1.001
        found = np.mean(log_p < level)
        assert found == pytest.approx(exact, abs=4 * math.sqrt(mass / len(x)) + 0.03 * mass)


def test_the_entropy_of_two_moons():
    """E log p at noise .05 is -0.2898 ± 0.0005 before standardisation."""
    mean, _ = known(LAW).log_density_moments
    assert mean - math.log(LAW.scale.prod()) == pytest.approx(-0.2898, abs=6e-4)


def test_quantiles_of_the_log_density_in_closed_form():
    """Of one Gaussian in the plane: P(log p < t) = 2 pi exp(t) below its maximum."""

    class Normal:
        mixture = EightGaussians().mixture._replace(
            weights=torch.ones(1, dtype=torch.float64),
            centres=torch.zeros(1, 2, dtype=torch.float64),
            std=torch.ones(2, dtype=torch.float64),
        )
        sample = mixture.sample
        log_prob = mixture.log_prob

    ours = KnownLaw(Normal())
    mass = np.array([1e-5, 1e-4, 1e-3, 0.01, 0.1, 0.5, 0.9])
    np.testing.assert_allclose(ours.below(np.log(mass / (2 * math.pi))), mass, rtol=0.03)
    assert ours.log_density_moments == pytest.approx((-1 - math.log(2 * math.pi), 1.0), abs=1e-3)


def test_points_far_out_have_no_surprises():
    ours = known(LAW)
    x = np.array([[0.0, 0.0], [1e3, 0], [1e100, 1e100], [math.inf, 0], [0, math.nan], [1e200, 0]])
    log_p = ours.log_density(x)
    assert np.isfinite(log_p[:3]).all()
    assert (np.diff(log_p[:3]) < 0).all()
    assert (log_p[3:] == -math.inf).all()


def test_modes():
    assert known(LAW).mode_names == ("outer moon", "inner moon")
    assert len(known(EightGaussians()).mode_names) == 8
    assert known(FractalTree()).mode_names == ("label 0", "label 1")
    assert known(Checkerboard()).mode_names == tuple(f"label {k}" for k in range(8))
    assert known(Given()).mode_names == ()
    assert known(Opaque(LAW)).mode_names == ()
    for law in (LAW, EightGaussians(), FractalTree(), Checkerboard()):
        ours, x = known(law), law.sample(200, Rng(0).stream("x"))
        np.testing.assert_allclose(ours.mode_weights, law.label_weights, atol=1e-12)
        np.testing.assert_allclose(ours.mode_probs(x.numpy()), law.label_probs(x), atol=1e-9)


def test_laws_are_known_once():
    assert known(TwoMoons()) is known(TwoMoons())
    assert known(TwoMoons()) is not known(TwoMoons(noise=0.1))
    x = defective("none", 100, 0)
    by_data_set = Evaluation(x, None, Rng(0), law=PublishedMoons())
    assert by_data_set.law.is_mixture
    assert NLL()(by_data_set) == pytest.approx(NLL()(Evaluation(x, None, Rng(0), law=LAW)), abs=1e-12)


# Evaluations


def test_old_calls_work_and_a_reference_is_drawn_where_none_is_given():
    x = defective("none", 50, 0)
    assert Evaluation(x, x + 1, Rng(0)).reference.shape == (50, 2)
    drawn = Evaluation(x, None, Rng(0), LAW)
    assert drawn.reference.shape == (50, 2)
    np.testing.assert_array_equal(drawn.reference, LAW.sample(50, Rng(0).stream("reference")))
    assert Precision()(drawn) > 0.9
    assert math.isfinite(MMD()(drawn))


@pytest.mark.parametrize(
    ("metric", "given", "message"),
    [
        (NLL(), {}, "NLL - entropy .NLL. needs the exact law"),
        (KSD(), {}, "KSD .KSD. needs the exact law"),
        (Panel(), {}, "Panel. needs the exact law"),
        (Memorisation(), {"law": LAW}, "Memorisation. needs the training points"),
        (Memorisation(), {}, "the exact law .* and the training points"),
        (KSD(), {"law": Checkerboard()}, "KSD. needs a law with a score"),
        (ModeWeights(), {"law": Opaque(LAW)}, "ModeWeights. needs a law with more than one mode"),
    ],
)
def test_what_is_missing_is_named(metric, given, message):
    x = defective("none", 30, 0)
    evaluation = Evaluation(x, x, Rng(0), **given)
    assert metric.missing(evaluation)
    with pytest.raises(MissingError, match=message):
        metric(evaluation)


def test_nothing_is_missing_where_nothing_is():
    x = defective("none", 30, 0)
    evaluation = Evaluation(x, x, Rng(0), law=LAW, train=x)
    assert not any(metric.missing(evaluation) for metric in (NLL(), KSD(), Panel(), Memorisation(), ModeWeights()))
    assert all(isinstance(m, Metric) and m.missing(Evaluation(x, x, Rng(0))) for m in (NLL(), KSD(), Panel()))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"reference": None}, "reference points or the exact law"),
        ({"reference": None, "law": 3}, "a law has sample and log_prob"),
        ({"train": np.zeros((5, 3))}, "differ in dimension"),
        ({"train": np.zeros(5)}, "train must be an array"),
        ({"reference": np.zeros((5, 3))}, "differ in dimension"),
    ],
)
def test_what_does_not_fit_is_an_error(given, message):
    x = np.zeros((5, 2))
    with pytest.raises(ValueError, match=message):
        Evaluation(x, given.pop("reference", x), Rng(0), **given)
    with pytest.raises(ValueError, match="do not fit"):
        NLL()(Evaluation(np.zeros((5, 3)), None, Rng(0), law=LAW))


def test_kernel_means_are_integrals():
    """E k(x, X) by a quadrature over the plane that knows only the density."""
    law, h, x = EightGaussians(), 0.4, np.array([[0.3, 1.1]])
    nodes, weights = (3 * z for z in np.polynomial.legendre.leggauss(300))
    grid = np.stack(np.meshgrid(nodes, nodes, indexing="ij"), axis=-1).reshape(-1, 2)
    kernel = np.exp(-((grid - x) ** 2).sum(1) / (2 * h**2))
    density = np.exp(law.log_prob(torch.from_numpy(grid)).numpy())
    assert known(law).kernel_mean(x, h)[0] == pytest.approx(np.outer(weights, weights).ravel() @ (kernel * density))
