"""Results that leave for another machine and come in from one: the same files, or nothing at all."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small import METRICS, only_here, tiny

from moonbed.diffusion.guidance import AutoGuidance
from moonbed.diffusion.objectives import Progressive
from moonbed.diffusion.samplers import DDIM, Jump
from moonbed.experiments import Experiment, Store, run
from moonbed.experiments.anatomy import Anatomy, save_anatomy
from moonbed.experiments.averaging import PowerEMA
from moonbed.experiments.engines import Progress
from moonbed.experiments.floors import save_floor
from moonbed.experiments.lossfloor import loss_floor
from moonbed.experiments.selection import Selection, select, verify
from moonbed.experiments.storage import places
from moonbed.experiments.storage.archive import MANIFEST, Archive, write_archive
from moonbed.experiments.storage.collect import Wanted, collect
from moonbed.experiments.storage.files import Stored
from moonbed.experiments.storage.inspection import Inspection, needed_by
from moonbed.experiments.storage.layout import is_beside
from moonbed.experiments.storage.runs import load_checkpoint, resumed, save_checkpoint, save_spec, verify_run
from moonbed.experiments.storage.transfer import Arrival, receive
from moonbed.experiments.train import State, train
from moonbed.targets.curves import TwoMoons


class Wider(TwoMoons):
    """A class of somebody's file."""

    width: float = 1.0


known = only_here(Wider)

