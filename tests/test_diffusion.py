"""Schedules, predictions, objectives and samplers against the laws, the textbook and diffusers."""

import pytest
import torch
from diffusers import DDPMScheduler

from moonbed import laws
from moonbed.component import SpecError, members
from moonbed.diffusion import Exact, Learned, Objective, Prediction, Sampler, Schedule, Times, Weight
from moonbed.diffusion.diffusers_bridge import DiffusersBetas
from moonbed.diffusion.objectives import (
    P2,
    Discrete,
    Drawn,
    ExactMean,
    LogNormal,
    Natural,
    Source,
    StableTarget,
    Uniform,
)
from moonbed.diffusion.predictions import EDM, X0, Epsilon
from moonbed.diffusion.samplers import DDIM, DPMSolver2M, Euler, Heun, SinhLogSNR, Spacing, UniformLogSNR, UniformTime
from moonbed.diffusion.schedules import VE, Cosine, Linear
from moonbed.rng import Rng
from moonbed.targets.curves import TwoMoons

LAW = TwoMoons()

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


# Schedules


@pytest.mark.parametrize("law", laws.SCHEDULE_LAWS, ids=name)
@pytest.mark.parametrize("schedule", SCHEDULES, ids=name)
def test_schedule_law(schedule, law):
    law(schedule)


@pytest.mark.parametrize("margin", [0, -1, 0.5, 1])
@pytest.mark.parametrize("schedule", [Cosine, Linear], ids=name)
def test_a_margin_that_breaks_the_laws_is_refused(schedule, margin):
    with pytest.raises(SpecError, match="margin"):
        schedule(margin=margin)


def test_a_single_timestep_is_no_schedule():
    with pytest.raises(SpecError, match="steps"):
        DiffusersBetas(steps=1)


@pytest.mark.parametrize("betas", BETAS)
def test_betas_equal_diffusers_at_every_timestep(betas):
    schedule, scheduler = DiffusersBetas(betas=betas), DDPMScheduler(beta_schedule=betas)
    k = torch.arange(1000)
    t = k.double() / 999
    kept = scheduler.alphas_cumprod.double()
    laws.close(schedule.alpha(t) ** 2, kept, "alpha² = alphas_cumprod", 1e-12, 0)
    laws.close(schedule.sigma(t) ** 2, 1 - kept, "sigma² = 1 - alphas_cumprod", 1e-9, 0)
    laws.close(schedule.logsnr(t).exp(), kept / (1 - kept), "SNR", 1e-9, 0)
    x0, eps = Rng(0).stream("x").normal((1000, 2)), Rng(0).stream("eps").normal((1000, 2))
    ours = schedule.alpha(t)[:, None].float() * x0 + schedule.sigma(t)[:, None].float() * eps
    torch.testing.assert_close(ours, scheduler.add_noise(x0, eps, k), rtol=1e-5, atol=1e-6)


# Predictions and denoisers


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


# Objectives


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
    source = Source(law, x0)
    return objective.loss(network, objective.examples(prediction, schedule, x0, source, Rng(0).stream("loss")))


@pytest.mark.parametrize("times", [Uniform(), Discrete()], ids=name)
@pytest.mark.parametrize("schedule", [Cosine(), DiffusersBetas(), DiffusersBetas(betas="squaredcos_cap_v2")], ids=name)
def test_the_loss_of_epsilon_is_the_squared_error_of_eps(schedule, times):
    x0, t, eps = drawn(times, schedule)
    x_t = schedule.alpha(t)[:, None].float() * x0 + schedule.sigma(t)[:, None].float() * eps
    by_hand = ((Bent()(x_t, t.float()) - eps) ** 2).mean(1)
    objective = Objective(times=times)
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
    laws.close(loss(Objective(times=Uniform()), Bent(), prediction, schedule, x0), wanted, "loss", 1e-6, 1e-6)


@pytest.mark.parametrize("prediction", PREDICTIONS, ids=name)
def test_the_right_network_has_no_loss(prediction):
    schedule = Cosine(margin=0.05)
    x0, t, eps = (v.double() for v in drawn(Uniform(), schedule))
    c_skip, c_out = (c[:, None] for c in prediction.scalings(schedule, t))
    x_t = schedule.alpha(t)[:, None] * x0 + schedule.sigma(t)[:, None] * eps
    perfect = laws.Oracle((x0 - c_skip * x_t) / c_out)
    assert loss(Objective(times=Uniform()), perfect, prediction, schedule, x0).max() < 1e-20


