"""Times of training: distributions by their quantiles, and drawing from them with less variance."""

import math

import pytest
import torch
from small import finished, tiny

from moonbed import laws
from moonbed.component import SpecError, members
from moonbed.diffusion import Times
from moonbed.diffusion.data import Data, Rows
from moonbed.diffusion.diffusers_bridge import DiffusersBetas
from moonbed.diffusion.fewstep import ConsistencyTraining, MeanFlow, Shortcut
from moonbed.diffusion.objectives import Denoising
from moonbed.diffusion.predictions import Epsilon
from moonbed.diffusion.schedules import VE, Cosine
from moonbed.diffusion.times import Adaptive, Discrete, LogitNormal, LogNormal, LowDiscrepancy, Mode, Stepwise, Uniform
from moonbed.diffusion.weights import Uncertainty
from moonbed.experiments.train import State, train
from moonbed.rng import Rng

TIMES = [
    *(cls() for cls in members(Times).values()),
    Mode(scale=-1),
    Mode(scale=2 / (math.pi - 2)),
    LowDiscrepancy(times=LogitNormal(), rows=7),
    Stepwise(times=LogNormal(), mass=(1, 0.2, 5)),
]
SCHEDULES = [Cosine(), VE(), DiffusersBetas()]
GRID = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000  # the middles of equal parts


def name(component):
    return str(component)


def stream():
    return Rng(0).stream("t")


@pytest.mark.parametrize("schedule", SCHEDULES, ids=name)
@pytest.mark.parametrize("times", TIMES, ids=name)
def test_quantiles_are_monotone_times(times, schedule):
    u = torch.cat([torch.zeros(1, dtype=torch.float64), GRID, torch.tensor([1 - 2**-53], dtype=torch.float64)])
    t = times.quantile(u, schedule)
    assert t.dtype == torch.float64
    assert t.shape == u.shape
    assert t.min() >= 0
    assert t.max() <= 1
    steps = t.diff()
    assert (steps >= -1e-12).all() or (steps <= 1e-12).all()


@pytest.mark.parametrize("times", TIMES, ids=name)
def test_what_is_drawn_has_these_quantiles_and_is_drawn_again(times):
    n = 7 * 512 * 5
    t = times.sample(n, Cosine(), stream())
    assert t.dtype == torch.float64
    assert torch.equal(t, times.sample(n, Cosine(), stream()))
    assert torch.equal(t, times.draw(n, Cosine(), stream())[0])
    wanted = times.quantile((torch.arange(n, dtype=torch.float64) + 0.5) / n, Cosine())
    at = [0.01, 0.1, 0.5, 0.9, 0.99]
    got = torch.stack([(t <= q).double().mean() for q in wanted.quantile(torch.tensor(at).double())])
    if not isinstance(times, Discrete):
        laws.close(got, torch.tensor(at).double(), "share below a quantile", 0, 4 * 0.5 / n**0.5)


def test_discrete_times_are_every_timestep_equally():
    k = Discrete(steps=10).sample(50_000, Cosine(), stream()) * 9
    assert torch.equal(k.round().unique(), torch.arange(10).double())
    assert ((k.round().long().bincount() - 5_000).abs() < 5 * 5_000**0.5).all()
    assert Discrete(steps=1).sample(3, Cosine(), stream()).tolist() == [0, 0, 0]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=name)
def test_log_normal_times_are_normal_in_log_sigma_under_every_schedule(schedule):
    t = LogNormal(mean=-1.0, std=0.8).sample(20_000, schedule, stream())
    level = -schedule.logsnr(t) / 2
    assert abs(float(level.mean()) + 1.0) < 0.03
    assert abs(float(level.std()) - 0.8) < 0.03


def density(times, u, h=1e-6):
    """The times at the quantiles u, and the density there, by central differences."""
    low, high = (times.quantile(u + d, Cosine()) for d in (-h, h))
    return times.quantile(u, Cosine()), 2 * h / (high - low).abs()


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (-0.5, 0.6), (1.0, 2.0)])
def test_logit_normal_has_the_density_of_the_paper(mean, std):
    """Esser et al. 2024, equation 19."""
    t, got = density(LogitNormal(mean=mean, std=std), GRID[100:-100:100])
    logit = torch.log(t / (1 - t))
    bell = torch.exp(-((logit - mean) ** 2) / (2 * std**2)) / (std * math.sqrt(2 * math.pi))
    laws.close(got, bell / (t * (1 - t)), "density", 1e-5, 1e-7)


