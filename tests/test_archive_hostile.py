"""Archives that strangers made: each is refused before a byte is written, in the store or anywhere beside it."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import stat
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save
from small import METRICS, tiny

from moonbed.component import digest
from moonbed.experiments import Store, run
from moonbed.experiments.floors import save_floor
from moonbed.experiments.storage import archive
from moonbed.experiments.storage.archive import MANIFEST, Archive
from moonbed.experiments.storage.files import Stored
from moonbed.experiments.storage.folder import StoreError
from moonbed.experiments.storage.layout import read_name
from moonbed.experiments.storage.seals import sealed, unseal
from moonbed.experiments.storage.transfer import receive

RUN = tiny()
T, E = RUN.training.id, f"{RUN.training.id}/{RUN.id}"
METRIC = f"{E}/metrics/{METRICS[0].id}.json"


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """Name -> content of the files of one run, with its floor."""
    store = Store(tmp_path_factory.mktemp("good"))
    run(RUN, metrics=METRICS, store=store, device="cpu")
    save_floor(store, RUN.training.target, METRICS[0], RUN.n, [0.1, 0.2])
    source = Stored(store)
    return {name.name: source.read(name) for name in source.names()}


# Makers of archives


def zipped(files, manifest=None, change=lambda info: None, compression=zipfile.ZIP_STORED):
    """A zip of files with the manifest that belongs to them; `change` may do anything to an entry's header."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as target:
        entries = {**files, MANIFEST: manifest or listing(files)}
        for name, data in entries.items():
            info = zipfile.ZipInfo(name)
            info.compress_type, info.external_attr = compression, (stat.S_IFREG | 0o644) << 16
            change(info)
            target.writestr(info, data)
    return out.getvalue()


def listing(files, /, **changes):
    sums = {name: {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)} for name, data in files.items()}
    return sealed({"format": 1, "moonbed": "0.1.0", "finished": {}, "files": sums} | changes, MANIFEST)


def with_file(name, data=b"x"):
    return lambda good: zipped({**good, name: data})


def without(*names):
    return lambda good: zipped({name: data for name, data in good.items() if name not in names})


def edited(name, change):
    """The JSON of one file changed and sealed again, and its record's checksums with it."""

    def make(good):
        place = read_name(name).place
        content = unseal(good[name], place)
        return zipped({**good, name: sealed(change(content) or content, place)})

    return make


def data_file(name, make):
    """Another content of a data file, with a record that lists it: only its content is wrong."""

    def build(good):
        data, home = make(good[name]), name.rpartition("/")[0]
        place = read_name(f"{home}/record.json").place
        record = unseal(good[f"{home}/record.json"], place)
        record["files"][name.rpartition("/")[2]] = hashlib.sha256(data).hexdigest()
        return zipped({**good, name: data, f"{home}/record.json": sealed(record, place)})

    return build


def respecified(change):
    """A training of another configuration, its id right, with the files of ours."""

    def make(good):
        spec = unseal(good[f"{T}/training.json"], f"{T}/training.json")["spec"]
        change(spec)
        id = digest(spec)
        record = unseal(good[f"{T}/record.json"], f"{T}/record.json") | {"id": id, "step": 0}
        return zipped(
            {
                f"{id}/training.json": sealed({"id": id, "spec": spec}, f"{id}/training.json"),
                f"{id}/record.json": sealed(record, f"{id}/record.json"),
                f"{id}/weights.safetensors": good[f"{T}/weights.safetensors"],
                f"{id}/log.jsonl": good[f"{T}/log.jsonl"],
            }
        )

    return make


def npy(array, **how):
    out = io.BytesIO()
    np.save(out, array, **how)
    return out.getvalue()


def header(text):
    """An .npy file whose header says anything, with 800 bytes behind it."""
    line = text.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(line)) + line + bytes(800)


def tensors(change):
    def make(data):
        found = load(data)
        return save(change(found) or found)

    return make


def doubled(good):
    data = zipped({**good, f"{T}/recorD.json": b"{}"})
    return data.replace(b"recorD.json", b"record.json")


def nul(good):
    data = zipped({**good, f"{T}/record.jsonXevil": b"{}"})
    return data.replace(b"record.jsonXevil", b"record.json\0evil")


def mode(kind):
    return lambda good: zipped(good, change=lambda info: setattr(info, "external_attr", (kind | 0o777) << 16))


def bytes_changed(find, replace, count=-1):
    return lambda good: zipped(good).replace(find, replace, count)


