"""Schedules against the laws, whatever their fields are, and against the formulas and tables of others."""

from __future__ import annotations

import dataclasses
import math
import typing

import pytest
import torch
from annotated_types import Ge, Gt, Le, Lt
from diffusers import DDPMScheduler, EDMEulerScheduler
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from moonbed import laws
from moonbed.component import SpecError, members
from moonbed.diffusion import Exact, Schedule
from moonbed.diffusion.diffusers_bridge import DiffusersBetas
from moonbed.diffusion.samplers import UniformTime
from moonbed.diffusion.schedules import (
    VE,
    Cosine,
    EDMSchedule,
    Laplace,
    Linear,
    LinearLogSNR,
    Sigmoid,
    SubVP,
    Trigonometric,
    VariancePreserving,
    VPLinear,
    VPScaledLinear,
)
from moonbed.rng import Rng
from moonbed.targets.curves import TwoMoons

MEMBERS = [cls for cls in members(Schedule).values() if cls.__module__.startswith("moonbed.")]
BETAS = ["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"]
SCHEDULES = [
    *(cls() for cls in MEMBERS),
    *(DiffusersBetas(betas=betas) for betas in BETAS[1:]),
    DiffusersBetas(steps=50),
    Trigonometric(margin=0.1),
    Linear(margin=1e-5),
    Sigmoid(start=0.0, end=3.0, tau=0.5),
    Laplace(mu=-2.0, b=1.0),
    EDMSchedule(rho=1.0),
]
T = laws.times(401)


def name(component):
    return getattr(component, "__name__", str(component))


# The laws


@pytest.mark.parametrize("law", laws.SCHEDULE_LAWS, ids=name)
@pytest.mark.parametrize("schedule", SCHEDULES, ids=name)
def test_schedule_law(schedule, law):
    law(schedule)


def numbers(hint):
    """All that a field accepts, corners often: from its bounds, up to 1000 where there is none."""
    if typing.get_origin(hint) is typing.Literal:
        return st.sampled_from(typing.get_args(hint))
    kind, *bounds = typing.get_args(hint)
    low = next((getattr(b, "ge", getattr(b, "gt", None)) for b in bounds if isinstance(b, Ge | Gt)), -1000)
    high = next((getattr(b, "le", getattr(b, "lt", None)) for b in bounds if isinstance(b, Le | Lt)), 1000)
    if kind is int:
        return st.integers(low, high)
    between = st.floats(0, 1).map(lambda u: low * (high / low) ** u if low > 0 else low + (high - low) * u)
    return (st.sampled_from([low, high]) | between).filter(lambda v: low <= v <= high)


@pytest.mark.parametrize("cls", MEMBERS, ids=name)
@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_a_schedule_that_is_accepted_obeys_the_laws(cls, data):
    hints = typing.get_type_hints(cls, include_extras=True)
    fields = [f for f in dataclasses.fields(cls) if f.name in hints]
    values = {f.name: data.draw(st.just(f.default) | numbers(hints[f.name]), f.name) for f in fields}
    try:
        schedule = cls(**values)
    except SpecError:
        assume(False)
    for law in laws.SCHEDULE_LAWS[:3]:  # differences are too coarse for derivatives that change within h
        law(schedule)
    assert all(d.isfinite().all() for d in schedule.derivatives(T))


@pytest.mark.parametrize("margin", [0, -1, 1e-300, 0.5, 1])
@pytest.mark.parametrize("schedule", [cls for cls in MEMBERS if "margin" in cls.__dataclass_fields__], ids=name)
def test_a_margin_that_breaks_the_laws_is_refused(schedule, margin):
    with pytest.raises(SpecError, match="margin"):
        schedule(margin=margin)


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: VE(sigma_max=0.002), "sigma_max"),
        (lambda: EDMSchedule(sigma_min=1.0, sigma_max=0.5), "sigma_max"),
        (lambda: EDMSchedule(rho=0.5), "rho"),
        (lambda: VPLinear(beta_min=0.0), "beta_min"),
        (lambda: SubVP(beta_max=1e9), "beta_max"),
        (lambda: Sigmoid(start=3.0, end=-3.0), "end"),
        (lambda: Sigmoid(start=-90.0, end=90.0, tau=0.01), "end"),
        (lambda: LinearLogSNR(logsnr_max=-5.0), "logsnr_max"),
        (lambda: Laplace(b=0.0), "b"),
        (lambda: Cosine(s=-0.1), "s"),
        (lambda: DiffusersBetas(steps=1), "steps"),
    ],
)
def test_what_is_no_schedule_is_refused(make, field):
    with pytest.raises(SpecError, match=f"^{field}: "):
        make()


