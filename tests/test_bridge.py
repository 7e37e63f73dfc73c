"""The bridge to diffusers: every scheduler follows the law of the exact denoiser, or is refused with the reason."""

import inspect
from importlib.util import find_spec
from pathlib import Path

import diffusers
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, EulerDiscreteScheduler

from moonbed import laws
from moonbed.component import SpecError
from moonbed.diffusion import Denoiser, Exact, Learned
from moonbed.diffusion.diffusers_bridge import Diffusers, DiffusersBetas
from moonbed.diffusion.diffusers_bridge import bridge as bridge_module
from moonbed.diffusion.diffusers_bridge import table as table_module
from moonbed.diffusion.diffusers_bridge.bridge import Gauss, _rehearsed, rehearse
from moonbed.diffusion.diffusers_bridge.table import TABLE, Refused, Through, markdown
from moonbed.diffusion.predictions import X0, Epsilon
from moonbed.diffusion.samplers import DDIM, UniformTime
from moonbed.diffusion.schedules import VE, Cosine, Linear
from moonbed.rng import Rng
from moonbed.targets.curves import TwoMoons

MOONS, BLURRED = TwoMoons(noise=0.2), TwoMoons(noise=0.5)
SQUARED = DiffusersBetas(betas="squaredcos_cap_v2")
SCHEDULES = [DiffusersBetas(), SQUARED, DiffusersBetas(betas="sigmoid"), Linear(), VE()]
NOISE = Rng(0).stream("noise").normal((40, 2))
EXPORTED = [n for n in dir(diffusers) if n.endswith("Scheduler") and not n.startswith("Flax")]
THROUGH = [n for n in EXPORTED if isinstance(TABLE.get(n), Through)]
REFUSED = [n for n in EXPORTED if isinstance(TABLE.get(n), Refused)]
STEPS = {
    "CogVideoXDPMScheduler": 200,
    "CosineDPMSolverMultistepScheduler": 100,
    "DDPMParallelScheduler": 200,
    "DDPMScheduler": 200,
    "DDPMWuerstchenScheduler": 200,
    "DPMSolverSDEScheduler": 100,
    "EulerAncestralDiscreteScheduler": 200,
    "KDPM2AncestralDiscreteScheduler": 100,
    "LTXEulerAncestralRFScheduler": 100,
    "LMSDiscreteScheduler": 30,
    "MiniMaxH3Scheduler": 200,
    "ScoreSdeVeScheduler": 200,
    "UnCLIPScheduler": 200,
}
"""How many steps a scheduler gets to follow the law, where not 50."""


def name(component):
    return str(component) if hasattr(component, "spec") else component.__name__


def need(scheduler):
    """Skip where diffusers lacks a library for the scheduler."""
    missing = [b for b in getattr(getattr(diffusers, scheduler), "_backends", ()) if find_spec(b) is None]
    if missing:
        pytest.skip(f"{scheduler} needs {missing}")


def home(scheduler):
    """A schedule under which the scheduler runs."""
    return {"UnCLIPScheduler": SQUARED, "CosineDPMSolverMultistepScheduler": VE()}.get(scheduler, Cosine())


def sample(sampler, schedule, stream="s", noise=NOISE, law=MOONS):
    return laws.final(sampler, Exact(law, schedule), noise, Rng(0).stream(stream))


class Counted(Denoiser):
    """The exact denoiser, and how often it was asked."""

    def __init__(self, schedule):
        self.exact, self.schedule, self.asked = Exact(MOONS, schedule), schedule, 0

    def combine(self, x_t, t, w_x, w_d):
        self.asked += 1
        return self.exact.combine(x_t, t, w_x, w_d)


# Every scheduler


def test_the_table_names_what_diffusers_has_or_had():
    """A newer one is tried all the same; see below."""
    assert list(TABLE) == sorted(TABLE)
    assert len(THROUGH) > len(REFUSED) > 10


@pytest.mark.parametrize("scheduler", THROUGH)
def test_every_scheduler_follows_the_law_of_the_exact_denoiser(scheduler):
    need(scheduler)
    sampler = Diffusers(scheduler=scheduler, steps=STEPS.get(scheduler, 50))
    config = sampler.make(home(scheduler)).config
    assert not any(config.get(option) for option in ("clip_sample", "clip_denoised", "thresholding"))
    laws.sampler_has_the_law(sampler, home(scheduler), MOONS, n=500)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=name)