def central(offset, form, value):
    """The first entry of the central directory with another number at a place in its header."""

    def make(good):
        data = bytearray(zipped(good))
        struct.pack_into(form, data, data.index(b"PK\x01\x02") + offset, value)
        return bytes(data)

    return make


def overlapping(good):
    """A second entry of the directory that points into the first one's data."""
    data = zipped(good)
    first, second = data.index(b"PK\x01\x02"), data.index(b"PK\x01\x02", data.index(b"PK\x01\x02") + 4)
    out = bytearray(data)
    out[second + 42 : second + 46] = out[first + 42 : first + 46]
    return bytes(out)


def nested(depth):
    def make(good):
        text = b'{"seal": ' + b"[" * depth + b"]" * depth + b"}"
        return zipped({**good, f"{T}/training.json": text})

    return make


def bomb(good):
    return zipped({**good, f"{T}/weights.safetensors": bytes(1 << 25)}, compression=zipfile.ZIP_DEFLATED)


class Evil:
    """What unpickling would run."""

    def __reduce__(self):
        return os.system, ("touch evil",)


OTHER = "0123456789abcdef"
ATTACKS = {
    # names
    "out of the store": with_file("../evil"),
    "far out of the store": with_file(f"{T}/../../../evil.json"),
    "an absolute path": with_file("/tmp/evil"),
    "a drive": with_file("C:/evil"),
    "a backslash": with_file("..\\..\\evil"),
    "a share": with_file("//host/share/evil"),
    "a NUL in a name": nul,
    "a newline in a name": with_file(f"{OTHER}/record.json\n"),
    "upper case": with_file(f"{OTHER.upper()}/training.json"),
    "digits of another script": with_file("٠123456789abcdef/training.json"),
    "a dot": with_file(f"./{OTHER}/training.json"),
    "two slashes": with_file(f"{OTHER}//training.json"),
    "an empty name": with_file(""),
    "a longer id": with_file(f"{OTHER}0/training.json"),
    "a very long name": with_file("a" * 60_000),
    "code": with_file(f"{T}/evil.py"),
    "a pickle": with_file(f"{T}/weights.pt"),
    "a lock": with_file(f"{T}/.lock"),
    "a temporary file": with_file(f"{T}/.record.json.1.00000000"),
    "a page": with_file("report.html"),
    "a checksum in a name": with_file(f"{T}/weights.{OTHER}.safetensors"),
    "a name twice": doubled,
    # kinds of entries
    "a symbolic link": mode(stat.S_IFLNK),
    "a device": mode(stat.S_IFCHR),
    "a pipe": mode(stat.S_IFIFO),
    "a folder": with_file(f"{OTHER}/"),
    "encrypted": central(8, "<H", 1),
    "compressed by lzma": lambda good: zipped(good, compression=zipfile.ZIP_LZMA),
    "compressed by bzip2": lambda good: zipped(good, compression=zipfile.ZIP_BZIP2),
    "compressed by nobody knows what": central(10, "<H", 77),
    # sizes
    "a bomb": bomb,
    "a size that is too small": central(24, "<I", 3),
    "a size that is too large": central(24, "<I", 1 << 20),
    "a size of four gigabytes": central(24, "<I", 0xFFFFFFFE),
    "a packed size that is too large": central(20, "<I", 1 << 28),
    "an offset beyond the end": central(42, "<I", 1 << 30),
    "entries over one another": overlapping,
    "another checksum": central(16, "<I", 7),
    # the file as a whole
    "nothing": lambda good: b"",
    "text": lambda good: b"moonbed",
    "no zip": lambda good: bytes(range(256)) * 50,
    "half": lambda good: zipped(good)[: len(zipped(good)) // 2],
    "all but a byte": lambda good: zipped(good)[:-1],
    "something before it": lambda good: b"#!/bin/sh\ntouch evil\n" + zipped(good),
    "another name in the local header": bytes_changed(f"{T}/log.jsonl".encode(), f"{T}/log.jsonX".encode(), 1),
    # the manifest
    "no manifest": lambda good: zipped(good, change=lambda i: setattr(i, "filename", i.filename.replace("man", "men"))),
    "a manifest that is no JSON": lambda good: zipped(good, b"{"),
    "a manifest without a seal": lambda good: zipped(good, b'{"format": 1, "files": {}}'),
    "a manifest of another format": lambda good: zipped(good, listing(good, format=2)),
    "a manifest with an escape": lambda good: zipped(good, listing(good, moonbed="\x1b[31m")),
    "a manifest that lists less": lambda good: zipped(good, listing({k: v for k, v in good.items() if "log" not in k})),
    "a manifest that lists more": lambda good: zipped(good, listing({**good, f"{OTHER}/training.json": b"{}"})),
    "a manifest of other content": lambda good: zipped(good, listing({k: v + b" " for k, v in good.items()})),
    "a manifest of lists": lambda good: zipped(good, listing(good, files=[1, 2])),
    # configurations
    "another id": edited(f"{T}/training.json", lambda data: data["spec"].update(seed=5)),
    "an id in words": edited(f"{T}/training.json", lambda data: data.update(id="../../evil")),
    "an experiment of another training": edited(
        f"{E}/experiment.json", lambda data: data["spec"]["training"].update(seed=5)
    ),
    "JSON of great depth": nested(100_000),
    "an unknown class": respecified(lambda spec: spec["network"].update(type="Evil")),
    "an unknown field": respecified(lambda spec: spec.update(evil=1)),
    "a billion layers": respecified(
        lambda spec: spec.update(network={"type": "Residual", "width": 8, "blocks": 10**9, "dropout": 0.0})
    ),
    "a layer of a billion": respecified(lambda spec: spec["network"].update(hidden=[10**9])),
    "layers of more than there is": respecified(lambda spec: spec["network"].update(hidden=[10**9, 10**9])),
    "a number without end": respecified(lambda spec: spec.update(steps=10**30)),
    "a hundred teachers": respecified(
        lambda spec: [spec.update(teacher=json.loads(json.dumps(spec))) for _ in range(8)]
    ),
    "a class of nobody and a teacher in words": respecified(lambda spec: spec.update(teacher="evil", source="0" * 16)),
    "a class of nobody and a teacher of nobody": respecified(
        lambda spec: spec.update(teacher={**spec, "seed": 9}, source="0" * 16)
    ),
    "a class of nobody and steps in words": respecified(lambda spec: spec.update(steps="many", source="0" * 16)),
    # records
    "no record": without(f"{T}/record.json"),
    "no record of samples": without(f"{E}/record.json"),
    "no weights": without(f"{T}/weights.safetensors"),
    "no configuration": without(f"{T}/training.json"),
    "an experiment on an unfinished training": without(
        f"{T}/record.json", f"{T}/weights.safetensors", f"{T}/log.jsonl"
    ),
    "samples alone": without(f"{T}/training.json", f"{T}/record.json", f"{T}/weights.safetensors", f"{T}/log.jsonl"),
    "a record that leads out": edited(f"{T}/record.json", lambda data: data["files"].update({"../../evil": "0" * 64})),
    "a record of nothing": edited(f"{T}/record.json", lambda data: data.update(files={})),
    "a record of another run": edited(f"{T}/record.json", lambda data: data.update(id=OTHER)),
    "a record with an escape": edited(f"{T}/record.json", lambda data: data.update(device="\x1b]0;evil\x07")),
    "a record that turns text round": edited(f"{T}/record.json", lambda data: data.update(device="\u202ecpu")),
    "a record with a word for a number": edited(f"{E}/record.json", lambda data: data.update(exploded="many")),
    "a record with a status of its own": edited(f"{E}/record.json", lambda data: data.update(status="perfect")),
    "a record of fewer samples": edited(f"{E}/record.json", lambda data: data.update(n=7)),
    # data
    "weights that are a pickle": data_file(f"{T}/weights.safetensors", lambda _: pickle.dumps(Evil())),
    "weights with an escape": data_file(
        f"{T}/weights.safetensors", tensors(lambda found: {f"\x1b[31m{k}": v for k, v in found.items()})
    ),
    "a header with an escape": data_file(f"{E}/samples.npy", lambda _: header("\x1b[31m{'a': 1}")),
    "weights of torch.save": data_file(f"{T}/weights.safetensors", lambda data: torch_saved(data)),
    "weights of another shape": data_file(
        f"{T}/weights.safetensors", tensors(lambda found: {k: v[..., None] for k, v in found.items()})
    ),
    "weights of another type": data_file(
        f"{T}/weights.safetensors", tensors(lambda found: {k: v.double() for k, v in found.items()})
    ),
    "fewer weights": data_file(f"{T}/weights.safetensors", tensors(lambda found: dict([*found.items()][1:]))),
    "more weights": data_file(f"{T}/weights.safetensors", tensors(lambda found: {**found, "evil": torch.zeros(1)})),
    "samples that are a pickle": data_file(
        f"{E}/samples.npy", lambda _: npy(np.array([[Evil(), 1]] * RUN.n, dtype=object), allow_pickle=True)
    ),
    "fewer samples": data_file(f"{E}/samples.npy", lambda _: npy(np.zeros((RUN.n - 1, 2), np.float32))),
    "samples of more dimensions": data_file(f"{E}/samples.npy", lambda _: npy(np.zeros((RUN.n, 3), np.float32))),
    "samples in a row": data_file(f"{E}/samples.npy", lambda _: npy(np.zeros(2 * RUN.n, np.float32))),
    "samples in columns": data_file(
        f"{E}/samples.npy", lambda _: npy(np.asfortranarray(np.zeros((RUN.n, 2), np.float32)))
    ),
    "words for samples": data_file(f"{E}/samples.npy", lambda _: npy(np.full((RUN.n, 2), "evil"))),
    "samples without end": data_file(
        f"{E}/samples.npy", lambda _: header("{'descr': '<f4', 'fortran_order': False, 'shape': (10**15, 2)}")
    ),
    "samples with code for a header": data_file(
        f"{E}/samples.npy", lambda _: header("__import__('os').system('touch evil')")
    ),
    "samples with an open bracket": data_file(f"{E}/samples.npy", lambda _: header("{'descr': [('a', '<f4'")),
    "samples with more behind them": data_file(f"{E}/samples.npy", lambda data: data + b"evil"),
    "a log of code": data_file(f"{T}/log.jsonl", lambda _: b"import os\n"),
    "a log that goes back": data_file(
        f"{T}/log.jsonl", lambda _: b'{"step": 200, "loss": 1.0}\n{"step": 100, "loss": 1.0}\n'
    ),
    "other samples than the record's": lambda good: zipped(
        {**good, f"{E}/samples.npy": good[f"{E}/samples.npy"][:-1] + b"\0"}
    ),
    # answers
    "an answer of another metric": edited(METRIC, lambda data: data["metric"].update(directions=9)),
    "an answer about other samples": edited(METRIC, lambda data: data.update(n=7)),
    "an answer in words": edited(METRIC, lambda data: data.update(value="good")),
    "an answer of yes": edited(METRIC, lambda data: data.update(value=True)),
    "an interval of three": edited(METRIC, lambda data: data.update(interval=[0, 1, 2])),
    "an answer of another place": lambda good: zipped(
        {**good, METRIC: sealed(unseal(good[METRIC]), f"{OTHER}/metrics/{METRICS[0].id}.json")}
    ),
    "a floor of another target": lambda good: zipped(
        {
            name: sealed(unseal(data, read_name(name).place) | {"n": 3}, read_name(name).place)
            if name.startswith("floors/")
            else data
            for name, data in good.items()
        }
    ),
    "an error budget of words": with_file(
        f"{E}/anatomy.json",
        sealed({"repeats": 2, "seeds": 1, "values": "all", "score_error": {}}, f"{RUN.id}/anatomy.json"),
    ),
    "an error budget without its causes": with_file(
        f"{E}/anatomy.json",
        sealed(
            {"repeats": 2, "seeds": 1, "values": {"MMD": {"floor": [0.1]}}, "score_error": {}}, f"{RUN.id}/anatomy.json"
        ),
    ),
    "a checkpoint of a finished training": with_file(
        f"{T}/checkpoint.json",
        sealed(
            {"file": "checkpoint-1.safetensors", "sha256": "0" * 64, "step": 1, "log": [], "seconds": 1.0},
            f"{T}/checkpoint.json",
        ),
    ),
    "a pointer that leads out": lambda good: zipped(
        {
            f"{T}/training.json": good[f"{T}/training.json"],
            f"{T}/checkpoint.json": sealed(
                {"file": "../../evil.safetensors", "sha256": "0" * 64, "step": 1, "log": [], "seconds": 1.0},
                f"{T}/checkpoint.json",
            ),
        }
    ),
}


def torch_saved(data):
    out = io.BytesIO()
    torch.save(load(data), out)
    return out.getvalue()


def contents(root: Path) -> dict[str, str]:
    """Path below `root` -> checksum, or what it is."""
    paths = sorted(root.rglob("*"))
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() if p.is_file() else "folder" for p in paths}


