"""The density of a model against laws whose density is known, closed forms, and its own mass."""

import copy
import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moonbed.component import members
from moonbed.diffusion import Exact, Learned, Prediction
from moonbed.diffusion.diffusers_bridge import DiffusersBetas
from moonbed.diffusion.likelihood import STEPS, Flow
from moonbed.diffusion.predictions import EDM, X0, Epsilon
from moonbed.diffusion.schedules import Linear, Trigonometric
from moonbed.networks.embeddings import Timestep
from moonbed.networks.mlp import MLP
from moonbed.rng import Rng
from moonbed.targets.curves import TwoMoons
from moonbed.targets.lifted import Lifted
from moonbed.targets.mixtures import EightGaussians

SCHEDULES = [Trigonometric(), Linear(), DiffusersBetas(), DiffusersBetas(betas="squaredcos_cap_v2")]
LAWS = [TwoMoons(), EightGaussians(), Lifted(dim=3)]


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def name(component):
    return str(component) if hasattr(component, "spec") else component.__name__


class Gaussian:
    """N(0, diag(v)) with its denoiser, which is linear."""

    def __init__(self, *v):
        self.v = torch.tensor(v, dtype=torch.float64)

    def denoise(self, x_t, alpha, sigma):
        return alpha * self.v / (alpha**2 * self.v + sigma**2) * x_t

    def log_prob(self, y, flow):
        """Of the flow, which takes N(0, v + sigma_min²) to N(0, v + sigma_max²), so less than that to the prior."""
        high2, low2 = flow.sigma_max**2, flow.sigma_min**2
        v = (self.v + low2) * high2 / (self.v + high2)
        return -(y**2 / v + torch.log(2 * math.pi * v)).sum(1) / 2


def network(dim=2, seed=0, out=0.5):
    """A network far from its start: it bends, and its output has about the size `out`. No weight is zero."""
    stream = Rng(seed).stream("network")
    net = MLP(hidden=(24, 24), embedding=Timestep(scale=20.0, width=16, channels=16)).build(dim)
    for weight in net.parameters():
        weight.data = 1.5 * stream.normal(weight.shape) / math.sqrt(weight.shape[-1])
    net.layers[-1].weight.data *= out
    return net.eval()


def noisy(law, flow, n, seed=0):
    x = law.sample(n, Rng(seed).stream("x"))
    return x + flow.sigma_min * Rng(seed).stream("eps").normal(x.shape, torch.float64)


# Known densities


@pytest.mark.parametrize("schedule", SCHEDULES, ids=name)
@pytest.mark.parametrize("law", LAWS, ids=lambda law: type(law).__name__)
def test_the_exact_denoiser_has_the_exact_density(law, schedule):
    flow = Flow(Exact(law, schedule))
    y = noisy(law, flow, 16)
    truth = law.log_prob(y, 1.0, flow.sigma_min)
    # that samplers start from N(0, sigma_max²) instead of the law's own end costs about |u|²/(2 sigma_max²) nats
    tolerance = 1e-3 if schedule == DiffusersBetas() else 7e-4
    torch.testing.assert_close(flow.log_prob(y, 160), truth, rtol=0, atol=tolerance)


@pytest.mark.parametrize("schedule", [*SCHEDULES, DiffusersBetas(steps=50), Trigonometric(margin=0.1)], ids=name)
def test_gaussians_in_closed_form(schedule):
    law = Gaussian(1.7, 0.3, 0.01)
    flow = Flow(Exact(law, schedule))
    y = 2 * Rng(0).stream("y").normal((50, 3), torch.float64) * torch.sqrt(law.v)
    torch.testing.assert_close(flow.log_prob(y), law.log_prob(y, flow), rtol=0, atol=3e-5)


@settings(max_examples=6, deadline=None)
@given(st.floats(0.1, 5), st.floats(0.1, 5), st.sampled_from(SCHEDULES), st.integers(0, 99))
def test_any_gaussian(a, b, schedule, seed):
    law = Gaussian(a, b)
    flow = Flow(Exact(law, schedule))
    y = Rng(seed).stream("y").normal((20, 2), torch.float64)
    torch.testing.assert_close(flow.log_prob(y, 200), law.log_prob(y, flow), rtol=2e-5, atol=2e-4)