@pytest.mark.parametrize("prediction", PREDICTIONS, ids=name)
def test_the_exact_regression_target_is_the_conditional_mean(prediction):
    """With `ExactMean` the loss is the squared error of F against the raw output of the exact denoiser."""
    schedule, law = Cosine(margin=0.05), TwoMoons()
    x0, t, eps = (v.double() for v in drawn(Uniform(), schedule))
    a, s = schedule.alpha(t), schedule.sigma(t)
    x_t = a[:, None] * x0 + s[:, None] * eps
    c_skip, c_out = (c[:, None] for c in prediction.scalings(schedule, t))
    exact = law.denoise(x_t, a, s)
    objective = Objective(times=Uniform(), regression=ExactMean())
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
        found = loss(Objective(regression=regression), lambda x, c: weight * network(x, c), X0(), schedule, x0, law)
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
    got = x0 + StableTarget(references=64).correction(Source(law, more), x0, x_t, alpha, sigma, Rng(0).stream("more"))
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
        steady = x0 + StableTarget().correction(Source(law, data), x0, x_t, one, sigma, Rng(0).stream("more"))
        assert least * (steady - exact).square().mean() < (x0 - exact).square().mean()


def test_log_normal_times_are_normal_in_log_sigma_under_every_schedule():
    for schedule in (VE(), Cosine(), DiffusersBetas()):
        t = LogNormal(mean=-1.0, std=0.8).sample(20_000, schedule, Rng(0).stream("t"))
        level = -schedule.logsnr(t) / 2
        assert abs(float(level.mean()) + 1.0) < 0.03
        assert abs(float(level.std()) - 0.8) < 0.03


def test_dpm_solver_is_that_of_diffusers():
    """On the exact denoiser, at the timesteps that the scheduler chooses."""
    from diffusers import DPMSolverMultistepScheduler

    schedule = DiffusersBetas(betas="squaredcos_cap_v2")
    judge = DPMSolverMultistepScheduler(
        trained_betas=schedule._scheduler.betas.numpy(), lower_order_final=False, final_sigmas_type="sigma_min"
    )
    judge.set_timesteps(12)
    exact, noise = Exact(TARGET, schedule), Rng(0).stream("noise").normal((300, 2), torch.float64)
    times = torch.cat([judge.timesteps.double(), torch.zeros(1)]) / 999

    class Chosen(Spacing):
        def times(self, schedule, steps):
            return times

    sigma_1 = float(schedule.sigma(times[0]))
    x = noise * sigma_1
    for t in judge.timesteps:
        x = judge.step(exact.eps(x, t.double() / 999), t, x).prev_sample
    *states, _ = DPMSolver2M(steps=12, spacing=Chosen()).trajectory(exact, noise, Rng(0).stream("none"))
    torch.testing.assert_close(states[-1], x, rtol=1e-3, atol=1e-3)


def test_p2_is_one_over_snr_plus_one():
    for schedule in (Cosine(), Linear(), DiffusersBetas()):
        t = laws.times(100)
        snr = (schedule.alpha(t) / schedule.sigma(t)) ** 2
        laws.close(P2()(schedule, t), 1 / (snr + 1), "P2", 1e-9, 0)
        laws.close(P2(k=2, gamma=0.5)(schedule, t), (2 + snr) ** -0.5, "P2", 1e-9, 0)
    kept = DDPMScheduler().alphas_cumprod.double()
    laws.close(P2()(DiffusersBetas(), torch.arange(1000).double() / 999), 1 - kept, "P2 of the betas", 1e-7, 0)


@pytest.mark.parametrize("weight", [cls() for cls in members(Weight).values()], ids=name)
@pytest.mark.parametrize("schedule", SCHEDULES, ids=name)
def test_weights_are_finite_and_not_negative(weight, schedule):
    w = torch.as_tensor(weight(schedule, laws.times()))
    assert w.isfinite().all()
    assert (w >= 0).all()
    assert w.shape in {(), (501,)}


def test_the_natural_weight_is_one():
    assert Natural()(Cosine(), laws.times(3)) == 1.0


@pytest.mark.parametrize("times", [cls() for cls in members(Times).values()], ids=name)
def test_times_lie_in_the_unit_interval(times):
    t = times.sample(20_000, Cosine(), Rng(0).stream("t"))
    assert t.dtype == torch.float64
    assert t.min() >= 0
    assert t.max() <= 1
    assert t.unique().numel() > 500


def test_discrete_times_are_every_timestep_equally():
    k = Discrete(steps=10).sample(50_000, Cosine(), Rng(0).stream("t")) * 9
    assert torch.equal(k.round().unique(), torch.arange(10).double())
    assert ((k.round().long().bincount() - 5_000).abs() < 5 * 5_000**0.5).all()
    assert Discrete(steps=1).sample(3, Cosine(), Rng(0).stream("t")).tolist() == [0, 0, 0]


# Samplers


@pytest.mark.parametrize("steps", [1, 2, 17])
@pytest.mark.parametrize("schedule", SCHEDULES, ids=name)
@pytest.mark.parametrize("spacing", [cls() for cls in members(Spacing).values()], ids=name)
def test_spacings_fall_from_one_to_zero(spacing, schedule, steps):
    t = spacing.times(schedule, steps)
    assert t.shape == (steps + 1,)
    assert t.dtype == torch.float64
    if isinstance(spacing, SinhLogSNR):  # it leaves out where there is nothing to decide
        ratio = torch.exp(-schedule.logsnr(t[[0, -1]]) / 2)
        assert 0.8 < ratio[0] <= 10.01
        assert 0.0149 < ratio[1] < 0.2
        assert (t[0] <= 1, t[-1] >= 0) == (True, True)
    else:
        assert (t[0], t[-1]) == (1, 0)
    assert (t.diff() < 0).all()