@pytest.mark.parametrize(
    "scheduler",
    [
        "DDIMScheduler",
        "EDMDPMSolverMultistepScheduler",
        "FlowMatchEulerDiscreteScheduler",
        "FlowMatchHeunDiscreteScheduler",
        "HeliosScheduler",
        "IPNDMScheduler",
        "LTXEulerAncestralRFScheduler",
    ],
)
def test_every_convention_holds_under_every_schedule(scheduler, schedule):
    if scheduler not in EXPORTED:
        pytest.skip("a later diffusers")
    laws.sampler_has_the_law(Diffusers(scheduler=scheduler, steps=50), schedule, MOONS, n=500)


@pytest.mark.parametrize("scheduler", [n for n in THROUGH if STEPS.get(n, 50) == 50 and n != "UnCLIPScheduler"])
def test_every_solver_has_the_law(scheduler):
    """In coordinates that do not preserve the variance, and betas that most schedulers do not know by name."""
    for schedule in (Linear(), DiffusersBetas(betas="sigmoid")):
        laws.sampler_has_the_law(Diffusers(scheduler=scheduler, steps=30), schedule, BLURRED, n=300)


@pytest.mark.parametrize("scheduler", THROUGH)
def test_evaluations_and_noise_are_those_of_the_table(scheduler):
    need(scheduler)
    entry, schedule = TABLE[scheduler], home(scheduler)
    for steps in (8, 11):
        denoiser, sampler = Counted(schedule), Diffusers(scheduler=scheduler, steps=steps)
        *_, x = sampler.trajectory(denoiser, NOISE, Rng(0).stream("s"))
        assert denoiser.asked == entry.a * steps + entry.b
        assert x.dtype == NOISE.dtype
    assert torch.equal(x, sample(sampler, schedule))
    assert torch.equal(x, sample(sampler, schedule, stream="other")) != entry.noise


@pytest.mark.parametrize("scheduler", REFUSED)
def test_the_others_are_refused_with_the_reason_of_the_table(scheduler):
    with pytest.raises(SpecError) as refusal:
        Diffusers(scheduler=scheduler, steps=50).make(Cosine())
    need(scheduler)
    assert str(refusal.value) == f"sampler: {scheduler} {TABLE[scheduler].why}"
    with pytest.raises(SpecError):
        sample(Diffusers(scheduler=scheduler, steps=50), Cosine())


@pytest.mark.parametrize("scheduler", sorted(set(EXPORTED) - set(TABLE)))
def test_a_scheduler_that_the_table_does_not_know_works_or_is_refused(scheduler):
    sampler = Diffusers(scheduler=scheduler, steps=200)
    try:
        sampler.make(Cosine())
    except SpecError:
        return
    assert sample(sampler, Cosine()).isfinite().all()


def test_the_document_has_the_table():
    page = Path(__file__).parents[1] / "docs" / "diffusers.md"
    assert markdown() in page.read_text(encoding="utf-8")


# Schedulers that nobody knows yet


@pytest.fixture
def newer(monkeypatch):
    """Call with a class: it becomes diffusers' NewerScheduler."""

    def export(cls):
        monkeypatch.setattr(diffusers, "NewerScheduler", cls, raising=False)
        return "NewerScheduler"

    _rehearsed.cache_clear()
    yield export
    _rehearsed.cache_clear()


@pytest.mark.parametrize(
    "scheduler", ["DDPMScheduler", "HeunDiscreteScheduler", "EDMEulerScheduler", "FlowMatchEulerDiscreteScheduler"]
)
def test_one_that_speaks_a_known_language_goes_through(newer, scheduler):
    sampler = Diffusers(scheduler=newer(getattr(diffusers, scheduler)), steps=20)
    sampler.make(Cosine())
    assert torch.equal(sample(sampler, Cosine()), sample(Diffusers(scheduler=scheduler, steps=20), Cosine()))
    assert sampler.needs_score