def taken(path: Path, store: Store) -> None:
    with Archive(path) as found:
        for _ in receive(found, store):
            pass


def refused(path: Path, store: Store, home: Path) -> str:
    """Import a file that should be refused; the message. Nothing changes in all of `home`."""
    before = contents(home)
    with pytest.raises(StoreError) as error:
        taken(path, store)
    assert contents(home) == before
    assert str(error.value).isprintable()
    return str(error.value)


def test_what_all_of_them_are_made_from_is_taken(good, tmp_path):
    (tmp_path / "good.zip").write_bytes(zipped(good))
    taken(tmp_path / "good.zip", Store(tmp_path / "new"))
    (tmp_path / "packed.zip").write_bytes(zipped(good, compression=zipfile.ZIP_DEFLATED))
    taken(tmp_path / "packed.zip", Store(tmp_path / "other"))
    assert {p.relative_to(tmp_path / "new") for p in (tmp_path / "new").rglob("*.*")} == {
        p.relative_to(tmp_path / "other") for p in (tmp_path / "other").rglob("*.*")
    }


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_is_refused_and_nothing_is_written(good, tmp_path, monkeypatch, attack):
    home = tmp_path / "home"
    (home / "deep" / "er").mkdir(parents=True)
    monkeypatch.chdir(home / "deep" / "er")
    path = home / "evil.zip"
    path.write_bytes(ATTACKS[attack](good))
    message = refused(path, Store(home / "deep" / "runs"), home)
    assert not (home / "deep" / "runs").exists()
    assert len(message) < 3000


