"""Weights: what the literature states of the x_0 or the eps loss, whatever is predicted."""

import math

import pytest
import torch
from diffusers import DDPMScheduler
from small import finished, tiny

from moonbed import laws
from moonbed.component import members
from moonbed.diffusion import Prediction, Schedule, Weight
from moonbed.diffusion.data import Data, Rows
from moonbed.diffusion.diffusers_bridge import DiffusersBetas
from moonbed.diffusion.objectives import Denoising
from moonbed.diffusion.predictions import EDM, Epsilon, V, Velocity
from moonbed.diffusion.schedules import VE, Cosine, Linear
from moonbed.diffusion.times import LowDiscrepancy
from moonbed.diffusion.weights import P2, EDMWeight, Likelihood, MinSNR, Natural, SigmoidWeight, Uncertainty
from moonbed.experiments.train import State
from moonbed.rng import Rng

SCHEDULES = [cls() for cls in members(Schedule).values()]
PREDICTIONS = [*(cls() for cls in members(Prediction).values()), EDM(sigma_data=0.5)]
WEIGHTS = [cls() for cls in members(Weight).values()]
T = (torch.arange(50, 950, 5, dtype=torch.float64) + 0.5) / 999
"""Half way between timesteps, where the betas of diffusers have kinks; the ends cannot be differenced."""


def name(component):
    return str(component)


def snr(schedule, t=T):
    return (schedule.alpha(t) / schedule.sigma(t)) ** 2


def slope(f, t=T, h=1e-5):
    return (f(t + h) - f(t - h)) / (2 * h)


IN_X0 = {
    MinSNR(): lambda s: snr(s).clamp(max=5),
    MinSNR(gamma=1): lambda s: snr(s).clamp(max=1),
    EDMWeight(): lambda s: ((s.sigma(T) / s.alpha(T)) ** 2 + 1) / (s.sigma(T) / s.alpha(T)) ** 2,
    EDMWeight(sigma_data=0.5): lambda s: (1 / snr(s) + 0.25) / (0.25 / snr(s)),
    Likelihood(): lambda s: -slope(lambda t: snr(s, t)) / 2,
    SigmoidWeight(): lambda s: snr(s) / (1 + torch.exp(-2.0 + s.logsnr(T))) * -slope(s.logsnr),
    SigmoidWeight(bias=-1): lambda s: snr(s) / (1 + torch.exp(1 + s.logsnr(T))) * -slope(s.logsnr),
}
"""Weights of the x_0 loss, by the formulas of their papers."""


@pytest.mark.parametrize("prediction", PREDICTIONS, ids=name)
@pytest.mark.parametrize("schedule", SCHEDULES, ids=name)
@pytest.mark.parametrize("weight", IN_X0, ids=name)
def test_the_loss_of_x0_has_the_weight_of_the_paper_whatever_is_predicted(weight, schedule, prediction):
    _, c_out = prediction.scalings(schedule, T)
    laws.close(weight(schedule, T, c_out) / c_out**2, IN_X0[weight](schedule), "weight of the x_0 loss", 1e-5, 1e-9)


def test_every_weight_has_a_formula_or_a_test_of_its_own():
    assert {type(w) for w in WEIGHTS} == {type(w) for w in IN_X0} | {Natural, P2, Uncertainty}


@pytest.mark.parametrize("weight", WEIGHTS, ids=name)
@pytest.mark.parametrize("prediction", PREDICTIONS, ids=name)
@pytest.mark.parametrize("schedule", SCHEDULES, ids=name)
def test_weights_are_finite_and_not_negative(weight, schedule, prediction):
    t = laws.times()
    w = torch.as_tensor(weight(schedule, t, prediction.scalings(schedule, t)[1]))
    assert w.isfinite().all()
    assert (w >= 0).all()
    assert w.shape in {(), (501,)}


def test_the_natural_weight_is_one():
    assert Natural()(Cosine(), T, T) == 1.0


def test_p2_is_one_over_snr_plus_one():
    for schedule in (Cosine(), Linear(), DiffusersBetas()):
        laws.close(P2()(schedule, T, T), 1 / (snr(schedule) + 1), "P2", 1e-9, 0)
        laws.close(P2(k=2, gamma=0.5)(schedule, T, T), (2 + snr(schedule)) ** -0.5, "P2", 1e-9, 0)
    kept, t = DDPMScheduler().alphas_cumprod.double(), torch.arange(1000).double() / 999
    laws.close(P2()(DiffusersBetas(), t, t), 1 - kept, "P2 of the betas", 1e-7, 0)


@pytest.mark.parametrize("d", [0.5, 1.0])
@pytest.mark.parametrize("schedule", SCHEDULES, ids=name)
def test_edm_weighs_what_its_network_puts_out_with_one(schedule, d):
    _, c_out = EDM(sigma_data=d).scalings(schedule, T)
    laws.close(EDMWeight(sigma_data=d)(schedule, T, c_out), torch.ones_like(T), "weight", 1e-9, 0)


