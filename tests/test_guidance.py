"""Guidance, labels and other schedules: what a denoiser becomes, held against exact ones."""

import pytest
import torch
from small import finished, tiny

from moonbed import laws
from moonbed.component import SpecError, members
from moonbed.diffusion import Denoiser, Exact, Learned, Schedule
from moonbed.diffusion.denoisers import Rescheduled
from moonbed.diffusion.guidance import CFG, AutoGuidance, Guidance
from moonbed.diffusion.predictions import EDM, Epsilon
from moonbed.diffusion.samplers import DDIM, DPMSolver2M, Heun, Jump
from moonbed.diffusion.schedules import VE, Cosine, Linear
from moonbed.experiments.evaluate import denoiser_of, exact_of, generate, trained_on
from moonbed.networks.mlp import MLP
from moonbed.rng import Rng
from moonbed.targets.curves import TwoMoons

TARGET = TwoMoons(noise=0.3)
X = Rng(0).stream("x").normal((50, 2), torch.float64)
STRONG, WEAK = Exact(TARGET.given(0), Cosine()), Exact(TARGET, Cosine())
LEVELS = [0.05, 0.3, 0.7]


def same(a, b, tolerance=1e-9):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


# Guidance


@pytest.mark.parametrize("t", LEVELS)
@pytest.mark.parametrize("kind", [CFG, AutoGuidance])
def test_scale_one_is_strong_and_zero_is_weak(kind, t):
    for scale, wanted in ((1.0, STRONG), (0.0, WEAK)):
        guided = kind(scale=scale)(STRONG, WEAK)
        for method in ("__call__", "eps", "score", "velocity"):
            same(getattr(guided, method)(X, t), getattr(wanted, method)(X, t))
        same(guided.jump(X, t, t / 2), wanted.jump(X, t, t / 2))


@pytest.mark.parametrize("t", LEVELS)
@pytest.mark.parametrize("scale", [0.5, 2.0, 5.0])
def test_the_guided_score_is_the_sum_of_two(scale, t):
    """That of p(x|c)^w p(x)^(1-w) at this noise level, with Bayes' rule: strong plus (w - 1) grad log P(c | x_t)."""
    guided = CFG(scale=scale)(STRONG, WEAK)
    same(guided.score(X, t), scale * STRONG.score(X, t) + (1 - scale) * WEAK.score(X, t))
    time = torch.tensor(t, dtype=torch.float64)
    a, s = float(Cosine().alpha(time)), float(Cosine().sigma(time))
    leaf = X.clone().requires_grad_()
    (slope,) = torch.autograd.grad(TARGET.label_probs(leaf, a, s)[:, 0].log().sum(), leaf)
    same(guided.score(X, t), STRONG.score(X, t) + (scale - 1) * slope, 1e-5)


def test_guidance_acts_in_its_interval_only():
    guided = CFG(scale=3.0, low=0.2, high=1.0)(STRONG, WEAK)
    for ratio, inside in ((0.1, False), (0.21, True), (0.99, True), (1.1, False)):
        t = Cosine().time(-2 * torch.log(torch.tensor(ratio, dtype=torch.float64)))
        wanted = STRONG(X, t) + 2 * inside * (STRONG(X, t) - WEAK(X, t))
        same(guided(X, t), wanted)


class PerRow(Exact):
    """Exact, at a time for each row."""

    def combine(self, x_t, t, w_x, w_d):
        a, s = self.schedule.alpha(t), self.schedule.sigma(t)
        w_x, w_d = (torch.as_tensor(w).reshape(-1, 1) for w in (w_x, w_d))
        return w_x * x_t + w_d * self.law.denoise(x_t, a, s)


def test_guidance_takes_a_time_for_each_row():
    t = torch.linspace(0.05, 0.95, len(X), dtype=torch.float64)
    guided = CFG(scale=3.0, low=0.2, high=1.0)(PerRow(TARGET.given(0), Cosine()), PerRow(TARGET, Cosine()))
    one = CFG(scale=3.0, low=0.2, high=1.0)(STRONG, WEAK)
    same(guided(X, t), torch.cat([one(X[k : k + 1], t[k]) for k in range(len(X))]))


def test_outside_of_the_interval_the_weak_one_is_not_asked():
    class Never(Denoiser):
        def combine(self, *args):
            pytest.fail("asked")

    guided = CFG(scale=3.0, low=100.0)(STRONG, Never())
    same(guided(X, 0.5), STRONG(X, 0.5))
    same(guided.jump(X, 0.5, 0.4), STRONG.jump(X, 0.5, 0.4))