def test_log_snr_spacing_is_even():
    for schedule in (Cosine(), Linear(), DiffusersBetas()):
        gaps = schedule.logsnr(UniformLogSNR().times(schedule, 20)).diff()
        laws.close(gaps, gaps.mean().expand(20), "gaps", 1e-6, 1e-6)


@pytest.mark.parametrize("schedule", [cls() for cls in members(Schedule).values()], ids=name)
@pytest.mark.parametrize("sampler", [cls(steps=6) for cls in members(Sampler).values()], ids=name)
def test_samplers_yield_every_step(sampler, schedule):
    laws.sampler_yields_every_step(sampler, schedule, TARGET)


@pytest.mark.parametrize("spacing", [UniformTime(), UniformLogSNR()], ids=name)
@pytest.mark.parametrize("schedule", [Cosine(), Linear(), DiffusersBetas()], ids=name)
@pytest.mark.parametrize(("sampler", "order"), [(DDIM, 1), (Euler, 1), (Heun, 2), (DPMSolver2M, 2)])
def test_order_of_convergence(sampler, order, schedule, spacing):
    if order == 2 and isinstance(schedule, DiffusersBetas):
        pytest.skip("between its timesteps the schedule is piecewise: a second derivative is missing")
    if sampler is DPMSolver2M and isinstance(spacing, UniformTime):
        pytest.skip("its steps are steps of log(alpha/sigma): even ones in t are far from even for it")
    measured = laws.convergence_order(sampler(spacing=spacing), schedule, TARGET)
    assert measured == pytest.approx(order, abs=0.2)


@pytest.mark.parametrize("schedule", [cls() for cls in members(Schedule).values()], ids=name)
@pytest.mark.parametrize(
    "sampler",
    [
        DDIM(),
        DDIM(steps=128, eta=1),
        DDIM(steps=128, eta=0.5),
        Euler(steps=256),
        Heun(steps=32),
        DPMSolver2M(),
        DPMSolver2M(eta=0.5),
        DPMSolver2M(steps=19, spacing=SinhLogSNR()),
    ],
    ids=name,
)
def test_samplers_have_the_law(sampler, schedule):
    laws.sampler_has_the_law(sampler, schedule, TwoMoons(noise=0.2), n=1_000)


@pytest.mark.slow
def test_ancestral_sampling_has_the_law_of_the_sharp_moons():
    laws.sampler_has_the_law(DDIM(steps=600, eta=1), Cosine(), TwoMoons())


@pytest.mark.slow
@pytest.mark.parametrize("schedule", [VE(), Cosine(), DiffusersBetas()], ids=name)
def test_twenty_evaluations_well_spent_have_the_law_of_the_sharp_moons(schedule):
    laws.sampler_has_the_law(DPMSolver2M(steps=19, spacing=SinhLogSNR(), eta=0.16), schedule, TwoMoons())


def test_a_spacing_outside_of_the_schedule_is_refused():
    with pytest.raises(SpecError, match="no noise ratios from 1e"):
        SinhLogSNR(low=1e-6, high=1e-5).times(Cosine(), 4)
    with pytest.raises(SpecError, match="above low"):
        SinhLogSNR(low=1, high=0.5)


def test_the_law_sees_a_coarse_sampler():
    with pytest.raises(laws.Broken, match="do not follow"):
        laws.sampler_has_the_law(DDIM(steps=4), Cosine(), TwoMoons(noise=0.2))


def test_eta_zero_ignores_the_stream_and_eta_one_does_not():
    noise, exact = Rng(0).stream("n").normal((5, 2)), Exact(TARGET, Cosine())

    def sample(eta, stream):
        return laws.final(DDIM(steps=5, eta=eta), exact, noise, Rng(0).stream(stream))

    assert torch.equal(sample(0.0, "a"), sample(0.0, "b"))
    assert not torch.equal(sample(1.0, "a"), sample(1.0, "b"))


@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_ddim_keeps_the_marginals_of_gaussian_data(eta):
    """For x_0 ~ N(0, d²) every step is linear, so the variances follow by hand: eta changes them at O(step) only."""

    class Gauss:
        def denoise(self, x, alpha, sigma):
            return alpha * 0.25 / (alpha**2 * 0.25 + sigma**2) * x

    x = laws.final(DDIM(steps=400, eta=eta), Exact(Gauss(), Cosine()), Rng(0).stream("n").normal((40_000, 1)))
    assert float(x.std()) == pytest.approx(0.5, rel=0.02)
