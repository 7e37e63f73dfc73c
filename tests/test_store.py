"""The store: whole files or none, every flipped byte named, one process a training."""

from __future__ import annotations

import errno
import json
import os
import shutil
import threading
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small import METRICS, files, names_in, tiny

from moonbed.experiments import Experiment, Store, StoreError, Training, process, run
from moonbed.experiments.floors import floor_name, load_floor, save_floor
from moonbed.experiments.storage.folder import Folder
from moonbed.experiments.storage.runs import (
    drop_checkpoint,
    load_checkpoint,
    load_spec,
    save_checkpoint,
    save_spec,
    verify_done,
    verify_run,
)
from moonbed.experiments.storage.seals import sealed

SMALL = tiny(training__steps=60, n=20)


# Writing


class Half:
    """A file that takes half of what it is given, then finds the disk full."""

    def __init__(self, file):
        self.file = file

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.file.close()

    def write(self, data):
        self.file.write(data[: len(data) // 2])
        self.file.flush()
        raise OSError(errno.ENOSPC, "No space left on device")


def fail_write(patch, error):
    real = Path.open
    patch.setattr(Path, "open", lambda self, *a, **k: Half(real(self, *a, **k)))


def fail_fsync(patch, error):
    def fsync(_):
        raise error

    patch.setattr(os, "fsync", fsync)


def fail_replace(patch, error):
    def replace(self, target):
        raise error

    patch.setattr(Path, "replace", replace)


@pytest.mark.parametrize("old", [None, b"old content"])
@pytest.mark.parametrize("fail", [fail_write, fail_fsync, fail_replace])
def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch, fail, old):
    folder = Folder(tmp_path / "f")
    if old is not None:
        folder.write("a.bin", old)
    with monkeypatch.context() as patch:
        fail(patch, OSError(errno.ENOSPC, "No space left on device"))
        with pytest.raises(StoreError, match=r"cannot write .*a\.bin: No space left on device"):
            folder.write("a.bin", b"new content")
    assert names_in(folder.path) == ([] if old is None else ["a.bin"])
    if old is not None:
        assert folder.read("a.bin") == old
    folder.write("a.bin", b"new content")
    assert folder.read("a.bin") == b"new content"


@pytest.mark.parametrize("fail", [fail_fsync, fail_replace])
def test_an_interrupt_while_writing_leaves_what_was_there(tmp_path, monkeypatch, fail):
    folder = Folder(tmp_path)
    folder.write("a.bin", b"old")
    with monkeypatch.context() as patch:
        fail(patch, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            folder.write("a.bin", b"new")
    assert names_in(tmp_path) == ["a.bin"]
    assert folder.read("a.bin") == b"old"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("where", ["fsync", "replace"])
def test_a_death_while_writing_leaves_what_was_there_and_a_file_that_is_swept(tmp_path, where):
    folder = Folder(tmp_path / "id")
    folder.finish({"status": "done", "a": 1}, {})
    child = os.fork()
    if child == 0:
        owner = os if where == "fsync" else Path
        setattr(owner, where, lambda *_: os._exit(7))
        folder.finish({"status": "done", "a": 2}, {})
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert len(names_in(folder.path)) == 2
    assert folder.record() == {"status": "done", "a": 1, "files": {}}
    assert Store(tmp_path).runs() == []
    verify_run(folder)
    (folder.path / ".lock").touch()
    folder.write("samples.npy", b"x")
    folder.sweep()
    assert names_in(folder.path) == [".lock", "record.json", "samples.npy"]


def test_the_record_is_written_last(tmp_path, monkeypatch):
    folder, real = Folder(tmp_path), Folder.write

    def write(self, name, data):
        if name == "b":
            raise StoreError("full")
        return real(self, name, data)

    monkeypatch.setattr(Folder, "write", write)
    with pytest.raises(StoreError):
        folder.finish({"status": "done"}, {"a": b"1", "b": b"2"})
    assert folder.record() is None
    with pytest.raises(StoreError, match="not finished"):
        folder.file("a")


def test_the_pointer_is_written_after_the_checkpoint(tmp_path, monkeypatch):
    folder = Folder(tmp_path)
    save_checkpoint(folder, {"w": torch.ones(3)}, 100, [{"step": 100, "loss": 0.5}], 1.0)
    with monkeypatch.context() as patch:
        patch.setattr(Folder, "write_json", lambda *_: (_ for _ in ()).throw(StoreError("full")))
        with pytest.raises(StoreError):
            save_checkpoint(folder, {"w": torch.zeros(3)}, 200, [], 2.0)
    tensors, step, log, seconds = load_checkpoint(folder)
    assert torch.equal(tensors["w"], torch.ones(3))
    assert (step, log, seconds) == (100, [{"step": 100, "loss": 0.5}], 1.0)
    save_checkpoint(folder, {"w": torch.zeros(3)}, 300, [], 3.0)
    assert names_in(tmp_path) == ["checkpoint-300.safetensors", "checkpoint.json"]
    drop_checkpoint(folder)
    assert names_in(tmp_path) == []
    assert load_checkpoint(folder) is None


def test_json_keeps_numbers_that_are_not_finite(tmp_path):
    folder = Folder(tmp_path)
    folder.write_json("a.json", {"x": [float("inf"), -float("inf"), float("nan"), 0.1 + 0.2]})
    text = (tmp_path / "a.json").read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    assert str([float(v) for v in folder.read_json("a.json")["x"]]) == "[inf, -inf, nan, 0.30000000000000004]"


# Damage


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A store with one finished run and its floor, and one training that was interrupted."""
    store = Store(tmp_path_factory.mktemp("kept"))
    run(SMALL, metrics=METRICS, store=store, device="cpu")
    save_floor(store, SMALL.training.target, METRICS[0], SMALL.n, [0.1, 0.2, 0.30000000000000004])
    from moonbed.experiments.train import State, train

    state = State(SMALL.training)
    next(train(SMALL.training, state))
    save_checkpoint(Folder(store.root / "cut"), *state.snapshot(), 0.25)
    return store


def read_run(store):
    run(SMALL, metrics=METRICS, store=store, device="cpu")


def read_floor(store):
    load_floor(store, SMALL.training.target, METRICS[0], SMALL.n)


def read_checkpoint(store):
    load_checkpoint(Folder(store.root / "cut"))


TRAINED, SAMPLED = SMALL.training.id, f"{SMALL.training.id}/{SMALL.id}"
FILES = {
    f"{TRAINED}/training.json": read_run,
    f"{TRAINED}/record.json": read_run,
    f"{TRAINED}/weights.safetensors": read_run,
    f"{TRAINED}/log.jsonl": read_run,
    f"{SAMPLED}/experiment.json": read_run,
    f"{SAMPLED}/record.json": read_run,
    f"{SAMPLED}/samples.npy": read_run,
    f"{SAMPLED}/metrics/{METRICS[0].id}.json": read_run,
    f"floors/{floor_name(SMALL.training.target, METRICS[0], SMALL.n)}": read_floor,
    "cut/checkpoint.json": read_checkpoint,
    "cut/checkpoint-60.safetensors": read_checkpoint,
}


def test_the_list_of_files_is_complete(kept):
    there = {str(p.relative_to(kept.root)) for p in kept.root.rglob("*") if p.is_file() and p.name != ".lock"}
    assert there == set(FILES)
    for read in set(FILES.values()):
        read(kept)  # undamaged, nothing is raised


@pytest.mark.parametrize("name", FILES)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
def test_every_flipped_byte_is_named(kept, name, place, flip):
    path = kept.root / name
    good = path.read_bytes()
    bad = bytearray(good)
    bad[int(place * len(good))] ^= flip
    path.write_bytes(bad)
    try:
        with pytest.raises(StoreError) as error:
            FILES[name](kept)
    finally:
        path.write_bytes(good)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("name", [n for n in FILES if n.endswith(".json")])
def test_in_json_every_single_byte_counts(kept, name):
    """Also a space, the case of an exponent, and the last digit of a number that reads the same without it."""
    path = kept.root / name
    good = path.read_bytes()
    folder = Folder(path.parent)
    try:
        for k in range(0, len(good), 1 + len(good) // 400):
            path.write_bytes(good[:k] + bytes([good[k] ^ (0x2A if good[k] == 0x20 else 1)]) + good[k + 1 :])
            with pytest.raises(StoreError, match="damaged"):
                folder.read_json(path.name)
    finally:
        path.write_bytes(good)


@pytest.mark.parametrize("cut", [0.0, 0.5, -1])
@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_cut_short_is_named(kept, name, cut):
    path = kept.root / name
    good = path.read_bytes()
    path.write_bytes(good[: int(cut * len(good)) if cut >= 0 else -1])
    try:
        with pytest.raises(StoreError) as error:
            FILES[name](kept)
    finally:
        path.write_bytes(good)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("name", [f"{TRAINED}/weights.safetensors", f"{SAMPLED}/samples.npy", f"{TRAINED}/log.jsonl"])
def test_a_file_that_is_gone_is_named(kept, name):
    path = kept.root / name
    path.rename(path.with_suffix(".away"))
    try:
        with pytest.raises(StoreError, match=path.name):
            read_run(kept)
    finally:
        path.with_suffix(".away").rename(path)


def test_what_a_message_says_to_remove_is_made_again(kept, tmp_path):
    """Without its record a folder is not done: the same command computes the same bits."""
    store = Store(tmp_path / "copy")
    shutil.copytree(kept.root, store.root)
    before = files(store.root)
    for name in (f"{SAMPLED}/record.json", f"{TRAINED}/record.json"):
        (store.root / name).write_bytes(b"{}")
        with pytest.raises(StoreError, match="remove it to redo it"):
            read_run(store)
        (store.root / name).unlink()
        read_run(store)
        assert files(store.root) == before


def test_a_whole_file_of_another_place_is_named(kept, tmp_path):
    """Its checksum is right; its place is not. Files of older versions, without a place, are held against their ids."""
    store = Store(tmp_path)
    shutil.copytree(kept.root, store.root, dirs_exist_ok=True)
    folder, name = store.experiment(SMALL), f"metrics/{METRICS[0].id}.json"
    other = store.folder(SMALL.training.id, "another")
    other.write(name, folder.read(name))
    with pytest.raises(StoreError, match=f"not of this place but of {SMALL.id}/{name}"):
        verify_run(other)
    old = json.loads(folder.read(name))
    del old["seal"], old["place"]
    other.write(name, sealed(old))
    assert other.read_json(name) == folder.read_json(name)
    other.write("metrics/0123.json", sealed(old))
    with pytest.raises(StoreError, match="not what it is named for"):
        other.read_json("metrics/0123.json")
    spec = json.loads(folder.read("experiment.json"))
    other.write("experiment.json", sealed({"id": spec["id"], "spec": spec["spec"]}))
    with pytest.raises(StoreError, match="not what it is named for"):
        other.read_json("experiment.json")


def test_a_configuration_that_is_gone_is_named_and_written_again(kept, tmp_path):
    store = Store(tmp_path)
    shutil.copytree(kept.root, store.root, dirs_exist_ok=True)
    for folder, name in (
        (store.training(SMALL.training), "training.json"),
        (store.experiment(SMALL), "experiment.json"),
    ):
        before = folder.read(name)
        folder.remove(name)
        with pytest.raises(StoreError, match=f"{name} is missing"):
            verify_run(folder)
        verify_done(folder, SMALL.training if name == "training.json" else SMALL)
        assert folder.read(name) == before


# Folders


@pytest.mark.parametrize("root", ["/dev/null/x", "/proc/moonbed", "{tmp}/file", "{tmp}/file/below"])
def test_a_folder_that_cannot_be_written(tmp_path, root, monkeypatch):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setattr(process, "advance", lambda *_: pytest.fail("trained before it looked"))
    with pytest.raises(StoreError, match="cannot write") as error:
        run(SMALL, metrics=METRICS, store=root.format(tmp=tmp_path), device="cpu")
    assert root.format(tmp=tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


def test_looking_whether_it_can_be_written_leaves_nothing(tmp_path):
    Store(tmp_path / "new").check_writable()
    assert names_in(tmp_path / "new") == []


def test_a_path_is_a_store(tmp_path):
    store = Store(tmp_path)
    assert Store.at(store) is store
    assert Store.at(tmp_path).root == Store.at(str(tmp_path)).root == tmp_path


def test_find_by_the_beginning_of_an_id(kept):
    assert [(kind, f.path.name) for kind, f in kept.find(TRAINED[:6])] == [("Training", TRAINED)]
    assert [(kind, f.path.name) for kind, f in kept.find(SMALL.id)] == [("Experiment", SMALL.id)]
    assert kept.find("zzzz") == []
    assert kept.find("floors") == []
    assert kept.find("cut") == []  # no configuration in it


def test_configurations_come_back(kept):
    for kind, wanted in ((Training, SMALL.training), (Experiment, SMALL)):
        ((name, folder),) = kept.find(wanted.id)
        assert name == kind.__name__
        assert load_spec(folder, kind) == wanted


def test_a_folder_under_another_name_is_refused(tmp_path):
    folder = Folder(tmp_path / "0123456789abcdef")
    save_spec(folder, SMALL.training)
    with pytest.raises(StoreError, match="not what its folder is named for"):
        load_spec(folder, Training)
    with pytest.raises(StoreError, match=r"experiment\.json is missing"):
        load_spec(folder, Experiment)


def test_runs_are_the_finished_ones_in_order(tmp_path):
    store, experiments = Store(tmp_path), [SMALL, SMALL.replace(n=30), SMALL.replace(n=25)]
    assert store.runs() == []
    run(experiments, metrics=METRICS, store=store, device="cpu")
    for k, e in enumerate((experiments[2], experiments[0], experiments[1])):
        os.utime(store.experiment(e).path / "record.json", (k, k))
    assert [record["n"] for _, record in store.runs()] == [25, 20, 30]
    assert {folder.path.name for folder, _ in store.runs()} == {e.id for e in experiments}
    (store.experiment(SMALL).path / "record.json").unlink()
    assert [record["n"] for _, record in store.runs()] == [25, 30]


def test_a_second_one_waits_and_finds_the_training_done(tmp_path, monkeypatch):
    """`test_faults` does it with processes; here the first is held in the middle of its training."""
    from moonbed.experiments.train import train as real

    inside, go_on, trained = threading.Event(), threading.Event(), []

    def train(training, state, ahead):
        trained.append(threading.get_ident())
        for s in real(training, state, ahead):
            inside.set()
            assert go_on.wait(30)
            yield s

    monkeypatch.setattr("moonbed.experiments.together.train", train)
    results: list = []
    threads = [
        threading.Thread(target=lambda: results.append(run(SMALL, metrics=METRICS, store=tmp_path, device="cpu")))
        for _ in range(2)
    ]
    threads[0].start()
    assert inside.wait(30)
    threads[1].start()
    threads[1].join(0.3)
    assert threads[1].is_alive()  # it waits
    assert results == []
    go_on.set()
    for thread in threads:
        thread.join(30)
    assert len(trained) == 1
    assert len(results) == 2
    assert results[0][0].values == results[1][0].values


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


@given(data=JSON)
def test_the_text_of_a_seal_is_that_of_json(data):
    from moonbed.experiments.storage.seals import _indented

    assert _indented(data) == json.dumps(data, indent=2)
