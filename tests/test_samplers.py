"""Samplers and spacings against the laws, one another, and diffusers."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, EulerDiscreteScheduler

from moonbed import laws
from moonbed.component import _REGISTRY, SpecError, members
from moonbed.diffusion import Denoiser, Exact, Sampler, Schedule
from moonbed.diffusion.counting import Counted
from moonbed.diffusion.diffusers_bridge import Diffusers, DiffusersBetas
from moonbed.diffusion.samplers import (
    DDIM,
    DDPM,
    DEIS,
    RK4,
    RK45,
    Churn,
    DPMSolver2M,
    DPMSolver3M,
    Euler,
    Heun,
    Jump,
    Karras,
    Leading,
    MultistepSampler,
    PredictorCorrector,
    Quadratic,
    Renoise,
    SinhLogSNR,
    Spacing,
    SteppingSampler,
    Trailing,
    UniformLogSNR,
    UniformTime,
    UniPC,
    multistep,
)
from moonbed.diffusion.schedules import VE, Cosine, Linear
from moonbed.laws.counterparts import COUNTERPARTS, WORDS, difference
from moonbed.rng import Rng
from moonbed.targets.curves import TwoMoons
from moonbed.targets.mixtures import EightGaussians, Mixture

TARGET = TwoMoons(noise=0.5)
MOONS = TwoMoons(noise=0.2)
SMOOTH = EightGaussians(std=2.5)
NATIVE = [cls() for cls in members(Sampler).values() if cls.__module__.startswith("moonbed.diffusion.samplers.")]
VARIANTS = [
    DDIM(eta=0.3),
    DDIM(eta=1),
    DDPM(variance="large"),
    Churn(s_churn=0),
    DPMSolver2M(eta=0.3),
    DPMSolver2M(eta=1),
    DPMSolver3M(eta=1),
    DPMSolver3M(halved=False),
    DPMSolver3M(eta=1, halved=False),
    UniPC(points=1),
    UniPC(points=3),
    UniPC(corrector=False),
    UniPC(points=3, corrector=False),
    DEIS(points=1),
    DEIS(points=2),
    DEIS(variable="rho"),
    DEIS(variable="logrho"),
]
SCHEDULES = [
    *(cls() for cls in members(Schedule).values()),
    DiffusersBetas(betas="squaredcos_cap_v2"),
    DiffusersBetas(steps=50),
    Cosine(margin=0.1),
    Linear(margin=1e-5),
]


def name(component):
    if not hasattr(component, "spec"):
        return component.__name__
    changed = [f"{f.name}={getattr(component, f.name)}" for f in dataclasses.fields(component)]
    plain = [f"{f.name}={f.default}" for f in dataclasses.fields(component)]
    return "-".join([type(component).__name__, *(c for c, p in zip(changed, plain, strict=True) if c != p)])


def stochastic(sampler):
    return laws.draws(sampler, VE()) > 0


@pytest.fixture
def strangers():
    """Samplers and spacings that a test defines are forgotten after it."""
    kept = {kind: dict(_REGISTRY[kind]) for kind in (Sampler, Spacing)}
    yield
    for kind, known in kept.items():
        _REGISTRY[kind].clear()
        _REGISTRY[kind].update(known)


# Spacings


@pytest.mark.parametrize("steps", [1, 2, 17])
@pytest.mark.parametrize("schedule", SCHEDULES, ids=name)
@pytest.mark.parametrize("spacing", [cls() for cls in members(Spacing).values()], ids=name)
def test_spacings_fall_from_one_to_zero(spacing, schedule, steps):
    t = spacing.times(schedule, steps)
    assert t.shape == (steps + 1,)
    assert t.dtype == torch.float64
    assert (t.diff() < 0).all()
    if isinstance(spacing, SinhLogSNR):
        ratio = torch.exp(-schedule.logsnr(t[[0, -1]]) / 2)
        assert 0.8 < ratio[0] <= 10.01
        assert 0.0149 < ratio[1] < 0.2
        assert (t[0] <= 1, t[-1] >= 0) == (True, True)
    elif isinstance(spacing, (Karras, Leading, Trailing)):
        assert t[0] <= 1
        assert t[-1] >= 0
    else:
        assert (t[0], t[-1]) == (1, 0)


def test_log_snr_spacing_is_even():
    for schedule in (Cosine(), Linear(), DiffusersBetas()):
        gaps = schedule.logsnr(UniformLogSNR().times(schedule, 20)).diff()
        laws.close(gaps, gaps.mean().expand(20), "gaps", 1e-6, 1e-6)


def test_quadratic_spacing_is_even_in_the_root_of_the_time():
    laws.close(Quadratic().times(Cosine(), 7).sqrt(), torch.linspace(1, 0, 8).double(), "roots", 1e-6, 1e-6)


def test_karras_spacing_is_that_of_the_paper():
    """Equation 5 with its sigma_min, sigma_max and rho, under a schedule that has them, and cut where it has not."""
    i = torch.arange(18).double()
    sigmas = (80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    laws.close(VE().sigma(Karras().times(VE(), 17)), sigmas, "sigmas", 1e-9, 0)
    for schedule in (Cosine(), DiffusersBetas(), Linear(margin=0.01)):
        ratio = torch.exp(-schedule.logsnr(Karras(rho=3).times(schedule, 9)) / 2)
        gaps = (ratio ** (1 / 3)).diff()
        laws.close(gaps, gaps.mean().expand(9), "gaps", 1e-6, 1e-6)
    assert float(ratio[0]) == pytest.approx(99, rel=0.2)


def test_karras_spacing_is_that_of_diffusers():
    schedule = DiffusersBetas(betas="scaled_linear")
    judge = EulerDiscreteScheduler(trained_betas=schedule._scheduler.betas.numpy(), use_karras_sigmas=True)
    judge.set_timesteps(13)
    t = Karras(low=1e-4, high=1e4).times(schedule, 12)
    ratio = torch.exp(-schedule.logsnr(t) / 2)
    torch.testing.assert_close(ratio, judge.sigmas[:-1].double(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("total", [1000, 50])
@pytest.mark.parametrize("steps", [1, 2, 3, 6, 7, 11, 19, 33, 48, 49])
def test_timesteps_are_those_of_diffusers(steps, total):
    for spacing, options in (
        (Trailing(num_train_timesteps=total), {"timestep_spacing": "trailing"}),
        (Leading(num_train_timesteps=total), {"timestep_spacing": "leading"}),
        (Leading(num_train_timesteps=total, offset=1), {"timestep_spacing": "leading", "steps_offset": 1}),
    ):
        judge = DDIMScheduler(num_train_timesteps=total, **options)
        judge.set_timesteps(steps + 1)
        if judge.timesteps[0] >= total:  # diffusers would fail at its first step
            with pytest.raises(SpecError, match=r"timestep 50 is beyond the last one, 49"):
                spacing.times(Cosine(), steps)
        else:
            wanted = judge.timesteps.double() / (total - 1)
            assert torch.equal(spacing.times(Cosine(), steps), wanted)


def test_a_spacing_outside_of_the_schedule_is_refused():
    with pytest.raises(SpecError, match="no noise ratios from 1e"):
        SinhLogSNR(low=1e-6, high=1e-5).times(Cosine(), 4)
    with pytest.raises(SpecError, match="no noise ratios from 1e"):
        Karras(low=1e-6, high=1e-5).times(Cosine(), 4)
    for cls in (SinhLogSNR, Karras):
        with pytest.raises(SpecError, match="above low"):
            cls(low=1, high=0.5)
    for cls in (Trailing, Leading):
        with pytest.raises(SpecError, match=r"64 steps end at 65 timesteps, and there are 50"):
            cls(num_train_timesteps=50).times(Cosine(), 64)


# What every sampler must satisfy


@pytest.mark.parametrize(
    ("sampler", "schedule"),
    [
        *((sampler, cls()) for sampler in (*NATIVE, Diffusers()) for cls in members(Schedule).values()),
        *((sampler, Cosine()) for sampler in VARIANTS),
    ],
    ids=name,
)
def test_samplers_yield_every_step(sampler, schedule):
    few = sampler.replace(rtol=1e-3, atol=1e-3) if sampler.adaptive else sampler.replace(steps=6)
    laws.sampler_yields_every_step(few, schedule, TARGET)


@pytest.mark.parametrize("sampler", [*NATIVE, *VARIANTS], ids=name)
def test_samplers_that_draw_noise_say_so(sampler):
    laws.sampler_needs_what_it_says(sampler, Cosine())
    assert sampler.needs_score == stochastic(sampler)


COST = {
    "DDIM": 1,
    "DDPM": 1,
    "Euler": 1,
    "EulerMaruyama": 1,
    "Heun": 2,
    "Midpoint": 2,
    "RK4": 4,
    "Churn": 2,
    "DPMSolver2M": 1,
    "DPMSolver3M": 1,
    "UniPC": 1,
    "DEIS": 1,
    "PredictorCorrector": 2,
}
"""Evaluations a step, beside the one that denoises at the end."""


@pytest.mark.parametrize("sampler", [*NATIVE, *VARIANTS], ids=name)
def test_evaluations_are_as_counted(sampler):
    kind = type(sampler).__name__
    if sampler.adaptive:
        counted = laws.evaluations(sampler, VE(), TARGET)
        assert counted % 6 == 2  # the first slope, six for each step, and the denoising
        return
    found = [laws.evaluations(sampler.replace(steps=k), Cosine(), TARGET) for k in (1, 5)]
    if kind in ("Renoise", "Jump"):
        assert found == [1, 5]
    else:
        assert found == [COST[kind] + 1, 5 * COST[kind] + 1]


def test_the_counter_counts_and_changes_nothing():
    exact, x = Exact(TARGET, Cosine()), Rng(0).stream("x").normal((7, 2))
    counted = Counted(exact)
    u = torch.tensor(0.2, dtype=torch.float64)
    assert torch.equal(counted(x, 0.4), exact(x, 0.4))
    assert torch.equal(counted.eps(x, 0.4), exact.eps(x, 0.4))
    assert torch.equal(counted.velocity(x, 0.4), exact.velocity(x, 0.4))
    assert torch.equal(counted.jump(x, 0.4, u), exact.jump(x, 0.4, u))
    assert counted.evaluations == 4
    assert (counted.gaussian, counted.posterior) == (exact.gaussian, exact.posterior)


# Order


DECLARED = [sampler for sampler in (*NATIVE, *VARIANTS) if sampler.order is not None]
FULL, SHORT = VE(sigma_min=0.3, sigma_max=300), Linear(margin=0.005)
"""Smooth, with so much noise at the start that the low order of the first steps is not seen."""


def steps_for(sampler):
    return 64 if isinstance(sampler, MultistepSampler) else 32


@pytest.mark.parametrize("sampler", [s for s in DECLARED if not s.needs_score], ids=name)
def test_deterministic_samplers_have_their_order(sampler):
    schedules = [FULL] if sampler in VARIANTS else [FULL, SHORT]
    for schedule in schedules:
        laws.sampler_has_its_order(sampler, schedule, SMOOTH, steps_for(sampler), tolerance=0.3)


@pytest.mark.parametrize("schedule", [Cosine(margin=0.02), Linear(margin=0.02)], ids=name)
@pytest.mark.parametrize("sampler", [s for s in DECLARED if s.needs_score], ids=name)
def test_stochastic_samplers_have_their_weak_order(sampler, schedule):
    """Without any chance: the variance of Gaussian data, exactly."""
    laws.sampler_has_its_order(sampler, schedule, SMOOTH, steps=64, tolerance=0.25)


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


def test_the_published_third_order_is_second():
    """Half of the second difference is missing in k-diffusion's and diffusers' 3M; with the whole of it, it is."""
    published, whole = (laws.convergence_order(DPMSolver3M(halved=h), FULL, SMOOTH, 96) for h in (True, False))
    assert published == pytest.approx(2, abs=0.2)
    assert whole == pytest.approx(3, abs=0.2)


def quadrature_means(sampler, schedule, steps, nodes=5):
    """E of x, x² and cos 2x from one first noise, before the denoising, exact but for quadrature over every draw."""
    z, w = (torch.from_numpy(v) for v in np.polynomial.hermite_e.hermegauss(nodes))
    place = [(torch.arange(nodes**steps) // nodes**k) % nodes for k in range(steps)]

    class Tree:
        draws = 0

        def normal(self, shape):
            self.draws += 1
            return z[place[self.draws - 1]][:, None]

    class Law:
        parts = Mixture(*(torch.tensor(v, dtype=torch.float64) for v in ([0.3, 0.7], [[-1.0], [0.8]], [0.4])))
        denoise = staticmethod(parts.denoise)

    tree, noise = Tree(), torch.full((nodes**steps, 1), 0.9, dtype=torch.float64)
    *_, x, _ = sampler.replace(steps=steps).trajectory(Exact(Law(), schedule), noise, tree)
    assert tree.draws == steps
    weights = math.prod((w / w.sum())[k] for k in place)
    return torch.stack([(weights * f(x[:, 0])).sum() for f in (lambda x: x, torch.square, lambda x: torch.cos(2 * x))])


@pytest.mark.slow
@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_2m_sde_is_of_weak_order_two_beyond_gaussians(eta):
    """On a mixture the sampler is not linear: every draw by Gauss-Hermite quadrature, as far as memory lets it."""
    schedule = VE(sigma_min=0.6, sigma_max=1.0)
    x, y, z = (quadrature_means(DPMSolver2M(eta=eta), schedule, k) for k in (2, 4, 8))
    second = (torch.log2(((x - y) / (y - z)).abs())).mean()
    assert second > 1.7
    x, y, z = (quadrature_means(DDIM(eta=1), schedule, k) for k in (2, 4, 8))
    assert torch.log2(((x - y) / (y - z)).abs())[1:].mean() < 1.2


# The law of the samples


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


STEPS = {"DDPM": 200, "Euler": 256, "EulerMaruyama": 300, "PredictorCorrector": 128, "Jump": 100}


@pytest.mark.parametrize("sampler", [s for s in NATIVE if type(s) is not Renoise], ids=name)
def test_every_native_sampler_has_the_law(sampler):
    """Enough steps for each."""
    if isinstance(sampler, RK45):
        sampler = sampler.replace(rtol=1e-3, atol=1e-3)
    else:
        sampler = sampler.replace(steps=STEPS.get(type(sampler).__name__, 48))
    laws.sampler_has_the_law(sampler, Cosine(), MOONS, n=500)


@pytest.mark.slow
def test_ancestral_sampling_has_the_law_of_the_sharp_moons():
    laws.sampler_has_the_law(DDIM(steps=600, eta=1), Cosine(), TwoMoons())


@pytest.mark.slow
@pytest.mark.parametrize("schedule", [VE(), Cosine(), DiffusersBetas()], ids=name)
def test_twenty_evaluations_well_spent_have_the_law_of_the_sharp_moons(schedule):
    laws.sampler_has_the_law(DPMSolver2M(steps=19, spacing=SinhLogSNR(), eta=0.16), schedule, TwoMoons())


def test_the_law_sees_a_coarse_sampler():
    with pytest.raises(laws.Broken, match="do not follow"):
        laws.sampler_has_the_law(DDIM(steps=4), Cosine(), TwoMoons(noise=0.2))


@pytest.mark.parametrize("sampler", [s for s in (*NATIVE, *VARIANTS) if s.order and s.needs_score], ids=name)
def test_stochastic_samplers_keep_gaussians(sampler):
    laws.sampler_keeps_gaussians(sampler.replace(steps=300), Cosine(), tolerance=0.05)


@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_ddim_keeps_the_marginals_of_gaussian_data(eta):
    """For x_0 ~ N(0, d²) every step is linear, so the variances follow by hand: eta changes them at O(step) only."""

    class Gauss:
        def denoise(self, x, alpha, sigma):
            return alpha * 0.25 / (alpha**2 * 0.25 + sigma**2) * x

    x = laws.final(DDIM(steps=400, eta=eta), Exact(Gauss(), Cosine()), Rng(0).stream("n").normal((40_000, 1)))
    assert float(x.std()) == pytest.approx(0.5, rel=0.02)


def test_the_exact_variance_is_that_of_many_samples():
    sampler, schedule = DPMSolver2M(steps=12, eta=0.7), Cosine()

    class Gauss:
        def denoise(self, x, alpha, sigma):
            return alpha * 0.25 / (alpha**2 * 0.25 + sigma**2) * x

    x = laws.final(sampler, Exact(Gauss(), schedule), Rng(0).stream("n").normal((100_000, 1)))
    (exact,) = laws.gaussian_variance(sampler, schedule, [0.5])
    assert float(x.var()) == pytest.approx(float(exact), rel=5 * math.sqrt(2 / 100_000))


def test_large_variance_is_right_for_standard_normal_data():
    narrow, wide = (laws.gaussian_bias(DDPM(variance=v), Cosine(), [0.5, 1.0]) for v in ("small", "large"))
    assert abs(wide[1]) < 1e-4
    assert (narrow < -0.1).all()
    assert wide[0] > 0.05


def test_eta_zero_ignores_the_stream_and_eta_one_does_not():
    noise, exact = Rng(0).stream("n").normal((5, 2)), Exact(TARGET, Cosine())

    def sample(eta, stream):
        return laws.final(DDIM(steps=5, eta=eta), exact, noise, Rng(0).stream(stream))

    assert torch.equal(sample(0.0, "a"), sample(0.0, "b"))
    assert not torch.equal(sample(1.0, "a"), sample(1.0, "b"))


# One and the same


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (DDPM(), DDIM(eta=1)),
        (DEIS(points=1), DDIM()),
        (DEIS(points=1, variable="rho"), DDIM()),
        (UniPC(points=1, corrector=False), DDIM()),
        (UniPC(points=2, corrector=False), DPMSolver2M()),
    ],
    ids=name,
)
@pytest.mark.parametrize("schedule", [Cosine(), VE()], ids=name)
def test_two_names_of_one_method(one, other, schedule):
    exact, noise = Exact(TARGET, schedule), Rng(0).stream("noise").normal((20, 2), torch.float64)
    ends = [laws.final(s.replace(steps=11), exact, noise, Rng(0).stream("s")) for s in (one, other)]
    torch.testing.assert_close(*ends, rtol=1e-9, atol=1e-9)


def test_a_jump_of_a_denoiser_is_a_step_of_ddim():
    exact, noise = Exact(TARGET, Cosine()), Rng(0).stream("noise").normal((20, 2), torch.float64)
    *states, denoised = DDIM(steps=9).trajectory(exact, noise, Rng(0).stream("s"))
    jumps = list(Jump(steps=9).trajectory(exact, noise, Rng(0).stream("s")))
    assert len(jumps) == 9
    torch.testing.assert_close(torch.stack(jumps), torch.stack(states), rtol=1e-12, atol=1e-12)
    assert not torch.equal(jumps[-1], denoised)


def test_churn_without_noise_is_heun_in_the_noise_ratio():
    """Under VE with t as the ratio itself both are the same; here by hand."""
    exact, x = Exact(TARGET, VE()), 80 * Rng(0).stream("noise").normal((20, 2), torch.float64)
    sigma = VE().sigma(Karras().times(VE(), 12)).tolist()
    got = laws.final(Churn(steps=12, spacing=Karras(), s_churn=0), exact, x / 80)
    t = Karras().times(VE(), 12)
    for k in range(12):
        d = (x - exact(x, t[k])) / sigma[k]
        ahead = x + (sigma[k + 1] - sigma[k]) * d
        x = x + (sigma[k + 1] - sigma[k]) * (d + (ahead - exact(ahead, t[k + 1])) / sigma[k + 1]) / 2
    laws.close(got, exact(x, t[-1]), "algorithm 1", 1e-9, 1e-9)


def test_churn_adds_no_noise_beyond_the_schedule():
    """The first step of algorithm 2 would leave the schedule's noise behind."""
    seen = []

    class Watched(Exact):
        def combine(self, x_t, t, w_x, w_d):
            seen.append(float(t))
            return super().combine(x_t, t, w_x, w_d)

    noise = Rng(0).stream("noise").normal((5, 2))
    laws.final(Churn(steps=5, s_max=1e9), Watched(TARGET, Cosine()), noise)
    assert max(seen) == 1
    with pytest.raises(SpecError, match=r"s_max: should be above s_min \(0.05\), given 0.01"):
        Churn(s_max=0.01)


