"""One id, the same bytes: however many threads, processes and calls, in whatever order, folder, language or time zone.

docs/versions.md says what this covers and what it does not.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small import TINY, tiny

from moonbed.diffusion.couplings import MinibatchOT
from moonbed.diffusion.predictions import EDM
from moonbed.diffusion.samplers import Churn, Heun
from moonbed.experiments import Experiment, Store, run
from moonbed.experiments.averaging import EMA
from moonbed.experiments.engines import HERE, Engine, Local
from moonbed.experiments.floors import draw_floors
from moonbed.experiments.judge import Judgement, judge
from moonbed.experiments.train import State, train
from moonbed.metrics import Metric
from moonbed.metrics.density import NLL
from moonbed.metrics.kernels import KSD
from moonbed.metrics.neighbours import Precision
from moonbed.metrics.panel import Panel
from moonbed.metrics.transport import W2
from moonbed.metrics.two_sample import C2ST, MMD, Energy, SlicedW1
from moonbed.networks.residual import Residual
from moonbed.targets.curves import TwoMoons

TESTS = Path(__file__).parent


def experiments() -> list[Experiment]:
    """Wide enough that threads would share the work: products, sums, an assignment, random numbers in every place."""
    wide = tiny("ema", n=300, training__network=Residual(width=64, blocks=1), training__steps=120)
    wide = wide.replace(**{"training.batch": 256, "training.averaging": EMA(), "sampler": Heun(steps=4)})
    coupled = tiny(n=300, sampler=Heun(steps=4), training__prediction=EDM())
    coupled = coupled.replace(**{"training.objective.coupling": MinibatchOT(rows=64)})
    return [
        wide,
        wide.replace(**{"training.seed": 1, "sampler": Churn(steps=3)}),
        wide.replace(sampler=Churn(steps=3)),
        coupled,
    ]


METRICS: tuple[Metric, ...] = (
    SlicedW1(directions=16),
    Energy(),
    MMD(),
    C2ST(),
    Precision(),
    NLL(),
    Panel(),
    W2(),
    KSD(),
)
"""BLAS, trees, an exact law, an assignment and scikit-learn's own threads."""


def content(root: Path) -> dict[str, str]:
    """Path -> digest of all that is kept, without what says how long it took."""

    def timeless(data: Any) -> Any:
        if isinstance(data, dict):
            return {k: timeless(v) for k, v in data.items() if k not in ("seconds", "seal", "resumed")}
        return [timeless(v) for v in data] if isinstance(data, list) else data

    found = {}
    for path in sorted(p for p in root.rglob("*") if p.is_file() and not p.name.startswith(".")):
        data = path.read_bytes()
        if path.suffix == ".json":
            data = json.dumps(timeless(json.loads(data)), sort_keys=True).encode()
        found[str(path.relative_to(root))] = hashlib.sha256(data).hexdigest()
    return found


def whole(root: Path, engine: Engine = HERE, order: int = 1) -> dict[str, str]:
    """All experiments in one call, and floors."""
    run(experiments()[::order], metrics=METRICS, store=root, device="cpu", engine=engine)
    list(draw_floors(TwoMoons(), METRICS[:5], 60, 2, Store(root), engine))
    return content(root)


def differing(a: dict[str, str], b: dict[str, str]) -> list[str]:
    return sorted(name for name in {**a, **b} if a.get(name) != b.get(name))


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    found = whole(tmp_path_factory.mktemp("reference"))
    ends = [name.rsplit(".", 1)[-1] for name in found]
    assert (ends.count("npy"), ends.count("safetensors"), ends.count("jsonl")) == (4, 3, 3)
    assert sum("metrics/" in name for name in found) == 4 * len(METRICS)
    assert sum(name.startswith("floors/") for name in found) == 5
    return found


