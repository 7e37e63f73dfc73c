"""Sweeps: names, combinations that cannot be, and every training once."""

from __future__ import annotations

import json
import warnings

import pytest
from small import METRICS, TINY, tiny

import moonbed as package
from moonbed.component import SpecError
from moonbed.experiments import PRESETS, Store, process, run
from moonbed.experiments.engines import Local, Progress
from moonbed.experiments.grid import varied
from moonbed.experiments.results import Result
from moonbed.experiments.run import execute
from moonbed.experiments.spec import grouped

CHEAP = ["--metrics", "SlicedW1", "--draws", "2", "--device", "cpu"]
SMALL = [f"{name}={value}" for name, value in TINY.items()]


def test_the_grid_is_what_the_command_runs(moonbed):
    """The same names and the same ids, here for eight steps of training."""
    places = {"training.prediction": ["Epsilon", "V"], "sampler.steps": [2, 3]}
    small = {**TINY, "training.steps": 8}
    found = package.grid(PRESETS["ema"].replace(**{k: v for k, v in small.items() if k != "sampler.steps"}), **places)
    words = [f"{k}={v}" for k, v in small.items() if k != "sampler.steps"]
    words += ["training.prediction=Epsilon,V", "sampler.steps=2,3"]
    code, out, err = moonbed("run", "ema", *words, *CHEAP, "--jobs", 1, "--json")
    assert code == 0, err
    rows = json.loads(out)
    assert [row["name"].removeprefix("ema ") for row in rows] == list(found)
    assert [e.id for e in found.values()] == [run["id"] for row in rows for run in row["runs"]]


def test_a_preset_gives_its_name():
    names = list(package.grid(PRESETS["ema"], **{"sampler.steps": [8, 32], "n": [100]}))
    assert names == ["ema sampler.steps=8", "ema sampler.steps=32"]


def test_components_as_values():
    from moonbed.diffusion.samplers import DDIM

    found = package.grid(PRESETS["ema"], sampler=[DDIM(steps=8), DDIM(steps=9, eta=1.0)])
    assert list(found) == ["ema sampler=DDIM(steps=8)", "ema sampler=DDIM(steps=9, eta=1)"]


def test_pairs_and_conditions_are_plain_python():
    pairs = [{"training.seed": s, "sampler.steps": k} for s, k in zip((0, 1), (8, 9), strict=True)]
    found = varied({"ema": PRESETS["ema"]}, [*pairs, {"n": 77}])
    assert list(found) == ["ema training.seed=0 sampler.steps=8", "ema training.seed=1 sampler.steps=9", "ema n=77"]


def test_all_that_cannot_be_is_named_at_once():
    over = {"training.batch": [64, 0], "sampler.steps": [8, -1]}
    with pytest.raises(SpecError) as caught:
        package.grid(tiny(), **over)
    places = {place.partition(":")[0] for place, _ in caught.value.problems}
    assert places == {
        "training.batch=64 sampler.steps=-1",
        "training.batch=0 sampler.steps=8",
        "training.batch=0 sampler.steps=-1",
    }
    with pytest.warns(UserWarning, match="3 of 4 left out: training.batch=64 sampler.steps=-1, "):
        assert list(package.grid(tiny(), skip_invalid=True, **over)) == ["training.batch=64 sampler.steps=8"]


def test_a_sweep_without_any_valid_combination_is_an_error():
    with pytest.raises(SpecError, match=r"training\.batch"):
        package.grid(tiny(), skip_invalid=True, **{"training.batch": [0, -1]})


def test_the_command_leaves_out_what_cannot_be(moonbed):
    words = [*(w for w in SMALL if "batch" not in w), "training.batch=64,2000", *CHEAP, "--jobs", 1]
    code, _, err = moonbed("run", "ddpm", *words)
    assert code == 2
    assert err.startswith("moonbed: ddpm training.batch=2000: training.batch: should be at most points (1000)")
    code, out, err = moonbed("run", "ddpm", *words, "--skip-invalid", "--quiet")
    assert (code, err) == (0, "moonbed: 1 of 2 left out: ddpm training.batch=2000\n")
    assert "ddpm training.batch=64" in out


def test_values_come_in_lists():
    with pytest.raises(SpecError, match="list its values"):
        package.grid(tiny(), **{"training.prediction": "V"})


def test_nothing_is_said_where_nothing_is_left_out():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        package.grid(tiny(), skip_invalid=True, **{"training.batch": [64]})


def trained(events) -> list[str]:
    """Ids of the trainings whose last step was seen."""
    return [
        group[0].training.id
        for group, event in events
        if isinstance(event, Progress) and event.stage == "train" and event.done == event.total
    ]