def test_guided_knows_what_its_denoisers_know():
    ot = Learned(laws.Oracle(X), Epsilon(), Cosine())
    ot.gaussian = False
    with pytest.raises(ValueError, match="no score"):
        CFG()(ot, ot).score(X, 0.5)


def test_an_empty_interval_is_refused():
    with pytest.raises(SpecError, match="high: should be above low"):
        CFG(low=1.0, high=1.0)


def test_every_guidance_is_here():
    assert set(members(Guidance).values()) == {AutoGuidance, CFG}


# Other schedules

SCHEDULES = [cls() for cls in members(Schedule).values()]


@pytest.mark.parametrize("mine", SCHEDULES, ids=str)
@pytest.mark.parametrize("theirs", [VE(), Cosine(), Linear()], ids=str)
def test_the_exact_denoiser_under_another_schedule_is_the_exact_one_there(theirs, mine):
    moved, exact = Rescheduled(Exact(TARGET, theirs), mine), Exact(TARGET, mine)
    ratios = torch.tensor([0.05, 0.3, 1.0, 5.0], dtype=torch.float64)
    ends = torch.exp(-mine.logsnr(torch.tensor([0.0, 1.0]).double()) / 2)
    ratios = ratios[(ratios > ends[0]) & (ratios < ends[1])]
    assert len(ratios) >= 3
    for t in mine.time(-2 * torch.log(ratios)):
        for method in ("__call__", "eps", "score", "velocity"):
            got, wanted = (getattr(d, method)(X, t) for d in (moved, exact))
            same(got, wanted, 1e-6)
        same(moved.jump(X, t, 0.99 * t), exact.jump(X, t, 0.99 * t), 1e-6)


@pytest.mark.parametrize("sampler", [Heun, DPMSolver2M, DDIM, Jump], ids=lambda s: s.__name__)
def test_samples_under_another_schedule_are_those_of_the_exact_one(sampler):
    mine, noise = Linear(margin=0.02), Rng(0).stream("n").normal((200, 2), torch.float64)
    run = sampler(steps=12, **({"eta": 1.0} if sampler is DDIM else {}))
    wanted = laws.final(run, Exact(TARGET, mine), noise)
    same(laws.final(run, Rescheduled(Exact(TARGET, VE()), mine), noise), wanted, 1e-6)


def test_there_and_back_is_as_it_was():
    back = Rescheduled(Rescheduled(WEAK, VE(sigma_min=1e-4, sigma_max=1e4)), Cosine())
    for t in LEVELS:
        same(back(X, t), WEAK(X, t), 1e-8)
        same(back.jump(X, t, t / 2), WEAK.jump(X, t, t / 2), 1e-8)


def test_noise_that_was_not_trained_on_is_taken_for_the_nearest():
    narrow = Exact(TARGET, VE(sigma_min=0.1, sigma_max=1.0))
    moved = Rescheduled(narrow, VE(sigma_min=0.01, sigma_max=10.0))
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    wanted = narrow(X * (1.01 / 1.0001) ** 0.5, ends[0])
    same(moved(X, ends[0]), wanted, 1e-6)


def test_what_a_denoiser_knows_goes_with_it():
    network = Learned(laws.Oracle(X), EDM(), VE(), classes=2)
    network.gaussian = False
    moved = Rescheduled(network, Cosine())
    with pytest.raises(ValueError, match="no score"):
        moved.score(X, 0.5)
    moved.given(1)(X, 0.5)
    assert network.network.asked[0][0, 2:].tolist() == [0.0, 1.0]
    moved(X, 0.5)
    assert network.network.asked[0][0, 2:].tolist() == [0.0, 0.0]


# Labels

LABELLED = tiny(
    training__target=TARGET,
    training__label_dropout=0.2,
    training__schedule="Cosine",
    training__steps=500,
    training__batch=128,
    training__network=MLP(hidden=(48, 48)),
    training__optimizer__lr=5e-3,
    sampler=DPMSolver2M(steps=12),
    n=400,
)


@pytest.fixture(scope="module")
def weights():
    return finished(LABELLED.training).weights_for_sampling()


def sample(experiment, weights):
    *_, x = generate(experiment, denoiser_of(experiment, weights, "cpu"), "cpu")
    return x.double()


def test_the_network_is_told_a_label_beside_x():
    network = LABELLED.training.build()
    assert network(torch.zeros(3, 4), torch.zeros(3)).shape == (3, 2)
    assert LABELLED.training.classes == 2


