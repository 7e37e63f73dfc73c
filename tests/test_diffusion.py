"""Schedules, predictions, objectives and the bridge against the laws, the textbook and diffusers."""

import diffusers
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, EulerDiscreteScheduler

from moonbed import laws
from moonbed.component import SpecError, members
from moonbed.diffusion import Exact, Learned, Objective, Prediction, Schedule, Times, Weight
from moonbed.diffusion.diffusers_bridge import Diffusers, DiffusersBetas
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


# diffusers


NOISE = Rng(0).stream("noise").normal((40, 2))


def by_hand(scheduler, schedule, steps, noise=NOISE, last=999, **extra):
    """The sampling loop as diffusers' documentation has it, on the exact denoiser."""
    scheduler.set_timesteps(steps)
    exact, x = Exact(TARGET, schedule), noise * scheduler.init_noise_sigma
    for k in scheduler.timesteps:
        x = scheduler.step(exact.eps(scheduler.scale_model_input(x, k), float(k) / last), k, x, **extra).prev_sample
    return x


@pytest.mark.parametrize("betas", ["linear", "scaled_linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize(
    "cls", [DDPMScheduler, DDIMScheduler, EulerDiscreteScheduler, diffusers.DPMSolverMultistepScheduler], ids=name
)
def test_the_bridge_is_the_plain_loop(cls, betas):
    options = {"beta_schedule": betas, **({"clip_sample": False} if cls in (DDPMScheduler, DDIMScheduler) else {})}
    generator = {} if cls is DDIMScheduler else {"generator": Rng(0).stream("s").generator}
    wanted = by_hand(cls(**options), DiffusersBetas(betas=betas), 50, **generator)
    sampler = Diffusers(scheduler=cls.__name__, steps=50)
    got = laws.final(sampler, Exact(TARGET, DiffusersBetas(betas=betas)), NOISE, Rng(0).stream("s"))
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)


def test_clip_sample_stays_off():
    """The trap: DDPM and DDIM of diffusers clip 2-D data to [-1, 1] unless told not to."""
    exact = Exact(TwoMoons(noise=0.2), DiffusersBetas())
    noise = Rng(0).stream("n").normal((300, 2))
    for scheduler in ("DDPMScheduler", "DDIMScheduler"):
        assert laws.final(Diffusers(scheduler=scheduler, steps=50), exact, noise).abs().max() > 1.3
        clipped = Diffusers(scheduler=scheduler, steps=50, options={"clip_sample": True})
        assert laws.final(clipped, exact, noise).abs().max() < 1.05


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


@pytest.mark.parametrize("scheduler", ["DPMSolverMultistepScheduler", "DDIMScheduler", "DDPMScheduler"])
@pytest.mark.parametrize("schedule", SCHEDULES, ids=name)
def test_any_schedule_goes_through_the_bridge(schedule, scheduler):
    if schedule in (Cosine(margin=0.1), DiffusersBetas(steps=50), Linear(margin=1e-5)):
        pytest.skip("ends with much signal, has too few timesteps, or is beyond float32")
    laws.sampler_has_the_law(Diffusers(scheduler=scheduler, steps=100), schedule, TARGET, n=500)


@pytest.mark.parametrize("scheduler", FOLLOWERS)
def test_every_solver_has_the_law(scheduler):
    """In coordinates that do not preserve the variance, and betas that most schedulers do not know by name."""
    for schedule in (Linear(), DiffusersBetas(betas="sigmoid")):
        laws.sampler_has_the_law(Diffusers(scheduler=scheduler, steps=50), schedule, TARGET, n=500)


@pytest.mark.parametrize(
    ("scheduler", "why"),
    [
        ("FlowMatchEulerDiscreteScheduler", "schedule of its own"),
        ("EDMEulerScheduler", "schedule of its own"),
        ("IPNDMScheduler", "schedule of its own"),
        ("CMStochasticIterativeScheduler", "schedule of its own"),
        ("CogVideoXDDIMScheduler", "schedule of its own"),
        ("UnCLIPScheduler", "schedule of its own"),
        ("DDIMInverseScheduler", "data to noise"),
        ("RePaintScheduler", "more than eps"),
        ("AmusedScheduler", "cannot be used"),
    ],
)
def test_a_scheduler_that_cannot_follow_the_schedule_is_refused(scheduler, why):
    with pytest.raises(SpecError, match=why):
        Diffusers(scheduler=scheduler, steps=50).make(DiffusersBetas())


@pytest.mark.parametrize(
    "options",
    [{"prediction_type": "v_prediction"}, {"beta_start": 1e-3}, {"num_train_timesteps": 500}, {"trained_betas": [0.1]}],
    ids=str,
)
def test_an_option_that_contradicts_the_denoiser_is_refused(options):
    with pytest.raises(SpecError, match=f"^options.{next(iter(options))}: "):
        Diffusers(scheduler="DDIMScheduler", options=options)
    with pytest.raises(SpecError, match="schedule of its own"):
        Diffusers(scheduler="DDIMScheduler", options={"rescale_betas_zero_snr": True}).make(DiffusersBetas())


def test_a_schedule_beyond_float32_is_refused():
    with pytest.raises(SpecError, match="float32"):
        Diffusers(scheduler="DDIMScheduler").make(Linear(margin=1e-5))


def test_unknown_schedulers_and_options_are_named_with_the_nearest():
    with pytest.raises(SpecError, match=r"did you mean 'DDIMScheduler'"):
        Diffusers(scheduler="DDIMMScheduler").make(DiffusersBetas())
    with pytest.raises(SpecError, match=r"sampler.options.clip_sampel: .*did you mean 'clip_sample'"):
        Diffusers(options={"clip_sampel": True}).make(DiffusersBetas())
    with pytest.raises(SpecError, match=r"^scheduler: 'DDIM' is no diffusers scheduler"):
        Diffusers(scheduler="DDIM")


def test_options_reach_the_scheduler():
    made = Diffusers(scheduler="EulerDiscreteScheduler", steps=20, options={"timestep_spacing": "trailing"})
    assert made.make(DiffusersBetas()).config.timestep_spacing == "trailing"
    assert len(made.make(DiffusersBetas()).timesteps) == 20