PLAIN = tiny()
TEACHER = PLAIN.training
RUNS = {
    "plain": PLAIN,
    "seed": PLAIN.shifted(1),
    "sampler": PLAIN.replace(sampler=DDIM(steps=3)),
    "averaged": tiny(training__averaging=PowerEMA(snapshots=4), sigma_rel=0.08),
    "guided": PLAIN.replace(guidance=AutoGuidance(scale=1.5), guide=TEACHER.replace(steps=100)),
    "student": PLAIN.replace(
        sampler=Jump(steps=2), **{"training.teacher": TEACHER, "training.objective": Progressive(steps=2)}
    ),
    "exact": PLAIN.replace(exact=True, sampler=DDIM(steps=3)),
    "diverged": tiny(training__optimizer__lr=1e30, training__clip=None),
}


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A store with runs of every shape, their floor, and a training that was interrupted."""
    store = Store(tmp_path_factory.mktemp("kept") / "runs")
    run([*RUNS.values(), PLAIN.replace(**{"training.target": Wider()})], metrics=METRICS, store=store, device="cpu")
    save_floor(store, TEACHER.target, METRICS[0], PLAIN.n, [0.1, 0.2, 0.30000000000000004])
    loss_floor(TEACHER, store)
    links = {link: [0.5, 0.25] for link in ("floor", "sampler", "capacity", "estimation")}
    save_anatomy(store, Anatomy(PLAIN, 2, 1, {}, {"sliced W1": links}, {"estimation": {"sigma": [1.0, 2.0]}}))
    cut = TEACHER.replace(seed=9)
    state = State(cut)
    next(train(cut, state))
    save_spec(store.training(cut), cut)
    save_checkpoint(store.training(cut), *state.snapshot(), 0.25)
    for k, path in enumerate(sorted(store.root.glob("*/*/record.json"), key=lambda p: p.parent.name)):
        os.utime(path, (1e9 + 1e5 * k,) * 2)  # on many days of 2001
    return store


@pytest.fixture(scope="module")
def whole(kept, tmp_path_factory):
    """The archive of all of it."""
    return packed(kept, tmp_path_factory.mktemp("whole") / "all.zip", unfinished=True)


def packed(store: Store, out: Path, what=(), unfinished=False) -> Path:
    *_, chosen = select(store, what, unfinished)
    assert isinstance(chosen, Selection)
    assert chosen.left_out == []
    for _ in write_archive(out, Stored(store, chosen.names)):
        pass
    return out


def taken(path: Path, store: Store, **how) -> list[Arrival]:
    with Archive(path) as archive:
        return [event for event in receive(archive, store, **how) if isinstance(event, Arrival)]


def contents(root: Path) -> dict[str, str]:
    """Path below `root` -> checksum, or `folder`, or where a link leads; locks left out."""
    out = {}
    for path in root.rglob("*"):
        if path.name != ".lock" and not is_beside(path.name):  # a lock, the index
            what = str(path.readlink()) if path.is_symlink() else "folder" if path.is_dir() else path.read_bytes()
            out[path.relative_to(root).as_posix()] = what if isinstance(what, str) else hashlib.sha256(what).hexdigest()
    return out


def results(root: Path) -> dict[str, str]:
    return {name: found for name, found in contents(root).items() if found != "folder"}


# The round trip


def test_all_of_a_store_comes_back_byte_for_byte(kept, whole, tmp_path):
    into = Store(tmp_path / "new")
    arrivals = taken(whole, into)
    assert {a.what for a in arrivals} == {"new"}
    assert results(into.root) == results(kept.root)
    assert len(results(into.root)) > 50
    assert Stored(into).finished() == Stored(kept).finished()
    assert {a.what for a in taken(whole, into)} == {"there"}
    assert results(into.root) == results(kept.root)


def test_what_came_in_is_finished_and_computed_no_more(whole, tmp_path, monkeypatch):
    into = Store(tmp_path / "new")
    taken(whole, into)
    before = contents(into.root)
    found = run(list(RUNS.values()), metrics=METRICS, store=into, device="cpu")
    assert [r.status for r in found] == ["done"] * (len(RUNS) - 1) + ["diverged"]
    assert contents(into.root) == before


def test_a_training_goes_on_elsewhere_to_the_same_bits(kept, whole, tmp_path):
    """The checkpoint of a laptop, resumed on another machine."""
    cut, here, there = PLAIN.shifted(9), Store(tmp_path / "here"), Store(tmp_path / "there")
    taken(whole, there)
    assert load_checkpoint(there.training(cut.training))[1] == 100
    run([cut], metrics=METRICS, store=there, device="cpu")
    run([cut], metrics=METRICS, store=here, device="cpu")
    weights = [store.training(cut.training).file("weights.safetensors") for store in (here, there)]
    assert weights[0] == weights[1]
    assert resumed(there.training(cut.training)) == [100]


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(chosen=st.sets(st.sampled_from([*RUNS]), min_size=1))
def test_any_set_of_runs_comes_with_what_it_needs_and_no_more(kept, tmp_path_factory, chosen):
    chosen -= {"diverged"} if len(chosen) > 1 else set()
    if chosen == {"diverged"}:
        return
    home = tmp_path_factory.mktemp("some")
    into, ids = Store(home / "new"), [RUNS[name].id for name in sorted(chosen)]
    taken(packed(kept, home / "some.zip", ids), into)
    got, had = results(into.root), results(kept.root)
    assert got.items() <= had.items()
    needed = {id for name in chosen for id in needed_by(RUNS[name].spec())}
    assert {name.split("/")[0] for name in got if name.endswith("/weights.safetensors")} == needed
    assert {name.split("/")[1] for name in got if name.endswith("/samples.npy")} == set(ids)
    before = contents(into.root)
    assert all(r.status == "done" for r in run([RUNS[n] for n in chosen], metrics=METRICS, store=into, device="cpu"))
    assert contents(into.root) == before
    shutil.rmtree(home)


def test_the_same_content_is_the_same_archive(kept, whole, tmp_path):
    into = Store(tmp_path / "new")
    taken(whole, into)
    assert packed(into, tmp_path / "again.zip", unfinished=True).read_bytes() == whole.read_bytes()


def test_a_file_that_is_no_run_is_told_from_one(moonbed, tmp_path):
    code, out, err = moonbed("export", "results.zip", "--store", tmp_path)
    assert (code, out) == (2, "")
    assert err == "moonbed: RUN: results.zip is a file and no run; to write it, --out results.zip\n"


def test_commands_show_the_same_before_and_after(moonbed, kept, tmp_path):
    def shown(store):
        return [moonbed(*words, "--store", store)[:2] for words in (["table"], ["list", "runs"], ["table", "ddpm"])]

    out = tmp_path / "out" / "all.zip"
    assert moonbed("export", "--out", out, "--store", kept.root)[0] == 0
    code, said, err = moonbed("import", out, "--store", "new", "--quiet")
    assert (code, err) == (0, "")
    assert re.search(r"experiments: \d+ new", said)
    assert "needs the file that defines Wider" not in said  # it is loaded here
    assert shown("new") == shown(kept.root)
    assert moonbed("verify", "--store", "new")[0] == 0
    code, said, _ = moonbed("import", kept.root, "--store", "copied", "--json")
    assert code == 0
    assert {a["what"] for a in json.loads(said)["arrivals"]} == {"new"}
    assert shown("copied") == shown(kept.root)


def test_any_tool_reads_it(whole, tmp_path):
    with zipfile.ZipFile(whole) as archive:
        manifest = json.loads(archive.read(MANIFEST))
        assert set(manifest["files"]) == {*archive.namelist()} - {MANIFEST}
        for name, about in manifest["files"].items():
            assert hashlib.sha256(archive.read(name)).hexdigest() == about["sha256"]
        assert not {Path(name).suffix for name in archive.namelist()} - {".json", ".jsonl", ".npy", ".safetensors"}


def test_a_store_under_a_url_takes_and_gives(kept, whole, tmp_path):
    """There data files have their checksum in their name, in archives not."""
    pytest.importorskip("upath")
    there = Store(f"memory://moved-{tmp_path.name}")
    assert {a.what for a in taken(whole, there)} == {"new"}
    assert {a.what for a in taken(whole, there)} == {"there"}
    assert any(name.name != name.plain for name in Stored(there).names())
    found = [event for event in verify(there) if not isinstance(event, Progress)]
    assert {f.what for f in found} == {"unfinished"}
    assert list(collect(there, dry_run=True)) == []
    back = Store(tmp_path / "back")
    taken(packed(there, tmp_path / "back.zip", unfinished=True), back)
    assert results(back.root) == results(kept.root)
    assert [g.kept for g in collect(there, Wanted(runs=[RUNS["plain"].id]))] == [""] * 5
    assert there.experiment(RUNS["plain"]).record() is None


# What is there stays


def other_bits(store: Store, made: Experiment) -> Store:
    """The store as another machine makes it: the weights of an experiment in other bits, and its samples."""
    folder = store.training(made.training)
    record = folder.record()
    data = bytearray(folder.file("weights.safetensors"))
    data[-1] ^= 1
    files = {"weights.safetensors": bytes(data), "log.jsonl": folder.file("log.jsonl")}
    folder.finish({k: v for k, v in record.items() if k != "files"}, files)
    folder = store.experiment(made)
    samples = np.load(io.BytesIO(folder.file("samples.npy")))
    file = io.BytesIO()
    np.save(file, samples + np.float32(1e-6))
    folder.finish({k: v for k, v in folder.record().items() if k != "files"}, {"samples.npy": file.getvalue()})
    return store


def test_other_weights_stay_and_nothing_made_with_the_imported_ones_is_mixed_in(kept, tmp_path):
    into = Store(tmp_path / "new")
    taken(packed(kept, tmp_path / "one.zip", [PLAIN.id]), into)
    other_bits(into, PLAIN)
    before = results(into.root)
    archive = packed(kept, tmp_path / "two.zip", [RUNS[name].id for name in ("plain", "sampler", "student", "seed")])
    found = {a.id: a for a in taken(archive, into)}
    assert found[TEACHER.id].what == found[PLAIN.id].what == "kept"
    assert found[RUNS["sampler"].id].what == found[RUNS["student"].id].what == "refused"
    assert "--replace" in found[RUNS["student"].id].message
    assert found[RUNS["student"].training.id].what == "refused"
    assert found[RUNS["seed"].id].what == "new"
    assert before.items() <= results(into.root).items()
    assert {a.what for a in taken(archive, into, replace=True)} >= {"replaced", "new"}
    alone = Store(tmp_path / "alone")
    taken(archive, alone)
    assert results(alone.root).items() <= results(into.root).items()
    assert results(into.root).keys() == results(alone.root).keys()


@pytest.mark.parametrize("seed", range(6))
def test_no_student_comes_without_its_teacher_whatever_their_ids(kept, tmp_path, seed):
    """Ids fall in any order; a teacher that stays is known before its students come."""
    teacher = TEACHER.replace(steps=100, seed=20 + seed)
    student = RUNS["student"].replace(**{"training.teacher": teacher, "training.steps": 100})
    base = PLAIN.replace(training=teacher)
    made, into = Store(tmp_path / "made"), Store(tmp_path / "into")
    run([base, student], metrics=(), store=made, device="cpu")
    taken(packed(made, tmp_path / "one.zip", [base.id]), into)
    other_bits(into, base)
    found = {a.id: a.what for a in taken(packed(made, tmp_path / "two.zip"), into)}
    assert found[teacher.id] == found[base.id] == "kept"
    assert found[student.training.id] == found[student.id] == "refused"


def test_replacing_weights_takes_along_what_was_sampled_from_them(kept, tmp_path):
    into = Store(tmp_path / "new")
    taken(packed(kept, tmp_path / "a.zip", [RUNS["plain"].id]), into)
    taken(packed(kept, tmp_path / "b.zip", [RUNS["sampler"].id]), into)
    other_bits(into, RUNS["sampler"])
    (arrival, *_) = taken(packed(kept, tmp_path / "c.zip", [RUNS["plain"].id]), into, replace=True)
    assert (arrival.what, arrival.id) == ("replaced", TEACHER.id)
    assert RUNS["sampler"].id in arrival.message
    assert not into.experiment(RUNS["sampler"]).path.exists()


def test_more_metrics_and_longer_floors_are_added(kept, tmp_path):
    into, archive = Store(tmp_path / "new"), packed(kept, tmp_path / "one.zip", [PLAIN.id])
    taken(archive, into)
    full = results(into.root)
    (metric,) = into.experiment(PLAIN).path.glob("metrics/*.json")
    metric.unlink()
    save_floor(into, TEACHER.target, METRICS[0], PLAIN.n, [0.1])
    assert {a.what for a in taken(archive, into)} == {"there", "more"}
    assert results(into.root) == full
    save_floor(into, TEACHER.target, METRICS[0], PLAIN.n, [0.1, 0.2, 0.30000000000000004, 7.0])
    assert {a.what for a in taken(archive, into)} == {"there"}
    save_floor(into, TEACHER.target, METRICS[0], PLAIN.n, [0.9])
    assert {a.what for a in taken(archive, into)} == {"there", "kept"}
    assert {a.what for a in taken(archive, into, replace=True)} == {"there", "replaced"}
    assert results(into.root) == full


def test_a_dry_run_says_the_same_and_writes_nothing(kept, whole, tmp_path):
    into = Store(tmp_path / "new")
    said = taken(whole, into, dry_run=True)
    assert not into.root.exists()
    assert said == taken(whole, into)


def test_a_training_that_another_process_holds_is_left_alone(kept, tmp_path):
    into, archive = Store(tmp_path / "new"), packed(kept, tmp_path / "one.zip", [PLAIN.id, RUNS["seed"].id])
    code = (
        f"import sys\nfrom moonbed.experiments import Store\nwith Store({str(into.root)!r}).lock({TEACHER.id!r}):\n"
        "    print('held', flush=True)\n    sys.stdin.read()\n"
    )
    other = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "held\n"
    found = {a.id: a.what for a in taken(archive, into)}
    other.communicate("")
    assert found[TEACHER.id] == found[PLAIN.id] == "refused"
    assert found[RUNS["seed"].id] == "new"
    assert {a.what for a in taken(archive, into)} == {"new", "there"}


def test_a_class_of_somebodys_file_comes_as_numbers(kept, tmp_path):
    """The archive has no code; where the class is not known the id is held against the digest of the configuration."""
    theirs = PLAIN.replace(**{"training.target": Wider()})
    archive = packed(kept, tmp_path / "wider.zip", [theirs.id])
    code = "import sys\nfrom moonbed.cli import main\nmain(['import', sys.argv[1], '--store', sys.argv[2], '--json'])\n"
    words = [sys.executable, "-c", code, archive, tmp_path / "new"]
    out = subprocess.run(words, capture_output=True, text=True, check=True)
    arrivals = json.loads(out.stdout)["arrivals"]
    assert {a["what"] for a in arrivals} == {"new"}
    assert [a["kind"] for a in arrivals if "defines Wider" in a["message"]] == ["training", "experiment"]
    assert results(tmp_path / "new").items() <= results(kept.root).items()


# Death on the way


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("fatal", [1, 2, 5, 9, 14, 20, 27, 35])
def test_an_import_that_dies_leaves_no_half_of_anything(kept, whole, tmp_path, monkeypatch, fatal):
    """At whatever write it ends, all that looks finished is whole, and importing again completes it."""
    into, count, put = Store(tmp_path / "new"), iter(range(1, 1000)), places.put

    def deadly(path, data):
        if next(count) == fatal:
            path.parent.mkdir(parents=True, exist_ok=True)
            (path.parent / f".{path.name}.1.00000000").write_bytes(data[: len(data) // 2])
            os._exit(9)
        put(path, data)

    child = os.fork()
    if child == 0:
        monkeypatch.setattr(places, "put", deadly)
        taken(whole, into)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    source = Stored(into)
    assert {f.what for _, findings in Inspection(source).findings(source.names()) for f in findings} <= {"unfinished"}
    for folder, record in into.runs():
        assert record["status"] == "done"
        verify_run(folder)
        assert all(into.folder(id).record() for id in needed_by(folder.read_json("experiment.json")["spec"]))
    taken(whole, into)
    left = {name for name in results(into.root) if name.rpartition("/")[2].startswith(".")}
    assert {name: found for name, found in results(into.root).items() if name not in left} == results(kept.root)