@pytest.mark.parametrize("law", [Gaussian(1.0, 0.2), TwoMoons(noise=0.5)], ids=["Gaussian", "TwoMoons"])
def test_the_solver_is_of_order_four(law):
    flow = Flow(Exact(law, Trigonometric(margin=0.1)))
    y = Rng(0).stream("y").normal((10, 2), torch.float64)
    truth = flow.log_prob(y, 640)
    errors = [float((flow.log_prob(y, steps) - truth).abs().max()) for steps in (40, 80, 160)]
    orders = [math.log2(a / b) for a, b in pairwise(errors)]
    assert min(orders) > 3.5, (errors, orders)


def test_few_steps_are_steps_too():
    """Fewer than the solver remembers."""
    flow, y = Flow(Exact(Gaussian(1.0, 0.2), Trigonometric(margin=0.1))), torch.ones(3, 2, dtype=torch.float64)
    truth = flow.log_prob(y, 200)
    for steps, tolerance in ((1, 0.3), (2, 0.3), (3, 0.3), (4, 1.0), (16, 0.01)):
        torch.testing.assert_close(flow.log_prob(y, steps), truth, rtol=0, atol=tolerance)


# Learned densities


@pytest.mark.parametrize("prediction", members(Prediction).values(), ids=name)
def test_the_density_of_any_network_has_mass_one(prediction):
    """Nothing else is known of it. The least noise is wide, so that a sum over a coarse grid is an integral."""
    wide = prediction.__name__ in ("Epsilon", "Score")  # hardly denoise as long as F is small: q stays as wide as noise
    schedule, reach = (Trigonometric(margin=0.2), 18) if wide else (Trigonometric(margin=0.1), 6)
    axis = torch.linspace(-reach, reach, 97, dtype=torch.float64)
    grid, cell = torch.cartesian_prod(axis, axis), (2 * reach / 96) ** 2
    masses, densities = [], []
    for out in (0.0, 0.6):
        log_q = Flow(Learned(network(out=out), prediction(), schedule)).log_prob(grid, 40)
        masses.append(float(log_q.exp().sum() * cell))
        densities.append(log_q.exp())
    assert masses == pytest.approx([1, 1], abs=3e-4)
    assert float((densities[0] - densities[1]).abs().sum() * cell) > 0.1  # two different ones


def test_a_density_in_three_dimensions_has_mass_one():
    axis = torch.linspace(-8, 8, 33, dtype=torch.float64)
    flow = Flow(Learned(network(dim=3, out=0.4), EDM(), Trigonometric(margin=0.2)))
    log_q = flow.log_prob(torch.cartesian_prod(axis, axis, axis), 12)
    assert float(log_q.exp().sum() / 8) == pytest.approx(1, abs=1e-3)


def test_float32_is_enough():
    """The network stays in float32; asked in float64, its density changes by less than the solver's error."""

    class Smooth(torch.nn.Module):
        """Sinusoids of diffusers are always float32, so this has none."""

        def __init__(self):
            super().__init__()
            self.inner = torch.nn.Sequential(torch.nn.Linear(3, 32), torch.nn.SiLU(), torch.nn.Linear(32, 2))

        def forward(self, x, c_noise):
            return self.inner(torch.cat([x, c_noise[:, None].expand(len(x), 1)], dim=1))

    with Rng(0).stream("init").as_global():
        net = Smooth()
    y = Rng(0).stream("y").normal((50, 2), torch.float64)
    for schedule in SCHEDULES:
        single, double = (Flow(Learned(n, Epsilon(), schedule)) for n in (net, copy.deepcopy(net).double()))
        torch.testing.assert_close(single.log_prob(y, 100), double.log_prob(y, 100), rtol=0, atol=1e-4)


def test_the_callers_network_is_left_alone():
    net = network()
    before = copy.deepcopy(net.state_dict())
    flow = Flow(Learned(net, Epsilon(), Trigonometric()))
    flow.log_prob(torch.zeros(2, 2), 3)
    flow.denoise(torch.zeros(2, 2), 1.0)
    for key, value in net.state_dict().items():
        assert value.dtype == before[key].dtype
        assert torch.equal(value, before[key])
    assert all(w.requires_grad and w.grad is None for w in net.parameters())