def test_langevin_steps_mend_what_the_predictor_does_wrong():
    """Few steps of DDIM, ancestral: too narrow. With corrections less so."""
    noise = Rng(0).stream("noise").normal((4_000, 2), torch.float64)

    class Gauss:
        def denoise(self, x, alpha, sigma):
            return alpha * 0.25 / (alpha**2 * 0.25 + sigma**2) * x

    exact = Exact(Gauss(), Cosine())
    alone = laws.final(DDIM(steps=12, eta=1), exact, noise).var()
    mended = laws.final(PredictorCorrector(steps=12, corrections=3, snr=0.3), exact, noise).var()
    assert abs(mended - 0.25) < 0.5 * abs(alone - 0.25)


# Adaptive steps


@pytest.mark.parametrize("schedule", [Cosine(), VE(), DiffusersBetas()], ids=name)
def test_the_error_of_rk45_follows_its_tolerance(schedule):
    """Under betas too, whose corners in t are none in the log SNR."""
    exact, noise = Exact(SMOOTH, schedule), Rng(0).stream("noise").normal((30, 2), torch.float64)
    truth = laws.final(RK45(rtol=1e-10, atol=1e-10), exact, noise)
    counts, errors = [], []
    for tolerance in (1e-3, 1e-5, 1e-7):
        counted = Counted(exact)
        x = laws.final(RK45(rtol=tolerance, atol=tolerance), counted, noise)
        errors.append(float((x - truth).square().mean().sqrt()) / tolerance)
        counts.append(counted.evaluations)
    assert max(errors) < 10
    assert counts == sorted(counts)
    assert counts[-1] < 600