@pytest.mark.parametrize("schedule", SCHEDULES, ids=name)
def test_variance_is_preserved_where_the_schedule_says_so(schedule):
    total = schedule.alpha(T) ** 2 + schedule.sigma(T) ** 2
    if isinstance(schedule, VariancePreserving | DiffusersBetas | Trigonometric):
        laws.close(total, torch.ones_like(T), "alpha² + sigma²", 1e-12, 0)
    else:
        assert (total - 1).abs().max() > 0.1


# diffusers


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


def log_kept(steps: int, **options):
    """log alphas_cumprod of a scheduler with betas that are `steps` parts of one and the same rate."""
    return DDPMScheduler(num_train_timesteps=steps, **options).alphas_cumprod.double().log()


@pytest.mark.parametrize(("cls", "betas"), [(VPLinear, "linear"), (VPScaledLinear, "scaled_linear")])
def test_the_betas_of_diffusers_become_the_continuous_schedule(cls, betas):
    """alpha² differs by exp(-sum of beta²/2): 7% at the end of DDPM's, a tenth of that with ten times the steps."""
    errors = []
    for steps in (1000, 10_000):
        schedule = cls(beta_min=0.1, beta_max=20.0, margin=1 / steps)
        k = torch.arange(steps)
        ours = 2 * torch.log(schedule.alpha(k.double() / (steps - 1)))
        theirs = log_kept(steps, beta_schedule=betas, beta_start=0.1 / steps, beta_end=20 / steps)
        errors.append(float((theirs - ours).abs().max()))
    assert errors[0] < 0.07
    assert errors[1] == pytest.approx(errors[0] / 10, rel=0.1)


def test_of_the_linear_betas_all_but_the_last_hundredth_is_explained():
    schedule, scheduler = VPLinear(), DDPMScheduler()
    betas = scheduler.betas.double()
    second = torch.cumsum(betas**2, 0) / 2  # log(1 - beta) = -beta - beta²/2 - ...
    theirs = torch.exp(scheduler.alphas_cumprod.double().log() + second)
    laws.close(schedule.alpha(torch.arange(1000).double() / 999) ** 2, theirs, "alpha²", 1e-2, 0)


