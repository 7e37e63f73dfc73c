"""Real Ray processes: of two nodes a worker and then one whole are killed; and a command that is interrupted."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import pytest
from small import METRICS, files, usual_signals
from test_determinism import content, differing

from moonbed.component import _REGISTRY
from moonbed.diffusion import Sampler
from moonbed.experiments import Store, session
from moonbed.experiments.plugins import experiments_in
from moonbed.experiments.run import execute

pytest.importorskip("ray")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc"),
]

STEPS = 3000
PATIENCE = 240
ENDS = (".npy", ".safetensors", ".jsonl")
FILE = f"""
import importlib

from moonbed.diffusion import Sampler
from moonbed.experiments import PRESETS
from moonbed.networks.mlp import MLP

importlib.import_module("moonbed.experiments.session").CHECKPOINT_SECONDS = 0.1


class RayHop(Sampler):
    '''One denoising step.'''

    def trajectory(self, denoiser, noise, stream):
        yield denoiser(noise, 1.0)


TINY = {{"training.steps": {STEPS}, "training.batch": 64, "training.points": 1000, "n": 50, "sampler": RayHop()}}
TINY["training.network"] = MLP(hidden=(16,))
experiments = {{str(k): PRESETS["ema"].replace(**TINY, **{{"training.seed": k}}) for k in range(4)}}
"""
DRIVER = """
import sys

from moonbed.experiments.engines import Ray
from moonbed.experiments.plugins import experiments_in
from moonbed.experiments.engines import Progress
from moonbed.experiments.results import Result
from moonbed.experiments.run import execute
from moonbed.experiments.storage.store import Store
from moonbed.metrics.two_sample import SlicedW1

file, store, address = sys.argv[1:]
found, engine = list(experiments_in(file).values()), Ray(address=address)
assert engine.workers == 2
print(sys.modules["ray"].get_runtime_context().get_node_id(), flush=True)
for group, event in execute(found, (SlicedW1(directions=16),), Store(store), "auto", engine, draws=3):
    if isinstance(event, Progress):
        print(group[0].training.id if group else "floors", event.stage, event.done, flush=True)
    else:
        print(group[0].training.id, getattr(event, "status", event), 0, flush=True)
"""


@pytest.fixture(scope="module")
def marked():
    """All that is started below can be found by a variable of its environment, and nothing of it outlives the tests."""
    name = f"MOONBED_TEST_{os.getpid()}"
    os.environ |= {name: "1", "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}

    def living() -> dict[int, str]:
        found = {}
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if int(path.name) != os.getpid() and f"{name}=1".encode() in (path / "environ").read_bytes():
                    found[int(path.name)] = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        return found

    yield living
    for pid in living():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    del os.environ[name]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("file") / "hop.py"
    path.write_text(FILE)
    return path


@pytest.fixture(scope="module")
def experiments(file):
    """What the file defines; this process forgets it afterwards."""
    pause = session.CHECKPOINT_SECONDS
    yield list(experiments_in(file).values())
    session.CHECKPOINT_SECONDS = pause
    _REGISTRY[Sampler].pop("RayHop")


@pytest.fixture(scope="module")
def whole(experiments, tmp_path_factory):
    """The files of a run in one process that nobody disturbs."""
    store = Store(tmp_path_factory.mktemp("whole"))
    for _ in execute(experiments, METRICS, store, "cpu", draws=3):
        pass
    return files(store.root, ENDS)


def wait_for(condition, what: str):
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.02)
    pytest.fail(f"waited too long for {what}")


def gone(marked) -> bool:
    wait_for(lambda: not marked(), "the end of all processes")
    return True


def at_work(raylet: int, store: Path) -> dict[int, str]:
    """Worker process of a node -> the training that it holds and of which there is a checkpoint."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError):
            if int((path / "stat").read_text().rpartition(")")[2].split()[1]) == raylet:
                held = {fd.readlink() for fd in (path / "fd").iterdir()}
                for lock in held:
                    if (
                        lock.name == ".lock"
                        and lock.is_relative_to(store)
                        and list(lock.parent.glob("checkpoint.json"))
                    ):
                        found[int(path.name)] = lock.parent.name
    return found


def children(parent: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError):
            if int((path / "stat").read_text().rpartition(")")[2].split()[1]) == parent:
                found += [int(path.name), *children(int(path.name))]
    return found


@pytest.fixture
def cluster(marked):
    """Two nodes of one core each, and the raylet of each by the node's id."""
    from ray.cluster_utils import Cluster

    small = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
    quick = {"health_check_initial_delay_ms": 500, "health_check_period_ms": 500, "health_check_failure_threshold": 4}
    with tempfile.TemporaryDirectory(prefix="mb", ignore_cleanup_errors=True) as folder:
        head = {**small, "include_dashboard": False, "temp_dir": folder, "_system_config": quick}
        made = Cluster(initialize_head=True, head_node_args=head, shutdown_at_exit=False)
        try:
            made.add_node(**small)
            nodes = made.list_all_nodes()
            yield made.address, {node.node_id: node.all_processes["raylet"][0].process.pid for node in nodes}
        finally:
            made.shutdown()
            assert gone(marked)


