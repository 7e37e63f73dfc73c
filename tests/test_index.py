"""The index: equal to the folders after whatever happens to them or to itself, and never in the way."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from small import tiny

from moonbed.component import SpecError
from moonbed.experiments import Store, StoreError
from moonbed.experiments.listing import listed
from moonbed.experiments.storage.index import NAME, Index, moved
from moonbed.experiments.storage.runs import save_spec
from moonbed.experiments.stored import finished, groups_of, name_of, seedless
from moonbed.metrics.two_sample import C2ST, Energy, SlicedW1

SLICED, ENERGY = SlicedW1(directions=16), Energy()
RUNS = [
    tiny(name, n=n, training__seed=seed, sampler__steps=steps)
    for name in ("ddpm", "ema")
    for seed in (0, 3)
    for n, steps in ((50, 5), (60, 9))
]


def put(store, experiment, **record):
    """A finished run that nobody trained."""
    folder = store.experiment(experiment)
    save_spec(store.training(experiment.training), experiment.training)
    save_spec(folder, experiment)
    told = {"status": "done", "id": experiment.id, "training": experiment.training.id, "n": experiment.n}
    folder.finish({**told, "exploded": 0, "seconds": 0.5, **record}, {"samples.npy": b"x"})


def measured(store, experiment, metric, value):
    stored = {"metric": metric.spec(), "n": experiment.n, "value": value, "details": {}}
    store.experiment(experiment).write_json(f"metrics/{metric.id}.json", stored)


def told(index):
    """All that an index says, but for the words about damage."""
    runs = index.look()
    values = index.values(runs)
    return {
        (run.training, run.id): (
            run._replace(message=""),
            index.spec(run) if run.configuration else None,
            values[run.id],
        )
        for run in runs
    }


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "runs")
    for k, experiment in enumerate(RUNS):
        put(store, experiment, exploded=k)
        measured(store, experiment, SLICED, k / 100)
    measured(store, RUNS[2], ENERGY, float("inf"))
    return store


# Equal to the folders


class Changed(RuleBasedStateMachine):
    """Runs come, are measured, damaged and removed, the index file too; every reader says what the folders say."""

    @initialize()
    def begin(self):
        self.home = Path(__import__("tempfile").mkdtemp())
        self.store = Store(self.home / "runs")
        self.there: set[int] = set()

    @rule(k=st.integers(0, len(RUNS) - 1), exploded=st.integers(0, 5))
    def write(self, k, exploded):
        put(self.store, RUNS[k], exploded=exploded)

    @rule(k=st.integers(0, len(RUNS) - 1))
    def begin_one(self, k):
        save_spec(self.store.experiment(RUNS[k]), RUNS[k])

    @rule(k=st.integers(0, len(RUNS) - 1), value=st.floats(-1, 1), metric=st.sampled_from([SLICED, ENERGY]))
    def measure(self, k, value, metric):
        measured(self.store, RUNS[k], metric, value)

    @rule(k=st.integers(0, len(RUNS) - 1), name=st.sampled_from(["record.json", "experiment.json", "samples.npy"]))
    def remove(self, k, name):
        (self.store.experiment(RUNS[k]).path / name).unlink(missing_ok=True)

    @rule(k=st.integers(0, len(RUNS) - 1))
    def remove_all(self, k):
        import shutil

        shutil.rmtree(self.store.training(RUNS[k].training).path, ignore_errors=True)

    @rule(
        k=st.integers(0, len(RUNS) - 1), name=st.sampled_from(["record.json", "experiment.json"]), at=st.floats(0, 0.99)
    )
    def damage(self, k, name, at):
        path = self.store.experiment(RUNS[k]).path / name
        if path.is_file():
            data = bytearray(path.read_bytes())
            data[int(at * len(data))] ^= 5
            path.write_bytes(data)

    @rule(at=st.floats(0, 0.999), flip=st.integers(1, 255))
    def damage_the_index(self, at, flip):
        path = self.store.root / NAME
        if path.is_file() and (data := bytearray(path.read_bytes())):
            data[int(at * len(data))] ^= flip
            path.write_bytes(data)

    @rule(text=st.sampled_from([b"", b"no database", b"SQLite format 3\x00" + bytes(200)]))
    def replace_the_index(self, text):
        if self.store.root.is_dir():
            (self.store.root / NAME).write_bytes(text)

    @invariant()
    def the_index_says_what_the_folders_say(self):
        truth = told(Index(Memory(self.store)))
        assert told(self.store.index()) == truth  # the one that was there all along
        assert told(Index(self.store)) == truth  # another process
        assert told(Index(Store(self.store.root, readonly=True))) == truth


class Memory(Store):
    """A store whose index has no file, so that each one reads all folders."""

    def __init__(self, store):
        super().__init__(store.root, readonly=True)

    def index(self):
        raise AssertionError


@pytest.fixture(autouse=True)
def no_file_for_memory(monkeypatch):
    import moonbed.experiments.storage.index as module

    real = module._file_of
    monkeypatch.setattr(module, "_file_of", lambda store: None if isinstance(store, Memory) else real(store))


TestChanged = Changed.TestCase
TestChanged.settings = settings(
    max_examples=25, stateful_step_count=12, deadline=None, suppress_health_check=list(HealthCheck)
)


def test_a_run_is_what_its_files_say(store):
    found = told(store.index())
    assert len(found) == len(RUNS)
    for k, experiment in enumerate(RUNS):
        run, spec, values = found[experiment.training.id, experiment.id]
        assert (run.n, run.exploded, run.seconds, run.status, run.asked) == (experiment.n, k, 0.5, "done", 1 + (k == 2))
        assert run.seed == experiment.training.seed
        assert spec == experiment.spec()
        assert run.configuration == seedless(experiment)
        assert values[SLICED.id] == k / 100
    assert found[RUNS[2].training.id, RUNS[2].id][2][ENERGY.id] == float("inf")


def test_what_did_not_change_is_not_read_again(store, monkeypatch):
    old = store.root.stat().st_mtime - 100
    for path in store.root.rglob("*"):
        os.utime(path, (old, old))
    told(Index(store))
    measured(store, RUNS[5], SLICED, 0.75)
    read: list[str] = []
    real = Index._run
    monkeypatch.setattr(Index, "_run", lambda self, t, name, *a: read.append(name) or real(self, t, name, *a))
    found = told(Index(store))
    assert read == [RUNS[5].id]
    assert found[RUNS[5].training.id, RUNS[5].id][2] == {SLICED.id: 0.75}


def test_seeds_of_teachers_move_along():
    spec = {"training": {"seed": 3, "teacher": {"seed": 5, "teacher": None}}, "guide": {"seed": 3}, "seed": 9}
    back = {"training": {"seed": 0, "teacher": {"seed": 2, "teacher": None}}, "guide": {"seed": 0, "teacher": None}}
    assert moved(spec, -3) == {**back, "seed": 9}


# Never in the way


def digests(root):
    return {
        str(p): (p.stat().st_mtime_ns, p.is_file() and hashlib.sha256(p.read_bytes()).hexdigest())
        for p in root.rglob("*")
    }


@pytest.mark.parametrize("with_index", [False, True])
def test_a_store_for_reading_is_not_written(store, with_index):
    if with_index:
        told(store.index())
        put(store, RUNS[0], exploded=99)  # so that the file is behind
    before = digests(store.root)
    reader = Store(store.root, readonly=True)
    assert len(listed(reader, ["SlicedW1<0.02"]).lines) == 2
    assert len(groups_of((), reader)[0]) == 4
    assert digests(store.root) == before


def no_right(path, patch):
    real = sqlite3.connect
    patch.setattr(sqlite3, "connect", lambda *a, **k: real("file:/proc/none?mode=rw", uri=True) if k else real(*a))


def a_folder(path, patch):
    path.unlink(missing_ok=True)
    path.mkdir()


def locked(path, patch):
    import moonbed.experiments.storage.index as module

    patch.setattr(module, "PATIENCE", 0.05)
    base = sqlite3.connect(path, isolation_level=None)
    base.execute("BEGIN EXCLUSIVE")
    return base


def no_locks(path, patch):
    """A network file system where locking fails."""

    def connect(*_, **__):
        raise sqlite3.OperationalError("disk I/O error")

    patch.setattr(sqlite3, "connect", connect)


def older(path, patch):
    path.unlink()
    base = sqlite3.connect(path)
    base.execute("CREATE TABLE runs (id, other)")
    base.execute("PRAGMA user_version = 0")
    base.commit()
    base.close()


def undecodable(path, patch):
    """SQLite's own words about a damaged schema, which need not be UTF-8."""

    def connect(*_, **__):
        raise UnicodeDecodeError("utf-8", b"\xbe", 0, 1, "invalid start byte")

    patch.setattr(sqlite3, "connect", connect)


