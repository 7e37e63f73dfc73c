"""Several processes that write the same runs at once: with locks, without, and under a URL. Nothing is ever mixed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from small import files, tiny

from moonbed.experiments import Store, StoreError, run
from moonbed.experiments.storage import places
from moonbed.experiments.storage.folder import Folder, addressed
from moonbed.experiments.storage.runs import verify_run
from moonbed.metrics.two_sample import SlicedW1

EXPERIMENT = tiny(training__steps=60, n=20)
METRICS = (SlicedW1(directions=16),)

KINDS = ["locks", "no locks", "url"]
"""A folder; a folder on a file system that knows no locks; a file system of fsspec that several processes see."""

COMMON = """
import errno, os, sys
sys.path.insert(0, {tests!r})
kind, root, *numbers = sys.argv[1:]
if kind == "no locks":
    import fcntl
    def flock(*_):
        raise OSError(errno.ENOLCK, "No locks available")
    fcntl.flock = flock
if kind == "url":
    import shared_files
from moonbed.experiments import Store, run
"""

FORK = """
for number in map(int, numbers):  # all at once, after what takes long
    if not os.fork():
        break
else:
    sys.exit(max([os.waitstatus_to_exitcode(os.wait()[1]) for _ in numbers], key=abs))
store = Store(root)
"""

FINISH = """
def work(k):
    folder = store.folder(f"{k:016x}")
    folder.alone = False
    files = {name: name.encode() + bytes([number]) * 1000 for name in ("weights.safetensors", "log.jsonl")}
    folder.finish({"status": "done", "id": f"{k:016x}", "seconds": number}, files)
    kept = folder.record()["seconds"]
    for name in files:
        assert folder.file(name) == name.encode() + bytes([kept]) * 1000, "mixed"
for k in range(40):
    work(k)
"""

TRAINING = """
from diffusers import DDPMScheduler
from diffusers.models import embeddings
from small import tiny
from moonbed.metrics.two_sample import SlicedW1
from moonbed.experiments import process
"""
"""What a training imports, once for all of them."""

RUN = """
if kind != "locks":  # as on a machine with other last bits
    real = process.generate
    process.generate = lambda *a, **k: (x + 1e-6 * number for x in real(*a, **k))
