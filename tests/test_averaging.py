"""Averages of the weights: power profiles, and those that are reconstructed after training."""

import math

import pytest
import torch
from small import METRICS, finished, tiny

from moonbed.component import SpecError, members
from moonbed.experiments import Averaging, Store, run
from moonbed.experiments.averaging import EMA, PowerEMA, gamma, post_hoc
from moonbed.experiments.run import execute
from moonbed.experiments.train import State, train
from moonbed.experiments.weights import denoiser_in, trained
from moonbed.rng import Rng

BLOCK = "moonbed.experiments.train.BLOCK"
WIDTHS = (0.05, 0.10, 0.07)
TRAINING = tiny(training__steps=400, training__averaging=PowerEMA(sigma_rels=WIDTHS, snapshots=20)).training


@pytest.fixture(scope="module")
def state():
    return finished(TRAINING)


@pytest.mark.parametrize("width", [0.01, 0.05, 0.1, 0.2, 0.28])
def test_gamma_has_the_width_of_the_paper(width):
    """Karras et al. 2024, equation 127: sigma_rel = sqrt(gamma + 1)/((gamma + 2) sqrt(gamma + 3))."""
    g = gamma(width)
    assert g > 0
    assert math.sqrt(g + 1) / ((g + 2) * math.sqrt(g + 3)) == pytest.approx(width, rel=1e-9)
    x = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    p = (g + 1) * x**g
    mean = float((p * x).mean())
    assert float((p * (x - mean) ** 2).mean()) ** 0.5 == pytest.approx(width, rel=1e-3)


@pytest.mark.parametrize("steps", [1, 2, 7, 300])
def test_a_power_average_is_the_sum_by_its_profile(steps):
    """Step k has the weight (k^(gamma + 1) - (k - 1)^(gamma + 1))/steps^(gamma + 1): initial weights have none."""
    weights = Rng(0).stream("w").normal((steps + 1, 5), torch.float64)
    averaging = PowerEMA(sigma_rels=WIDTHS)
    averages = weights[0].expand(3, -1).clone()
    for step in range(1, steps + 1):
        averaging.update(averages, weights[step], step)
    k = torch.arange(steps + 1, dtype=torch.float64)
    for row, width in zip(averages, WIDTHS, strict=True):
        share = (k / steps) ** (gamma(width) + 1)
        wanted = (share.diff()[:, None] * weights[1:]).sum(0)
        torch.testing.assert_close(row, wanted)


@pytest.mark.parametrize("averaging", [cls() for cls in members(Averaging).values()], ids=str)
def test_stacked_weights_are_averaged_row_by_row(averaging):
    weights = Rng(0).stream("w").normal((6, 4, 5))
    stacked = weights[0][:, None].expand(4, averaging.count, 5).clone()
    alone = stacked.clone()
    for step in range(1, 6):
        averaging.update(stacked, weights[step], step)
        for row, average in zip(weights[step], alone, strict=True):
            averaging.update(average, row, step)
    torch.testing.assert_close(stacked, alone)


@pytest.mark.parametrize(("snapshots", "steps"), [(20, 400), (32, 50), (32, 10), (7, 100), (1, 5)])
def test_snapshots_are_even_and_the_last_is_of_the_end(snapshots, steps):
    averaging = PowerEMA(snapshots=snapshots)
    kept = [step for step in range(1, steps + 1) if averaging.keeps(step, steps)]
    assert len(kept) == min(snapshots, steps)
    assert kept[-1] == steps
    gaps = [b - a for a, b in zip([0, *kept], kept, strict=False)]
    assert max(gaps) - min(gaps) <= 1
    assert not any(EMA().keeps(step, steps) for step in range(steps))


def test_a_training_keeps_its_averages(state):
    assert sorted(state.snapshots) == list(range(20, 401, 20))
    assert all(rows.shape == (3, len(state.vector)) for rows in state.snapshots.values())
    assert torch.equal(state.snapshots[400], state.averages)
    names = [name for name, _ in state.network.named_parameters()]
    sampled = state.weights_for_sampling()
    assert torch.equal(torch.cat([sampled[n].reshape(-1) for n in names]), state.averages[0])


