"""Trackers: every step once, whatever was cut off; what the tools read back; and nothing of theirs costs a result."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from small import METRICS, TINY, only_here, tiny

from moonbed.component import SpecError
from moonbed.experiments import Store, run
from moonbed.experiments.engines import Local, Progress
from moonbed.experiments.results import Result
from moonbed.experiments.run import execute
from moonbed.experiments.storage.runs import log_of
from moonbed.experiments.tools import MLflow, TensorBoard, WandB
from moonbed.experiments.trackers import Log, Run, Tracker, tracked

WORDS = [*(f"{k}={v}" for k, v in TINY.items()), "training.network.hidden=[16]"]
CHEAP = ["--metrics", "SlicedW1", "--draws", "2", "--jobs", "1", "--device", "cpu", "--quiet"]


class Lines(Tracker):
    """A file of lines for each run; it is all that a tracker of one's own needs."""

    folder: str = "lines"

    def open(self, run):
        return Writing(Path(self.folder, f"{run.id}.jsonl"))


class Writing(Log):
    def __init__(self, path):
        path.parent.mkdir(exist_ok=True)
        lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        self.seen = max((line.get("step", 0) for line in lines), default=0)
        self.over = any("status" in line for line in lines)
        self.path = path

    def write(self, line):
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def step(self, step, values):
        self.write({"step": step, **values})

    def finish(self, values, status):
        self.write({"status": status, **values})


class Failing(Tracker):
    """Its disk is full from the second thing that it is told."""

    def open(self, run):
        raise OSError("no space left on device")


known = only_here(Lines, Failing)


def told(folder: Path, key: str) -> list[dict]:
    return [json.loads(line) for line in (folder / f"{key}.jsonl").read_text().splitlines()]


def curve(store: Store, experiment) -> list[tuple[int, float]]:
    return log_of(store.training(experiment.training))


def follow(experiments, store, trackers, engine=None, draws=2) -> Iterator:
    options = {} if engine is None else {"engine": engine}
    events = execute(experiments, METRICS, store, "cpu", draws=draws, **options)
    return tracked(events, trackers, store, METRICS, draws)


# What is told


def test_events_pass_unchanged_and_the_curve_is_that_of_the_log(tmp_path):
    experiments = [tiny(), tiny(sampler__steps=4), tiny(training__seed=1)]
    store, folder = Store(tmp_path / "runs"), tmp_path / "lines"
    events = list(follow(experiments, store, [Lines(folder=str(folder))], Local(jobs=2)))
    assert {e.experiment.id for _, e in events if isinstance(e, Result)} == {e.id for e in experiments}
    for experiment in experiments:
        lines = told(folder, experiment.id)
        assert [(line["step"], line["loss"]) for line in lines[:-1]] == curve(store, experiment)
        final = lines[-1]
        assert final["status"] == "done"
        assert {"sliced W1", "sliced W1 interval low", "sliced W1 floor high", "exploded"} <= set(final)
    again = list(follow(experiments, store, [Lines(folder=str(folder))]))
    assert len(again) == sum(1 for _, e in again if not isinstance(e, Progress) or e.stage != "train")
    assert all(len(told(folder, e.id)) == 3 for e in experiments), "nothing twice"


def test_what_was_trained_before_has_its_whole_curve(tmp_path):
    run(tiny(), metrics=METRICS, store=tmp_path / "runs", device="cpu")
    run(
        {"mine": tiny()},
        metrics=METRICS,
        store=tmp_path / "runs",
        device="cpu",
        track=[Lines(folder=str(tmp_path / "x"))],
    )
    lines = told(tmp_path / "x", tiny().id)
    assert [line.get("step") for line in lines] == [100, 200, None]


def test_a_training_that_goes_on_is_continued(tmp_path):
    """Cut off in its middle, once tracked and once not; the curve has each step once."""
    for tracked_before in (True, False):
        folder, experiment = tmp_path / f"{tracked_before}", tiny(training__steps=600)
        store, tracker = Store(folder / "runs"), Lines(folder=str(folder / "lines"))
        (folder / "lines").mkdir(parents=True)
        events = follow([experiment], store, [tracker] if tracked_before else [])
        for _, event in events:
            if isinstance(event, Progress) and event.stage == "train" and event.done >= 300:
                break
        events.close()
        assert store.training(experiment.training).record() is None
        list(follow([experiment], store, [tracker]))
        lines = told(folder / "lines", experiment.id)
        assert [(line["step"], line["loss"]) for line in lines[:-1]] == curve(store, experiment)
        assert len(lines) == 7


def test_a_tracker_is_in_no_id():
    assert not any("track" in name for name in tiny().spec())
    assert Run("x", tiny()).configuration["training.steps"] == 200
    assert Run("x", tiny()).configuration["training.network"] == "MLP"


def test_one_that_diverges_is_told_as_such(tmp_path):
    lost = tiny(training__optimizer__lr=1e30, training__clip=None)
    list(follow([lost], Store(tmp_path / "runs"), [Lines(folder=str(tmp_path / "lines"))]))
    assert told(tmp_path / "lines", lost.id)[-1]["status"] == "diverged"


# What goes wrong


