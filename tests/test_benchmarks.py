"""The benchmarks: references compute what Moonbed does, tables line up, scripts run. Nothing is held to a time."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import wasserstein_distance

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import common
import growth
import jax_step
import parts
import plain
import speed

from moonbed.experiments import gradients
from moonbed.experiments.presets import PRESETS, PUBLISHED
from moonbed.metrics import Evaluation
from moonbed.metrics.two_sample import C2ST, MMD, Energy, SlicedW1
from moonbed.rng import Rng
from moonbed.targets.published import PublishedMoons

BENCHMARKS = Path(common.__file__).parent

# The plain reference


@pytest.mark.parametrize("row", plain.ROWS)
def test_a_network_of_the_reference_is_moonbeds(row):
    """The same parameters in the same order, and with the same values the same function."""
    ours = PRESETS[row].training.build().eval()
    theirs = plain.network(plain.ROWS[row].network).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            b.copy_(a.normal_(0, 0.3, generator=generator).reshape(b.shape))
        x, t = torch.randn(7, 2, generator=generator), torch.linspace(0, 1, 7)
        torch.testing.assert_close(ours(x, t), theirs(x, t), rtol=1e-4, atol=1e-4)


def test_the_rows_of_the_reference_are_the_presets():
    assert set(plain.ROWS) == set(PUBLISHED) == set(speed.ROWS)
    for name, row in plain.ROWS.items():
        experiment, training = PRESETS[name], PRESETS[name].training
        assert row.betas == training.schedule.betas
        assert row.ema == (training.averaging is not None)
        assert row.snr == (training.objective.weight.spec()["type"] == "P2")
        assert row.euler == (experiment.sampler.scheduler == "EulerDiscreteScheduler")


def test_the_reference_has_the_published_data():
    assert plain.moons(100) == pytest.approx(PublishedMoons().dataset(100, Rng(0).stream("data")).numpy())


@pytest.mark.parametrize("row", ["snr-ema", "baseline"])
def test_the_reference_learns_and_samples(row):
    run = plain.Run(row)
    losses = [loss for loss, _ in zip(run.train(), range(60), strict=False)]
    assert np.mean(losses[-10:]) < np.mean(losses[:3])
    *_, x = run.sample(20, 10)
    assert x.shape == (20, 2)
    assert x.isfinite().all()


@pytest.fixture(scope="module")
def points():
    """Samples that are a little off, so that no value is clamped, and a reference."""
    rng = np.random.default_rng(0)
    return 1.1 * plain.moons(150, random_state=1) + rng.normal(0.3, 0.1, (150, 2)), plain.moons(150)


def test_metrics_of_the_reference_are_moonbeds(points):
    evaluation = Evaluation(*points, Rng(0))
    assert plain.mmd(*points) == pytest.approx(MMD(root=True)(evaluation), rel=1e-6)
    assert plain.energy(*points) == pytest.approx(Energy(statistic="V", root=True)(evaluation), rel=1e-6)
    ours = [C2ST(score=score, splitter_seed=42)(evaluation) for score in ("auc", "accuracy")]
    assert plain.c2st(*points) == pytest.approx(ours, abs=2e-3)  # a tie of decision values may fall either way


def test_sliced_w1_of_the_reference(points):
    """scipy's along one line; over many directions Moonbed's, which draws others."""
    x, y = points
    assert plain.sliced_w1(x[:, :1], y[:, :1], 2) == pytest.approx(wasserstein_distance(x[:, 0], y[:, 0]))
    many = SlicedW1(directions=2000)(Evaluation(x, y, Rng(0)))
    assert plain.sliced_w1(x, y, 2000) == pytest.approx(many, rel=0.05)


def test_the_reference_evaluates_all_that_is_published(points):
    assert len(plain.evaluate(*points)) == len(PUBLISHED["ema"])


# The reference in JAX, where it is installed


@pytest.mark.slow
@pytest.mark.skipif(not jax_step.FOUND, reason="the extra `bench` is not installed")
@pytest.mark.parametrize("network", jax_step.HIDDEN)
def test_the_jax_network_has_as_many_parameters_and_learns(network):
    import jax

    weights = jax.tree.leaves(jax_step.parameters(network))
    assert sum(w.size for w in weights) == sum(p.numel() for p in plain.network(network).parameters())
    blocks = jax_step.run(network, plain.moons(1000), np.linspace(0.999, 0.001, 1000))
    losses = np.concatenate([next(blocks), next(blocks)])
    assert losses[0] == pytest.approx(1, abs=0.2)  # of a network that is zero
    assert losses[-20:].mean() < 0.8


# Tables and workers


def test_a_line_of_the_table():
    line = common.Line("x", [0.001, 0.002, 0.004], [0.004, 0.004, 0.004], [0.001] * 3, ">= 1", True, unit="ms")
    assert line.cells() == [
        *("x", "2 ms (1 .. 4)", "4 ms (4 .. 4)", "2 × (1 .. 4)"),
        *("1 ms (1 .. 1): 2 × (1 .. 4)", ">= 1: met", "1", "3/3"),
    ]
    assert len(line.cells()) == len(common.HEAD)
    assert line.record()["ratio"] == [4, 2, 1]
    assert common.Line("y", [2000.0]).cells()[:4] == ["y", "2,000 s", "", ""]


def test_ratios_of_unlike_numbers_of_repeats_are_of_medians():
    assert common.ratio([6.0], [1.0, 2.0, 30.0]) == [3.0]
    assert common.ratio([], [1.0]) == []


def test_exponents():
    assert common.exponent([1, 2, 4], [3, 12, 48]) == pytest.approx(2)
    assert common.exponent([1], [3]) is None


def test_a_makespan_is_the_longest_first():
    assert speed.makespan([1, 2, 3, 4], 2) == 5
    assert speed.makespan([9, 1, 1], 2) == 9


def test_the_rows_are_summed_as_they_are_run(monkeypatch):
    """One core: seven trainings and eight of the rest for Moonbed, eight of all for the reference."""

    def stage_of(row, stage, size):
        return common.Line(f"{row} {stage}", *(([100.0], [1000.0]) if stage == "training" else ([10.0], [20.0])))

    monkeypatch.setattr(speed, "stage_of", stage_of)
    monkeypatch.setattr(speed, "CORES", 1)
    monkeypatch.setattr(speed, "evaluation_times", lambda size: ([1.0], [2.0], {"seconds": 5.0, "drawn": 1}))
    *lines, total, with_floors, _ = speed.rows(speed.Size())
    assert len(lines) == 7 + 4
    assert total.moonbed == [7 * 100 + 8 * 11]
    assert total.reference == [8 * 1022]
    assert with_floors.moonbed == [7 * 100 + 8 * 11 + 5]


def test_the_limit_is_the_products_that_a_gradient_takes(monkeypatch):
    """Forward and weight gradient of every layer, and the input's, but for the layers on x and on the sinusoids."""
    made = []
    monkeypatch.setattr(torch, "mm", lambda left, right, out: made.append(left.shape[0] * left.shape[1] * out.shape[1]))
    next(parts.products("residual", 1, batch=8))
    weights = [w.numel() for w in plain.network("residual").parameters() if w.ndim == 2]
    assert sum(made) == 8 * (3 * sum(weights) - 64 * 64 - 2 * 128)