def test_rk45_finds_what_fine_steps_find():
    exact, noise = Exact(SMOOTH, Cosine()), Rng(0).stream("noise").normal((30, 2), torch.float64)
    torch.testing.assert_close(
        laws.final(RK45(rtol=1e-8, atol=1e-8), exact, noise),
        laws.final(RK4(steps=400), exact, noise),
        rtol=0,
        atol=1e-6,
    )


def test_rk45_says_when_its_steps_do_not_reach():
    exact, noise = Exact(TARGET, Cosine()), Rng(0).stream("noise").normal((5, 2))
    with pytest.raises(SpecError, match=r"sampler.steps: RK45 took all its 9 steps and came to .* of 5\."):
        laws.final(RK45(steps=9), exact, noise)


# Maps


class Flow(Denoiser):
    """The probability flow of N(0, scale²), as a consistency function and as a flow map."""

    def __init__(self, scale, schedule):
        self.scale, self.schedule = scale, schedule

    def spread(self, t):
        return torch.sqrt((self.schedule.alpha(t) * self.scale) ** 2 + self.schedule.sigma(t) ** 2)

    def combine(self, x_t, t, w_x, w_d):
        return w_x * x_t + w_d * self.scale / self.spread(t) * x_t

    def jump(self, x_t, t, u):
        return self.spread(u) / self.spread(t) * x_t


