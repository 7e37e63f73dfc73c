"""The energy of paths against closed forms between Gaussians."""

import math

import pytest
import torch

from moonbed.diffusion import Denoiser, Exact
from moonbed.diffusion.path import normalised_path_energy, path_energy
from moonbed.diffusion.schedules import Linear
from moonbed.rng import Rng
from moonbed.targets import Mixture
from moonbed.targets.mixtures import EightGaussians

SCHEDULE = Linear(margin=1e-6)
MEAN = torch.tensor([2.0, -1.0], dtype=torch.float64)


def start(n, dim=2):
    """Points with exactly the mean and covariance of normal noise, so that means over them have no error."""
    x = Rng(0).stream("x1").normal((n, dim), torch.float64)
    x = x - x.mean(0)
    root = torch.linalg.cholesky(torch.linalg.inv(x.T @ x / n))
    return x @ root


def gaussian(std):
    one = torch.ones(1, dtype=torch.float64)
    return Mixture(one, MEAN[None], torch.full((2,), std, dtype=torch.float64))


class Straight(Denoiser):
    """The optimal transport of N(0, I) to N(mean, std² I): x_0 = mean + std x_1, along straight lines."""

    def __init__(self, std):
        self.std, self.schedule = std, SCHEDULE

    def combine(self, x_t, t, w_x, w_d):
        a, s = float(self.schedule.alpha(t)), float(self.schedule.sigma(t))
        x1 = (x_t - a * MEAN) / (a * self.std + s)
        return float(w_x) * x_t + float(w_d) * (MEAN + self.std * x1)


@pytest.mark.parametrize("std", [0.1, 0.5, 1.0, 2.0])
def test_independent_noise_spends_more_than_transport(std):
    """v² = (1 - u)² d² + u² makes the energy |mean|² + dim (1 + d² - pi d/2), with errors of O(1/steps)."""
    wanted = float(MEAN.square().sum()) + 2 * (1 + std**2 - math.pi / 2 * std)
    errors = [path_energy(Exact(gaussian(std), SCHEDULE), start(500), steps)[0] - wanted for steps in (200, 400)]
    assert abs(errors[1]) < 0.02 * wanted
    assert 2 * errors[1] - errors[0] == pytest.approx(0, abs=2e-4 * wanted)
    w2 = math.sqrt(float(MEAN.square().sum()) + 2 * (1 - std) ** 2)
    assert wanted > w2**2


@pytest.mark.parametrize("steps", [1, 7])
@pytest.mark.parametrize("std", [0.1, 2.0])
def test_optimal_transport_spends_the_squared_distance(std, steps):
    w2 = math.sqrt(float(MEAN.square().sum()) + 2 * (1 - std) ** 2)
    energy, ends = path_energy(Straight(std), start(100), steps)
    assert energy == pytest.approx(w2**2, rel=1e-5)
    assert normalised_path_energy(energy, w2) < 1e-5
    assert (ends - (MEAN + std * start(100))).abs().max() < 1e-4


def test_the_type_of_the_points_is_kept_and_nothing_is_differentiated():
    x1 = start(10).float().requires_grad_()
    energy, ends = path_energy(Exact(gaussian(0.5), SCHEDULE), x1, 3)
    assert isinstance(energy, float)
    assert ends.dtype == torch.float32
    assert not ends.requires_grad


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="at least 1 step, given 0"):
        path_energy(Exact(gaussian(0.5), SCHEDULE), start(10), 0)
    for w2 in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="above 0"):
            normalised_path_energy(1.0, w2)
    assert normalised_path_energy(3.0, 2.0) == normalised_path_energy(5.0, 2.0) == 0.25


def test_the_coordinates_of_the_flow_matching_literature():
    """Eight Gaussians of radius 5 with covariance sqrt(0.1), in its coordinates, as the docstring says."""
    target = EightGaussians(std=0.5623)
    raw = target.mean + target.scale * target.mixture.centres
    assert raw.norm(dim=1).numpy() == pytest.approx(5)
    assert (target.scale * target.mixture.std).square().numpy() == pytest.approx(math.sqrt(0.1), rel=1e-3)
    assert target.scale.numpy() == pytest.approx(math.sqrt(12.5 + 0.5623**2))
