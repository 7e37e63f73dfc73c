"""Predictions and denoisers against the laws and the textbook."""

import pytest
import torch

from moonbed import laws
from moonbed.component import members
from moonbed.diffusion import Exact, Learned, Prediction, Schedule
from moonbed.diffusion.diffusers_bridge import DiffusersBetas
from moonbed.diffusion.predictions import EDM, Epsilon
from moonbed.diffusion.schedules import Cosine, Linear
from moonbed.rng import Rng
from moonbed.targets.curves import TwoMoons

BETAS = ["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"]
SCHEDULES = [
    *(cls() for cls in members(Schedule).values()),
    *(DiffusersBetas(betas=betas) for betas in BETAS[1:]),
    DiffusersBetas(steps=50),
    Cosine(margin=0.1),
    Linear(margin=1e-5),
]
PREDICTIONS = [*(cls() for cls in members(Prediction).values()), EDM(sigma_data=0.5)]
TARGET = TwoMoons(noise=0.5)


def name(component):
    return str(component) if hasattr(component, "spec") else component.__name__


@pytest.mark.parametrize("law", laws.PREDICTION_LAWS, ids=name)
@pytest.mark.parametrize("schedule", SCHEDULES, ids=name)
@pytest.mark.parametrize("prediction", PREDICTIONS, ids=name)
def test_prediction_law(prediction, schedule, law):
    law(prediction, schedule)


def test_every_prediction_has_a_textbook_value_or_a_test_of_its_own():
    assert set(members(Prediction)) <= {*laws.Case(Cosine()).textbook, "EDM"}


@pytest.mark.parametrize("sigma_data", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("schedule", [Cosine(), Linear(), DiffusersBetas()], ids=name)
def test_edm_has_unit_variance_in_and_out(schedule, sigma_data):
    """Karras et al. 2022, appendix B.6: c_out² is the least possible, and F has unit variance for such data."""
    edm, t = EDM(sigma_data=sigma_data), laws.times(100)
    a, s = schedule.alpha(t), schedule.sigma(t)
    c_skip, c_out = edm.scalings(schedule, t)
    # F = (x_0 - c_skip x_t)/c_out = ((1 - c_skip a) x_0 - c_skip s eps)/c_out
    laws.close(((1 - c_skip * a) * sigma_data) ** 2 + (c_skip * s) ** 2, c_out**2, "variance of F", 1e-7, 1e-12)
    other = c_skip + 0.01
    assert (((1 - other * a) * sigma_data) ** 2 + (other * s) ** 2 > c_out**2).all()


def test_a_network_of_eps_returns_its_own_output_as_eps():
    schedule = DiffusersBetas(betas="squaredcos_cap_v2")
    raw = Rng(0).stream("raw").normal((1000, 2))
    x, t = Rng(0).stream("x").normal((1000, 2)), laws.times(1000)
    got = Learned(laws.Oracle(raw), Epsilon(), schedule).eps(x, t)
    torch.testing.assert_close(got, raw, rtol=1e-6, atol=1e-6)  # although alpha is 5e-5 at the end


@pytest.mark.parametrize("schedule", [Cosine(), Linear(), DiffusersBetas()], ids=name)
def test_the_exact_denoiser_is_consistent(schedule):
    exact, x = Exact(TARGET, schedule), Rng(0).stream("x").normal((50, 2), torch.float64)
    for t in (0.0, 0.3, 1.0):
        a, s = (float(f(torch.tensor(t, dtype=torch.float64))) for f in (schedule.alpha, schedule.sigma))
        laws.close(exact(x, t), TARGET.denoise(x, a, s), "x0_hat", 1e-12, 1e-12)
        leaf = x.clone().requires_grad_()
        (score,) = torch.autograd.grad(TARGET.log_prob(leaf, a, s).sum(), leaf)
        laws.close(exact.score(x, t), score, "score = grad log p_t", 1e-6, 1e-6)
        laws.close(exact.eps(x, t), -s * score, "eps", 1e-6, 1e-6)


def test_the_exact_velocity_transports_the_density():
    """Continuity equation: d/dt log p_t(x) = -div v - v . score, by central differences in t and x."""
    schedule, h = Linear(), 1e-4
    exact, x, t = Exact(TARGET, schedule), Rng(0).stream("x").normal((30, 2), torch.float64), 0.4

    def log_p(t):
        time = torch.tensor(t, dtype=torch.float64)
        return TARGET.log_prob(x, float(schedule.alpha(time)), float(schedule.sigma(time)))

    shifts = h * torch.eye(2, dtype=torch.float64)
    div = sum((exact.velocity(x + e, t) - exact.velocity(x - e, t))[:, i] / (2 * h) for i, e in enumerate(shifts))
    flow = -div - (exact.velocity(x, t) * exact.score(x, t)).sum(1)
    laws.close((log_p(t + h) - log_p(t - h)) / (2 * h), flow, "continuity equation", 1e-5, 1e-5)


def test_the_exact_denoiser_refuses_several_times():
    with pytest.raises(ValueError, match="one time"):
        Exact(TARGET, Cosine())(torch.zeros(3, 2), torch.tensor([0.1, 0.2, 0.3]))


def test_the_exact_denoiser_keeps_the_type_of_its_points():
    assert Exact(TARGET, Cosine())(torch.zeros(3, 2), 0.5).dtype == torch.float32
    assert Exact(TARGET, Cosine())(torch.zeros(3, 2, dtype=torch.float64), 0.5).dtype == torch.float64


NOISE = Rng(0).stream("noise").normal((40, 2))
FOLLOWERS = [
    "DDIMScheduler",
    "DDPMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "LMSDiscreteScheduler",
    "PNDMScheduler",
    "UniPCMultistepScheduler",
]
