"""Engines: names and fields, tasks on their way to other machines, and jobs as submitit runs them without SLURM."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pickle
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
from small import METRICS, files, tiny

from moonbed.component import SpecError, kinds, members
from moonbed.diffusion.objectives import Progressive
from moonbed.diffusion.predictions import Velocity
from moonbed.diffusion.samplers import Jump
from moonbed.diffusion.schedules import Linear
from moonbed.experiments import Store, run
from moonbed.experiments.device import device_on
from moonbed.experiments.engines import Failure, Local, Progress, Ray, Slurm, Task, distant, engine_of
from moonbed.experiments.results import Result
from moonbed.experiments.run import execute
from moonbed.experiments.storage.runs import load_checkpoint, resumed

ENDS = (".npy", ".safetensors", ".jsonl")


@pytest.mark.parametrize("name", ["ray", "Ray", "RAY", '{"type": "Ray"}', Ray()])
def test_an_engine_by_its_name_in_any_case(name):
    assert engine_of(name, jobs=3, cpus=0.5) == Ray(jobs=3, cpus=0.5)
    assert engine_of() == Local()
    assert engine_of(None, 2) == Local(jobs=2)


def test_machines_that_are_gone_are_waited_for_a_minute(monkeypatch):
    module, now, nodes = sys.modules[Ray.__module__], 0.0, []
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now))
    work = object.__new__(module._Work)
    work.engine, work.ray, work.there, work.looked = Ray(cpus=2), SimpleNamespace(nodes=lambda: nodes), now, now
    big, small = ({"Alive": True, "Resources": {"CPU": cpus}} for cpus in (4.0, 1.0))
    for now, nodes, lost in [  # noqa: B007
        (50.0, [big, small], False),
        (100.0, [small, big | {"Alive": False}], False),
        (109.0, [big], False),
        (170.0, [small], True),
        (180.0, [big], False),
        (239.0, [], False),
        (247.0, [], True),
    ]:
        found = work._lost()
        assert bool(found) == lost, (now, found)
    assert found == "a task needs 2 cores and 0 GPUs, and no machine has them; there are: none"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"engine": "rai"}, "engine: no engine is called 'rai'; did you mean 'Ray'?"),
        ({"engine": "ray", "jobs": 0}, "jobs: should be at least 1, given 0"),
        ({"engine": "local", "address": "auto"}, "address: Local has no such field"),
        ({"engine": "ray", "gpus": -1.0}, "gpus"),
        ({"engine": "slurm", "gpus": 0.5}, "gpus"),
    ],
)
def test_what_no_engine_can_be(given, said):
    with pytest.raises(SpecError, match=said.replace("?", r"\?")):
        engine_of(**given)


def test_an_engine_is_in_no_id():
    """No component that makes up an experiment has a field for one."""
    hints = [f.type for kind in kinds().values() for m in members(kind).values() for f in dataclasses.fields(m)]
    assert not [hint for hint in hints if "Engine" in str(hint)]


def test_the_device_of_other_machines_is_what_the_engine_gives():
    assert device_on(Ray(), "auto") == device_on(Ray(gpus=0.5), "cpu") == "cpu"
    assert device_on(Ray(gpus=0.25), "auto") == device_on(Slurm(gpus=1), "cuda") == "cuda"
    for engine, name in ((Ray(), "cuda"), (Ray(), "mps"), (Slurm(), "gpu")):
        with pytest.raises(SpecError, match="device"):
            device_on(engine, name)


# A task on its way


def _says(*words):
    yield from words


def parcel(task: Task, **changes) -> distant.Parcel:
    with distant.parcels([task]) as sent:
        return dataclasses.replace(sent[0], **changes)


def test_more_than_the_memory_holds_is_said_without_a_trace(moonbed):
    """10^14 samples of the exact law: an allocation of 800 TB, which the system refuses at once."""
    words = ("fast", "n=100000000000000", "exact=true", "--metrics", "SlicedW1", "--jobs", "1")
    code, _, err = moonbed("run", *words)
    assert code == 2
    assert "more is asked for than the memory holds" in err
    assert "Traceback" not in err


def test_other_versions_are_an_error_there():
    other = {**distant.versions(), "torch": "2.0.1"}
    (event,) = parcel(Task(_says, (1,)), versions=other).open()
    assert isinstance(event, Failure)
    assert "torch" in event.message
    assert "2.0.1" in event.message
    assert not event.trace
    assert list(parcel(Task(_says, (1, 2))).open()) == [1, 2]


def test_another_store_is_an_error_there_and_the_token_goes(tmp_path, monkeypatch):
    monkeypatch.setattr(distant, "PATIENCE", 0.2)
    with distant.parcels([Task(_says, (1,), store=str(tmp_path))]) as (sent,):
        assert list(sent.open()) == [1]
        elsewhere = dataclasses.replace(sent, task=dataclasses.replace(sent.task, store=str(tmp_path / "other")))
        (event,) = elsewhere.open()
        assert "does not see the store" in event.message
    assert not list(tmp_path.iterdir())


def test_plug_ins_are_known_where_their_file_is_not(tmp_path):
    """A file and the one that it imports travel by content; the id from their copies is that of the originals."""
    here = tmp_path / "here"
    here.mkdir()
    (here / "helper_leap.py").write_text(
        "from moonbed.diffusion import Sampler\n\n\nclass Base(Sampler):\n    size: float = 1.0\n\n"
        "    def trajectory(self, denoiser, noise, stream):\n        yield self.size * denoiser(noise, 1.0)\n"
    )
    (here / "my_leap.py").write_text("from helper_leap import Base\n\n\nclass FarLeap(Base):\n    '''Far.'''\n")
    code = """
