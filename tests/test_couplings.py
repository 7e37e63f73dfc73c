"""Couplings: both marginals are kept, and what joins them costs less."""

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from small import finished, tiny

from moonbed.component import members
from moonbed.diffusion import Exact
from moonbed.diffusion.couplings import Coupling, Independent, MinibatchOT, Pairs
from moonbed.diffusion.data import Data, Rows
from moonbed.diffusion.objectives import Denoising
from moonbed.diffusion.predictions import Velocity
from moonbed.diffusion.samplers import Heun
from moonbed.diffusion.schedules import VE, Cosine, Linear
from moonbed.diffusion.times import Uniform
from moonbed.experiments.train import State, train
from moonbed.rng import Rng
from moonbed.targets.curves import TwoMoons
from moonbed.targets.mixtures import EightGaussians

LAW = TwoMoons()


class Gauss:
    """N(0, d² I)."""

    def __init__(self, d):
        self.d = d

    def denoise(self, x, alpha, sigma):
        return alpha * self.d**2 / (alpha**2 * self.d**2 + sigma**2) * x


def rows(n=512, classes=False):
    x0, labels = LAW.sample_labelled(n, Rng(0).stream("x0"))
    return x0.float(), Rng(0).stream("x1").normal((n, 2)), labels if classes else None


def joined(coupling, n=512, classes=False, data=None, seed="join"):
    x0, x1, labels = rows(n, classes)
    return (x0, x1, labels), coupling.join(x0, x1, labels, data or Data(LAW, x0), Rng(0).stream(seed))


def cost(x0, x1):
    return float((x0 - x1).square().sum())


def ordered(x):
    return torch.tensor(sorted(x.tolist()))


COUPLINGS = [MinibatchOT(), MinibatchOT(rows=100), MinibatchOT(method="sinkhorn"), Independent(), Pairs(count=300)]


@pytest.mark.parametrize("coupling", COUPLINGS, ids=str)
def test_a_join_keeps_shapes_and_is_made_again(coupling):
    teacher = Exact(TwoMoons(noise=0.5), Cosine())
    data = Data(LAW, rows()[0], teacher=teacher)
    _, (x0, x1) = joined(coupling, n=130, data=data)
    assert x0.shape == x1.shape == (130, 2)
    assert x0.dtype == x1.dtype == torch.float32
    again = joined(coupling, n=130, data=Data(LAW, rows()[0], teacher=teacher))[1]
    assert torch.equal(x0, again[0])
    assert torch.equal(x1, again[1])


def test_every_coupling_is_here():
    assert {type(c) for c in COUPLINGS} == set(members(Coupling).values())


def test_independent_rows_stay_as_they_were_drawn():
    (x0, x1, _), (y0, y1) = joined(Independent())
    assert y0 is x0
    assert y1 is x1


@pytest.mark.parametrize("n", [1, 2, 77, 256])
def test_exact_transport_is_the_best_assignment(n):
    (x0, x1, _), (y0, y1) = joined(MinibatchOT(), n)
    assert torch.equal(y0, x0)
    costs = torch.cdist(x0.double(), x1.double()).square().numpy()
    best = costs[linear_sum_assignment(costs)].sum()
    assert cost(y0.double(), y1.double()) == pytest.approx(best, rel=1e-9)
    assert torch.equal(ordered(y1), ordered(x1))  # each once


def test_rows_are_assigned_block_by_block():
    (x0, x1, _), (_, y1) = joined(MinibatchOT(rows=100), 250)
    for block in (slice(0, 100), slice(100, 200), slice(200, 250)):
        assert torch.equal(ordered(y1[block]), ordered(x1[block]))
        alone = MinibatchOT().join(x0[block], x1[block], None, Data(LAW, x0), Rng(0).stream("join"))[1]
        assert torch.equal(y1[block], alone)


def test_sinkhorn_lies_between_the_best_and_none():
    (x0, x1, _), (_, best) = joined(MinibatchOT())
    between = [joined(MinibatchOT(method="sinkhorn", reg=reg))[1] for reg in (0.01, 0.1, 1.0)]
    costs = [cost(*pair) for pair in ((x0, best), *between, (x0, x1))]
    assert costs == sorted(costs)
    assert costs[1] < 1.3 * costs[0]


def test_sinkhorn_keeps_the_noise_on_average():
    """Pairs are drawn from a plan whose margins are even: over many draws each x_1 comes as often as any other."""
    x0, x1, _ = rows(64)
    coupling, count = MinibatchOT(method="sinkhorn", reg=0.3), torch.zeros(64)
    for k in range(150):
        y1 = coupling.join(x0, x1, None, Data(LAW, x0), Rng(k).stream("join"))[1]
        count += torch.tensor([int((y1 == row).all(1).sum()) for row in x1])
    assert abs(float(count.mean()) - 150) < 1e-6
    assert float(count.std()) < 2 * 150**0.5
    assert float(count.min()) > 80


# Labels


def skew(x1, labels):
    """How far apart the means of the noise of two labels are."""
    return float((x1[labels == 0].mean(0) - x1[labels == 1].mean(0)).norm())


