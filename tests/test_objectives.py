"""Objectives: the losses of the textbook, whatever is predicted, and what may be regressed on in place of x_0."""

import pytest
import torch

from moonbed import laws
from moonbed.component import members
from moonbed.diffusion import Learned, Prediction
from moonbed.diffusion.data import Data, Rows
from moonbed.diffusion.diffusers_bridge import DiffusersBetas
from moonbed.diffusion.objectives import Denoising
from moonbed.diffusion.predictions import EDM, X0, Epsilon
from moonbed.diffusion.regressions import Drawn, ExactMean, StableTarget
from moonbed.diffusion.schedules import Cosine
from moonbed.diffusion.times import Discrete, Uniform
from moonbed.diffusion.weights import P2
from moonbed.rng import Rng
from moonbed.targets.curves import TwoMoons

LAW = TwoMoons()
PREDICTIONS = [*(cls() for cls in members(Prediction).values()), EDM(sigma_data=0.5)]


def name(component):
    return str(component) if hasattr(component, "spec") else component.__name__


class Bent(torch.nn.Module):
    """A network that is not zero."""

    def forward(self, x, c_noise):
        return torch.sin(2 * x) + c_noise[:, None]


def drawn(times, schedule, n=400):
    """x_0, and the t and eps that an objective draws from the stream "loss"."""
    x0, stream = Rng(0).stream("x0").normal((n, 2)), Rng(0).stream("loss")
    return x0, times.sample(n, schedule, stream), stream.normal((n, 2))


def loss(objective, network, prediction, schedule, x0, law=LAW):
    """(n,): what a training would make of x_0."""
    rows = objective.examples(prediction, schedule, Rows(x0), Data(law, x0), Rng(0).stream("loss"))
    return objective.loss(network, rows)


