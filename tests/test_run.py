"""Runs: nothing is computed twice, nothing depends on how it was run, and nothing that went wrong is hidden."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from small import METRICS, files, names_in, tiny

import moonbed
from moonbed.calls import measure
from moonbed.component import SpecError
from moonbed.diffusion.samplers import DDIM, Heun
from moonbed.experiments import Experiment, Store, StoreError, process, run, session
from moonbed.experiments.device import choose_device
from moonbed.experiments.engines import Failure, Local, Progress, Task, base
from moonbed.experiments.evaluate import exploded, reference
from moonbed.experiments.floors import draw_floors, floor_name, load_floor, null_draw, save_floor
from moonbed.experiments.optimizers import AdamW
from moonbed.experiments.plugins import experiments_in
from moonbed.experiments.results import Result
from moonbed.experiments.rows import follow, rows
from moonbed.experiments.run import execute, suite
from moonbed.experiments.storage.runs import load_checkpoint
from moonbed.metrics import Evaluation, Metric
from moonbed.metrics.two_sample import MMD, Energy, SlicedW1
from moonbed.rng import Rng
from moonbed.targets.curves import TwoMoons
from moonbed.targets.published import PublishedMoons

SMALL = tiny(training__steps=60, n=30)
BROKEN = SMALL.replace(**{"training.optimizer": AdamW(lr=1e30), "training.steps": 150})


def go(experiments, store, **more):
    return run(experiments, **{"metrics": METRICS, "store": store, "device": "cpu"} | more)


@pytest.fixture
def calls(monkeypatch):
    """How often training, sampling and metrics were started."""
    count = {"train": 0, "generate": 0}
    for name, inner in (("train", "advance"), ("generate", "generate")):
        real = getattr(process, inner)

        def counted(*args, real=real, name=name):
            count[name] += 1
            return real(*args)

        monkeypatch.setattr(process, inner, counted)
    return count


# Once and no more


def test_what_exists_is_not_computed_again(tmp_path, calls):
    (first,) = go(SMALL, tmp_path)
    stamps = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file() and p.name != ".lock"}
    (second,) = go(SMALL, tmp_path)
    assert calls == {"train": 1, "generate": 1}
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file() and p.name != ".lock"} == stamps
    assert second == first
    assert first.status == "done"
    assert first.parameters == SMALL.training.parameters()
    assert first.training_seconds > 0
    assert Path(first.folder) == tmp_path / SMALL.training.id / SMALL.id


def test_another_metric_computes_only_itself(tmp_path, calls, monkeypatch):
    go(SMALL, tmp_path)
    before = files(tmp_path)
    monkeypatch.setattr(SlicedW1, "__call__", lambda *_: pytest.fail("computed again"))
    (result,) = go(SMALL, tmp_path, metrics=(*METRICS, Energy()))
    assert calls == {"train": 1, "generate": 1}
    assert files(tmp_path) == before
    assert list(result.values) == [METRICS[0].id, Energy().id]


def test_the_metrics_asked_change_nothing_else(tmp_path):
    (a,) = go(SMALL, tmp_path / "a")
    (b,) = go(SMALL, tmp_path / "b", metrics=(MMD(), Energy(), *METRICS))
    assert files(tmp_path / "a") == files(tmp_path / "b")
    assert a.values[METRICS[0].id] == b.values[METRICS[0].id]


def test_two_samplers_train_once(tmp_path, calls):
    pair = [SMALL.replace(sampler=DDIM(steps=5)), SMALL.replace(sampler=Heun(steps=3))]
    a, b = go(pair, tmp_path)
    assert calls == {"train": 1, "generate": 2}
    assert a.values != b.values
    assert len(list(tmp_path.glob("*/weights.safetensors"))) == 1
    assert len(list(tmp_path.glob("*/*/samples.npy"))) == 2


def test_results_come_in_the_order_asked_and_duplicates_are_fine(tmp_path, calls):
    a, b, c = (SMALL.replace(**{"training.seed": s}) for s in (2, 0, 1))
    assert [r.experiment for r in go([a, b, a, c], tmp_path)] == [a, b, a, c]
    assert calls["train"] == 3
    assert [r.experiment for r in go({"x": c, "y": a}, tmp_path)] == [c, a]
    assert go([], tmp_path) == []


def test_seeds_of_training_and_of_sampling_both_matter(tmp_path):
    results = go(
        [SMALL, SMALL.replace(seed=1), SMALL.replace(**{"training.seed": 1})], tmp_path, metrics=(*METRICS, Energy())
    )
    assert len({tuple(r.values.values()) for r in results}) == 3


def test_the_values_are_those_of_the_stored_samples(tmp_path):
    (result,) = go(SMALL, tmp_path)
    samples = np.load(Path(result.folder) / "samples.npy")
    assert samples.shape == (30, 2)
    evaluation = Evaluation(samples, reference(SMALL), SMALL.rng.child("metrics"))
    assert result.values[METRICS[0].id] == METRICS[0](evaluation)


# However it is run


def test_the_bits_do_not_depend_on_the_number_of_jobs(tmp_path):
    experiments = [SMALL, SMALL.replace(**{"training.seed": 1}), SMALL.replace(sampler=DDIM(steps=4))]
    one, two = (go(experiments, tmp_path / str(jobs), jobs=jobs) for jobs in (1, 2))
    assert len(files(tmp_path / "1")) == 5
    assert files(tmp_path / "1") == files(tmp_path / "2")
    assert files(tmp_path / "1", (".jsonl",)) == files(tmp_path / "2", (".jsonl",))
    assert [r.values for r in one] == [r.values for r in two]
    assert [r.experiment for r in two] == experiments


def test_the_callers_threads_and_generator_are_left_alone(tmp_path):
    torch.manual_seed(3)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        (a,) = go(SMALL, tmp_path / "a")
        assert torch.get_num_threads() == 2
        torch.set_num_threads(1)
        (b,) = go(SMALL, tmp_path / "b")
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(torch.get_rng_state(), before)
    assert files(tmp_path / "a") == files(tmp_path / "b")
    assert a.values == b.values


def test_a_training_that_was_cut_off_goes_on_to_the_same_bits(tmp_path, monkeypatch):
    experiment = tiny("ema", training__steps=300, n=20)
    whole = Store(tmp_path / "whole")
    go(experiment, whole)
    cut = Store(tmp_path / "cut")
    steps = []
    for event in (e for _, e in execute([experiment], METRICS, cut, "cpu")):
        steps.append(event.done)
        if event.done == 200:
            break  # closes the generators: what Ctrl-C does between two blocks
    folder = cut.training(experiment.training)
    assert steps == [100, 200]
    assert load_checkpoint(folder)[1] == 200
    again = [e for _, e in execute([experiment], METRICS, cut, "cpu")]
    assert [e.done for e in again if isinstance(e, Progress) and e.stage == "train"] == [300]
    assert files(cut.root) == files(whole.root)
    assert files(cut.root, (".jsonl",)) == files(whole.root, (".jsonl",))
    assert not list(folder.path.glob("checkpoint*"))
    assert [store.training(experiment.training).record()["resumed"] for store in (whole, cut)] == [[], [200]]


@pytest.mark.parametrize("at", [1, 99, 150, 250])
def test_an_interrupt_in_the_middle_of_a_block_keeps_a_state_that_resumes_identically(tmp_path, monkeypatch, at):
    from moonbed.diffusion.objectives import Denoising

    experiment = tiny("ema", training__steps=300, n=20)
    go(experiment, tmp_path / "whole")
    real, count = Denoising.loss, []

    def loss(self, *args):
        count.append(1)
        if len(count) == at:
            raise KeyboardInterrupt
        return real(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Denoising, "loss", loss)
        with pytest.raises(KeyboardInterrupt):
            go(experiment, tmp_path / "cut")
    kept = load_checkpoint(Store(tmp_path / "cut").training(experiment.training))
    assert (kept and kept[1]) == ((at // 100 * 100) or None)
    go(experiment, tmp_path / "cut")
    assert files(tmp_path / "cut") == files(tmp_path / "whole")


def test_checkpoints_are_written_while_it_trains(tmp_path, monkeypatch):
    monkeypatch.setattr(session, "CHECKPOINT_SECONDS", 0.0)
    experiment = tiny(training__steps=300, n=20)
    folder, seen = Store(tmp_path).training(experiment.training), []
    for _, event in execute([experiment], METRICS, Store(tmp_path), "cpu"):
        if isinstance(event, Progress) and event.stage == "train" and event.done < 300:
            _, step, log, seconds = load_checkpoint(folder)
            seen.append((step, len(log)))
            assert seconds > 0
            assert len(list(folder.path.glob("checkpoint-*"))) == 1
    assert seen == [(100, 1), (200, 2)]
    assert not list(folder.path.glob("checkpoint*"))


def test_what_takes_long_to_save_is_saved_less_often(tmp_path, monkeypatch):
    """At most a fiftieth of the time is spent on it."""
    monkeypatch.setattr(session, "CHECKPOINT_SECONDS", 0.1)
    training = tiny(training__steps=300, n=20).training
    under_way = session.Session(Store(tmp_path).training(training), training, "cpu", None)
    assert under_way._pause == 0.1
    under_way.state.log.append({"step": 0, "loss": 1.0})
    under_way.block()
    real = session.save_checkpoint
    monkeypatch.setattr(session, "save_checkpoint", lambda *given: (time.sleep(0.1), real(*given)))
    under_way.keep()
    assert under_way._pause >= 0.1 * 0.1 / 0.02


# What goes wrong


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_run_that_diverged_stays_and_the_others_finish(tmp_path, jobs):
    other = SMALL.replace(**{"training.seed": 5})
    a, bad, b = go([SMALL, BROKEN, other], tmp_path, jobs=jobs)
    assert (a.status, bad.status, b.status) == ("done", "diverged", "done")
    assert bad.message.startswith("training diverged at step 2 ")
    assert bad.values == {}
    weights = tmp_path / BROKEN.training.id / "weights.safetensors"
    from safetensors.torch import load

    assert all(bool(w.isfinite().all()) for w in load(weights.read_bytes()).values())
    (again,) = go(BROKEN, tmp_path)
    assert again == bad  # known from the record
    table = rows({"x": [a, bad, b], "bad": [bad]}, METRICS, Store(tmp_path))
    assert [len(r.results) for r in table] == [3, 1]
    assert [len(r.cells["sliced W1"].values) for r in table] == [2, 0]


def sampling(monkeypatch, change):
    """Let exact samples, changed in place by `change`, be what is generated."""

    def generate(experiment, *_):
        x = experiment.training.target.sample(experiment.n, Rng(9).stream("x")).float()
        change(x)
        yield x

    monkeypatch.setattr(process, "generate", generate)


def test_exploding_samples_are_counted_and_the_values_say_so(tmp_path, monkeypatch):
    def change(x):
        x[0], x[1, 0], x[2, 1] = 1e6, float("nan"), -float("inf")

    sampling(monkeypatch, change)
    (result,) = go(SMALL, tmp_path)
    assert result.exploded == 3
    assert result.status == "done"
    assert not math.isfinite(result.values[METRICS[0].id])
    (again,) = go(SMALL, tmp_path)
    assert again.exploded == 3
    assert repr(again.values) == repr(result.values)  # infinity stays infinity, not NaN
    assert Store(tmp_path).runs()[0][1]["exploded"] == 3


def test_finite_explosions_are_counted_and_stay_in_the_value(tmp_path, monkeypatch):
    sampling(monkeypatch, lambda x: None)
    (calm,) = go(SMALL, tmp_path / "calm")
    sampling(monkeypatch, lambda x: x[0].add_(7000))
    (wild,) = go(SMALL, tmp_path / "wild")
    assert (calm.exploded, wild.exploded) == (0, 1)
    assert wild.values[METRICS[0].id] > calm.values[METRICS[0].id] + 100


def test_what_counts_as_exploded():
    points = np.array([[1.0, 0.0], [0.0, -2.0]])
    samples = np.array(
        [[0, 0], [20, 0], [20.1, 0], [np.nan, 0], [0, np.inf], [-np.inf, np.nan], [1e200, 1e200], [14, 14]]
    )
    assert exploded(samples, points) == 5
    assert exploded(samples[:6].astype(np.float32), points) == 4
    assert exploded(points, points) == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"device": "cuda"}, "device: 'cuda' was asked for, but this machine has only: cpu"),
        ({"device": "mps"}, "device: 'mps' was asked for"),
        ({"device": "gpu"}, "device: no device is called 'gpu'"),
        ({"jobs": 0}, "jobs: should be at least 1, given 0"),
        ({"metrics": "defalt"}, "metrics: no suite is called 'defalt'; did you mean 'default'"),
    ],
)
def test_bad_arguments(tmp_path, arguments, said):
    if arguments.get("device") in ("cuda", "mps") and choose_device("auto") != "cpu":
        pytest.skip("there is one")
    with pytest.raises(SpecError, match=said):
        go(SMALL, tmp_path, **arguments)
    assert names_in(tmp_path) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"sampler.scheduler": "DPMSolverScheduler"}, "diffusers has no 'DPMSolverScheduler'"),
        ({"sampler.options": {"thresholdin": True}}, "DDPMScheduler has no such option; did you mean 'thresholding'"),
    ],
)
def test_a_scheduler_that_diffusers_lacks_is_refused_before_any_training(tmp_path, calls, change, said):
    with pytest.raises(SpecError, match=said):
        go([SMALL, SMALL.replace(**change)], tmp_path)
    assert calls["train"] == 0
    assert names_in(tmp_path) == []


def test_choose_device():
    assert choose_device("cpu") == "cpu"
    assert choose_device("auto") in ("cpu", "cuda", "mps")


def test_suites():
    assert suite("published") == moonbed.experiments.rows.SUITES["published"]
    assert suite(list(METRICS)) == METRICS


# Tasks


def _fine(k):
    yield k
    yield k + 1


ERRORS = [lambda: SpecError([("n", "bad")]), lambda: StoreError("full"), lambda: KeyError("mine"), lambda: TypeError()]


def _raises(k):
    yield 0
    raise ERRORS[k]()


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_task_that_raises_is_a_failure_and_the_others_go_on(jobs):
    tasks = [Task(_raises, (k,)) for k in range(4)] + [Task(_fine, (7,))]
    events = list(Local(jobs=jobs).run(tasks))
    failures = {k: e for k, e in events if isinstance(e, Failure)}
    assert sorted(failures) == [0, 1, 2, 3]
    assert [failures[k].message for k in range(4)] == ["n: bad", "full", "'mine'", "TypeError"]
    assert [bool(failures[k].trace) for k in range(4)] == [False, False, True, True]
    assert "KeyError: 'mine'" in failures[2].trace
    assert [e for k, e in events if k == 4] == [7, 8]


def _dies(path):
    """Dies twice, then does its work."""
    with Path(path).open("a") as file:
        file.write("x")
    if len(Path(path).read_text()) < 3:
        os.kill(os.getpid(), 9)
    yield "done"


def _always_dies():
    yield 1
    os.kill(os.getpid(), 9)


def test_a_task_whose_process_dies_is_started_again_and_given_up_after_three(tmp_path):
    tasks = [Task(_dies, (str(tmp_path / "count"),)), Task(_always_dies, ()), Task(_fine, (1,))]
    events = list(Local(jobs=2).run(tasks))
    assert [e for k, e in events if k == 0] == ["done"]
    assert [e for k, e in events if k == 2] == [1, 2]
    last = [e for k, e in events if k == 1][-1]
    assert isinstance(last, Failure)
    assert "died 3 times" in last.message


# A researcher's own file

PLUGIN = '''
from moonbed.diffusion import Sampler
from moonbed.experiments import PRESETS
from moonbed.metrics import Metric
from moonbed.metrics.two_sample import SlicedW1
from moonbed.networks.mlp import MLP


class Leap(Sampler):
    """One denoising step."""

    scale: float = 1.0

    def trajectory(self, denoiser, noise, stream):
        yield self.scale * denoiser(noise, 1.0)


class Highest(Metric):
    """The largest coordinate."""

    def __call__(self, evaluation):
        return float(evaluation.samples.max())


base = PRESETS["ddpm"].replace(**{
    "training.steps": 60, "training.batch": 64, "training.points": 1000, "n": 30,
    "training.network": MLP(hidden=(16,)), "sampler": Leap(),
})
more = [base.replace(**{"training.seed": s}) for s in (1, 2)]
named = {"big": base.replace(**{"sampler.scale": 2.0})}
_hidden = base.replace(n=10)
word = "no experiment"
'''


@pytest.fixture(scope="module")
def plugin(tmp_path_factory):
    path = tmp_path_factory.mktemp("plugin") / "my_idea.py"
    path.write_text(PLUGIN)
    return path


def test_a_file_of_experiments(plugin):
    found = experiments_in(plugin)
    assert list(found) == ["base", "more[0]", "more[1]", "big"]
    assert found["big"].training.id == found["base"].training.id
    assert found["big"].sampler.spec()["source"]


def test_a_plug_in_runs_in_other_processes(tmp_path, plugin):
    found = experiments_in(plugin)
    metrics = (*METRICS, Metric.parse("Highest"))
    wanted = {name: [e] for name, e in found.items()}
    values = []
    for jobs in (1, 2):
        store = Store(tmp_path / str(jobs))
        events = [e for _, e in follow(wanted, metrics, 2, store, "cpu", Local(jobs=jobs))]
        assert not [e for e in events if isinstance(e, Failure)]
        values.append({r.experiment.id: r.values for r in events if isinstance(r, Result)})
        assert len(values[-1]) == 4
    assert values[0] == values[1]
    assert files(tmp_path / "1") == files(tmp_path / "2")


# Floors


def test_floors_are_kept_and_extended(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("moonbed.experiments.floors.null_draw", lambda *args: drawn.append(args[3]) or null_draw(*args))
    store, target = Store(tmp_path), TwoMoons()

    def floor(draws, metrics=METRICS):
        drawn.clear()
        events = list(draw_floors(target, metrics, 40, draws, store))
        assert [(e.stage, e.done, e.total) for e in events] == [("floor", k + 1, len(drawn)) for k in range(len(drawn))]
        return load_floor(store, target, metrics[0], 40)

    three = floor(3)
    assert drawn == [0, 1, 2]
    assert floor(3) == three
    assert drawn == []
    five = floor(5)
    assert drawn == [3, 4]
    assert five[:3] == three
    assert len(set(five)) == 5
    assert floor(2) == five
    floor(2, (*METRICS, Energy()))
    assert drawn == [0, 1]
    assert load_floor(store, target, METRICS[0], 40) == five
    assert load_floor(store, target, METRICS[0], 41) == []
    assert load_floor(store, target, Energy(), 40) == [null_draw(target, (Energy(),), 40, k)[0] for k in (0, 1)]


def test_floors_do_not_depend_on_jobs(tmp_path):
    for jobs in (1, 2):
        list(draw_floors(TwoMoons(), (*METRICS, Energy()), 40, 4, Store(tmp_path / str(jobs)), Local(jobs=jobs)))
    assert files(tmp_path / "1", (".json",)) == files(tmp_path / "2", (".json",))
    assert len(files(tmp_path / "1", (".json",))) == 2


def test_a_longer_floor_of_another_process_is_not_overwritten(tmp_path, monkeypatch):
    store, target = Store(tmp_path), TwoMoons()
    longer = [float(k) for k in range(9)]

    def meanwhile(*args):
        save_floor(store, target, METRICS[0], 40, longer)
        return null_draw(*args)

    monkeypatch.setattr("moonbed.experiments.floors.null_draw", meanwhile)
    list(draw_floors(target, METRICS, 40, 2, store))
    assert load_floor(store, target, METRICS[0], 40) == longer


def test_floor_draws_that_are_not_finite_come_back(tmp_path):
    store = Store(tmp_path)
    save_floor(store, TwoMoons(), METRICS[0], 10, [1.0, math.inf, math.nan])
    assert str(load_floor(store, TwoMoons(), METRICS[0], 10)) == "[1.0, inf, nan]"
    assert (store.floors().path / floor_name(TwoMoons(), METRICS[0], 10)).is_file()


@pytest.mark.parametrize("target", [TwoMoons(), PublishedMoons()])
def test_a_floor_draw_is_an_exact_sample_against_the_protocols_reference(target, monkeypatch):
    seen = []
    monkeypatch.setattr(SlicedW1, "__call__", lambda self, evaluation: seen.append(evaluation) or 0.0)
    for k in (0, 1):
        null_draw(target, METRICS, 200, k)
    for k, evaluation in enumerate(seen):
        rng = Rng(0).child("floor", target.id, 200, k)
        law = TwoMoons()  # the exact law behind both
        assert np.array_equal(evaluation.samples, law.sample(200, rng.stream("samples")).numpy())
        assert np.array_equal(evaluation.reference, target.dataset(200, rng.stream("reference")).numpy())
    assert not np.array_equal(seen[0].samples, seen[1].samples)
    assert not np.array_equal(seen[0].samples, seen[0].reference)


# From Python


def test_the_python_interface(tmp_path):
    """README's ten lines, made small."""
    small = {"training.steps": 60, "training.batch": 64, "training.points": 1000, "sampler.steps": 4, "n": 30}
    experiment = moonbed.PRESETS["ema"].replace(**small)
    table = moonbed.measure(
        {
            "ema": [experiment.replace(**{"training.seed": s}) for s in (0, 1)],
            "Heun": experiment.replace(sampler=Heun(steps=4)),
        },
        metrics=METRICS,
        draws=3,
        store=tmp_path,
    )
    assert [row.name for row in table] == ["ema", "Heun"]
    cell = table[0].cells["sliced W1"]
    assert len(cell.values) == 2
    assert cell.floor.draws == 3
    assert 0 < cell.floor.lo < cell.floor.hi
    text = moonbed.table(table)
    assert "| ema | measured |" in text
    assert "| Heun | floor |" in text
    assert isinstance(experiment, Experiment)