def test_labels_are_told_and_dropped_as_often_as_said(monkeypatch):
    from moonbed.experiments.train import State, blocks, data_of

    training = LABELLED.training.replace(steps=20, label_dropout=0.3)
    _, rows = data_of(training)
    x, *_ = next(blocks(training, State(training)))
    told = x[..., 2:].reshape(-1, 2)
    assert sorted(told.unique(dim=0).tolist()) == [[0, 0], [0, 1], [1, 0]]
    assert abs(float((told.sum(1) == 0).double().mean()) - 0.3) < 0.04
    by_hand, labels = training.target.sample_labelled(training.points, training.rng.stream("data"))
    assert torch.equal(rows.x0, by_hand.float())
    assert torch.equal(rows.labels, labels)


def test_a_network_that_is_told_the_label_knows_its_law(weights):
    experiment = LABELLED.replace(label=0)
    told, untold, own = (
        denoiser_of(experiment.replace(label=label), weights, "cpu").__call__ for label in (0, None, 1)
    )
    exact = Exact(TARGET.given(0), Cosine())
    plain = Exact(TARGET, Cosine())
    for t in (0.4, 0.6):
        a, s = (float(f(torch.tensor(t, dtype=torch.float64))) for f in (Cosine().alpha, Cosine().sigma))
        x_t = (a * TARGET.given(0).sample(500, Rng(1).stream("x")) + s * Rng(1).stream("e").normal((500, 2))).float()

        def far(f, law, x_t=x_t, t=t):
            return float((f(x_t, t) - law(x_t, t)).square().mean())

        assert far(told, exact) < far(untold, exact) / 2
        assert far(told, exact) < far(own, exact) / 4
        assert far(untold, plain) < far(told, plain)


def test_samples_of_a_label_follow_its_law(weights):
    first, second = (sample(LABELLED.replace(label=k), weights) for k in (0, 1))
    assert not torch.equal(first, second)
    means = [TARGET.given(k).sample(5_000, Rng(0).stream("m")).mean(0) for k in (0, 1)]
    for k, x in enumerate((first, second)):
        own, other = ((x.mean(0) - m).norm() for m in (means[k], means[1 - k]))
        assert own < 0.3
        assert other > 0.7


def test_guided_samples_shun_the_other_label(weights):
    def own(scale):
        experiment = LABELLED.replace(label=0, guidance=CFG(scale=scale))
        return float(TARGET.label_probs(sample(experiment, weights))[:, 0].mean())

    shares = [own(scale) for scale in (0.0, 1.0, 3.0)]
    assert shares == sorted(shares)
    assert shares[0] < 0.6
    assert shares[2] > 0.97
    same(
        sample(LABELLED.replace(label=0, guidance=CFG(scale=1.0)), weights),
        sample(LABELLED.replace(label=0), weights),
        1e-4,
    )


def test_the_exact_denoiser_takes_labels_and_guidance():
    noise = Rng(0).stream("n").normal((5, 2), torch.float64)
    guided = exact_of(LABELLED.replace(label=1, guidance=CFG(scale=2.0)))
    wanted = 2 * Exact(TARGET.given(1), Cosine())(noise, 0.4) - Exact(TARGET, Cosine())(noise, 0.4)
    same(guided(noise, 0.4), wanted)
    same(
        exact_of(LABELLED.replace(label=1, schedule=VE())).score(noise, 0.4),
        Exact(TARGET.given(1), VE()).score(noise, 0.4),
    )
    with pytest.raises(SpecError, match="nothing says how bad a guide is"):
        exact_of(LABELLED.replace(guidance=AutoGuidance(), guide=LABELLED.training))


def test_samples_are_held_against_what_they_aim_at():
    assert LABELLED.law == TARGET
    assert LABELLED.replace(label=1).law == TARGET.given(1)
    assert LABELLED.replace(label=1, guidance=AutoGuidance(), guide=LABELLED.training).law == TARGET.given(1)
    tilted = LABELLED.replace(label=1, guidance=CFG(scale=3.0)).law
    assert (tilted.target, tilted.label, tilted.guidance) == (TARGET, 1, 3.0)
    mine = trained_on(LABELLED.replace(label=1))
    assert 0 < len(mine) < LABELLED.training.points
    assert float(TARGET.label_probs(torch.tensor(mine))[:, 1].mean()) > 0.85


def test_a_denoiser_without_labels_knows_none():
    with pytest.raises(ValueError, match="no labels"):
        Learned(laws.Oracle(X), Epsilon(), Cosine()).given(0)
    with pytest.raises(ValueError, match="labels 0 to 1"):
        Learned(laws.Oracle(X), Epsilon(), Cosine(), classes=2).given(2)
    with pytest.raises(ValueError, match="knows no labels"):
        WEAK.given(0)
    assert WEAK.given(None) is WEAK