def test_limits_on_how_many_and_how_much(good, tmp_path, monkeypatch):
    path = tmp_path / "many.zip"
    path.write_bytes(zipped(good))
    monkeypatch.setattr(archive, "ENTRIES", 3)
    assert "more than 3" in refused(path, Store(tmp_path / "new"), tmp_path)
    monkeypatch.undo()
    monkeypatch.setattr(archive, "TOTAL", 1000)
    assert "would be" in refused(path, Store(tmp_path / "new"), tmp_path)


@pytest.mark.parametrize("kind", ["folder", "pipe", "nothing", "device"])
def test_what_is_no_file_is_no_archive(tmp_path, kind):
    path = tmp_path / "x.zip"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path = Path("/dev/zero")
    with pytest.raises(StoreError):
        Archive(path)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255), cut=st.booleans())
def test_any_flipped_byte_or_cut_is_refused_or_changes_nothing(good, tmp_path_factory, place, flip, cut):
    """A byte that no reader uses (a time, an attribute) may be another; what comes in is the same to the last bit."""
    home = tmp_path_factory.mktemp("flip")
    data = bytearray(zipped(good))
    if cut:
        del data[int(place * len(data)) :]
    else:
        data[int(place * len(data))] ^= flip
    (home / "x.zip").write_bytes(data)
    store = Store(home / "new")
    try:
        taken(home / "x.zip", store)
    except StoreError:
        assert not store.root.exists()
    else:
        assert not cut
        source = Stored(store)
        assert {name.name: source.read(name) for name in source.names()} == good