@pytest.mark.parametrize("trouble", [no_right, a_folder, locked, no_locks, older, undecodable])
def test_whatever_the_file_is_runs_are_listed(store, monkeypatch, trouble):
    told(store.index())
    kept = trouble(store.root / NAME, monkeypatch)  # noqa: F841 (a lock ends with it)
    put(store, RUNS[0], exploded=99)
    again = Store(store.root)
    assert told(again.index()) == told(Index(Memory(store)))
    assert len(listed(again).lines) == len(RUNS)


def test_what_could_not_be_read_once_is_read_again(store, monkeypatch):
    """A fault of the disk, no right, too many open files: the index does not keep that as what the store holds."""
    from moonbed.experiments.storage import index, places

    monkeypatch.setattr(index, "SETTLED", -1e3)  # nothing is too young to be kept
    whole = told(Store(store.root, readonly=True).index())
    shutil.copytree(store.root, store.root.parent / "copy")
    (store.root.parent / "copy" / NAME).unlink(missing_ok=True)
    again = Store(store.root.parent / "copy")

    def fails(*_, **__):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(places, "read", fails)
        assert {run.status for run in again.index().look()} == {"damaged"}
    with monkeypatch.context() as patch:
        patch.setattr(index, "open", fails, raising=False)
        runs = Store(again.root).index()
        assert set(map(str, runs.values(runs.look()).values())) == {"{}"}
    assert told(Store(again.root).index()) == whole


