"""Samplers as plans: what is read from them is what the sampler does, for every member and for anyone's."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from small import only_here

from moonbed.component import members
from moonbed.diffusion import Prediction, Sampler, Schedule
from moonbed.diffusion.diffusers_bridge import Diffusers, DiffusersBetas
from moonbed.diffusion.guidance import CFG, AutoGuidance
from moonbed.diffusion.predictions import EDM, Epsilon, Velocity
from moonbed.diffusion.samplers import (
    DDIM,
    DDPM,
    DEIS,
    RK4,
    Churn,
    DPMSolver2M,
    Heun,
    Jump,
    Karras,
    Renoise,
    SteppingSampler,
    UniPC,
)
from moonbed.diffusion.schedules import VE, Linear
from moonbed.experiments.evaluate import assembled, exactly
from moonbed.experiments.spec import Experiment, Training
from moonbed.laws.samplers import natives
from moonbed.live.beside import _stand_in
from moonbed.live.fakes import Functions, states
from moonbed.live.makers import exact, learned
from moonbed.live.plan import LAW, NETWORK, NOISE, START, STATE, lines
from moonbed.live.recording import levels, record
from moonbed.live.replay import run_plan
from moonbed.live.tape import Untraceable
from moonbed.rng import Rng

N = 5
PLAIN = Training(schedule=VE(sigma_max=20.0), prediction=EDM())
LABELLED = PLAIN.replace(label_dropout=0.1)


class Network:
    """A nonlinear function in the place of a network, or of a law, for torch and for plans."""

    def __init__(self, kind, f):
        self.kind, self.f = kind, f

    def __call__(self, x, *rest):
        told = (*rest[0], rest[1]) if self.kind == NETWORK else rest
        return _stand_in(self.kind, self.f, x, told)


def fakes(kind):
    """Functions for a denoiser, which compute with rows."""
    return Functions(
        lambda k, f, x, rest: torch.from_numpy(
            Network(k, f)(x.numpy(), *((rest[:-1], rest[-1]) if k == NETWORK else rest))
        ),
        2,
    )


def both(sampler, make, plan, numbers=None, kind=NETWORK):
    """(states of the sampler, states of the plan)."""
    rng = Rng(3)
    start = rng.stream("start").normal((N, 2), torch.float64)
    draws = [rng.stream("draw", k).normal((N, 2), torch.float64) for k in range(4 * sampler.steps + 4)]
    rest = iter(draws)
    wanted = [x.clone().numpy() for x in states(sampler, make(fakes(kind)), start.clone(), lambda _: next(rest))]
    functions = [Network(kind, 0), Network(kind, 1)]
    got = list(run_plan(plan, start.numpy(), functions, lambda k: draws[k].numpy(), numbers))
    return np.array(wanted), np.array(got[1:])


def close(sampler, make, plan, kind=NETWORK, numbers=None, rtol=1e-9):
    wanted, got = both(sampler, make, plan, numbers, kind)
    assert got.shape == wanted.shape
    for a, b in zip(got, wanted, strict=True):
        assert np.abs(a - b).max() <= rtol * (1 + np.abs(b).max())


STRAIGHT = [s for s in natives() if type(s).__name__ not in ("RK45", "PredictorCorrector", "Draw")]


@pytest.mark.parametrize(
    "schedule", [VE(), DiffusersBetas(betas="squaredcos_cap_v2"), Linear()], ids=lambda s: type(s).__name__
)
@pytest.mark.parametrize("sampler", STRAIGHT, ids=lambda s: str(s).replace("\n", "")[:70])
def test_a_plan_is_its_sampler(sampler, schedule):
    experiment = Experiment(training=PLAIN.replace(schedule=schedule), sampler=sampler.replace(steps=9))
    for make, kind in ((learned(experiment), NETWORK), (exact(experiment), LAW)):
        plan = record(experiment.sampler, make, hold=False)
        close(experiment.sampler, make, plan, kind)
        assert len(plan.states) == sum(k == STATE for k, *_ in lines(plan.code, plan.numbers))
        assert plan.stochastic == any(k == NOISE for k, *_ in lines(plan.code, plan.numbers))


def test_every_native_sampler_has_a_plan_or_a_reason():
    ours = {n for n, c in members(Sampler).items() if c.__module__.startswith("moonbed.diffusion.samplers")}
    assert ours == {type(s).__name__ for s in STRAIGHT} | {"RK45", "PredictorCorrector"}


@pytest.mark.parametrize("name", ["RK45", "PredictorCorrector"])
def test_what_depends_on_the_state_is_refused_in_words(name):
    sampler = Sampler.parse({"type": name})
    with pytest.raises(Untraceable, match=name + " (chooses its steps|does more than form linear combinations)"):
        record(sampler.replace(steps=6), learned(Experiment(training=PLAIN, sampler=sampler)))


SCHEDULERS = [
    "DDPMScheduler", "DDIMScheduler", "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler",
    "HeunDiscreteScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler", "PNDMScheduler",
    "LMSDiscreteScheduler", "KDPM2DiscreteScheduler",
]  # fmt: skip


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_plan_is_its_scheduler(name):
    experiment = Experiment(training=Training(), sampler=Diffusers(scheduler=name, steps=20))
    make = learned(experiment)
    close(experiment.sampler, make, record(experiment.sampler, make, hold=False), rtol=2e-5)


def test_a_scheduler_of_diffusers_flows():
    experiment = Experiment(
        training=PLAIN.replace(schedule=Linear()),
        sampler=Diffusers(scheduler="FlowMatchEulerDiscreteScheduler", steps=12),
    )
    make = learned(experiment)
    close(experiment.sampler, make, record(experiment.sampler, make), rtol=2e-5)


@pytest.mark.parametrize(
    "sampler",
    [
        UniPC(steps=200),
        DEIS(steps=200),
        DPMSolver2M(steps=200, eta=1.0),
        Diffusers(scheduler="UniPCMultistepScheduler", steps=200),
    ],
    ids=lambda s: type(s).__name__,
)
def test_lines_stay_short_however_many_the_steps(sampler):
    make = learned(Experiment(training=Training(), sampler=sampler))
    plan = record(sampler, make)
    terms = [len(back) for _, _, back, _ in lines(plan.code, plan.numbers)]
    assert max(terms) <= 9
    assert plan.code.max() < 256


def test_a_thousand_steps_of_the_published_sampler():
    sampler = Diffusers(scheduler="DDPMScheduler", steps=1000)
    plan = record(sampler, learned(Experiment(training=Training(), sampler=sampler)))
    assert plan.evaluations == 1000
    assert len(plan.numbers) < 6_000
    t, alpha, sigma = plan.states.T
    assert np.all(np.diff(t) < 0)
    assert np.allclose(alpha[:-1] ** 2 + sigma[:-1] ** 2, 1)
    assert plan.states[-1].tolist() == [0, 1, 0]


# Levels of the states


@pytest.mark.parametrize(
    "sampler", [DDIM(), Heun(spacing=Karras()), DPMSolver2M(), UniPC(), RK4(), DDPM()], ids=lambda s: type(s).__name__
)
def test_a_state_has_the_level_at_which_it_is_asked_about(sampler):
    sampler = sampler.replace(steps=6)
    plan = record(sampler, learned(Experiment(training=PLAIN, sampler=sampler)))
    times = sampler.spacing.times(PLAIN.schedule, 6)
    assert np.allclose(plan.states[:-1, 0], times, atol=1e-9)
    assert np.allclose(plan.states[:-1, 1], PLAIN.schedule.alpha(times))
    assert np.allclose(plan.states[:-1, 2], PLAIN.schedule.sigma(times))


def test_noise_that_is_added_on_the_way_is_taken_off_the_level():
    sampler = Churn(steps=8)
    plan = record(sampler, learned(Experiment(training=PLAIN, sampler=sampler)))
    assert np.allclose(plan.states[:-1, 2], PLAIN.schedule.sigma(sampler.spacing.times(PLAIN.schedule, 8)), rtol=1e-6)
    renoised = record(Renoise(steps=4), learned(Experiment(training=PLAIN, sampler=sampler)))
    assert renoised.states[1:].tolist() == [[0, 1, 0]] * 4


def test_the_first_state_is_where_the_sampler_starts():
    for sampler, scale in ((DDIM(steps=4), 20.0), (Diffusers(scheduler="EulerDiscreteScheduler", steps=4), None)):
        plan = record(sampler, learned(Experiment(training=PLAIN, sampler=sampler)))
        (first, *_), (second, _, back, numbers), *_ = lines(plan.code, plan.numbers)
        assert (first, second, back) == (START, STATE, [1])
        assert scale is None or numbers[0] == pytest.approx(scale)


# Guidance, labels, schedules


def guided(guidance, sampler, **more):
    return Experiment(training=LABELLED, sampler=sampler, label=1, guidance=guidance, **more)


@pytest.mark.parametrize(
    "sampler",
    [DDIM(steps=7), Heun(steps=7), DPMSolver2M(steps=7, eta=1.0), RK4(steps=4), UniPC(steps=7)],
    ids=lambda s: type(s).__name__,
)
@pytest.mark.parametrize("kind", ["learned", "exact", "auto", "interval"])
def test_guidance_of_any_scale_is_one_plan(kind, sampler):
    guide = LABELLED.replace(steps=500, schedule=DiffusersBetas(), prediction=Epsilon()) if kind == "auto" else None
    base = AutoGuidance() if kind == "auto" else CFG(low=0.1, high=5.0) if kind == "interval" else CFG()
    build = exact if kind == "exact" else learned

    def weight(w):
        return build(guided(base.replace(scale=w), sampler, guide=guide))

    plan = record(sampler, weight(2.0), weight, sums=guide is not None)
    for w in (2.0, 3.0, 1.5, 1.0, 0.0):
        make = weight(w)
        close(sampler, make, plan, LAW if kind == "exact" else NETWORK, plan.numbers + (w - 2) * plan.slope, 1e-8)


def test_a_label_is_a_column():
    experiment = Experiment(training=LABELLED, sampler=DDIM(steps=3), label=1)
    plan = record(experiment.sampler, learned(experiment))
    told = [
        numbers[len(back) : -1].tolist() for kind, _, back, numbers in lines(plan.code, plan.numbers) if kind == NETWORK
    ]
    assert told == [[0, 1]] * 4


def test_another_schedule_and_a_guide_under_another_one():
    experiment = Experiment(training=Training(), sampler=DDIM(steps=6), schedule=VE())
    make = learned(experiment)
    close(experiment.sampler, make, record(experiment.sampler, make), rtol=1e-8)


@pytest.mark.parametrize("objective", ["Shortcut", "MeanFlow", "ConsistencyTraining"])
@pytest.mark.parametrize("sampler", [Jump(steps=4), Renoise(steps=3), DDIM(steps=4)], ids=lambda s: type(s).__name__)
def test_objectives_for_few_steps(objective, sampler):
    training = Training(schedule=Linear(), prediction=Velocity(), objective={"type": objective})
    make = learned(Experiment(training=training, sampler=sampler))
    plan = record(sampler, make)
    close(sampler, make, plan)
    if objective != "ConsistencyTraining":
        spans = [numbers[len(back)] for kind, _, back, numbers in lines(plan.code, plan.numbers) if kind == NETWORK]
        assert (min(spans) > 0) == isinstance(sampler, Jump)


@pytest.mark.parametrize(
    "prediction",
    [c() for c in members(Prediction).values() if c.__module__.startswith("moonbed.")],
    ids=lambda p: type(p).__name__,
)
def test_a_level_is_the_denoiser(prediction):
    training = LABELLED.replace(prediction=prediction, schedule=Linear())
    experiment = Experiment(training=training, sampler=DDIM(), label=0, guidance=CFG())

    def weight(w):
        return learned(experiment.replace(guidance=CFG(scale=w)))

    times = torch.tensor([1.0, 0.5, 0.01], dtype=torch.float64)
    x = Rng(0).stream("x").normal((N, 2), torch.float64)
    for t, plan in zip(times, levels(times, weight(2.0), weight), strict=True):
        for w in (2.0, 1.5):
            denoiser = weight(w)(fakes(NETWORK))
            (got,) = run_plan(
                plan, x.numpy(), [Network(NETWORK, 0)], lambda k: None, plan.numbers + (w - 2) * plan.slope
            )
            assert np.allclose(got, denoiser(x, t).numpy(), rtol=1e-9)


# What strangers write


class OwnSchedule(Schedule):
    """A quarter of a circle."""

    def alpha(self, t):
        return torch.cos(1.5 * t)

    def sigma(self, t):
        return torch.sin(1.5 * t) + 1e-3


class OwnPrediction(Prediction):
    """A half of everything."""

    def scalings(self, schedule, t):
        return schedule.alpha(t) / 2, schedule.sigma(t) / 2

    def c_noise(self, schedule, t):
        return t**2


class OwnSampler(SteppingSampler):
    """Three evaluations and two draws a step, and a state that it keeps from the step before."""

    def step(self, denoiser, x, t, u, stream):
        d = denoiser(x, t)
        z = stream.normal(x.shape).to(x)
        y = denoiser.schedule.alpha(u) * d + denoiser.schedule.sigma(u) * (denoiser.eps(x, t) + 0.1 * z)
        return y - 0.05 * denoiser.score(y, u) + 0.01 * torch.randn(1).item() * 0 + 0.02 * stream.normal(x.shape).to(x)


class Keeps(Sampler):
    """Yields copies, and goes on from what it kept."""

    def trajectory(self, denoiser, noise, stream):
        times = torch.linspace(1, 0, self.steps + 1, dtype=torch.float64)
        x = noise * float(denoiser.schedule.sigma(times[0]))
        for t, u in pairwise(times):
            x = denoiser.jump(x, t, u)
            yield x.clone()


class Clips(SteppingSampler):
    """Clips what was denoised."""

    def step(self, denoiser, x, t, u, stream):
        return float(denoiser.schedule.alpha(u)) * denoiser(x, t).clamp(-1, 1) + float(
            denoiser.schedule.sigma(u)
        ) * denoiser.eps(x, t)


class Normalises(SteppingSampler):
    """Divides by the norm of the rows."""

    def step(self, denoiser, x, t, u, stream):
        return denoiser(x, t) * (1 + 1e-2 * denoiser.eps(x, t).norm(dim=1, keepdim=True))


class Asks(SteppingSampler):
    """Draws a coin."""

    def step(self, denoiser, x, t, u, stream):
        return denoiser(x, t) * float(stream.uniform((1,)))


class Behind(SteppingSampler):
    """Draws from the generator behind its stream."""

    def step(self, denoiser, x, t, u, stream):
        return denoiser(x, t) + torch.randn(x.shape, generator=stream.generator, dtype=x.dtype)


known = only_here(OwnSchedule, OwnPrediction, OwnSampler, Keeps, Clips, Normalises, Asks, Behind)


@pytest.mark.parametrize("sampler", [OwnSampler(steps=5), Keeps(steps=5)], ids=lambda s: type(s).__name__)
def test_a_strangers_sampler_schedule_and_prediction(sampler):
    experiment = Experiment(training=PLAIN.replace(schedule=OwnSchedule(), prediction=OwnPrediction()), sampler=sampler)
    for make, kind in ((learned(experiment), NETWORK), (exact(experiment), LAW)):
        close(sampler, make, record(sampler, make), kind, rtol=1e-6)


@pytest.mark.parametrize(
    "sampler", [Clips(steps=5), Normalises(steps=5), Asks(steps=5), Behind(steps=5)], ids=lambda s: type(s).__name__
)
def test_a_sampler_without_a_plan_is_refused(sampler):
    with pytest.raises(Untraceable):
        record(sampler, learned(Experiment(training=PLAIN, sampler=sampler)))


def test_denoisers_are_those_of_an_experiment():
    """What is recorded is made by the code that samples."""
    experiment = Experiment(training=PLAIN, sampler=DDIM(steps=4))
    denoiser = assembled(experiment, PLAIN.denoiser(fakes(NETWORK).network(0)))
    assert type(denoiser) is type(learned(experiment)(fakes(NETWORK)))
    assert exactly(experiment, PLAIN.target, None).law is PLAIN.target