@pytest.mark.parametrize("denoiser", [Exact(TwoMoons(noise=0.3), DiffusersBetas()), None], ids=["exact", "learned"])
def test_the_callers_grad_mode_does_not_matter(denoiser):
    denoiser = denoiser or Learned(network(), X0(), DiffusersBetas(steps=500))
    y = torch.linspace(-1, 1, 8).reshape(4, 2).requires_grad_()
    with torch.inference_mode():
        flow = Flow(denoiser)
        got = [flow.denoise(y.clone(), 0.5), flow.log_prob(y.clone(), 5)]
    with torch.no_grad():
        again = [flow.denoise(y, 0.5), flow.log_prob(y, 5)]
    plain = [flow.denoise(y, 0.5), flow.log_prob(y, 5)]
    for a, b, c in zip(got, again, plain, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(b, c)
        assert c.dtype == torch.float64
        assert not c.requires_grad


def test_rows_do_not_depend_on_their_neighbours(monkeypatch):
    flow = Flow(Learned(network(), EDM(), Linear()))
    y = Rng(0).stream("y").normal((10, 2), torch.float64)
    y[4, 0] = math.nan
    whole = flow.log_prob(y, 20)
    monkeypatch.setattr("moonbed.diffusion.likelihood._BLOCK", 3)
    torch.testing.assert_close(flow.log_prob(y, 20), whole, rtol=0, atol=1e-4, equal_nan=True)
    torch.testing.assert_close(flow.denoise(y, 0.5)[:4], flow.denoise(y[:4], 0.5), rtol=0, atol=1e-6)
    assert whole.isnan().tolist() == [k == 4 for k in range(10)]
    assert flow.log_prob(y[:0], 2).shape == (0,)


# The denoiser at a noise ratio


@pytest.mark.parametrize("schedule", SCHEDULES, ids=name)
def test_denoise_takes_noise_ratios(schedule):
    law = TwoMoons()
    flow, y = Flow(Exact(law, schedule)), Rng(0).stream("y").normal((20, 2), torch.float64)
    a, s = (f(torch.tensor([0.0, 1.0], dtype=torch.float64)) for f in (schedule.alpha, schedule.sigma))
    assert (s / a).tolist() == pytest.approx([flow.sigma_min, flow.sigma_max], rel=1e-9)
    for sigma in (flow.sigma_min, 0.05, 1.0, 20.0, flow.sigma_max):
        torch.testing.assert_close(flow.denoise(y, sigma), law.denoise(y, 1.0, sigma), rtol=1e-6, atol=1e-6)


def test_denoise_keeps_its_digits_at_high_noise():
    """x_0 from eps is (x_t - sigma F)/alpha, alpha = 5e-5 here: in float32 throughout, four digits would be lost."""
    schedule = DiffusersBetas(betas="squaredcos_cap_v2")
    flow = Flow(Learned(Still(), Epsilon(), schedule))
    y = 5e3 * Rng(0).stream("y").normal((100, 2), torch.float64)
    torch.testing.assert_close(flow.denoise(y, 5e3), y - 5e3 * 0.5, rtol=1e-9, atol=1e-9)


class Still(torch.nn.Module):
    """F = 1/2, a number that float32 has."""

    def __init__(self):
        super().__init__()
        self.level = torch.nn.Parameter(torch.tensor(0.5))

    def forward(self, x, c_noise):
        return self.level.expand_as(x)


@pytest.mark.parametrize("sigma", [0.0, 1e-3, 3e4, -1.0, math.nan, math.inf])
def test_a_ratio_that_the_schedule_lacks_is_an_error(sigma):
    flow = Flow(Exact(Gaussian(1.0, 1.0), DiffusersBetas()))
    with pytest.raises(ValueError, match=r"lies in \[0\.01\d*, 157\.\d*\], given"):
        flow.denoise(torch.zeros(2, 2), sigma)


@pytest.mark.parametrize("steps", [0, -3])
def test_no_steps_are_an_error(steps):
    with pytest.raises(ValueError, match=f"at least 1 step, given {steps}"):
        Flow(Exact(Gaussian(1.0, 1.0), Trigonometric())).log_prob(torch.zeros(2, 2), steps)


def test_the_cost_is_what_it_says():
    class Counting(Gaussian):
        asked = 0

        def denoise(self, x_t, alpha, sigma):
            self.asked += 1
            return super().denoise(x_t, alpha, sigma)

    law = Counting(1.0, 0.5)
    Flow(Exact(law, Trigonometric())).log_prob(torch.zeros(2, 2))
    assert law.asked == STEPS + 9