@pytest.mark.parametrize("scale", [-0.9, 0.0, 0.8, 1.29])
def test_mode_is_the_map_of_the_paper_and_its_density_one_over_its_slope(scale):
    """Esser et al. 2024, equation 20: t = 1 - u - s (cos²(pi u/2) - 1 + u)."""
    u = GRID[100:-100:100]
    t, got = density(Mode(scale=scale), u)
    laws.close(t, 1 - u - scale * (torch.cos(math.pi * u / 2) ** 2 - 1 + u), "t", 1e-12, 1e-12)
    laws.close(got, 1 / (1 + scale * (1 - math.pi / 2 * torch.sin(math.pi * u))), "density", 1e-5, 1e-7)
    middle, edge = density(Mode(scale=scale), torch.tensor([0.5, 0.02]).double())[1]
    assert (scale > 0) == (middle > edge) or scale == 0


def test_a_mode_that_is_no_distribution_is_refused():
    for scale in (-1.01, 1.76):
        with pytest.raises(SpecError, match="scale"):
            Mode(scale=scale)


# Low discrepancy


@pytest.mark.parametrize(("rows", "n"), [(512, 512 * 3), (7, 50), (1, 5), (100, 30)])
def test_every_stratum_of_a_block_has_one_row(rows, n):
    u = LowDiscrepancy(rows=rows).sample(n, Cosine(), stream())
    assert u.shape == (n,)
    for block in u.split(rows):
        strata = (block * rows).long()
        assert len(strata.unique()) == len(block)
        assert strata.max() < rows
    assert len({float(block[0] * rows % 1) for block in u.split(rows)}) == len(u.split(rows))  # each with its shift


@pytest.mark.parametrize("batch", [16, 64, 100, 512, 1000])
def test_a_batch_of_any_size_covers_the_noise_levels_evenly(batch):
    """The largest gap between the shares below u and u itself falls as 1/batch, not as its root."""
    u = LowDiscrepancy().sample(batch * 12, Cosine(), stream())
    for rows in u.split(batch):
        places = rows.sort().values
        even = torch.arange(batch).double() / batch
        gap = torch.maximum((places - even).abs().max(), (places - even - 1 / batch).abs().max())
        assert gap < 5 / batch


def test_a_mean_over_a_batch_varies_less():
    def spread(times):
        t = times.sample(200 * 64, Cosine(), stream()).reshape(200, 64)
        return float((t**2).mean(1).std())

    assert spread(LowDiscrepancy(rows=64)) < spread(Uniform()) / 6
    assert spread(LowDiscrepancy(rows=512)) < spread(Uniform()) / 4


# Importance


def weighted_mean(times, f, u=GRID):
    t, importance = times._both(u, Cosine())
    return float((importance * f(t)).mean())


@pytest.mark.parametrize("inner", [Uniform(), LogitNormal(), Mode(), LogNormal()], ids=name)
@pytest.mark.parametrize("mass", [(1.0,), (1.0, 9.0), (0.1, 3.0, 1.0, 0.5)], ids=str)
@pytest.mark.parametrize("f", [lambda t: t, lambda t: torch.sin(9 * t), lambda t: (t > 0.3).double()])
def test_a_mean_with_changed_masses_is_what_it_was(inner, mass, f):
    plain = float(f(inner.quantile(GRID, Cosine())).mean())
    assert weighted_mean(Stepwise(times=inner, mass=mass), f) == pytest.approx(plain, abs=2e-3)


def test_parts_are_drawn_by_their_mass():
    t, importance = Stepwise(mass=(1, 2, 5)).draw(80_000, Cosine(), stream())
    shares = (3 * t).long().bincount() / 80_000
    torch.testing.assert_close(shares, torch.tensor([1, 2, 5]) / 8, rtol=0, atol=0.01)
    wanted = torch.tensor([8 / 3, 4 / 3, 8 / 15], dtype=torch.float64)[(3 * t).long()]
    laws.close(importance, wanted, "importance", 1e-9, 0)