@pytest.mark.parametrize("steps", [1, 2, 7])
@pytest.mark.parametrize("sampler", [Renoise(), Jump()], ids=name)
def test_exact_maps_keep_gaussians_in_any_number_of_steps(sampler, steps):
    flow = Flow(0.5, Cosine())
    stream = laws.samplers.Impulses()
    noise = stream.into(torch.zeros(steps, 1, dtype=torch.float64), 0)
    x = laws.final(sampler.replace(steps=steps), flow, noise, stream)
    assert float(x.square().sum()) == pytest.approx(0.25, rel=1e-3)
    counted = Counted(flow)
    states = list(sampler.replace(steps=steps).trajectory(counted, noise, laws.samplers.Impulses()))
    assert len(states) == counted.evaluations == steps


def test_renoising_with_the_posterior_mean_is_too_narrow():
    """It is for consistency models: more steps do not help, and the law says so."""
    few, many = (laws.gaussian_bias(Renoise(steps=k), Cosine(), [0.5]) for k in (16, 256))
    assert (torch.cat([few, many]) < -0.5).all()
    with pytest.raises(laws.Broken, match="do not follow"):
        laws.sampler_has_the_law(Renoise(), Cosine(), MOONS, n=500)


# What is wrong is seen


def test_a_wrong_weight_costs_heun_its_order(strangers):
    class Lame(SteppingSampler):
        @property
        def order(self):
            return 2

        def step(self, denoiser, x, t, u, stream):
            slope = denoiser.velocity(x, t)
            ahead = denoiser.velocity(x + float(u - t) * slope, u)
            return x + float(u - t) * (0.45 * slope + 0.55 * ahead)

    with pytest.raises(laws.Broken, match=r"declares order 2; from 32 steps on it is (0|1)\."):
        laws.sampler_has_its_order(Lame(), FULL, SMOOTH, 32)