experiment = tiny(training__steps=60, n=20)
(found,) = run(experiment, metrics=(SlicedW1(directions=16),), store=store, device="cpu")
os.write(1, f"{found.status} ".encode())  # in one piece
"""


def root_of(kind: str, tmp_path: Path) -> str:
    return f"shared://{tmp_path}/runs" if kind == "url" else str(tmp_path / "runs")


def processes(code: str, kind: str, root: str, numbers: range) -> str:
    """What they say: forks of one that has imported what takes long, so that they start at once."""
    code = COMMON.replace("{tests!r}", repr(str(Path(__file__).parent))) + code
    words = [sys.executable, "-c", code, kind, root, *map(str, numbers)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(autouse=True)
def shared():
    import shared_files  # noqa: F401 (registers the protocol)


@pytest.mark.parametrize("kind", KINDS[1:])
def test_who_finishes_first_stays_whole(tmp_path, kind):
    """Four processes with four results for the same forty folders: each folder holds one of them, and nothing else."""
    root = root_of(kind, tmp_path)
    processes(FORK + FINISH, kind, root, range(1, 5))
    store, winners = Store(root), set()
    for k in range(40):
        folder = Folder(store.root / f"{k:016x}", alone=False)
        kept = folder.record()["seconds"]
        winners.add(kept)
        for name in ("weights.safetensors", "log.jsonl"):
            assert folder.file(name) == name.encode() + bytes([kept]) * 1000
        assert len(folder.names("*")) == 3
    assert winners <= {1, 2, 3, 4}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_drivers_that_complete_the_same_run(tmp_path, kind):
    """Two that compute other last bits, and a third, later: one result, on which all agree, undamaged."""
    root = root_of(kind, tmp_path)
    assert processes(TRAINING + FORK + RUN, kind, root, range(3)) == "done " * 3
    store = Store(root)
    folder, training = store.experiment(EXPERIMENT), store.training(EXPERIMENT.training)
    verify_run(folder)
    verify_run(training)
    samples = folder.file("samples.npy")
    (found,) = run(EXPERIMENT, metrics=METRICS, store=store, device="cpu")
    assert found.status == "done"
    assert folder.file("samples.npy") == samples
    assert len(training.names("weights*")) == len(folder.names("samples*")) == 1
    assert not training.names("checkpoint*")


def test_a_store_moves_between_a_url_and_a_folder(tmp_path):
    """What was written without locks is read where there are locks, and the other way round."""
    run(EXPERIMENT, metrics=METRICS, store=root_of("url", tmp_path), device="cpu")
    local = Store(tmp_path / "runs")
    assert any(".safetensors" in name and name.count(".") == 2 for name in files(local.root))
    (found,) = run(EXPERIMENT, metrics=METRICS, store=local, device="cpu")
    assert found.status == "done"
    plain = tmp_path / "plain"
    run(EXPERIMENT, metrics=METRICS, store=plain, device="cpu")
    (again,) = run(EXPERIMENT, metrics=METRICS, store=f"shared://{plain}", device="cpu")
    assert again.values == found.values


def test_a_flipped_byte_is_named_under_a_url(tmp_path):
    root = root_of("url", tmp_path)
    run(EXPERIMENT, metrics=METRICS, store=root, device="cpu")
    store = Store(root)
    for name in sorted(p.relative_to(tmp_path / "runs") for p in (tmp_path / "runs").rglob("*.*") if p.is_file()):
        path = tmp_path / "runs" / name
        good = path.read_bytes()
        path.write_bytes(good[:-9] + bytes([good[-9] ^ 4]) + good[-8:])
        with pytest.raises(StoreError) as error:
            run(EXPERIMENT, metrics=METRICS, store=store, device="cpu")
        assert name.name in str(error.value)
        path.write_bytes(good)


# Commands, in this process, on a store that lies in its memory


def test_commands_work_on_a_url(moonbed, tmp_path):
    store = f"memory://{tmp_path.name}/runs"
    small = ["training.steps=60", "training.batch=64", "sampler.steps=4", "n=30", "--draws", 2, "--metrics", "SlicedW1"]
    code, _, err = moonbed("run", "ddpm", "training.seed=0,1", *small, "--quiet", "--store", store, "--jobs", 2)
    assert (code, err) == (0, "")
    found = json.loads(moonbed("list", "runs", "--json", "--store", store)[1])["runs"]
    assert [run["training.seed"] for run in found.values()] in ([0, 1], [1, 0])
    one = next(iter(found))
    calls = [
        ["show", one],
        ["table", one],
        ["report", one],
        ["compare", one, "ddpm sampler.steps=5", "--seeds", 2, "--draws", 2, "--metrics", "SlicedW1", "--quiet"],
        ["plot", one, "--figures", "training,samples"],
        ["export", one, "--format", "npy"],
        ["index"],
        ["list", "runs", "--where", "SlicedW1<9", "--sort", "time"],
    ]
    calls[3][3:3] = small[:1] + small[1:4]
    calls[3][2] = "ddpm"
    calls[3][1] = "ddpm sampler.steps=5"
    for words in calls:
        code, out, err = moonbed(*words, "--store", store)
        assert code == 0, (words, err)
        assert out
    assert Store(store).find(one)[0][1].path.name == one
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(
        ["figures", "report.html", f"moonbed-{one}.npy", f"moonbed-{one}.json"]
    )


@pytest.mark.parametrize(
    ("url", "said"),
    [("nonsense://x/y", "cannot be opened"), ("s3://", "cannot be opened")],
)
def test_a_url_that_cannot_be_opened(moonbed, url, said):
    code, _, err = moonbed("list", "runs", "--store", url)
    assert (code, err.count("\n")) == (2, 1)
    assert said in err or "needs" in err or "cannot" in err


def test_without_the_extra(moonbed, monkeypatch):
    monkeypatch.setitem(sys.modules, "upath", None)
    code, _, err = moonbed("list", "runs", "--store", "s3://bucket/runs")
    assert (code, err) == (2, "moonbed: the store s3://bucket/runs needs fsspec: pip install 'moonbed[remote]'\n")


def test_a_file_url_is_a_folder(tmp_path):
    store = Store(f"file://{tmp_path}/a%20b")
    assert store.root == tmp_path / "a b"
    assert isinstance(store.root, Path)


@pytest.mark.parametrize("root", ["folder", "url"])
def test_what_is_created_once(tmp_path, root):
    path = places.located(root_of(root, tmp_path)) / "x"
    assert places.create(path, b"first")
    assert not places.create(path, b"second")
    assert places.read(path) == b"first"
    assert list(places.find(path.parent, "*")) == ["x"]
    places.put(path, b"third")
    assert places.read(path) == b"third"
    places.remove(path)
    places.remove(path)
    assert places.find(path.parent, "*") == {}


def test_the_name_of_a_file_that_several_may_write():
    assert addressed("weights.safetensors", "ab" * 32) == "weights.abababababababab.safetensors"