def test_the_masses_are_in_proportion_to_the_root_mean_square_of_the_losses():
    times = Adaptive(parts=4, probe=64, even=0.2)
    t = times.strata().sample(64, Cosine(), stream())
    assert (4 * t).long().bincount().tolist() == [16] * 4
    part = (4 * t).long()
    losses = torch.tensor([1.0, 3.0, 0.0, 2.0])[part]
    mass = torch.tensor(times.adapted(losses).mass)
    torch.testing.assert_close(mass, 0.8 * torch.tensor([1.0, 3.0, 0.0, 2.0]) / 6 + 0.05)
    noisy = losses * (1 + torch.sign(Rng(0).stream("s").normal((64,))) * 0.5)
    for k in range(4):
        rms = noisy[part == k].square().mean().sqrt()
        total = sum(noisy[part == j].square().mean().sqrt() for j in range(4))
        assert times.adapted(noisy).mass[k] == pytest.approx(float(0.8 * rms / total + 0.05), rel=1e-6)


@pytest.mark.parametrize("losses", [torch.zeros(64), torch.full((64,), float("nan"))], ids=["none", "nan"])
def test_losses_that_say_nothing_change_nothing(losses):
    assert Adaptive(parts=4, probe=64).adapted(losses) == Uniform()


def test_adapted_times_halve_the_variance_of_a_loss_that_is_uneven():
    times = Adaptive(parts=32, probe=2048)

    def loss(t):
        return torch.exp(-12 * t)

    plain, found = Uniform(), times.adapted(loss(times.strata().sample(2048, Cosine(), stream())))

    def variance(times):
        t, importance = times.draw(50_000, Cosine(), stream())
        return float((importance * loss(t)).var())

    assert variance(found) < variance(plain) / 2


ADAPTIVE = tiny(training__steps=40, training__objective=Denoising(times=Adaptive(parts=8, probe=64))).training


def test_a_training_with_adaptive_times_resumes_to_the_same_bits_ahead_or_not(monkeypatch):
    monkeypatch.setattr("moonbed.experiments.train.BLOCK", 10)
    state = State(ADAPTIVE)
    kept = [state.snapshot() for _ in train(ADAPTIVE, state)]
    for snapshot in kept[:-1]:
        resumed = State(ADAPTIVE)
        resumed.load(*snapshot)
        finished(ADAPTIVE, resumed)
        assert torch.equal(resumed.vector, state.vector)
        assert resumed.log == state.log
    ahead = State(ADAPTIVE)
    for _ in train(ADAPTIVE, ahead, ahead=True):
        pass
    assert torch.equal(ahead.vector, state.vector)
    other = finished(ADAPTIVE.replace(**{"objective.times.even": 0.5}))
    assert not torch.equal(other.vector, state.vector)


# What does not go together


@pytest.mark.parametrize("outer", [LowDiscrepancy, Stepwise, Adaptive])
@pytest.mark.parametrize("inner", [LowDiscrepancy(), Stepwise(mass=(1, 2)), Adaptive()], ids=name)
def test_ways_of_drawing_are_not_put_into_one_another(outer, inner):
    with pytest.raises(SpecError, match="plain distribution"):
        outer(times=inner)


@pytest.mark.parametrize("objective", [MeanFlow, Shortcut, ConsistencyTraining])
def test_few_steps_take_plain_times(objective):
    """Two draws in the same strata would be the same twice over; and their losses are not weighted."""
    for times in (LowDiscrepancy(), Adaptive()):
        with pytest.raises(SpecError, match="times"):
            objective(times=times)


def test_importance_weighs_all_of_an_uncertain_loss():
    """So that the logarithm of the loss is learned, and not that of the loss over how often it is drawn."""
    objective = Denoising(times=Stepwise(mass=(1, 3)), weight=Uncertainty())
    x0 = Rng(0).stream("x").normal((20, 2))
    rows = objective.examples(Epsilon(), Cosine(), Rows(x0), Data(None, x0), stream())
    u = Rng(0).stream("u").normal((20, 1))
    loss = objective.loss(lambda x, c: torch.cat([torch.zeros_like(x), u], 1), rows)
    wanted = rows.weight * (rows.target.square().mean(1) * torch.exp(-u[:, 0]) + u[:, 0])
    torch.testing.assert_close(loss, wanted)
    assert set((3 * rows.weight).round().tolist()) == {6.0, 2.0}


@pytest.mark.parametrize(
    ("fields", "why"),
    [({"probe": 100, "parts": 32}, "multiple of parts"), ({"even": 0}, "above 0")],
    ids=str,
)
def test_bad_adaptive_times_are_refused(fields, why):
    with pytest.raises(SpecError, match=why):
        Adaptive(**fields)
    with pytest.raises(SpecError, match="at least one"):
        Stepwise(mass=())