@pytest.mark.parametrize(
    ("scheduler", "options", "why"),
    [
        (
            "LCMScheduler",
            {"original_inference_steps": 1000},
            r"gives 0\.(69|7\d?) times the standard deviation of a Gaussian",
        ),
        (
            "TCDScheduler",
            {"original_inference_steps": 1000},
            r"gives 0\.9\d? times the standard deviation of a Gaussian",
        ),
        ("FlowMatchLCMScheduler", {}, r"gives 0\.(69|7\d?) times the standard deviation of a Gaussian"),
        ("AmusedScheduler", {"mask_token_id": 1}, "in no way that is known here"),
        ("CMStochasticIterativeScheduler", {"clip_denoised": False}, "cannot be used here"),
        ("VQDiffusionScheduler", {"num_vec_classes": 3}, "in no way that is known here"),
    ],
)
def test_one_that_would_have_a_wrong_law_is_refused(newer, scheduler, options, why):
    sampler = Diffusers(scheduler=newer(getattr(diffusers, scheduler)), options=options, steps=40)
    with pytest.raises(SpecError, match=why):
        sampler.make(Cosine())


def test_one_that_draws_numbers_of_its_own_is_refused(newer):
    class Restless(DDPMScheduler):
        def step(self, model_output, timestep, sample, return_dict=True):
            return super().step(model_output, timestep, sample, return_dict=return_dict)

    with pytest.raises(SpecError, match="draws random numbers of its own"):
        Diffusers(scheduler=newer(Restless), steps=20).make(Cosine())


@pytest.mark.parametrize(
    ("scheduler", "options", "kept"),
    [("FlowMatchLCMScheduler", {}, 0.5), ("TCDScheduler", {"original_inference_steps": 1000}, 0.85)],
)
def test_consistency_schedulers_lose_variance_in_any_number_of_steps(monkeypatch, scheduler, options, kept):
    """Why they are refused: D(x) and fresh noise on it do not converge to the law of the data."""
    unknown = {name: entry for name, entry in TABLE.items() if name != scheduler}
    for module in (bridge_module, table_module):  # a whole one in its place: what is put back into a dict comes last
        monkeypatch.setattr(module, "TABLE", unknown)
    for steps in (250, 500):
        x, _ = rehearse(Diffusers(scheduler=scheduler, options=options)._bound(Cosine(), steps), Gauss(), 4000)
        assert float(x.var() / 0.25) == pytest.approx(kept, abs=0.04)


@pytest.mark.parametrize("scheduler", THROUGH)
def test_a_network_goes_through_whatever_it_predicts(scheduler):
    """Each scheduler gets what it wants from a network of x_0 and from one of eps that say the same."""
    need(scheduler)
    schedule = home(scheduler)

    class OfEps(torch.nn.Module):
        def forward(self, x, c_noise):
            t = c_noise.double()
            c_in = torch.rsqrt(schedule.alpha(t) ** 2 + schedule.sigma(t) ** 2)
            x0 = torch.tanh(x)
            return ((x.double() / c_in - schedule.alpha(t) * x0) / schedule.sigma(t)).to(x)

    class OfX0(torch.nn.Module):
        def forward(self, x, c_noise):
            return torch.tanh(x)

    noise, results = NOISE.double(), []
    for network, prediction in ((OfX0(), X0()), (OfEps(), Epsilon())):
        denoiser = Learned(network, prediction, schedule)
        results.append(laws.final(Diffusers(scheduler=scheduler, steps=12), denoiser, noise, Rng(0).stream("s")))
    torch.testing.assert_close(*results, rtol=1e-3, atol=1e-3)
    assert results[0].abs().max() < 2


# What diffusers' own loop gives


def by_hand(scheduler, schedule, steps, noise=NOISE, last=999, **extra):
    """The sampling loop as diffusers' documentation has it, on the exact denoiser."""
    scheduler.set_timesteps(steps)
    exact, x = Exact(BLURRED, schedule), noise * scheduler.init_noise_sigma
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
    got = sample(Diffusers(scheduler=cls.__name__, steps=50), DiffusersBetas(betas=betas), law=BLURRED)
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)