def test_workers_take_turns_in_processes_of_their_own(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        f"import os, sys\nsys.path.insert(0, {str(BENCHMARKS)!r})\nimport common\n\n"
        "def count(start):\n    while True:\n        print('noise')\n"
        "        yield [start, os.environ.get('OMP_NUM_THREADS')]\n        start += 1\n\n"
        "common.serve({'count': count}, *sys.argv[2:4])\n"
    )
    sides = {"a": common.Part("count", {"start": 0}), "b": common.Part("count", {"start": 5}, None)}
    first, values = common.in_turns(str(script), sides, 2)
    assert first == {"a": [0, "1"], "b": [5, None]}
    assert values == {"a": [[1, "1"], [2, "1"]], "b": [[6, None], [7, None]]}
    with pytest.raises(RuntimeError, match="absent"):
        common.once(str(script), common.Part("absent", {}))


# The scripts


class Here:
    """A worker without a process, which would import everything anew."""

    def __init__(self, script, part):
        self.values = parts.PARTS[part.name](**json.loads(json.dumps(part.given)))

    def __enter__(self):
        return self

    def __next__(self):
        return json.loads(json.dumps(next(self.values)))

    def __exit__(self, *error):
        self.values.close()


@pytest.fixture
def here(monkeypatch, tmp_path):
    """Call a script's `main` in this process: (status, what it wrote). Compiling is tested in test_gradients."""
    for module in (common, speed, growth):
        monkeypatch.setattr(module, "Worker", Here)
    monkeypatch.setattr(gradients, "PAYS", math.inf)
    monkeypatch.setattr(jax_step, "FOUND", False)  # it would hold this process to one core

    def call(script, *options):
        out = tmp_path / "out.json"
        monkeypatch.setattr(sys, "argv", [script.__name__, *options, "--tiny", "--out", str(out)])
        return script.main(), json.loads(out.read_text())

    with common.single_thread():
        yield call