@pytest.mark.parametrize("jobs", [1, 2])
def test_ten_samplers_over_two_networks_are_two_trainings(tmp_path, jobs):
    wanted = list(package.grid(tiny(), **{"training.seed": [0, 1], "sampler.steps": list(range(2, 12))}).values())
    events = list(execute([*wanted, *wanted[:7]], METRICS, Store(tmp_path), "cpu", Local(jobs=jobs), draws=1))
    assert sorted(trained(events)) == sorted(grouped(wanted))
    assert len(trained(events)) == 2
    assert sorted(e.experiment.id for _, e in events if isinstance(e, Result)) == sorted(e.id for e in wanted)


def test_two_files_that_share_a_training_train_once(moonbed, tmp_path):
    head = "from moonbed import PRESETS, grid\nsmall = PRESETS['ddpm'].replace(**" + repr({**TINY, "n": 50}) + ")\n"
    for name, steps in (("one", "[2, 3]"), ("two", "[3, 4]")):
        (tmp_path / f"{name}.py").write_text(head + f"experiments = grid(small, **{{'sampler.steps': {steps}}})\n")
    first = moonbed("run", "one.py", *CHEAP, "--jobs", 2)
    second = moonbed("run", "two.py", *CHEAP, "--jobs", 1)
    assert (first[0], second[0]) == (0, 0), first[2] + second[2]
    assert first[2].count("train 200 in") == 1
    assert "train" not in second[2]
    assert len(Store(tmp_path / "runs").runs()) == 3


def test_one_that_diverges_does_not_stop_the_others(moonbed, tmp_path):
    words = [*SMALL, "training.optimizer.lr=1e-3,1e30", "training.clip=None"]
    code, out, err = moonbed("run", "ddpm", *words, *CHEAP, "--jobs", 2)
    assert code == 2
    assert "ddpm training.optimizer.lr=1e30: training diverged at step" in err
    assert "ddpm training.optimizer.lr=1e-3" in out


def test_one_that_fails_does_not_stop_the_others(tmp_path, monkeypatch):
    whole, lost = process.evaluate, tiny(training__seed=1)

    def evaluate(experiment, *args):
        if experiment == lost:
            raise OSError("no room")
        yield from whole(experiment, *args)

    monkeypatch.setattr(process, "evaluate", evaluate)
    events = list(execute([lost, tiny()], METRICS, Store(tmp_path), "cpu", draws=1))
    assert [e.experiment.id for _, e in events if isinstance(e, Result)] == [tiny().id]
    assert [group[0].id for group, e in events if type(e).__name__ == "Failure"] == [lost.id]


def test_run_takes_a_grid(tmp_path):
    found = run(package.grid(tiny(), n=[50, 60]), metrics=METRICS, store=tmp_path, device="cpu", doubt=False)
    assert [r.experiment.n for r in found] == [50, 60]


def test_many_rows_have_a_line_each(tmp_path):
    """Sixty rows, as tables; each name is what varies, and the floor stands above them."""
    from io import StringIO

    from rich.console import Console

    from moonbed.experiments.evaluate import Answer
    from moonbed.experiments.results import Result
    from moonbed.experiments.rows import rows
    from moonbed.report.tables import to_terminal

    wanted = package.grid(tiny(), **{"training.optimizer.lr": [1e-4, 1e-3, 1e-2], "sampler.steps": list(range(2, 22))})
    answers = {METRICS[0].id: Answer(0.1, (0.05, 0.2))}
    results = {name: [Result(e, "done", answers=answers)] for name, e in wanted.items()}
    lost = next(iter(results))
    results[lost] = [Result(wanted[lost], "diverged", "training diverged at step 3")]
    text = StringIO()
    Console(file=text, width=140).print(to_terminal(rows(results, METRICS, Store(tmp_path)), [METRICS[0].label]))
    lines = text.getvalue().splitlines()
    assert len(lines) < 60 + 16
    assert sum(line.strip().startswith("lr=0.01 steps=") for line in lines) == 20
    assert f"{lost}: training diverged at step 3" in " ".join(text.getvalue().split())


def test_a_training_of_many_experiments_has_a_short_name():
    from moonbed.experiments.rows import together
    from moonbed.report.tables import brief

    names = list(package.grid(PRESETS["ema"], **{"training.seed": [3], "sampler.steps": [2, 3, 4]}))
    assert together(names) == "ema (3 experiments)"
    assert together(names[:2]) == "ema sampler.steps=2 + ema sampler.steps=3"
    assert brief(names) == ["steps=2", "steps=3", "steps=4"]
    assert brief(["a.x=1 b.x=2", "a.x=2 b.x=1"]) == ["a.x=1 b.x=2", "a.x=2 b.x=1"]
    assert brief(["one", "one"]) == ["one", "one"]