def test_two_metrics_of_one_label_both_stay(tmp_path):
    pair = (SlicedW1(directions=16), SlicedW1(directions=8))
    (row,) = measure({"x": SMALL}, metrics=pair, draws=2, store=tmp_path, device="cpu")
    assert [cell.metric for cell in row.cells.values()] == list(pair)
    assert next(iter(row.cells)) == "sliced W1"


def test_measure_takes_one_experiment_or_several(tmp_path):
    (row,) = measure({"x": SMALL}, metrics=METRICS, draws=2, store=str(tmp_path), device="cpu")
    assert row.name == "x"
    assert row.cells["sliced W1"].published is None
    with pytest.raises(SpecError, match="no suite"):
        measure({"x": SMALL}, metrics="nothing", store=tmp_path)


def test_a_model_draws_more_than_its_samples_and_knows_its_density(tmp_path):
    """What metrics may ask of a run: further samples from streams of their own, denoiser and density."""
    from safetensors.torch import load

    from moonbed.experiments.evaluate import denoiser_of, model_of
    from moonbed.metrics.base import Model

    experiment, store = tiny(), Store(tmp_path)
    (result,) = run(experiment, metrics=METRICS, store=store, device="cpu")
    weights = load(store.training(experiment.training).file("weights.safetensors"))
    model = model_of(experiment, denoiser_of(experiment, weights, "cpu"), "cpu")
    assert isinstance(model, Model)
    ours = np.load(Path(result.folder) / "samples.npy")
    first, again, other = model.sample(100, 0), model.sample(100, 0), model.sample(100, 1)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not np.allclose(first.numpy(), ours)
    y = experiment.training.target.sample(20, Rng(0).stream("y"))
    assert torch.isfinite(model.log_prob(y)).all()
    assert model.denoise(y, 1.0).shape == (20, 2)


