"""Few steps: the exact solution has no loss, for a normal law whose probability flow is known in closed form.

    x_0 ~ N(m, d² I):  x_u = a_u m + (x_t - a_t m) sqrt(var_u/var_t),  var = a² d² + s²

With d = 0 all noise goes to one point, so that what is drawn on a path is what the flow has there.
"""

import math
from functools import partial
from itertools import pairwise

import pytest
import torch
from small import tiny

from moonbed.component import SpecError, members
from moonbed.diffusion import Denoiser, Learned, Objective
from moonbed.diffusion.couplings import Pairs
from moonbed.diffusion.data import Data, Rows
from moonbed.diffusion.density import MaximumLikelihood
from moonbed.diffusion.fewstep import ConsistencyDistillation, ConsistencyTraining, FlowMap, MeanFlow, Shortcut
from moonbed.diffusion.objectives import Denoising, Progressive
from moonbed.diffusion.predictions import EDM, X0, Epsilon, V, Velocity
from moonbed.diffusion.regressions import Drawn, ExactMean, StableTarget
from moonbed.diffusion.samplers import Heun, Jump, Renoise, UniformTime
from moonbed.diffusion.schedules import VE, Cosine, Linear
from moonbed.diffusion.times import LogNormal, Uniform
from moonbed.networks.flow import SplineFlow
from moonbed.rng import Rng

SCHEDULES = [Cosine(), Linear(), VE(sigma_min=0.01, sigma_max=5.0)]
PREDICTIONS = [X0(), Epsilon(), V(), Velocity(), EDM(sigma_data=0.5)]
N = 400


def name(component):
    return str(component)


def column(t):
    return t.reshape(-1, 1)


class Normal(Denoiser):
    """N(m, d² I): denoiser, velocity and flow in closed form, at a time for each row."""

    def __init__(self, schedule, d=0.5, m=0.3):
        self.schedule, self.d, self.m = schedule, d, m

    def sd(self, t):
        return torch.sqrt((self.schedule.alpha(t) * self.d) ** 2 + self.schedule.sigma(t) ** 2)

    def combine(self, x_t, t, w_x, w_d):
        x0 = self.denoise(x_t, self.schedule.alpha(t), self.schedule.sigma(t))
        return column(w_x + 0 * t) * x_t + column(w_d + 0 * t) * x0

    def jump(self, x_t, t, u):
        a, b = (column(self.schedule.alpha(v)) * self.m for v in (t, u))
        return b + column(self.sd(u) / self.sd(t)) * (x_t - a)

    def denoise(self, x_t, alpha, sigma):
        """As a law."""
        share = alpha * self.d**2 / ((alpha * self.d) ** 2 + sigma**2)
        return self.m + column(share) * (x_t - column(alpha) * self.m)

    def data(self, n=N):
        x0 = self.m + self.d * Rng(0).stream("x0").normal((n, 2), torch.float64)
        return Rows(x0), Data(self, x0, teacher=self)


class Average(torch.nn.Module):
    """F(x, t - u behind x, t): the average velocity from t to u."""

    def __init__(self, law, columns=0):
        super().__init__()
        self.law, self.columns = law, columns

    def forward(self, x, t):
        x_t, span = x[:, :2] / column(Velocity().c_in(self.law.schedule, t)), x[:, -1].clamp(min=1e-6)
        t = t.clamp(min=1e-6) + 0 * span  # 0: by a short jump
        return (x_t - self.law.jump(x_t, t, t - span)) / column(span)


class Straight(torch.nn.Module):
    """F(x, c_noise) of a map to x_0, behind any prediction."""

    def __init__(self, prediction, schedule, f):
        super().__init__()
        self.prediction, self.schedule, self.f = prediction, schedule, f

    def forward(self, x, c_noise):
        t = c_noise.double()
        if isinstance(self.prediction, EDM):
            t = self.schedule.time(-8 * t)
        x_t = x / column(self.prediction.c_in(self.schedule, t))
        c_skip, c_out = self.prediction.scalings(self.schedule, t)
        return (self.f(x_t, t) - column(c_skip) * x_t) / column(c_out)


def to_the_end(law):
    """The consistency function: where the flow ends, without its factor."""

    def f(x_t, t):
        zero = torch.zeros_like(t)
        return law.jump(x_t, t, zero) / column(law.schedule.alpha(zero))

    return f