def test_the_defaults_of_scaled_linear_are_those_of_stable_diffusion():
    theirs = log_kept(1000, beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    ours = 2 * torch.log(VPScaledLinear().alpha(torch.arange(1000).double() / 999))
    laws.close(ours, theirs, "log alphas_cumprod", 1e-2, 1e-3)
    snr = float(torch.exp(VPScaledLinear().logsnr(torch.ones((), dtype=torch.float64))))
    assert snr == pytest.approx(0.00468, rel=0.03)  # Lin et al. 2024, table 1


def test_the_cosine_is_that_of_diffusers_but_for_the_last_step_which_it_caps():
    scheduler = DDPMScheduler(beta_schedule="squaredcos_cap_v2")
    theirs = scheduler.alphas_cumprod.double()
    ours = Cosine().alpha(torch.arange(999).double() / 998) ** 2
    laws.close(ours, theirs[:999], "alpha²", 1e-4, 0)
    assert scheduler.betas[-1] == pytest.approx(0.999)
    assert theirs[-1] < ours[-1] / 900


def test_the_sigmoid_of_diffusers_is_another_one():
    """There the rate of noise is a sigmoid of time, from GeoDiff; here the signal, from Jabri et al."""
    t = torch.arange(1000).double() / 999
    assert (DiffusersBetas(betas="sigmoid").alpha(t) - Sigmoid().alpha(t)).abs().max() > 0.1
    rate = 1e-4 + (0.02 - 1e-4) * torch.sigmoid(torch.linspace(-6, 6, 1000, dtype=torch.float64))
    laws.close(DiffusersBetas(betas="sigmoid").alpha(t) ** 2, torch.cumprod(1 - rate, 0), "alpha²", 1e-3, 0)


@pytest.mark.parametrize(("schedule", "kind"), [(EDMSchedule(), "karras"), (VE(), "exponential")])
@pytest.mark.parametrize("steps", [2, 18])
def test_noise_levels_of_edm(schedule, kind, steps):
    scheduler = EDMEulerScheduler(sigma_schedule=kind)
    scheduler.set_timesteps(steps)
    ours = schedule.sigma(UniformTime().times(schedule, steps - 1))
    torch.testing.assert_close(ours.float(), scheduler.sigmas[:-1], rtol=1e-5, atol=0)


# The formulas of the papers, as they stand there


def u_of(schedule, both=True):
    return schedule.margin + (1 - (1 + both) * schedule.margin) * T


@pytest.mark.parametrize("schedule", [VPLinear(), VPLinear(beta_min=1.0, beta_max=5.0, margin=0.1)], ids=name)
def test_vp_linear_is_songs_and_that_of_k_diffusion_and_flow_matching(schedule):
    low, high, u = schedule.beta_min, schedule.beta_max, u_of(schedule, both=False)
    log_mean = -0.25 * u**2 * (high - low) - 0.5 * u * low  # VPSDE.marginal_prob, and flow matching's VPScheduler
    laws.close(schedule.alpha(T), torch.exp(log_mean), "alpha", 1e-12, 0)
    laws.close(schedule.sigma(T), torch.sqrt(1 - torch.exp(2 * log_mean)), "sigma", 1e-9, 0)
    level = torch.sqrt(torch.exp((high - low) * u**2 / 2 + low * u) - 1)  # get_sigmas_vp
    laws.close(schedule.sigma(T) / schedule.alpha(T), level, "sigma/alpha", 1e-9, 0)


def test_sub_vp_is_songs():
    schedule = SubVP()
    u = u_of(schedule, both=False)
    log_mean = -0.25 * u**2 * 19.9 - 0.5 * u * 0.1
    laws.close(schedule.alpha(T), torch.exp(log_mean), "alpha", 1e-12, 0)
    laws.close(schedule.sigma(T), 1 - torch.exp(2 * log_mean), "sigma", 1e-9, 0)
    laws.close(schedule.sigma(T), VPLinear(margin=schedule.margin).sigma(T) ** 2, "square of VP's", 1e-9, 0)
    assert (schedule.alpha(T) ** 2 + schedule.sigma(T) ** 2 <= 1).all()


@pytest.mark.parametrize("schedule", [VPLinear(), VPScaledLinear(), VPScaledLinear(beta_min=3.0, beta_max=3.0)])
def test_alpha_squared_falls_at_the_rate_beta(schedule):
    """d log alpha²/du = -beta(u), the drift of the SDE."""
    u = u_of(schedule, both=False)
    da, _ = schedule.derivatives(T)
    rate = -2 * da / schedule.alpha(T) / (1 - schedule.margin)
    power = 1.0 if isinstance(schedule, VPLinear) else 0.5
    low, high = schedule.beta_min**power, schedule.beta_max**power
    laws.close(rate, (low + (high - low) * u) ** (1 / power), "beta", 1e-7, 0)


@pytest.mark.parametrize("schedule", [Cosine(), Cosine(s=0.1, margin=0.01)], ids=name)
def test_the_cosine_is_nichols_and_dhariwals(schedule):
    def f(u):
        return math.cos((u + schedule.s) / (1 + schedule.s) * math.pi / 2) ** 2

    kept = torch.tensor([f(u) / f(0) for u in u_of(schedule).tolist()], dtype=torch.float64)
    laws.close(schedule.alpha(T) ** 2, kept, "alpha²", 1e-9, 0)


@pytest.mark.parametrize("schedule", [Sigmoid(), Sigmoid(start=0.0, end=3.0, tau=0.3, margin=0.01)], ids=name)
def test_the_sigmoid_is_chens(schedule):
    v = schedule.start + (schedule.end - schedule.start) * u_of(schedule)
    first, here, last = (1 / (1 + math.e ** (-a / schedule.tau)) for a in (schedule.start, v, schedule.end))
    laws.close(schedule.alpha(T) ** 2, (last - here) / (last - first), "alpha²", 1e-9, 0)


@pytest.mark.parametrize("schedule", [Laplace(), Laplace(mu=2.0, b=1.5, margin=1e-3)], ids=name)
def test_laplace_is_hangs_and_its_noise_levels_have_that_law(schedule):
    from scipy.stats import laplace

    u = u_of(schedule)
    theirs = schedule.mu - schedule.b * torch.sign(0.5 - u) * torch.log(1 - 2 * (u - 0.5).abs())
    laws.close(schedule.logsnr(T), theirs, "logsnr", 1e-6, 1e-6)
    quantiles = laplace.isf(u.numpy(), loc=schedule.mu, scale=schedule.b)
    laws.close(schedule.logsnr(T), torch.from_numpy(quantiles), "quantiles of falling logsnr", 1e-6, 1e-6)


def test_linear_logsnr_is_the_fixed_one_of_variational_diffusion():
    laws.close(LinearLogSNR().logsnr(T), 13.3 - 18.3 * T, "logsnr = -gamma", 1e-12, 1e-12)


def test_the_trigonometric_path_is_that_of_trigflow_and_of_flow_matching():
    schedule = Trigonometric()
    angle = math.pi / 2 * u_of(schedule)
    laws.close(schedule.alpha(T), torch.cos(angle), "alpha", 1e-12, 1e-12)
    laws.close(schedule.sigma(T), torch.sin(angle), "sigma", 1e-12, 1e-12)
    da, ds = schedule.derivatives(T)
    speed = math.pi / 2 * (1 - 2 * schedule.margin)
    laws.close(da, -speed * schedule.sigma(T), "dx/dt = speed (alpha eps - sigma x_0) = speed V", 1e-9, 0)
    laws.close(ds, speed * schedule.alpha(T), "dx/dt = speed (alpha eps - sigma x_0) = speed V", 1e-9, 0)


def test_karras_lies_between_linear_sigma_and_ve():
    ends = {"sigma_min": 0.01, "sigma_max": 10.0}
    laws.close(EDMSchedule(rho=1.0, **ends).sigma(T), 0.01 + 9.99 * T, "rho = 1", 1e-9, 0)
    laws.close(EDMSchedule(rho=1000.0, **ends).sigma(T), VE(**ends).sigma(T), "rho = 1000", 1e-2, 0)
    low, high = 0.002 ** (1 / 7), 80 ** (1 / 7)
    by_hand = (high + (1 - T) * (low - high)) ** 7  # k-diffusion's get_sigmas_karras
    laws.close(EDMSchedule().sigma(T), by_hand, "rho = 7", 1e-9, 0)


# What one has of another


@pytest.mark.parametrize("schedule", [cls() for cls in MEMBERS], ids=name)
def test_the_exact_denoiser_depends_on_the_noise_ratio_alone(schedule):
    """At one signal-to-noise ratio all schedules are one schedule, rescaled: Kingma et al. 2021."""
    target, y, ratio = TwoMoons(noise=0.5), Rng(0).stream("y").normal((20, 2), torch.float64), 0.7
    t = schedule.time(torch.tensor(-2 * math.log(ratio), dtype=torch.float64))
    got = Exact(target, schedule)(schedule.alpha(t) * y, t)
    laws.close(got, target.denoise(y, 1.0, ratio), "E[x_0 | x_0 + 0.7 eps = y]", 1e-6, 1e-6)