def test_too_much_noise_is_seen_and_so_is_noise_that_is_not_declared(strangers):
    class Loud(DDIM):
        """DDIM with a fifth more noise than belongs there: it converges, at its order, to the wrong law."""

        def step(self, denoiser, x, t, u, stream):
            quiet = DDIM(eta=0.8).step(denoiser, x, t, u, Silent())
            return quiet + 1.2 * (DDIM(eta=0.8).step(denoiser, x, t, u, stream) - quiet)

        @property
        def needs_score(self):
            return False

    class Silent:
        def normal(self, shape):
            return torch.zeros(shape)

    with pytest.raises(laws.Broken, match=r"off by \+"):
        laws.sampler_keeps_gaussians(Loud(steps=128), Cosine(), tolerance=0.05)
    with pytest.raises(laws.Broken, match="says that it needs no score"):
        laws.sampler_needs_what_it_says(Loud(), Cosine())
    with pytest.raises(laws.Broken, match="do not follow"):
        laws.sampler_has_the_law(Loud(steps=128), Cosine(), MOONS)


def test_variances_are_refused_where_rows_depend_on_one_another():
    with pytest.raises(laws.Broken, match="rows depend on one another"):
        laws.gaussian_variance(PredictorCorrector(steps=5), Cosine())


def test_a_sampler_that_forgets_steps_is_seen(strangers):
    class Hasty(SteppingSampler):
        def step(self, denoiser, x, t, u, stream):
            return denoiser.jump(x, t, u)

        def trajectory(self, denoiser, noise, stream):
            yield from [*super().trajectory(denoiser, noise, stream)][-2:]

    with pytest.raises(laws.Broken, match="2 states from 6 steps"):
        laws.sampler_yields_every_step(Hasty(steps=6), Cosine(), TARGET)


