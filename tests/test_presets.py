"""The eight rows of the published ablation: what they are, how they differ, and the numbers beside them."""

from __future__ import annotations

import pytest
import torch

from moonbed.component import SpecError, kinds, members
from moonbed.diffusion.regressions import ExactMean
from moonbed.experiments import PRESETS, Experiment, Training
from moonbed.experiments.presets import BUDGETS, CHANGES, PUBLISHED, ROWS, preset, published
from moonbed.experiments.reproduce import plan
from moonbed.metrics.suites import SUITES
from moonbed.rng import Rng
from moonbed.targets.published import PublishedMoons

NAMES = ["baseline", "ddpm", "ema", "cosine", "larger-mlp", "snr", "snr-ema", "residual"]

# The write-up's table: MMD, energy, sliced W1, 2|AUC - .5|, accuracy
TABLE = """
baseline    0.043403  0.059351  0.053859  0.1904  0.4076
ddpm        0.036139  0.051655  0.043603  0.2074  0.3968
ema         0.000001  0.020453  0.016328  0.2570  0.3697
cosine      0.000001  0.019954  0.015846  0.2606  0.3677
larger-mlp  0.000001  0.017666  0.014260  0.2526  0.3667
snr         0.034003  0.048948  0.041441  0.1742  0.4200
snr-ema     0.021315  0.034615  0.028897  0.2039  0.3974
residual    0.000001  0.015938  0.012952  0.2488  0.3623
"""

DIFFERENCES = {
    ("baseline", "ddpm"): {"sampler.scheduler"},
    ("ddpm", "ema"): {"training.averaging"},
    ("ema", "cosine"): {"training.schedule.betas"},
    ("cosine", "larger-mlp"): {"training.network.hidden"},
    ("larger-mlp", "snr-ema"): {"training.objective.weight"},
    ("snr-ema", "snr"): {"training.averaging"},
    ("larger-mlp", "residual"): {"training.network"},
}


def differing(a: dict, b: dict, place: str = "") -> set[str]:
    """Dotted names of what differs; a component of another type counts as one difference."""
    if a.get("type") != b.get("type"):
        return {place}
    out: set[str] = set()
    for key in a.keys() | b.keys():
        here, x, y = f"{place}.{key}".lstrip("."), a.get(key), b.get(key)
        if isinstance(x, dict) and isinstance(y, dict):
            out |= differing(x, y, here)
        elif x != y:
            out.add(here)
    return out


def test_the_eight_rows_in_order():
    assert list(ROWS) == list(PUBLISHED) == NAMES
    assert list(PRESETS) == list(CHANGES) == ["fast", *NAMES]


def test_ids_are_distinct_and_stable():
    assert len({p.id for p in PRESETS.values()}) == 9
    assert len({p.training.id for p in PRESETS.values()}) == 8
    for p in PRESETS.values():
        assert Experiment.parse(p.spec()).id == p.id
        assert Experiment.parse(p.spec()).training.id == p.training.id


def test_baseline_and_ddpm_are_one_training():
    assert PRESETS["baseline"].training.id == PRESETS["ddpm"].training.id


@pytest.mark.parametrize("pair", DIFFERENCES, ids="-".join)
def test_each_row_changes_one_thing(pair):
    a, b = (PRESETS[name].spec() for name in pair)
    assert differing(a, b) == DIFFERENCES[pair]


@pytest.mark.parametrize("name", NAMES)
def test_parameter_counts(name):
    wanted = {"baseline": 33_666, "ddpm": 33_666, "ema": 33_666, "cosine": 33_666, "residual": 134_786}
    training = PRESETS[name].training
    assert training.parameters() == wanted.get(name, 50_178)
    assert sum(p.numel() for p in training.build().parameters()) == wanted.get(name, 50_178)


def test_the_write_ups_settings():
    for p in ROWS.values():
        t = p.training
        assert (t.steps, t.batch, t.points, t.clip, t.seed) == (40_000, 512, 50_000, 1.0, 0)
        assert t.optimizer.spec()["type"] == "AdamW"
        assert t.optimizer.lr == 1e-3
        assert t.prediction.spec()["type"] == "Epsilon"
        assert t.objective.times.steps == t.schedule.steps == p.sampler.steps == 1000
        assert p.n == 5_000
    assert PRESETS["ema"].training.averaging.decay == 0.999
    assert PRESETS["residual"].training.network.dropout == 0


@pytest.mark.parametrize("name", NAMES)
def test_what_is_printed_is_python_that_builds_it_again(name):
    namespace = {n: cls for kind in kinds().values() for n, cls in members(kind).items()}
    again = eval(str(PRESETS[name]), namespace)
    assert again == PRESETS[name]
    assert isinstance(again, Experiment)
    assert isinstance(again.training, Training)
    assert again.spec() == PRESETS[name].spec()


def test_published_is_the_grid_moons():
    experiment = published(PRESETS["ema"])
    assert differing(PRESETS["ema"].spec(), experiment.spec()) == {"training.target"}
    target = experiment.training.target
    assert target == PublishedMoons(noise=0.05, seed=42)
    a, b = target.dataset(500, Rng(0).stream("a")), target.dataset(500, Rng(1).stream("b"))
    assert torch.equal(a, b)
    from sklearn.datasets import make_moons

    raw, _ = make_moons(500, noise=0.05, random_state=42)
    assert torch.allclose(a, torch.from_numpy((raw - raw.mean(0)) / raw.std(0)), rtol=0, atol=1e-12)


def test_the_published_numbers():
    for line in TABLE.strip().splitlines():
        name, *numbers = line.split()
        assert PUBLISHED[name] == tuple(map(float, numbers))
    metrics = [metric.spec() for metric in SUITES["published"][:5]]
    assert [m["type"] for m in metrics] == ["MMD", "Energy", "SlicedW1", "C2ST", "C2ST"]
    assert [m["score"] for m in metrics[3:]] == ["auc", "accuracy"]


def test_budgets():
    paper = preset("baseline").replace(**BUDGETS["paper"].changes)
    assert paper == preset("baseline")  # the presets are the write-up's own
    quick = preset("baseline").replace(**BUDGETS["quick"].changes)
    assert quick.training.steps * 10 <= paper.training.steps
    assert BUDGETS["quick"].seeds >= 2
    for budget in BUDGETS.values():
        assert budget.draws >= 20  # a 5 % to 95 % range needs them


def test_the_fast_preset_learns_from_the_same_data_and_not_from_the_law():
    fast, row = PRESETS["fast"].training, PRESETS["residual"].training
    assert (fast.target, fast.points) == (row.target, row.points)
    assert not isinstance(fast.objective.regression, ExactMean)


def test_plan():
    wanted = plan(["snr", "baseline"], "quick", 3)
    assert list(wanted) == ["snr", "baseline"]
    assert [e.training.seed for e in wanted["snr"]] == [0, 1, 2]
    assert {type(e.training.target) for group in wanted.values() for e in group} == {PublishedMoons}
    assert list(plan(None, "paper", None)) == NAMES
    assert all(len(group) == BUDGETS["paper"].seeds for group in plan(None, "paper", None).values())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((["bseline"], "quick", None), "'baseline'"),
        ((["fast"], "quick", None), "no published row is called 'fast'"),
        ((None, "qick", None), "'quick'"),
        ((None, "quick", 0), "at least 1"),
        ((None, "quick", -1), "at least 1"),
    ],
)
def test_plan_refuses(arguments, said):
    with pytest.raises(SpecError, match=said):
        plan(*arguments)