def test_no_file_that_a_configuration_names_is_opened(good, tmp_path, monkeypatch):
    """A stranger's target may be a table anywhere: it stays closed, and the run comes in unread."""
    from moonbed.targets import empirical

    monkeypatch.setattr(empirical, "_read", lambda *_: pytest.fail("opened a file"))
    os.mkfifo(tmp_path / "pipe.csv")
    points = {"type": "Points", "file": str(tmp_path / "pipe.csv"), "bandwidth": 0.1, "labelled": False}

    def named(spec):
        spec["target"] = points | {"key": None, "sha256": "0" * 64}

    (tmp_path / "x.zip").write_bytes(respecified(named)(good))
    taken(tmp_path / "x.zip", Store(tmp_path / "new"))
    assert len(Stored(Store(tmp_path / "new")).names()) == 4


@pytest.mark.parametrize("attack", ["out of the store", "a bomb", "half", "another id", "weights that are a pickle"])
def test_the_command_says_it_in_a_line(moonbed, good, tmp_path, attack):
    (tmp_path / "x.zip").write_bytes(ATTACKS[attack](good))
    code, out, err = moonbed("import", "x.zip")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("moonbed: ")
    assert not (tmp_path / "runs").exists()
    assert {p.name for p in tmp_path.iterdir()} == {"x.zip"}