def test_an_older_index_is_made_anew(store):
    told(store.index())
    older(store.root / NAME, None)
    told(Index(store))
    assert sqlite3.connect(store.root / NAME).execute("SELECT count(*) FROM runs").fetchone() == (len(RUNS),)


def test_two_processes_write_it_at_once(store):
    code = (
        "import sys\nfrom moonbed.experiments import Store\nfrom moonbed.experiments.storage.index import Index\n"
        "for _ in range(15):\n    index = Index(Store(sys.argv[1]))\n    runs = index.look(anew=sys.argv[2] == '1')\n"
        "    assert len(runs) == 8, len(runs)\n    assert len(index.values(runs)) == 8\n"
    )
    words = [sys.executable, "-c", code, str(store.root)]
    processes = [subprocess.Popen([*words, anew], stderr=subprocess.PIPE, text=True) for anew in "011"]
    for process in processes:
        assert process.communicate(timeout=60)[1] == ""
        assert process.returncode == 0
    assert told(Index(store)) == told(Index(Memory(store)))


def test_damage_is_told_and_hides_nothing(store, moonbed):
    path = store.experiment(RUNS[1]).path / "record.json"
    path.write_bytes(path.read_bytes().replace(b"0.5", b"0.6"))
    experiments, left_out = finished(store)
    assert left_out == []
    assert len(experiments) == len(RUNS) - 1
    assert len(store.runs()) == len(RUNS) - 1
    (message,) = listed(store).damaged
    assert str(path) in message
    code, out, err = moonbed("list", "runs", "--store", store.root)
    assert code == 2
    assert all((e.id in out) == (e != RUNS[1]) for e in RUNS)
    assert str(path) in err
    assert f"left out: {path} is damaged" in "\n".join(groups_of((), store)[1])


def test_a_folder_under_another_name_is_damaged(store):
    wrong = store.training(RUNS[0].training).path / ("0" * 16)
    store.experiment(RUNS[0]).path.rename(wrong)
    assert [str(wrong) in message for message in listed(store).damaged] == [True]


# Filters