def test_the_bridge_is_the_plain_loop_of_edm():
    """F of Karras et al. 2022 from the denoiser, at the scheduler's own noise levels."""
    scheduler = diffusers.EDMEulerScheduler(sigma_min=0.002, sigma_max=80.0, sigma_data=1.0)
    scheduler.set_timesteps(30)
    x = NOISE * scheduler.init_noise_sigma
    for i, k in enumerate(scheduler.timesteps):
        scheduler.scale_model_input(x, k)
        sigma = float(scheduler.sigmas[i])
        denoised = BLURRED.denoise(x.double(), 1.0, sigma).float()
        f = (denoised - x / (sigma**2 + 1)) * (sigma**2 + 1) ** 0.5 / sigma
        x = scheduler.step(f, k, x).prev_sample
    got = sample(Diffusers(scheduler="EDMEulerScheduler", steps=30), VE(), law=BLURRED)
    torch.testing.assert_close(got, x, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_the_bridge_is_the_plain_loop_of_flow_matching(shift):
    """Under `Linear` the scheduler's sigma is that of the schedule."""
    scheduler, schedule = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift), Linear()
    scheduler.set_timesteps(sigmas=torch.linspace(0.999, 0.001, 30).tolist() if shift == 1 else SHIFTED)
    assert float(scheduler.sigmas[0]) == pytest.approx(0.999)
    assert float(scheduler.sigmas[-2]) == pytest.approx(0.001, rel=1e-4)
    x = NOISE * float(scheduler.sigmas[0])
    for k in scheduler.timesteps:
        sigma = float(k) / 1000
        x0 = BLURRED.denoise(x.double(), 1 - sigma, sigma).float()
        x = scheduler.step((x - x0) / sigma, k, x).prev_sample
    sampler = Diffusers(scheduler="FlowMatchEulerDiscreteScheduler", steps=30, options={"shift": shift})
    torch.testing.assert_close(sample(sampler, schedule, law=BLURRED), x, rtol=1e-4, atol=1e-4)


SHIFTED = torch.linspace(0.999 / (3 - 2 * 0.999), 0.001 / (3 - 2 * 0.001), 30).tolist()
"""What a shift of 3 takes to 0.999, ..., 0.001."""


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
    got = sample(native, schedule, law=BLURRED)
    torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("scheduler", ["DPMSolverMultistepScheduler", "DDPMScheduler"])
@pytest.mark.parametrize("schedule", [*SCHEDULES, Cosine(), DiffusersBetas(betas="scaled_linear")], ids=name)
def test_any_schedule_goes_through_the_bridge(schedule, scheduler):
    laws.sampler_has_the_law(Diffusers(scheduler=scheduler, steps=100), schedule, BLURRED, n=500)


# Options


def test_clip_sample_stays_off():
    """The trap: DDPM and DDIM of diffusers clip 2-D data to [-1, 1] unless told not to."""
    noise = Rng(0).stream("n").normal((300, 2))
    for scheduler in ("DDPMScheduler", "DDIMScheduler"):
        assert sample(Diffusers(scheduler=scheduler, steps=50), DiffusersBetas(), noise=noise).abs().max() > 1.3
        clipped = Diffusers(scheduler=scheduler, steps=50, options={"clip_sample": True})
        assert sample(clipped, DiffusersBetas(), noise=noise).abs().max() < 1.05


@pytest.mark.parametrize(
    ("scheduler", "options", "steps"),
    [
        ("DPMSolverMultistepScheduler", {"use_flow_sigmas": True}, 25),
        ("DPMSolverMultistepScheduler", {"use_flow_sigmas": True, "flow_shift": 0.5}, 25),
        ("DPMSolverSinglestepScheduler", {"use_flow_sigmas": True}, 25),
        ("DEISMultistepScheduler", {"use_flow_sigmas": True, "flow_shift": 0.5}, 50),
        ("SASolverScheduler", {"use_flow_sigmas": True, "flow_shift": 0.5}, 50),
        ("UniPCMultistepScheduler", {"use_flow_sigmas": True}, 25),
        ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}, 25),
        ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}, 100),
        ("EulerDiscreteScheduler", {"use_karras_sigmas": True}, 50),
        ("FlowMatchHeunDiscreteScheduler", {"shift": 3.0}, 25),
        ("EDMEulerScheduler", {"sigma_schedule": "exponential"}, 50),
        ("HeliosScheduler", {"scheduler_type": "euler"}, 50),
        ("MiniMaxH3Scheduler", {"shift": 1.0}, 50),
    ],
    ids=str,
)
def test_options_that_move_the_noise_levels_keep_the_law(scheduler, options, steps):
    if scheduler not in EXPORTED or not set(options) <= options_of(scheduler):
        pytest.skip("a later diffusers")
    sampler = Diffusers(scheduler=scheduler, steps=steps, options=options)
    sampler.make(DiffusersBetas())
    laws.sampler_has_the_law(sampler, DiffusersBetas(), MOONS, n=500)