def test_what_is_compared_would_show_one_bit(tmp_path):
    Store(tmp_path).floors().write_json("a.json", {"value": 1.0, "seconds": 3.0})
    (tmp_path / "b.npy").write_bytes(b"abc")
    first = content(tmp_path)
    Store(tmp_path).floors().write_json("a.json", {"value": 1.0, "seconds": 4.0})
    assert content(tmp_path) == first
    Store(tmp_path).floors().write_json("a.json", {"value": np.nextafter(1.0, 2.0), "seconds": 3.0})
    (tmp_path / "b.npy").write_bytes(b"abd")
    assert differing(content(tmp_path), first) == ["b.npy", "floors/a.json"]


# Engines, calls, order


@pytest.mark.slow
def test_four_processes(reference, tmp_path):
    """However experiments are given to processes; two are in test_run.py, Ray in test_ray.py."""
    assert differing(whole(tmp_path, Local(jobs=4), order=-1), reference) == []


@pytest.mark.parametrize("threads", [2])
def test_one_call_each_in_another_order_with_other_threads(threads, reference, tmp_path):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for experiment in experiments()[::-1]:
            run(experiment, metrics=METRICS[::-1], store=tmp_path, device="cpu")
        list(draw_floors(TwoMoons(), METRICS[:5][::-1], 60, 2, Store(tmp_path)))
    finally:
        torch.set_num_threads(before)
    assert differing(content(tmp_path), reference) == []


# Processes and what they inherit


SURROUNDINGS = {
    **{"OMP_NUM_THREADS": "4", "OPENBLAS_NUM_THREADS": "4", "MKL_NUM_THREADS": "2"},
    **{"PYTHONHASHSEED": "2", "TZ": "Asia/Kathmandu", "LC_ALL": "C"},
}
"""All at once: what one of them changed would show."""


@pytest.mark.slow
def test_a_new_process_in_other_surroundings(reference, tmp_path):
    inherited = {k: v for k, v in os.environ.items() if not k.endswith("_NUM_THREADS")}
    environment = {**inherited, **SURROUNDINGS, "PYTHONPATH": os.pathsep.join([*sys.path, str(TESTS)])}
    (tmp_path / "elsewhere").mkdir()
    code = "import pathlib, test_determinism; test_determinism.whole(pathlib.Path('../store'))"
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, cwd=tmp_path / "elsewhere", env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert differing(content(tmp_path / "store"), reference) == []


# One training, however it got to its end


def test_cut_off_anywhere_or_prepared_ahead():
    training = tiny(training__steps=250, training__network=Residual(width=32, blocks=1)).training
    training = training.replace(averaging=EMA())

    def end(state: State, ahead: bool = False) -> dict[str, bytes]:
        for _ in train(training, state, ahead):
            pass
        return {name: tensor.numpy().tobytes() for name, tensor in state.tensors().items()} | {
            "log": json.dumps(state.log).encode()
        }

    straight = end(State(training))
    assert end(State(training), ahead=True) == straight
    for blocks in (1, 2):
        cut, again = State(training), State(training)
        for _ in itertools.islice(train(training, cut), blocks):
            pass
        again.load(*cut.snapshot())
        assert end(again) == straight


# What is computed in the caller's own process


def test_judgements(tmp_path):
    """`moonbed evaluate` asks metrics in its own process."""
    points = np.random.default_rng(0).normal(size=(700, 2))
    before, told = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            *_, found = judge(points, TwoMoons(), METRICS, coordinates="standardised", draws=2, store=Store(tmp_path))
            assert isinstance(found, Judgement)
            told.append({name: (cell.values, cell.drawn) for name, cell in found.cells.items()})
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert told[0] == told[1] == told[2]


def test_a_report_is_the_same_bytes(moonbed, tmp_path):
    small = [f"{key}={value}" for key, value in TINY.items()]
    assert moonbed("run", "ddpm", *small, "--metrics", "SlicedW1", "--draws", "2", "--quiet", "--device", "cpu")[0] == 0
    told = []
    for _ in range(2):
        assert moonbed("report", "--out", "page.html")[0] == 0
        told.append(Path("page.html").read_bytes())
    assert told[0] == told[1]