@pytest.mark.parametrize("method", ["exact", "sinkhorn"])
def test_within_a_label_the_noise_is_as_it_was(method):
    """Cheng & Schwing 2025: assigned across labels, the label would say which noise comes."""
    x0, x1, labels = rows(512, classes=True)
    coupling, data = MinibatchOT(method=method), Data(LAW, x0, classes=2)
    across = coupling.join(x0, x1, None, data, Rng(0).stream("join"))[1]
    within = coupling.join(x0, x1, labels, data, Rng(0).stream("join"))[1]
    assert skew(across, labels) > 1.0
    assert skew(within, labels) < 0.3
    if method == "exact":
        for k in (0, 1):
            assert torch.equal(ordered(within[labels == k]), ordered(x1[labels == k]))
    assert cost(x0, across) < cost(x0, within) < cost(x0, x1)


def test_a_label_of_one_row_has_its_own_noise():
    x0, x1, _ = rows(5)
    labels = torch.tensor([0, 1, 0, 2, 0])
    y1 = MinibatchOT().join(x0, x1, labels, Data(LAW, x0, classes=3), Rng(0).stream("join"))[1]
    assert torch.equal(y1[[1, 3]], x1[[1, 3]])


# Pairs of a teacher


@pytest.mark.parametrize("schedule", [Cosine(), Linear(), VE(sigma_max=20.0)], ids=str)
def test_pairs_are_ends_of_the_teachers_flow(schedule):
    """For N(0, d² I) the flow stretches noise by the ratio of standard deviations."""
    d, points = 0.5, torch.zeros(10, 2)
    data = Data(Gauss(d), points, teacher=Exact(Gauss(d), schedule))
    x0, x1 = Pairs(count=500, steps=64).join(*rows(200)[:2], None, data, Rng(0).stream("join"))
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    a, s = schedule.alpha(ends), schedule.sigma(ends)
    sd = torch.sqrt(a**2 * d**2 + s**2)
    stretch = s[1] * sd[0] / sd[1] * (a[0] * d**2 / sd[0] ** 2)  # the last state is denoised
    torch.testing.assert_close(x0, float(stretch) * x1, rtol=2e-2, atol=2e-3)
    assert float(x1.std()) == pytest.approx(1, abs=0.1)
    assert x1.unique(dim=0).shape[0] < 200  # with replacement


def test_pairs_are_made_once_and_follow_the_target():
    target, calls = TwoMoons(noise=0.5), []

    class Counted(Exact):
        def combine(self, x_t, *more):
            calls.append(len(x_t))
            return super().combine(x_t, *more)

    data = Data(target, target.sample(10, Rng(0).stream("p")).float(), teacher=Counted(target, Cosine()))
    coupling = Pairs(count=4_000, steps=16)
    x0, _ = coupling.join(*rows(2_000)[:2], None, data, Rng(0).stream("a"))
    made = len(calls)
    coupling.join(*rows(2_000)[:2], None, data, Rng(0).stream("b"))
    assert made == len(calls) == 33
    wanted = target.sample(40_000, Rng(1).stream("x"))
    torch.testing.assert_close(x0.double().mean(0), wanted.mean(0), rtol=0, atol=0.08)
    torch.testing.assert_close(x0.double().T.cov(), wanted.T.cov(), rtol=0, atol=0.1)


def test_pairs_start_at_the_prior():
    prior = EightGaussians()
    data = Data(LAW, torch.zeros(10, 2), prior=prior, teacher=Exact(TwoMoons(noise=0.5), Linear()))
    _, x1 = Pairs(count=500, steps=2).join(*rows(500)[:2], None, data, Rng(0).stream("a"))
    assert float(x1.norm(dim=1).min()) > 0.8  # none in the middle of the ring


def test_pairs_without_a_teacher_are_an_error():
    with pytest.raises(ValueError, match="teacher"):
        joined(Pairs())


# In training


def test_the_network_regresses_on_the_joined_rows():
    """For `Velocity` under a schedule, F* = alpha' x_0 + sigma' x_1 of the pairs."""
    x0, schedule, objective = rows(300)[0], Linear(), Denoising(times=Uniform(), coupling=MinibatchOT(rows=100))
    data = Data(LAW, x0)
    made = objective.examples(Velocity(), schedule, Rows(x0), data, Rng(0).stream("loss"))
    stream = Rng(0).stream("loss")
    t = objective.times.sample(300, schedule, stream)
    _, x1 = objective.coupling.join(x0, data.noise(x0, stream), None, data, stream)
    da, ds = (d[:, None] for d in schedule.derivatives(t))
    torch.testing.assert_close(made.target, (da * x0 + ds * x1).float(), rtol=1e-4, atol=1e-4)


def test_straight_paths_leave_less_to_regress_on():
    """The variance of the velocity given x_t is what optimal transport takes away (Pooladian et al. 2023)."""
    x0 = LAW.sample(512, Rng(0).stream("x0")).float()

    def total(coupling):
        made = Denoising(coupling=coupling).examples(Velocity(), Linear(), Rows(x0), Data(LAW, x0), Rng(0).stream("l"))
        return float(made.target.var(0).sum())

    assert total(MinibatchOT()) < 0.4 * total(Independent())


def test_a_training_with_transport_resumes_to_the_same_bits(monkeypatch):
    monkeypatch.setattr("moonbed.experiments.train.BLOCK", 10)
    for method in ("exact", "sinkhorn"):
        objective = Denoising(coupling=MinibatchOT(method=method, rows=64))
        training = tiny(training__steps=30, training__objective=objective, sampler=Heun(steps=5)).training
        state = State(training)
        kept = [state.snapshot() for _ in train(training, state)]
        resumed = State(training)
        resumed.load(*kept[0])
        finished(training, resumed)
        assert torch.equal(resumed.vector, state.vector)
        assert np.isfinite([line["loss"] for line in state.log]).all()