# diffusers


@pytest.mark.parametrize("betas", ["linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize("pair", COUNTERPARTS, ids=lambda pair: f"{name(pair.sampler)}-{pair.scheduler}")
def test_native_samplers_are_those_of_diffusers(pair, betas):
    """To its float32, but where the counterpart says why not.

    Under squaredcos_cap_v2 the first noise ratio is 20,000. Heun's first step from there loses more digits than the
    others' do: 0.02, and still 0.004 with states in float64, as the scheduler's table remains in float32.
    """
    found = difference(pair, MOONS, betas)
    if pair.why:
        assert found > 1e-3
    elif betas == "linear":
        assert found < 5e-5
    else:
        assert found < (0.05 if "Heun" in pair.scheduler else 2e-4)


def test_every_native_sampler_has_a_counterpart_or_words():
    compared = {type(pair.sampler).__name__ for pair in COUNTERPARTS}
    assert {type(sampler).__name__ for sampler in NATIVE} <= compared | set(WORDS)


def test_third_order_with_noise_differs_from_diffusers_by_a_sign_there(monkeypatch):
    """It has (1 - e^(-2h) - 2h)/(2h)² - 1/2 before D2, and there belongs + 1/2: with the same slip ours is the same."""
    (pair,) = [p for p in COUNTERPARTS if p.why and type(p.sampler) is DPMSolver3M]
    assert difference(pair, MOONS) > 0.1
    right = multistep._moments

    def slipped(h, rate):
        m0, m1, m2 = right(h, rate)
        return m0, m1, m2 - 2 * h**2

    monkeypatch.setattr(multistep, "_moments", slipped)
    assert difference(pair, MOONS) < 5e-5


def test_the_table_has_orders_costs_and_counterparts():
    """The table finds the counterpart of a default sampler, and has words for one without."""
    rows = laws.order_table([DDIM(), Euler(), PredictorCorrector(), RK45(rtol=1e-3)], FULL, SMOOTH, steps=12)
    ddim, euler, mended, adaptive = rows
    assert (ddim.order, ddim.evaluations, ddim.weak) == (1, 1, False)
    assert ddim.measured == pytest.approx(1, abs=0.3)
    assert ddim.difference < 1e-5
    assert "DDIMScheduler" in ddim.words
    assert euler.difference is None
    assert "DDIM" in euler.words
    assert (mended.weak, mended.measured, mended.evaluations) == (True, None, 2)
    assert (adaptive.measured, adaptive.evaluations) == (None, None)


def test_dpm_solver_is_that_of_diffusers(strangers):
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


NOISE = Rng(0).stream("noise").normal((40, 2))


def by_hand(scheduler, schedule, steps, noise=NOISE, last=999, **extra):
    """The sampling loop as diffusers' documentation has it, on the exact denoiser."""
    scheduler.set_timesteps(steps)
    exact, x = Exact(TARGET, schedule), noise * scheduler.init_noise_sigma
    for k in scheduler.timesteps:
        x = scheduler.step(exact.eps(scheduler.scale_model_input(x, k), float(k) / last), k, x, **extra).prev_sample
    return x


@pytest.mark.parametrize("betas", ["linear"])
@pytest.mark.parametrize(("cls", "eta"), [(DDIMScheduler, 0), (EulerDiscreteScheduler, 0), (DDPMScheduler, 1)])
def test_native_ddim_equals_diffusers_at_every_timestep(cls, eta, betas):
    """Through all 1,000 timesteps: eta = 0 is DDIM, and Euler in sigma/alpha; eta = 1 is DDPM, noise and all."""
    schedule = DiffusersBetas(betas=betas)
    options = {} if cls is EulerDiscreteScheduler else {"clip_sample": False}
    extra = {"generator": Rng(0).stream("s").generator} if cls is DDPMScheduler else {}
    # diffusers' DDPM and DDIM start from unit noise, ours and Euler from sigma(1) times it
    start = (
        NOISE if cls is EulerDiscreteScheduler else NOISE * float(schedule.sigma(torch.ones((), dtype=torch.float64)))
    )
    wanted = by_hand(cls(beta_schedule=betas, **options), schedule, 1000, start, **extra)
    native = DDIM(steps=999, spacing=UniformTime(), eta=eta)
    got = laws.final(native, Exact(TARGET, schedule), NOISE, Rng(0).stream("s"))
    torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-3)