def test_min_snr_is_that_of_the_paper_for_eps_and_v():
    """Hang et al. 2023, equations 7 and 8: min(SNR, 5)/SNR for eps, min(SNR, 5)/(SNR + 1) for v."""
    schedule = Cosine()
    for prediction, wanted in ((Epsilon(), snr(schedule)), (V(), snr(schedule) + 1)):
        _, c_out = prediction.scalings(schedule, T)
        laws.close(MinSNR()(schedule, T, c_out), snr(schedule).clamp(max=5) / wanted, "weight", 1e-9, 0)


@pytest.mark.parametrize("schedule", [Cosine(), Linear(), VE()], ids=name)
def test_the_likelihood_weighs_the_score_by_half_the_squared_diffusion(schedule):
    """Song et al. 2021, equation 8: g²/2 |score error|², g² = dsigma²/dt - 2 sigma² dlog(alpha)/dt."""
    a, s = schedule.alpha(T), schedule.sigma(T)
    g2 = slope(lambda t: schedule.sigma(t) ** 2) - 2 * s**2 * slope(lambda t: schedule.alpha(t).log())
    in_score = Likelihood()(schedule, T, torch.ones_like(T)) * (s**2 / a) ** 2  # x_0 error = sigma²/alpha score error
    laws.close(in_score, g2 / 2, "weight of the score loss", 1e-5, 1e-9)


@pytest.mark.parametrize("prediction", [Epsilon(), Velocity(), EDM(sigma_data=2.0)], ids=name)
@pytest.mark.parametrize("schedule", [Cosine(margin=0.05), Linear(margin=0.05), VE(sigma_min=0.05)], ids=name)
@pytest.mark.parametrize("d", [0.5, 2.0])
def test_the_likelihood_is_the_bound_in_closed_form_for_a_gaussian(d, schedule, prediction):
    """The exact denoiser's loss is the integral of -dSNR/dt d²/(1 + d² SNR)/2: nats a dimension between the ends."""
    data = d * Rng(0).stream("x0").normal((50_000, 2))

    def perfect(x, c_noise):
        a, s = schedule.alpha(t), schedule.sigma(t)
        x_t = x.double() / prediction.c_in(schedule, t)[:, None]
        c_skip, c_out = (c[:, None] for c in prediction.scalings(schedule, t))
        mean = (a * d**2 / (a**2 * d**2 + s**2))[:, None] * x_t
        return ((mean - c_skip * x_t) / c_out).float()

    times, stream = LowDiscrepancy(), Rng(0).stream("loss")
    objective = Denoising(times=times, weight=Likelihood())
    t = times.sample(len(data), schedule, Rng(0).stream("loss"))
    rows = objective.examples(prediction, schedule, Rows(data), Data(None, data), stream)
    ends = d**2 * snr(schedule, torch.tensor([0.0, 1.0]).double())
    wanted = float(torch.log1p(ends).diff().neg()) / 2
    assert float(objective.loss(perfect, rows).double().mean()) == pytest.approx(wanted, rel=0.03)


def test_an_uncertain_network_learns_the_logarithm_of_its_loss():
    """exp(-u) loss + u is least at u = log loss, at every noise level."""
    objective = Denoising(weight=Uncertainty())
    training = tiny(
        training__objective=objective, training__steps=600, training__schedule="Cosine", training__optimizer__lr=5e-3
    ).training
    assert training.build()(torch.zeros(3, 2), torch.zeros(3)).shape == (3, 3)
    state = finished(training)
    network = state.network
    for low, high in ((0.05, 0.1), (0.3, 0.4), (0.8, 0.9)):
        t = low + (high - low) * Rng(0).stream("t").uniform((4000,), torch.float64)
        x0 = training.target.sample(4000, Rng(1).stream("x0")).float()
        eps, schedule = Rng(2).stream("eps").normal((4000, 2)), training.schedule
        x_t = schedule.alpha(t)[:, None].float() * x0 + schedule.sigma(t)[:, None].float() * eps
        with torch.no_grad():
            out = network.train()(x_t, t.float())
        error, u = float((out[:, :2] - eps).square().mean()), float(out[:, 2].mean())
        assert u == pytest.approx(math.log(error), abs=0.25)
    assert network.eval()(x_t, t.float()).shape == (4000, 2)


def test_an_uncertain_loss_is_the_loss_at_first():
    """The head starts at u = 0."""
    plain, uncertain = (tiny(training__objective__weight=w).training for w in ("Natural", "Uncertainty"))
    x0 = Rng(0).stream("x0").normal((50, 2))
    losses = []
    for training in (plain, uncertain):
        rows = training.objective.examples(
            training.prediction, training.schedule, Rows(x0), Data(None, x0), Rng(0).stream("loss")
        )
        losses.append(training.objective.loss(State(training).network.train(), rows))
    torch.testing.assert_close(*losses)