@pytest.mark.slow
@pytest.mark.parametrize("section", speed.SECTIONS)
def test_a_tiny_run_of_each_section(here, capsys, section):
    status, written = here(speed, "--only", section)
    assert status == 0
    assert written["tiny"]
    assert "torch" in written["made by"]
    found = written["sections"][section]
    assert found["lines"] or found["notes"]
    for line in found["lines"]:
        assert {"what", "moonbed", "reference", "limit", "target", "met", "threads", "ratio", "over limit"} <= set(line)
        assert all(value > 0 for value in line["moonbed"])
    assert f"## {section}" in capsys.readouterr().out


def test_a_section_that_fails_says_so_and_is_the_status(here, monkeypatch, capsys):
    def broken(size):
        yield common.Line("x", [1.0])
        raise RuntimeError("a part ended")

    monkeypatch.setitem(speed.SECTIONS, "step", broken)
    status, written = here(speed, "--only", "step")
    assert status == 1
    assert written["sections"]["step"]["lines"]
    assert "FAILED: a part ended" in capsys.readouterr().out


@pytest.mark.slow
def test_a_tiny_run_of_growth(here, capsys, monkeypatch):
    """Of two metrics one is measured in processes of its own, as all are outside this test."""
    real = growth.apart

    def apart(name, n, most):
        return real(name, n, most) if name == "Energy" else growth.child(name, n)

    monkeypatch.setattr(growth, "apart", apart)
    status, written = here(growth)
    assert status == 0
    assert {(row["side"], row["against"]) for row in written["training"]} >= {
        ("moonbed", "steps"),
        ("reference", "batch"),
    }
    assert [row["metric"] for row in written["metrics"]] == ["Energy", "NLL"]
    assert all(
        {"n", "seconds", "gigabytes", "value"} == set(size) for row in written["metrics"] for size in row["sizes"]
    )
    assert "exponent" in capsys.readouterr().out


def test_what_would_take_too_long_is_left_out_and_what_takes_too_much_memory_fails(monkeypatch, capsys):
    found = [{"n": 100, "seconds": 1.0}, {"n": 1000, "seconds": 100.0}]
    assert growth._predicted(found, 10_000) == pytest.approx(10_000)
    row = {"metric": "Energy", "sizes": [{"n": 100, "gigabytes": 0.5}], "left out": {1000: "about 90 s"}}
    assert growth.within(row, 2.0)
    assert "more was left out (about 90 s)" in capsys.readouterr().out
    assert not growth.within(row, 0.1)


def test_jax_step_says_when_there_is_no_jax(tmp_path):
    """Whatever is installed: with a path where jax is not to be found."""
    code = (
        f"import sys; sys.path.insert(0, {str(BENCHMARKS)!r}); import jax_step; jax_step.FOUND = False; jax_step.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "is not installed" in done.stdout