import dataclasses, pickle, shutil, subprocess, sys
sys.path.insert(0, {here!r})
from moonbed.experiments import plugins
from moonbed.experiments.engines import Task, distant
from moonbed.diffusion import Sampler
plugins.load_file({here!r} + "/my_leap.py")
import helper_leap
sampler = Sampler.parse("FarLeap")
task = Task(Sampler.parse.__func__, (), [{here!r} + "/my_leap.py"])
with distant.parcels([task]) as (sent,):
    pass
print("here", sampler.id, flush=True)
shutil.rmtree({here!r})
there = '''
import pickle, sys
from moonbed.diffusion import Sampler
sent = pickle.load(sys.stdin.buffer)
def ids():
    yield Sampler.parse("FarLeap").id
import dataclasses
print("there", *dataclasses.replace(sent, task=dataclasses.replace(sent.task, function=ids)).open())
'''
sent = dataclasses.replace(sent, task=dataclasses.replace(sent.task, function=print))
subprocess.run([sys.executable, "-c", there], input=pickle.dumps(sent), check=True)
""".format(here=str(here))
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert out.returncode == 0, out.stderr
    assert "Failure" not in out.stdout, out.stdout
    said = dict(line.split() for line in out.stdout.splitlines())
    assert said["here"] == said["there"]


def test_a_result_of_a_plug_in_needs_no_module_of_the_same_name(tmp_path):
    (found,) = run([tiny(training__steps=100)], metrics=METRICS, store=tmp_path)
    again = pickle.loads(pickle.dumps(found))
    assert again == found
    assert b"moonbed.networks" not in pickle.dumps(found)


# SLURM, as submitit plays it on this machine


@pytest.mark.slow
def test_jobs_leave_what_one_process_leaves_and_a_killed_one_goes_on(tmp_path, monkeypatch):
    pytest.importorskip("submitit")
    monkeypatch.chdir(tmp_path)
    experiments = [tiny(training__steps=6000 if k == 0 else 1000, training__seed=k) for k in range(3)]
    whole, store = Store(tmp_path / "whole"), Store(tmp_path / "jobs")
    for _ in execute(experiments, METRICS, whole, "cpu"):
        pass
    engine = Slurm(cluster="local", jobs=3, folder=str(tmp_path / "private"))
    first, results, stages, killed = experiments[0].training, [], Counter(), False
    for group, event in execute(experiments, METRICS, store, "auto", engine):
        assert not isinstance(event, Failure), event
        stages[event.stage if isinstance(event, Progress) else "result"] += 1
        results += [event] if isinstance(event, Result) else []
        mine = isinstance(event, Progress) and event.stage == "train" and group and group[0].training == first
        if mine and not killed and resumed(store.training(first)) == [] and load_checkpoint(store.training(first)):
            killed = _kill_holder(store.training(first).path / ".lock")
    assert killed
    assert sorted(r.experiment.training.seed for r in results) == [0, 1, 2]
    assert files(store.root, ENDS) == files(whole.root, ENDS)
    assert store.training(first).record()["resumed"]
    assert stages["train"] >= 10
    assert (tmp_path / "private").stat().st_mode & 0o777 == 0o700
    assert not list((tmp_path / "private").iterdir())
    assert not list(store.root.glob(".seen*"))


def _kill_holder(lock: Path) -> bool:
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if int(path.name) != os.getpid() and lock in [fd.readlink() for fd in (path / "fd").iterdir()]:
                os.kill(int(path.name), signal.SIGKILL)
                return True
        except OSError:
            continue
    return False


def test_what_several_need_is_trained_once_and_first_without_locks(tmp_path, monkeypatch):
    """A store whose locks do not reach from one to another, and one of the students in two seeds of sampling."""
    pytest.importorskip("submitit")
    monkeypatch.setattr(Store, "lock", lambda self, training, wait=True: contextlib.nullcontext())
    teacher = tiny(training__schedule=Linear(), training__prediction=Velocity(), training__steps=300)
    taught = {
        "training.teacher": teacher.training,
        "sampler": Jump(steps=2),
        "training.objective": Progressive(steps=2),
    }
    students = [teacher.replace(**taught, **{"training.batch": size}) for size in (32, 64)]
    engine = Slurm(cluster="debug", folder=str(tmp_path / "private"))
    events = list(execute([*students, teacher], METRICS, Store(tmp_path / "a"), "auto", engine))
    steps = [event.done for _, event in events if isinstance(event, Progress) and event.stage == "train"]
    assert steps[:3] == [100, 200, 300]
    assert len(steps) == 9
    run([teacher, *students], metrics=METRICS, store=tmp_path / "b", device="cpu")
    assert files(tmp_path / "a", ENDS) == files(tmp_path / "b", ENDS)


def test_a_store_in_memory_is_for_this_process(tmp_path):
    store = Store("memory://engines/of/a/test")
    with pytest.raises(SpecError, match="memory of this process"):
        list(execute([tiny()], METRICS, store, "cpu", Ray()))
    (found,) = run([tiny(training__steps=100)], metrics=METRICS, store=store, device="cpu", jobs=2)
    assert found.status == "done"