@pytest.mark.parametrize(
    ("where", "fits"),
    [
        ([], lambda e, k: True),
        (["n=50"], lambda e, k: e.n == 50),
        (["n!=50"], lambda e, k: e.n != 50),
        (["training.seed>=1"], lambda e, k: e.training.seed >= 1),
        (["training.averaging=EMA"], lambda e, k: e.training.averaging is not None),
        (["training.averaging=None"], lambda e, k: e.training.averaging is None),
        (["sampler.steps<9", "training.seed=3"], lambda e, k: e.sampler.steps < 9 and e.training.seed == 3),
        (["training.network.hidden=[16]"], lambda e, k: True),
        (["training.network.hidden=[17]"], lambda e, k: False),
        (['sampler={"type": "Diffusers", "steps": 9}'], lambda e, k: e.sampler.steps == 9),
        (["exact=False", "status=done"], lambda e, k: True),
        (["SlicedW1<0.035"], lambda e, k: k < 3.5),
        (["sliced W1 <= 0.03"], lambda e, k: k <= 3),
        ([f"{SLICED.id}>0.05"], lambda e, k: k > 5),
        ([f"{ENERGY.label}>0"], lambda e, k: k == 2),
        (["exploded>4", "SlicedW1<0.07"], lambda e, k: 4 < k < 7),
        (["time>2020-01-01"], lambda e, k: True),
        (["time<2020-01-01"], lambda e, k: False),
    ],
    ids=lambda value: " and ".join(value) if isinstance(value, list) else "",
)
def test_conditions(store, where, fits):
    got = {line.run.id for line in listed(store, where).lines}
    assert got == {e.id for k, e in enumerate(RUNS) if fits(e, k)}


def test_order(store):
    def order(field):
        return [line.run.exploded for line in listed(store, sort=field).lines]

    assert order("SlicedW1") == order("exploded") == list(range(8))
    assert order("-SlicedW1") == list(range(8))[::-1]
    assert order("Energy")[0] == order("-Energy")[0] == 2  # what has no value comes last
    assert [line.run.n for line in listed(store, sort="-n", limit=5).lines] == [60] * 4 + [50]
    found = listed(store, ["n=60"], limit=1)
    assert (len(found.lines), found.total) == (1, 4)


@pytest.mark.parametrize(
    ("where", "sort", "said"),
    [
        ("training.predicton=V", None, "did you mean 'training.prediction'"),
        ("SlicedW2<1", None, "did you mean"),
        ("n", None, "is no condition"),
        ("n<many", None, "no number"),
        ("C2ST<1", None, "could be"),
        (None, "-training.stps", "did you mean 'training.steps'"),
    ],
)
def test_what_is_no_field(store, moonbed, where, sort, said):
    for metric in (C2ST(), C2ST(score="accuracy")):
        measured(store, RUNS[0], metric, 0.5)
    words = [*(["--where", where] if where else []), *(["--sort=" + sort] if sort else [])]
    code, out, err = moonbed("list", "runs", *words, "--store", store.root)
    assert (code, out) == (2, "")
    assert said in err
    with pytest.raises(SpecError):
        listed(store, [where] if where else [], sort)


def test_the_list_as_json(store, moonbed):
    words = ["list", "runs", "--where", "SlicedW1>=0.02", "--sort=-SlicedW1", "--limit", 3, "--json"]
    code, out, _ = moonbed(*words, "--store", store.root)
    found = json.loads(out)["runs"]
    assert code == 0
    assert list(found) == [e.id for e in RUNS[:4:-1]]
    first = found[RUNS[7].id]
    assert (first["n"], first["training.seed"], first["name"]) == (60, 3, name_of(RUNS[7]))
    assert first["values"] == {"sliced W1": 0.07}
    assert json.loads(moonbed("list", "runs", "--where", "Energy>0", "--json", "--store", store.root)[1])["runs"][
        RUNS[2].id
    ]["values"] == {"sliced W1": 0.02, ENERGY.label: "inf"}


def test_filters_are_for_runs(moonbed):
    code, _, err = moonbed("list", "presets", "--limit", 3)
    assert code == 2
    assert "are for runs" in err


def test_the_index_anew(store, moonbed):
    told(store.index())
    (store.root / NAME).write_bytes(b"damaged")
    code, out, _ = moonbed("index", "--json", "--store", store.root)
    found = json.loads(out)
    assert (code, found["runs"], found["done"], found["trainings"]) == (0, 8, 8, 4)
    assert found["index"] == str(store.root / NAME)
    assert sqlite3.connect(store.root / NAME).execute("SELECT count(answers) FROM runs").fetchone() == (8,)
    assert "8 runs" in moonbed("index", "--store", store.root)[1]


# Names


@pytest.mark.parametrize("experiment", RUNS, ids=lambda e: e.id)
def test_a_list_calls_a_run_as_a_table_does(store, experiment):
    names = {line.run.id: line.name for line in listed(store).lines}
    assert names[experiment.id] == name_of(experiment)


def test_a_root_that_is_a_file(tmp_path):
    (tmp_path / "runs").write_text("no folder")
    with pytest.raises(StoreError, match="cannot read"):
        Store(tmp_path / "runs").index().look()