def losses(objective, network, law, prediction=None, progress=0.5):
    rows, data = law.data()
    rows = rows._replace(progress=progress)
    made = objective.examples(prediction or Velocity(), law.schedule, rows, data, Rng(0).stream("loss"))
    assert all(len(part) == N for part in made)
    assert type(made) is objective.row_type
    return objective.loss(network, made)


# Flow maps


@pytest.mark.parametrize("schedule", SCHEDULES, ids=name)
def test_a_flow_map_jumps_as_the_flow_does_in_any_number_of_steps(schedule):
    law = Normal(schedule)
    model, noise = FlowMap(Average(law), Velocity(), schedule), Rng(0).stream("n").normal((50, 2), torch.float64)
    one, zero = (torch.tensor(float(v), dtype=torch.float64) for v in (1, 0))
    wanted = law.jump(float(schedule.sigma(one)) * noise, one, zero)
    for steps in (1, 2, 5):
        *_, x = Jump(steps=steps).trajectory(model, noise, Rng(0).stream("s"))
        torch.testing.assert_close(x, wanted, rtol=1e-6, atol=1e-6)
    x, t = noise[:3], torch.tensor([0.9, 0.5, 0.2], dtype=torch.float64)
    torch.testing.assert_close(model.jump(x, t, t / 2), law.jump(x, t, t / 2), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(model.jump(x, t, t), x)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=name)