def test_a_worker_and_then_a_node_are_killed_and_nothing_is_lost_or_doubled(cluster, file, whole, tmp_path):
    address, raylets = cluster
    words = [sys.executable, "-c", DRIVER, str(file), str(tmp_path / "store"), address]
    said, errors = tmp_path / "out", (tmp_path / "errors").open("w+")
    process = subprocess.Popen(words, stdout=said.open("w"), stderr=errors, text=True)
    store, log = tmp_path / "store", []
    try:
        first = raylets.pop(
            wait_for(lambda: said.read_text().partition("\n")[0], "the driver")
        )  # it would die with its node
        (second,) = raylets.values()
        victim, lost = next(iter(wait_for(lambda: at_work(first, store), "a checkpoint on the first node").items()))
        os.kill(victim, signal.SIGKILL)
        log.append(f"killed a worker at {lost}")
        _, other = next(iter(wait_for(lambda: at_work(second, store), "a checkpoint on the second node").items()))
        for pid in [second, *children(second)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        log.append(f"killed the second node at {other}")
        process.wait(timeout=PATIENCE)
    finally:
        process.kill()
        errors.seek(0)
        print("\n".join(log), errors.read(), sep="\n")
    assert process.returncode == 0
    _, *told = said.read_text().splitlines()
    print(*told, sep="\n")
    assert files(store, ENDS) == whole
    assert "Ray: A worker died" in (tmp_path / "errors").read_text()
    lines = [line.split() for line in told]
    ended = Counter(training for training, stage, _ in lines if stage == "done")
    records = {path.parent.name: json.loads(path.read_text()) for path in store.glob("*/record.json")}
    print(*(f"{training} went on at {record['resumed']}" for training, record in records.items()), sep="\n")
    assert len(records) == 4
    assert ended == dict.fromkeys(records, 1)
    assert records[lost]["resumed"]
    assert records[other]["resumed"]
    begun = Counter(training for training, stage, step in lines if (stage, step) == ("train", "100"))
    assert set(begun.values()) <= {1}, "a training began twice"
    blocks = Counter(training for training, stage, _ in lines if stage == "train")
    assert all(blocks[t] <= STEPS // 100 + 20 * len(r["resumed"]) for t, r in records.items())
    assert not list(store.rglob("checkpoint*"))
    assert not list(store.glob(".seen*"))


def test_ctrl_c_saves_what_runs_and_ends_all_processes(marked, file, experiments, whole, tmp_path):
    store = tmp_path / "store"
    words = [sys.executable, "-m", "moonbed", "run", str(file), "--engine", "Ray", "--jobs", "2", "--store", str(store)]
    words += ["--metrics", '{"type": "SlicedW1", "directions": 16}', "--draws", "3", "--report", "none"]
    with subprocess.Popen(
        words,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=usual_signals,
    ) as process:
        try:
            wait_for(lambda: len(list(store.glob("*/checkpoint.json"))) == 2, "two checkpoints")
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does
            out, err = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
    assert process.returncode == 130, err
    assert out == ""
    assert err.splitlines()[-1].startswith("moonbed: interrupted; what was done is kept")
    assert "Traceback" not in err
    assert gone(marked)
    assert not list(store.glob(".seen*"))
    kept = {path.parent.name: json.loads(path.read_text())["step"] for path in store.glob("*/checkpoint.json")}
    assert len(kept) == 2
    again = Store(store)
    for _ in execute(experiments, METRICS, again, "cpu", draws=3):
        pass
    assert files(store, ENDS) == whole
    for training, step in kept.items():
        assert again.folder(training).record()["resumed"] == [step]


MANY = """
import sys
from pathlib import Path

import test_determinism
from small import METRICS, tiny

from moonbed.diffusion.objectives import Progressive
from moonbed.diffusion.predictions import Velocity
from moonbed.diffusion.samplers import Heun, Jump
from moonbed.diffusion.schedules import Linear
from moonbed.experiments import PRESETS, Store
from moonbed.experiments.engines import Failure, engine_of
from moonbed.experiments.run import execute


def work(folder, name, jobs):
    engine = engine_of(name, jobs=jobs)
    teacher = tiny("fast", training__schedule=Linear(), training__prediction=Velocity(), sampler=Heun(steps=4))
    taught = {"training.teacher": teacher.training, "training.objective": Progressive(steps=2), "sampler": Jump()}
    found = [tiny(name) for name in PRESETS] + [teacher.replace(**taught, **{"training.batch": b}) for b in (32, 64)]
    for _, event in execute(found, METRICS, Store(folder), "cpu", engine, draws=2):
        assert not isinstance(event, Failure), event
    test_determinism.whole(Path(folder), engine, order=-1)
    return test_determinism.content(Path(folder))


if __name__ == "__main__":
    work(sys.argv[1], "ray", 2)
"""


def test_presets_a_teacher_many_metrics_and_floors_leave_the_same_bits(marked, tmp_path):
    exec(MANY, here := {"__name__": "here"})
    found = here["work"](tmp_path / "local", "local", 1)
    (tmp_path / "many.py").write_text(MANY)
    words = [sys.executable, str(tmp_path / "many.py"), str(tmp_path / "ray")]
    path = {"PYTHONPATH": os.pathsep.join([*sys.path, str(Path(__file__).parent)])}
    done = subprocess.run(words, env=os.environ | path, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    assert not done.stdout
    assert gone(marked)
    assert len(found) > 100
    assert differing(content(tmp_path / "ray"), found) == []