def test_metrics_that_ask_the_model_have_a_floor_without_draws(tmp_path):
    from moonbed.metrics.model import Girsanov

    metric = Girsanov(points=32, levels=4)
    (row,) = measure({"a": tiny()}, metrics=[metric], draws=3, store=tmp_path, device="cpu")
    cell = row.cells["Girsanov bound"]
    assert (cell.floor.lo, cell.floor.hi) == (0, 0)
    assert cell.p_value == 1 / (cell.floor.draws + 1)
    assert cell.interval[0] < cell.values[0] < cell.interval[1]
    assert {"sigma", "mean", "error"} == set(cell.details["score_error"])


@pytest.mark.parametrize(
    ("cores", "jobs", "seeds", "draws", "ahead"),
    [
        (2, 1, 1, 0, True),
        (2, 2, 1, 0, True),
        (2, 2, 2, 0, False),
        (2, 2, 1, 9, False),
        (2, 1, 1, 9, True),
        (4, 2, 2, 9, True),
    ],
)
def test_a_second_thread_only_where_a_core_is_free(cores, jobs, seeds, draws, ahead, tmp_path, monkeypatch):
    """Processes at once, times their threads, never exceed the cores."""
    tasks = []
    monkeypatch.setattr(base, "cores", lambda: cores)
    monkeypatch.setattr(Local, "run", lambda self, found: iter(tasks.extend(found) or ()))
    experiments = [SMALL.replace(**{"training.seed": s}) for s in range(seeds)]
    list(execute(experiments, METRICS, Store(tmp_path), "cpu", Local(jobs=jobs), draws=draws))
    training = [task.args[-1] for task in tasks if task.function.__name__ == "complete"]
    assert training == [ahead] * seeds
    assert min(jobs, len(tasks)) * (1 + ahead) <= cores