def test_one_that_fails_costs_no_result(tmp_path):
    with pytest.warns(UserWarning, match="Failing failed and is told no more: OSError: no space left") as found:
        events = list(
            follow([tiny(), tiny(n=50)], Store(tmp_path / "runs"), [Failing(), Lines(folder=str(tmp_path / "l"))])
        )
    assert len(found) == 1
    assert [e.status for _, e in events if isinstance(e, Result)] == ["done", "done"]
    assert len(told(tmp_path / "l", tiny().id)) == 3


@pytest.mark.parametrize("tracker", [TensorBoard(), WandB(), MLflow()], ids=lambda t: type(t).__name__)
def test_what_is_not_installed_is_said_before_the_first_training(tmp_path, tracker, monkeypatch):
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SpecError, match=rf"moonbed\[{type(tracker).__name__.lower()}\]"):
        next(follow([tiny()], Store(tmp_path / "runs"), [tracker]))
    assert not (tmp_path / "runs").exists()


def test_names_on_the_command_line(moonbed):
    code, _, err = moonbed("run", "--track", "TensorBord")
    assert (code, err.count("\n")) == (2, 1)
    assert "--track: no Tracker is called 'TensorBord'; did you mean 'TensorBoard'?" in err


# The tools, by their own readers


def test_tensorboard(moonbed, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for _ in range(2):
        code, _, err = moonbed("run", "ddpm", *WORDS, *CHEAP, "--track", "TensorBoard")
        assert (code, err) == (0, "")
    (folder,) = (tmp_path / "tb").iterdir()
    assert folder.name.startswith("ddpm-")
    assert len(list(folder.iterdir())) == 1
    found = EventAccumulator(str(folder))
    found.Reload()
    (log,) = (tmp_path / "runs").glob("*/log*.jsonl")
    losses = [json.loads(line) for line in log.read_text().splitlines()]
    assert [(e.step, e.value) for e in found.Scalars("loss")] == [
        (line["step"], pytest.approx(line["loss"])) for line in losses
    ]
    assert {"final/sliced W1", "final/sliced W1 floor low"} <= set(found.Tags()["scalars"])
    assert "tensorflow" not in sys.modules


def records(path: Path) -> Iterator[bytes]:
    """The records of a LevelDB log, which is what W&B writes: blocks of 32 KB, records in parts."""
    data, at, whole = path.read_bytes(), 7, b""  # after W&B's own header
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        size, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        whole = (whole if kind in (3, 4) else b"") + data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):
            yield whole


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("strace") is None, reason="looks at the calls that processes make")
def test_wandb_offline_asks_nobody(tmp_path):
    """No process of it, W&B's own included, connects to another machine; its file holds the curve, once."""
    from wandb.proto import wandb_internal_pb2

    words = [sys.executable, "-m", "moonbed", "run", "ddpm", *WORDS, *CHEAP, "--report", "none", "--track", "WandB"]
    trace = ["strace", "-f", "-qq", "--seccomp-bpf", "-e", "trace=connect,sendto,sendmsg", "-o", "calls.txt"]
    for before in (trace, []):
        done = subprocess.run([*before, *words], cwd=tmp_path, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
    calls = (tmp_path / "calls.txt").read_text().splitlines()
    assert any("AF_UNIX" in line or "127.0.0.1" in line for line in calls), "the trace sees W&B's own process"
    away = [line for line in calls if "AF_INET" in line and "127.0.0.1" not in line and '"::1"' not in line]
    assert away == []
    (path,) = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
    steps, final = [], {}
    for data in records(path):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        items = {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        if "loss" in items:
            steps.append((items["_step"], items["loss"]))
        final |= {item.key or ".".join(item.nested_key): item.value_json for item in record.summary.update}
    (log,) = (tmp_path / "runs").glob("*/log*.jsonl")
    assert steps == [(line["step"], line["loss"]) for line in map(json.loads, log.read_text().splitlines())]
    assert {"sliced W1", "sliced W1 floor low"} <= set(final)


@pytest.mark.slow
def test_mlflow(moonbed, tmp_path):
    tracker = MLflow(uri=f"sqlite:///{tmp_path}/mlruns.db")
    for _ in range(2):
        code, _, err = moonbed("run", "ddpm", *WORDS, *CHEAP, "--track", json.dumps(tracker.spec()))
        assert code == 0, err
        assert "warn" not in err.lower(), err
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=tracker.uri)
    (found,) = client.search_runs([client.get_experiment_by_name("moonbed").experiment_id])
    assert found.info.run_name == "ddpm"
    assert found.info.status == "FINISHED"
    assert found.data.params["training.steps"] == "200"
    (log,) = (tmp_path / "runs").glob("*/log*.jsonl")
    losses = [(line["step"], line["loss"]) for line in map(json.loads, log.read_text().splitlines())]
    assert [(m.step, m.value) for m in client.get_metric_history(found.info.run_id, "loss")] == losses
    assert {"sliced W1", "sliced W1 interval low", "sliced W1 floor high"} <= set(found.data.metrics)


def test_a_tracker_of_ones_own_is_short():
    page = (Path(__file__).parents[1] / "docs" / "tracking.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(# track_lines.*?)```", page, re.DOTALL)
    body = [line for line in code.splitlines() if line.strip() and not line.startswith(("#", "from", "import"))]
    classes = "\n".join(body).split("moonbed.run")[0]
    assert len(classes.splitlines()) <= 15