def test_a_flow_map_is_a_denoiser_where_it_does_not_go_on(schedule):
    law = Normal(schedule)
    model, x = FlowMap(Average(law), Velocity(), schedule), Rng(0).stream("x").normal((40, 2), torch.float64)
    for t in (torch.tensor(0.4, dtype=torch.float64), torch.linspace(0.1, 0.9, 40, dtype=torch.float64)):
        torch.testing.assert_close(model.velocity(x, t), law.velocity(x, t), rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(model(x, t), law(x, t), rtol=1e-3, atol=2e-3)
        step = model.jump(x, t, t - 1e-4)
        torch.testing.assert_close(step, x - 1e-4 * model.velocity(x, t), rtol=0, atol=1e-5)


# Shortcut


@pytest.mark.parametrize("schedule", SCHEDULES, ids=name)
@pytest.mark.parametrize("d", [0.0, 0.5, 2.0])
def test_two_jumps_of_the_exact_map_are_one(schedule, d):
    law = Normal(schedule, d)
    assert losses(Shortcut(bootstrap=1.0), Average(law), law).max() < 1e-12


@pytest.mark.parametrize("schedule", SCHEDULES, ids=name)
def test_short_jumps_follow_the_velocity_of_the_path(schedule):
    law = Normal(schedule, d=0.0)
    assert losses(Shortcut(bootstrap=0.0), Average(law), law).max() < 1e-5


def test_shortcut_takes_the_lengths_it_says():
    law = Normal(Linear())
    rows, data = law.data(4_000)
    made = Shortcut(steps=8, bootstrap=0.25).examples(Velocity(), Linear(), rows, data, Rng(0).stream("loss"))
    spans = 2 * made.half
    assert sorted(spans.unique().tolist()) == [0.0, 0.25, 0.5, 1.0]
    assert abs(float((spans > 0).double().mean()) - 0.25) < 0.03
    jumps = spans > 0
    t = made.c_noise[jumps]
    torch.testing.assert_close(t / spans[jumps], (t / spans[jumps]).round())
    assert (t - spans[jumps]).min() >= 0
    torch.testing.assert_close(made.c_noise_half, made.c_noise - made.half)


@pytest.mark.parametrize("steps", [0, 1, 3, 100])
def test_shortcut_halves_a_power_of_two(steps):
    with pytest.raises(SpecError, match="steps"):
        Shortcut(steps=steps)


# MeanFlow


@pytest.mark.parametrize("schedule", SCHEDULES, ids=name)
def test_the_exact_map_has_the_identity_of_mean_flow(schedule):
    """U = v - (t - u) dU/dt along the flow, where the path drawn is that of the flow."""
    law = Normal(schedule, d=0.0)
    assert losses(MeanFlow(instant=0.0), Average(law), law).max() < 1e-9
    assert losses(MeanFlow(instant=1.0), Average(law), law).max() < 1e-4


@pytest.mark.parametrize("schedule", SCHEDULES, ids=name)
@pytest.mark.parametrize("d", [0.5, 2.0])
def test_mean_flow_with_the_velocity_of_the_flow_has_no_loss(schedule, d):
    law, objective = Normal(schedule, d), MeanFlow(instant=0.0, power=0.0)
    rows, data = law.data()
    made = objective.examples(Velocity(), schedule, rows, data, Rng(0).stream("loss"))
    t, c_in = made.c_noise, Velocity().c_in(schedule, made.c_noise)
    x_t = made.x[:, :2] / column(c_in)
    v, more = law.velocity(x_t, t), column(c_in) * (law.velocity(x_t, t) - made.velocity)
    x_rate = torch.cat([made.x_rate[:, :2] + more, made.x_rate[:, 2:]], dim=1)
    assert objective.loss(Average(law), made._replace(velocity=v, x_rate=x_rate)).max() < 1e-9
    assert objective.loss(Average(law), made).mean() > 0.01  # paths cross: what is drawn is not what is learned


@pytest.mark.parametrize("schedule", SCHEDULES, ids=name)
@pytest.mark.parametrize("objective", [MeanFlow(instant=0.3, power=0.0), Shortcut(bootstrap=0.3)], ids=name)
def test_the_exact_map_is_where_the_gradient_is_zero_on_average(objective, schedule):
    """Errors of rows have the mean 0 given x_t: a factor on the exact map has no gradient at 1, and has beside it."""
    law = Normal(schedule, m=0.0)
    rows, data = law.data(40_000)
    made = objective.examples(Velocity(), schedule, rows, data, Rng(0).stream("loss"))
    network = Average(law)

    def slope(at):
        w = torch.tensor(at, dtype=torch.float64, requires_grad=True)
        row = objective.loss(lambda x, c: (w + 0 * x[:, :1]) * network(x, c), made)
        parts = torch.stack([torch.autograd.grad(part.mean(), w, retain_graph=True)[0] for part in row.split(2_000)])
        return float(parts.mean()), float(parts.std() / len(parts) ** 0.5)

    mean, error = slope(1.0)
    assert abs(mean) < 5 * error + 1e-6
    assert slope(1.2)[0] > 5 * error


def test_mean_flow_weighs_rows_by_their_error():
    law = Normal(Linear())
    plain, weighed = (losses(MeanFlow(power=p, c=0.1), Average(law), law) for p in (0.0, 0.5))
    torch.testing.assert_close(weighed, plain / torch.sqrt(plain + 0.1))


def test_mean_flow_takes_the_share_at_an_instant():
    law = Normal(Linear())
    rows, data = law.data(4_000)
    for share in (0.0, 0.25, 1.0):
        made = MeanFlow(instant=share).examples(Velocity(), Linear(), rows, data, Rng(0).stream("loss"))
        assert abs(float((made.span == 0).double().mean()) - share) < 0.03
        assert made.span.min() >= 0
        assert (made.c_noise - made.span).min() >= 0


# Consistency


@pytest.mark.parametrize("prediction", PREDICTIONS, ids=name)
@pytest.mark.parametrize("schedule", SCHEDULES, ids=name)
@pytest.mark.parametrize("regression", [Drawn(), StableTarget()], ids=name)
@pytest.mark.parametrize("progress", [0.0, 0.99])
def test_the_consistency_function_is_constant_on_a_path(schedule, prediction, regression, progress):
    law, objective = Normal(schedule, d=0.0), ConsistencyTraining(regression=regression)
    network = Straight(prediction, schedule, to_the_end(law))
    assert losses(objective, network, law, prediction, progress).max() < 1e-10
    wrong = Straight(prediction, schedule, lambda x, t: to_the_end(law)(x, t) + 0.1 * column(t))
    assert losses(objective, wrong, law, prediction, progress).max() > 1e-7


@pytest.mark.parametrize("prediction", PREDICTIONS, ids=name)
@pytest.mark.parametrize("schedule", SCHEDULES, ids=name)
@pytest.mark.parametrize(
    ("kind", "order"),
    [(ConsistencyDistillation, 3), (partial(ConsistencyTraining, regression=ExactMean()), 2)],
    ids=["distillation", "training"],
)
def test_the_consistency_function_is_constant_on_the_flow(schedule, prediction, kind, order):
    """But for the error of one step of Heun's method, or of DDIM: of third and second order in the gap."""
    law = Normal(schedule)
    network = Straight(prediction, schedule, to_the_end(law))

    def error(gap):
        objective = kind(first_gap=gap, last_gap=gap, times=LogNormal(mean=-0.5, std=0.3))
        return float(losses(objective, network, law, prediction).mean().sqrt())

    found = [error(gap) for gap in (0.2, 0.1, 0.05)]
    assert found[-1] < 0.01
    assert all(abs(math.log2(a / b) - order) < 0.4 for a, b in pairwise(found))


@pytest.mark.parametrize("objective", [ConsistencyTraining(regression=Drawn()), ConsistencyDistillation()], ids=name)
def test_the_gap_falls_geometrically(objective):
    """Noise ratios are told by EDM's c_noise, log(sigma/alpha)/4."""
    law = Normal(VE())
    rows, data = law.data()
    for progress, gap in ((0.0, 0.5), (1 / 3, 0.25), (2 / 3, 0.125), (1.0, 0.0625)):
        made = objective.examples(EDM(), VE(), rows._replace(progress=progress), data, Rng(0).stream("loss"))
        share = torch.exp(4 * (made.c_noise_less - made.c_noise))[made.c_out_less > 0]
        torch.testing.assert_close(share, torch.full_like(share, 1 - gap))


def test_at_the_least_noise_the_function_is_its_point():
    law, schedule = Normal(Linear(margin=0.1)), Linear(margin=0.1)
    rows, data = law.data()
    objective = ConsistencyTraining(regression=Drawn(), times=LogNormal(mean=-1.5, std=0.3))
    made = objective.examples(V(), schedule, rows, data, Rng(0).stream("loss"))
    end = made.c_out_less == 0
    assert 50 < int(end.sum()) < N
    assert (made.c_noise_less[end] == 0).all()
    assert (made.c_noise_less[~end] > 0).all()
    stream = Rng(0).stream("loss")
    objective.times.sample(N, schedule, stream)
    x1 = stream.normal((N, 2)).double()
    torch.testing.assert_close(made.skip_less[end], (rows.x0 + 0.1 / 0.9 * x1)[end])


def test_what_is_aimed_at_has_no_gradient():
    law = Normal(Linear())
    rows, data = law.data()
    made = ConsistencyTraining().examples(V(), Linear(), rows, data, Rng(0).stream("loss"))
    made = made._replace(c_out=torch.zeros_like(made.c_out) + 1e-9)  # f does not depend on the network, f' does
    w = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    loss = ConsistencyTraining().loss(lambda x, c: w * x[:, :2], made)
    (slope,) = torch.autograd.grad(loss.mean() * 1e-18, w)
    assert abs(float(slope)) < 1e-8


def test_a_consistency_model_samples_in_one_step():
    law = Normal(Cosine())
    model = Learned(Straight(V(), Cosine(), to_the_end(law)), V(), Cosine())
    noise = Rng(0).stream("n").normal((20_000, 2), torch.float64)
    for steps in (1, 3):
        *_, x = Renoise(steps=steps).trajectory(model, noise, Rng(0).stream("s"))
        assert float(x.mean()) == pytest.approx(0.3, abs=0.02)
        assert float(x.std()) == pytest.approx(0.5, rel=0.02)


# Progressive


@pytest.mark.parametrize("prediction", PREDICTIONS, ids=name)
@pytest.mark.parametrize("schedule", SCHEDULES, ids=name)
def test_a_step_of_the_student_is_two_of_the_teacher(schedule, prediction):
    law, spacing = Normal(schedule), UniformTime()
    objective = Progressive(steps=4, spacing=spacing)
    grid = spacing.times(schedule, 4)

    def f(x_t, t):
        """The x_0 with which DDIM's step ends where the flow does."""
        u = torch.stack([grid[int((grid - v).abs().argmin()) + 1] for v in t])
        kept = schedule.sigma(u) / schedule.sigma(t)
        return (law.jump(x_t, t, u) - column(kept) * x_t) / column(schedule.alpha(u) - kept * schedule.alpha(t))

    assert losses(objective, Straight(prediction, schedule, f), law, prediction).max() < 1e-10
    student = Learned(Straight(prediction, schedule, lambda x, t: f(x, t.expand(len(x)))), prediction, schedule)
    noise = Rng(0).stream("n").normal((30, 2), torch.float64)
    *_, x = Jump(steps=4, spacing=spacing).trajectory(student, noise, Rng(0).stream("s"))
    one, zero = grid[:1], grid[-1:]
    torch.testing.assert_close(x, law.jump(float(schedule.sigma(one)) * noise, one, zero), rtol=1e-6, atol=1e-6)


def test_a_student_of_one_step_starts_at_noise():
    law = Normal(Linear())
    rows, data = law.data()
    made = Progressive(steps=1).examples(Epsilon(), Linear(), rows, data, Rng(0).stream("loss"))
    assert (made.c_noise == 1).all()


# Reflow


@pytest.mark.parametrize("prediction", PREDICTIONS, ids=name)
@pytest.mark.parametrize("schedule", SCHEDULES, ids=name)
def test_reflow_regresses_on_what_its_pairs_determine(schedule, prediction):
    """Ends are k times the noise, so x_t says which pair it is of: x_0 = k/(a k + s) x_t, without loss."""
    law, coupling = Normal(schedule, m=0.0), Pairs(count=300, steps=16)
    rows, data = law.data()
    noise, ends = data.pairs(300, 16)
    k = float((noise * ends).sum() / noise.square().sum())
    torch.testing.assert_close(ends, k * noise)

    def f(x_t, t):
        return column(k / (schedule.alpha(t) * k + schedule.sigma(t))) * x_t

    objective = Denoising(times=Uniform(), coupling=coupling)
    made = objective.examples(prediction, schedule, rows, data, Rng(0).stream("loss"))
    assert objective.loss(Straight(prediction, schedule, f), made).max() < 1e-10


# What goes with what

TEACHER = tiny().training
NEEDS = {
    ConsistencyDistillation(): True,
    Progressive(): True,
    Denoising(coupling=Pairs()): True,
    Denoising(): False,
    ConsistencyTraining(): False,
    Shortcut(): False,
    MeanFlow(): False,
    MaximumLikelihood(): False,
}


def fields(objective):
    """What else an objective asks of its training."""
    out = {"objective": objective, "prediction": Velocity()}
    return out | ({"network": SplineFlow()} if objective.density else {})


def test_every_objective_is_known_here():
    assert {type(o) for o in NEEDS} == set(members(Objective).values())


@pytest.mark.parametrize("objective", NEEDS, ids=lambda o: type(o).__name__ + type(getattr(o, "coupling", o)).__name__)
def test_a_teacher_is_there_where_it_is_needed_and_nowhere_else(objective):
    needed, given = NEEDS[objective], fields(objective)
    right, wrong = (TEACHER, None) if needed else (None, TEACHER)
    assert TEACHER.replace(**given, teacher=right).teacher == right
    with pytest.raises(SpecError, match=r"^teacher: .*(needs one|does not use one)"):
        TEACHER.replace(**given, teacher=wrong)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"schedule": Cosine()}, "schedule of the training"),
        ({"prior": "EightGaussians"}, "prior of the training"),
        ({"target": {"type": "Lifted"}}, "2 dimensions"),
        ({"objective": MaximumLikelihood(), "network": SplineFlow()}, "a density"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_a_teacher_of_another_kind_is_refused(changes, why):
    with pytest.raises(SpecError, match=f"teacher: .*{why}"):
        TEACHER.replace(objective=Progressive(), teacher=TEACHER.replace(**changes))


@pytest.mark.parametrize("objective", [MeanFlow(), Shortcut()], ids=name)
@pytest.mark.parametrize("prediction", [X0(), Epsilon(), V(), EDM()], ids=name)
def test_flow_maps_predict_velocities(objective, prediction):
    with pytest.raises(SpecError, match=r"prediction: .*should be Velocity"):
        TEACHER.replace(objective=objective, prediction=prediction)


def test_what_a_distilled_network_puts_out_is_no_posterior_mean():
    for objective in (ConsistencyTraining(), ConsistencyDistillation(), Progressive()):
        assert not objective.posterior
        model = TEACHER.replace(objective=objective, teacher=TEACHER if NEEDS[objective] else None).denoiser(
            torch.nn.Identity()
        )
        with pytest.raises(ValueError, match="no score"):
            model.score(torch.zeros(1, 2), 0.5)
    assert tiny(training__objective=ConsistencyTraining(), sampler=Heun()).has_score is False