def test_a_third_width_is_reconstructed_from_two(state):
    """Within a hundredth of its distance to the last weights; the width itself was averaged directly alongside."""
    two = {step: rows[:2] for step, rows in state.snapshots.items()}
    found, rest = post_hoc(two, WIDTHS[:2], WIDTHS[2])
    direct, last = state.averages[2], state.vector.detach()
    assert float((found - direct).norm()) < 0.01 * float((direct - last).norm())
    assert rest < 0.05
    for k in (0, 1):
        found, rest = post_hoc(two, WIDTHS[:2], WIDTHS[k])
        torch.testing.assert_close(found, state.averages[k], rtol=1e-3, atol=1e-4)
        assert rest < 1e-3


def test_what_snapshots_cannot_make_is_said(state):
    """A profile narrower than the gaps between snapshots is far from all of their combinations."""
    rests = [post_hoc(state.snapshots, WIDTHS, width)[1] for width in (0.07, 0.03, 0.01, 0.003)]
    assert rests == sorted(rests)
    assert rests[-1] > 0.3


def test_snapshots_survive_a_stop_to_the_same_bits(monkeypatch):
    from safetensors.torch import load, save

    monkeypatch.setattr(BLOCK, 15)
    training = TRAINING.replace(steps=60)
    state = State(training)
    kept = [(save(tensors), step, log) for tensors, step, log in (s.snapshot() for s in train(training, state))]
    for data, step, log in kept[:-1]:
        resumed = State(training)
        resumed.load(load(data), step, log)
        assert sorted(resumed.snapshots) == [k for k in sorted(state.snapshots) if k <= step]
        finished(training, resumed)
        a, b = state.tensors(), resumed.tensors()
        assert a.keys() == b.keys()
        assert all(torch.equal(a[k], b[k]) for k in a)


def test_a_run_samples_with_the_width_it_is_asked_for(tmp_path):
    plain = tiny(training__steps=120, training__averaging=PowerEMA(), n=40)
    experiments = [plain, plain.replace(sigma_rel=0.05), plain.replace(sigma_rel=0.09), plain.replace(sigma_rel=0.2)]
    results = run(experiments, metrics=METRICS, store=tmp_path, device="cpu")
    values = [r.values[METRICS[0].id] for r in results]
    assert values[0] == pytest.approx(values[1], rel=1e-3)
    assert len({round(v, 9) for v in values[1:]}) == 3
    store, vector = Store(tmp_path), finished(plain.training).snapshots
    weights = trained(store, plain.training, 0.09)
    names = [name for name, _ in plain.training.build().named_parameters()]
    wanted, _ = post_hoc(vector, (0.05, 0.10), 0.09)
    torch.testing.assert_close(torch.cat([weights[n].reshape(-1) for n in names]), wanted)
    asked = [denoiser_in(store, e, "cpu")(torch.ones(1, 2), 0.5) for e in experiments]
    assert not torch.equal(asked[2], asked[3])


def test_a_run_that_was_cut_off_has_the_same_snapshots(tmp_path):
    experiment = tiny(training__steps=300, training__averaging=PowerEMA(), n=20, sigma_rel=0.08)
    run(experiment, metrics=METRICS, store=tmp_path / "whole", device="cpu")
    for _, event in execute([experiment], METRICS, Store(tmp_path / "cut"), "cpu"):
        if event.done == 200:
            break
    run(experiment, metrics=METRICS, store=tmp_path / "cut", device="cpu")
    for name in ("snapshots.safetensors", "weights.safetensors"):
        a, b = (Store(tmp_path / where).training(experiment.training).file(name) for where in ("whole", "cut"))
        assert a == b


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"sigma_rel": 0.1}, "sigma_rel: needs the averaging PowerEMA"),
        ({"sigma_rel": 0.1, "training__averaging": EMA()}, "sigma_rel: needs the averaging PowerEMA"),
        ({"sigma_rel": 0.4, "training__averaging": PowerEMA()}, "sigma_rel: .*less than or equal to 0.28"),
        ({"sigma_rel": 0.0, "training__averaging": PowerEMA()}, "sigma_rel: .*greater than 0"),
        ({"training__averaging": {"type": "PowerEMA", "sigma_rels": [0.5]}}, "sigma_rels"),
        ({"training__averaging": {"type": "PowerEMA", "sigma_rels": []}}, "sigma_rels"),
    ],
    ids=str,
)
def test_what_cannot_be_averaged_is_refused(changes, why):
    with pytest.raises(SpecError, match=why):
        tiny(**changes)