def options_of(scheduler):
    return set(inspect.signature(getattr(diffusers, scheduler).__init__).parameters)


@pytest.mark.parametrize(
    ("scheduler", "options", "schedule", "why"),
    [
        ("UnCLIPScheduler", {}, DiffusersBetas(), "schedule of its own"),
        ("DDPMWuerstchenScheduler", {}, VE(), r"ratio sigma/alpha = 100; the schedule has 0.002 to 80"),
        ("DDIMScheduler", {"rescale_betas_zero_snr": True}, DiffusersBetas(), "schedule of its own"),
        ("DDIMScheduler", {}, Linear(margin=1e-5), "float32"),
        ("CogVideoXDDIMScheduler", {"snr_shift_scale": 3.0}, DiffusersBetas(), "schedule of its own"),
        ("FlowMatchEulerDiscreteScheduler", {"stochastic_sampling": True}, Linear(), "not their mean"),
        ("FlowMatchEulerDiscreteScheduler", {"invert_sigmas": True}, Linear(), "data to noise"),
        ("FlowMatchEulerDiscreteScheduler", {"use_dynamic_shifting": True}, Linear(), "`mu` must be passed"),
        ("FlowMatchEulerDiscreteScheduler", {"shift_terminal": 0.1}, VE(), "the schedule has 0.002 to 80"),
        ("EulerDiscreteScheduler", {"use_karras_sigmas": True, "sigma_max": 1e6}, Cosine(), "the schedule has"),
        (
            "DPMSolverMultistepScheduler",
            {"use_flow_sigmas": True, "use_karras_sigmas": True},
            VE(),
            "no sigmas of a flow",
        ),
        ("DPMSolverMultistepScheduler", {"use_flow_sigmas": True, "flow_shift": 9.0}, VE(), "timesteps"),
        ("DDIMScheduler", {"thresholding": True}, Cosine(), "cannot be used here"),
        ("PNDMScheduler", {"timestep_spacing": "trailing"}, SQUARED, "of (one point|a law)"),
        ("DDPMScheduler", {"variance_type": "fixed_large"}, Cosine(), "times the noise of the schedule"),
    ],
    ids=str,
)
def test_a_scheduler_that_cannot_follow_the_schedule_is_refused(scheduler, options, schedule, why):
    if not set(options) <= options_of(scheduler):
        pytest.skip("a later diffusers")
    sampler = Diffusers(scheduler=scheduler, steps=30, options=options)
    with pytest.raises(SpecError, match=why):
        sampler.make(schedule)
    with pytest.raises(SpecError, match=why):
        sample(sampler, schedule)


def test_a_number_of_steps_that_a_scheduler_cannot_take_is_refused_before_any_training():
    for scheduler, steps in (("PNDMScheduler", 2), ("DDIMScheduler", 2000)):
        with pytest.raises(SpecError, match=f"{scheduler} cannot be used here"):
            Diffusers(scheduler=scheduler, steps=steps).make(DiffusersBetas())


@pytest.mark.parametrize(
    "options",
    [{"prediction_type": "v_prediction"}, {"beta_start": 1e-3}, {"num_train_timesteps": 500}, {"trained_betas": [0.1]}],
    ids=str,
)
def test_an_option_that_contradicts_the_denoiser_is_refused(options):
    with pytest.raises(SpecError, match=f"^options.{next(iter(options))}: "):
        Diffusers(scheduler="DDIMScheduler", options=options)
    with pytest.raises(SpecError, match=r"sampler.options.sigma_max: comes from the schedule"):
        Diffusers(scheduler="EDMEulerScheduler", options={"sigma_max": 10.0}).make(VE())


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


def test_only_deterministic_flows_do_without_the_score():
    free = {n for n in TABLE if not Diffusers(scheduler=n).needs_score}
    assert {"FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler"} <= free
    assert not free & {"DDPMScheduler", "DDIMScheduler", "LTXEulerAncestralRFScheduler", "LCMScheduler"}