@pytest.mark.parametrize("times", [Uniform(), Discrete()], ids=name)
@pytest.mark.parametrize("schedule", [Cosine(), DiffusersBetas(), DiffusersBetas(betas="squaredcos_cap_v2")], ids=name)
def test_the_loss_of_epsilon_is_the_squared_error_of_eps(schedule, times):
    x0, t, eps = drawn(times, schedule)
    x_t = schedule.alpha(t)[:, None].float() * x0 + schedule.sigma(t)[:, None].float() * eps
    by_hand = ((Bent()(x_t, t.float()) - eps) ** 2).mean(1)
    objective = Denoising(times=times)
    got = loss(objective, Bent(), Epsilon(), schedule, x0)
    torch.testing.assert_close(got, by_hand, rtol=1e-4, atol=1e-5)
    snr = (schedule.alpha(t) / schedule.sigma(t)) ** 2
    weighted = loss(objective.replace(weight=P2()), Bent(), Epsilon(), schedule, x0)
    torch.testing.assert_close(weighted, by_hand / (snr + 1).float(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("prediction", PREDICTIONS, ids=name)
def test_the_loss_is_the_squared_error_of_x0_over_c_out(prediction):
    """A weight of one is the x_0 loss weighted by 1/c_out², for every prediction."""
    schedule = Cosine(margin=0.05)
    x0, t, eps = (v.double() for v in drawn(Uniform(), schedule))
    denoiser = Learned(Bent(), prediction, schedule)
    x_t = schedule.alpha(t)[:, None] * x0 + schedule.sigma(t)[:, None] * eps
    _, c_out = prediction.scalings(schedule, t)
    wanted = ((denoiser(x_t, t) - x0) ** 2).mean(1) / c_out**2
    laws.close(loss(Denoising(times=Uniform()), Bent(), prediction, schedule, x0), wanted, "loss", 1e-6, 1e-6)


@pytest.mark.parametrize("prediction", PREDICTIONS, ids=name)
def test_the_right_network_has_no_loss(prediction):
    schedule = Cosine(margin=0.05)
    x0, t, eps = (v.double() for v in drawn(Uniform(), schedule))
    c_skip, c_out = (c[:, None] for c in prediction.scalings(schedule, t))
    x_t = schedule.alpha(t)[:, None] * x0 + schedule.sigma(t)[:, None] * eps
    perfect = laws.Oracle((x0 - c_skip * x_t) / c_out)
    assert loss(Denoising(times=Uniform()), perfect, prediction, schedule, x0).max() < 1e-20


@pytest.mark.parametrize("prediction", PREDICTIONS, ids=name)
def test_the_exact_regression_target_is_the_conditional_mean(prediction):
    """With `ExactMean` the loss is the squared error of F against the raw output of the exact denoiser."""
    schedule, law = Cosine(margin=0.05), TwoMoons()
    x0, t, eps = (v.double() for v in drawn(Uniform(), schedule))
    a, s = schedule.alpha(t), schedule.sigma(t)
    x_t = a[:, None] * x0 + s[:, None] * eps
    c_skip, c_out = (c[:, None] for c in prediction.scalings(schedule, t))
    exact = law.denoise(x_t, a, s)
    objective = Denoising(times=Uniform(), regression=ExactMean())
    perfect = laws.Oracle((exact - c_skip * x_t) / c_out)
    assert loss(objective, perfect, prediction, schedule, x0, law).max() < 1e-18
    denoiser = Learned(Bent(), prediction, schedule)
    wanted = ((denoiser(x_t, t) - exact) ** 2).mean(1) / c_out.squeeze(1) ** 2
    laws.close(loss(objective, Bent(), prediction, schedule, x0, law), wanted, "loss", 1e-6, 1e-6)


@pytest.mark.parametrize("prediction", PREDICTIONS, ids=name)
def test_many_points_are_denoised_in_parts_to_the_same_bits(prediction, monkeypatch):
    schedule, x = Cosine(), Rng(0).stream("x").normal((100, 2))
    denoiser, sizes = Learned(Bent(), prediction, schedule), []
    denoiser.network.register_forward_hook(lambda module, given, out: sizes.append(len(out)))
    for t in (torch.tensor(0.3, dtype=torch.float64), torch.linspace(0.1, 0.9, 100, dtype=torch.float64)):
        with torch.no_grad():
            whole = denoiser(x, t)
            monkeypatch.setattr("moonbed.diffusion.denoisers.ROWS", 40)
            assert torch.equal(denoiser(x, t), whole)
        assert torch.equal(denoiser(x, t), whole)  # with gradients, in one part
        monkeypatch.undo()
    assert sizes == [100, 40, 40, 20, 100] * 2


def test_all_regressions_have_the_same_gradient_on_average():
    """The minimum does not depend on the regression; what goes is variance."""
    schedule, law, network = Cosine(margin=0.1), TwoMoons(), Bent()
    x0 = law.sample(20_000, Rng(1).stream("x0")).float()
    weight = torch.nn.Parameter(torch.ones(2))
    terms = {}
    for regression in (Drawn(), ExactMean(), StableTarget()):
        found = loss(Denoising(regression=regression), lambda x, c: weight * network(x, c), X0(), schedule, x0, law)
        (terms[regression],) = torch.autograd.grad(found.mean(), weight)
    exact = terms.pop(ExactMean())
    for gradient in terms.values():
        torch.testing.assert_close(gradient, exact, rtol=0.02, atol=0.01)


@pytest.mark.parametrize("level", [0.05, 0.3, 1.0, 5.0])
@pytest.mark.parametrize("scale", [1.0, 0.6])
def test_the_stable_target_is_the_posterior_mean_over_its_points(level, scale):
    law, stream = TwoMoons(), Rng(0).stream("x0")
    x0, more = law.sample(700, stream).float(), law.sample(900, stream).float()  # a whole group of rows, and a part
    alpha = torch.full((700,), scale, dtype=torch.float64)
    sigma = level * alpha
    x_t = alpha[:, None].float() * x0 + sigma[:, None].float() * stream.normal(x0.shape)
    got = x0 + StableTarget(references=64).correction(Data(law, more), x0, x_t, alpha, sigma, Rng(0).stream("more"))
    chosen = Rng(0).stream("more")
    for rows in (slice(0, 512), slice(512, 700)):
        points = torch.cat([x0[rows], more[chosen.integers(900, (64,))]]).double()
        far = torch.cdist(x_t[rows].double(), scale * points)
        wanted = torch.softmax(-(far**2) / (2 * sigma[0] ** 2), dim=1) @ points
        torch.testing.assert_close(got[rows].double(), wanted, rtol=0, atol=2e-3)


def test_the_stable_target_has_less_variance_where_points_are_near():
    law, stream = TwoMoons(), Rng(0).stream("x0")
    data = law.sample(20_000, stream).float()
    x0 = data[:2048]
    for level, least in ((0.1, 2.0), (0.5, 20.0)):
        sigma = torch.full((len(x0),), level, dtype=torch.float64)
        x_t = x0 + level * stream.normal(x0.shape)
        exact = law.denoise(x_t.double(), 1.0, level)
        one = torch.ones_like(sigma)
        steady = x0 + StableTarget().correction(Data(law, data), x0, x_t, one, sigma, Rng(0).stream("more"))
        assert least * (steady - exact).square().mean() < (x0 - exact).square().mean()
