"""`moonbed verify` names every file that is damaged, `moonbed gc` removes what nothing needs and nothing else."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small import METRICS, tiny

from moonbed.component import SpecError
from moonbed.experiments import Store, run
from moonbed.experiments.engines import Progress
from moonbed.experiments.floors import save_floor
from moonbed.experiments.selection import remedy, verify
from moonbed.experiments.storage.collect import Wanted, collect
from moonbed.experiments.storage.files import Stored
from moonbed.experiments.storage.runs import save_checkpoint, save_spec
from moonbed.experiments.train import State, train

PLAIN, OTHER, LOST = tiny(), tiny(training__seed=1), tiny(training__optimizer__lr=1e30, training__clip=None)
STUDENT = tiny(training__teacher=PLAIN.training, training__objective={"type": "Progressive", "steps": 2}).replace(
    sampler={"type": "Jump", "steps": 2}
)
CUT = PLAIN.training.replace(seed=9)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """Runs that are finished, one that diverged, one under way, and a floor."""
    store = Store(tmp_path_factory.mktemp("kept") / "runs")
    run([PLAIN, OTHER, LOST, STUDENT], metrics=METRICS, store=store, device="cpu")
    save_floor(store, PLAIN.training.target, METRICS[0], PLAIN.n, [0.1, 0.2])
    state = State(CUT)
    next(train(CUT, state))
    save_spec(store.training(CUT), CUT)
    save_checkpoint(store.training(CUT), *state.snapshot(), 0.25)
    return store


@pytest.fixture
def store(kept, tmp_path):
    """A copy of it to spoil."""
    shutil.copytree(kept.root, tmp_path / "runs")
    return Store(tmp_path / "runs")


def files(store):
    paths = [p for p in store.root.rglob("*") if p.is_file() and p.name != ".lock"]
    return {p.relative_to(store.root).as_posix(): p.read_bytes() for p in paths}


def found(store, *what):
    return [event for event in verify(store, what) if not isinstance(event, Progress)]


def damaged(store):
    return [finding.name for finding in found(store) if finding.what == "damaged"]


def put(store, name, data=b"", hours=2.0):
    """A file that was written so long ago."""
    path = store.root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    os.utime(path, (time.time() - hours * 3600,) * 2)
    return name


def aged(store, hours=2.0):
    for path in store.root.rglob("*"):
        os.utime(path, (time.time() - hours * 3600,) * 2)


def dead():
    """The number of a process that is no more."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


# Verify


def test_a_store_as_it_should_be(kept):
    assert {(f.name.partition("/")[0], f.what) for f in found(kept)} == {(CUT.id, "unfinished")}


def names(kept):
    return [name.name for name in Stored(kept).names()]


def test_every_byte_of_every_json_file_and_log_counts(store):
    """Each byte in turn, thinned to twenty a file."""
    total = 0
    for name in [
        n for n in names(store) if n.endswith((".json", ".jsonl")) and n.partition("/")[0] != OTHER.training.id
    ]:
        path = store.root / name
        good = path.read_bytes()
        for k in range(0, len(good), 1 + len(good) // 20):
            path.write_bytes(good[:k] + bytes([good[k] ^ 1]) + good[k + 1 :])
            run_of = name.split("/")[0] if "/" in name else name
            assert name in [f.name for f in _of_folder(store, run_of)], f"{name}, byte {k}"
            total += 1
        path.write_bytes(good)
    assert total > 150
    assert damaged(store) == []


def _of_folder(store, home):
    """Findings of damage in one folder: quicker than the whole store."""
    from moonbed.experiments.storage.inspection import Inspection

    source = Stored(store)
    mine = [name for name in source.names() if name.name.startswith(f"{home}/")]
    return [f for _, findings in Inspection(source).findings(mine) for f in findings if f.what == "damaged"]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_flip_or_a_cut_anywhere_is_named(store, data):
    name = data.draw(st.sampled_from([name for name in names(store) if (store.root / name).stat().st_size]))
    path = store.root / name
    good = path.read_bytes()
    place = data.draw(st.integers(0, len(good) - 1))
    if data.draw(st.booleans()):
        bad = good[:place] + bytes([good[place] ^ data.draw(st.integers(1, 255))]) + good[place + 1 :]
    else:
        bad = good[:place]
    path.write_bytes(bad)
    try:
        bad = _of_folder(store, name.partition("/")[0])
        assert name in [f.name for f in bad]
        assert all(map(remedy, bad))
    finally:
        path.write_bytes(good)


@pytest.mark.parametrize(
    "kind", ["weights.safetensors", "log.jsonl", "samples.npy", "training.json", "experiment.json"]
)
def test_a_file_that_is_gone_is_named(store, kind):
    (name,) = [n for n in names(store) if n.startswith(OTHER.training.id) and n.endswith(kind)]
    (store.root / name).unlink()
    assert any(name == n or n.startswith(name.rpartition("/")[0]) for n in damaged(store))


def test_a_run_in_the_folder_of_another_is_named(store):
    shutil.copytree(store.training(OTHER.training).path, store.root / "0123456789abcdef")
    shutil.copy(store.experiment(OTHER).path / "record.json", store.experiment(PLAIN).path / "record.json")
    (metric,) = store.experiment(OTHER).path.glob("metrics/*.json")
    shutil.copy(metric, store.experiment(PLAIN).path / "metrics" / metric.name)
    bad = damaged(store)
    assert "0123456789abcdef/training.json" in bad
    assert f"{PLAIN.training.id}/{PLAIN.id}/record.json" in bad
    assert f"{PLAIN.training.id}/{PLAIN.id}/metrics/{metric.name}" in bad


def test_what_is_not_ours_is_named_and_not_looked_at(store):
    put(store, "notes.txt", b"mine")
    put(store, f"{OTHER.training.id}/weights.bak", b"mine")
    put(store, f".record.json.{dead()}.0123abcd")
    kinds = {f.name: f.what for f in found(store)}
    assert kinds["notes.txt"] == kinds[f"{OTHER.training.id}/weights.bak"] == "unknown"
    assert "left" in kinds.values()
    assert damaged(store) == []


def test_a_teacher_that_is_gone_is_missed(store):
    (store.training(PLAIN.training).path / "record.json").unlink()
    missing = {f.name.partition("/")[0] for f in found(store) if f.what == "missing"}
    assert missing == {PLAIN.training.id, STUDENT.training.id}
    assert damaged(store) == []


def test_verify_as_a_command(moonbed, store):
    code, out, err = moonbed("verify", "--store", store.root, "--quiet")
    assert (code, err) == (0, "")
    assert out.strip().endswith("none damaged")
    path = store.experiment(OTHER).path / "samples.npy"
    path.write_bytes(path.read_bytes()[:-1])
    code, out, _ = moonbed("verify", "--store", store.root)
    assert code == 1
    assert "samples.npy" in out
    assert f"moonbed gc --runs {OTHER.id}" in out
    code, out, _ = moonbed("verify", OTHER.id[:8], "--store", store.root, "--json")
    assert code == 1
    assert json.loads(out)["intact"] is False
    assert moonbed("verify", PLAIN.id[:8], "--store", store.root)[0] == 0
    assert moonbed("verify", "--store", store.root / "nowhere")[0] == 2


def test_what_verify_says_mends_it(moonbed, store):
    """The command that it names removes the run, and running again makes the same bytes."""
    path = store.experiment(OTHER).path / "samples.npy"
    good = path.read_bytes()
    path.write_bytes(good[:-1])
    (finding,) = [f for f in found(store) if f.what == "damaged"]
    words = remedy(finding).split("`")[1].split()[1:]
    assert moonbed(*words, "--store", store.root)[0] == 0
    assert not path.exists()
    run([OTHER], metrics=METRICS, store=store, device="cpu")
    assert path.read_bytes() == good
    assert damaged(store) == []


# Collection


def test_nothing_goes_from_a_store_as_it_should_be(store):
    aged(store, hours=1000)
    before = files(store)
    assert list(collect(store)) == []
    assert files(store) == before


def rubbish(store):
    """Files that nothing needs, each with why."""
    t, e = OTHER.training.id, f"{OTHER.training.id}/{OTHER.id}"
    pid = dead()
    (floor,) = (store.root / "floors").glob("*.json")
    put(store, "floors/0123456789abcdef.json", floor.read_bytes())
    (store.root / "fedcba9876543210" / "0123456789abcdef" / "metrics").mkdir(parents=True)
    for path in [*(store.root / "fedcba9876543210").rglob("*")]:
        os.utime(path, (0, 0))
    return {
        put(store, f".probe.{pid}.0123abcd"): "killed",
        put(store, ".seen.engine.0123abcd", hours=200): "killed",
        put(store, f"{t}/.weights.safetensors.{pid}.0123abcd", b"half"): "killed",
        put(store, f"{e}/metrics/.{METRICS[0].id}.json.{pid}.0123abcd"): "killed",
        put(store, f"floors/.x.json.{pid}.0123abcd"): "killed",
        put(store, f"{t}/checkpoint.json", b"{}"): "finished",
        put(store, f"{t}/checkpoint-100.safetensors", b"x"): "finished",
        put(store, f"{CUT.id}/checkpoint-60.safetensors", b"x"): "no checkpoint.json names",
        put(store, f"{CUT.id}/{OTHER.id}/metrics/{METRICS[0].id}.json", b"{}"): "gone",
        "floors/0123456789abcdef.json": "damaged",
        "fedcba9876543210/0123456789abcdef/metrics/": "empty",
    }


def test_rubbish_goes_and_results_stay(store):
    before = files(store)
    there = rubbish(store)
    dry = list(collect(store, dry_run=True))
    assert {g.name for g in dry} == set(there)
    assert all(why in next(g.why for g in dry if g.name == name) for name, why in there.items())
    assert before.items() <= files(store).items()
    gone = list(collect(store))
    assert gone == dry
    assert sum(g.size for g in gone) == sum(g.size for g in dry) > 0
    assert files(store) == before
    assert not (store.root / "fedcba9876543210").exists()
    assert list(collect(store)) == []
    assert damaged(store) == []


def test_what_is_young_or_somebodys_stays(store):
    """A writer's file of this hour, one of a process that lives, what is not ours, and whatever is held."""
    t = OTHER.training.id
    stay = [
        put(store, f"{t}/.record.json.{dead()}.0123abcd", hours=0.9),
        put(store, f"{t}/.record.json.{os.getpid()}.0123abcd", hours=100),
        put(store, f"{t}/notes.txt", hours=100),
        put(store, "report.html", hours=100),
        put(store, "index.sqlite-wal", hours=100),
        put(store, ".seen.engine.0123abcd", hours=100),
        put(store, ".gitignore", hours=100),
    ]
    assert list(collect(store)) == []
    assert set(stay) <= set(files(store))


def test_a_training_that_is_held_is_left_alone(moonbed, store):
    name = put(store, f"{CUT.id}/checkpoint-60.safetensors", b"x")
    code = (
        f"import sys\nfrom moonbed.experiments import Store\nwith Store({str(store.root)!r}).lock({CUT.id!r}):\n"
        "    print('held', flush=True)\n    sys.stdin.read()\n"
    )
    other = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "held\n"
    for dry in (True, False):
        (garbage,) = collect(store, Wanted(unfinished=False), dry_run=dry)
        assert (garbage.name, garbage.kept) == (name, "another process holds it")
    out = moonbed("gc", "--store", store.root)[1]
    assert "left alone" in out
    assert "0 bytes freed" in out
    other.communicate("")
    assert (store.root / name).exists()
    assert [g.name for g in collect(store)] == [name]


@pytest.mark.parametrize(
    ("wanted", "gone"),
    [
        (Wanted(diverged=True), {LOST.training.id}),
        (Wanted(unfinished=True), {CUT.id}),
        (Wanted(unfinished=True, diverged=True), {CUT.id, LOST.training.id}),
        (Wanted(runs=[OTHER.training.id[:8]]), {OTHER.training.id}),
        (Wanted(runs=[OTHER.id[:8]]), {f"{OTHER.training.id}/{OTHER.id}"}),
        (Wanted(runs=[OTHER.id, LOST.training.id]), {f"{OTHER.training.id}/{OTHER.id}", LOST.training.id}),
        (Wanted(runs=[PLAIN.training.id, STUDENT.training.id]), {PLAIN.training.id, STUDENT.training.id}),
        (Wanted(runs=[PLAIN.id], trainings=True), {f"{PLAIN.training.id}/{PLAIN.id}"}),
    ],
    ids=["diverged", "unfinished", "both", "training", "experiment", "two", "teacher and student", "with its training"],
)
def test_what_is_asked_for_goes_whole_and_alone(store, wanted, gone):
    before = files(store)
    dry = [g.name for g in collect(store, wanted, dry_run=True)]
    assert [g.name for g in collect(store, wanted)] == dry
    left = {name: data for name, data in before.items() if not any(name.startswith(f"{run}/") for run in gone)}
    assert files(store) == left
    assert not any((store.root / run).exists() for run in gone)


def test_a_training_without_an_experiment_goes_only_where_nothing_needs_it(store):
    list(collect(store, Wanted(runs=[OTHER.id, PLAIN.id])))
    assert list(collect(store)) == []
    list(collect(store, Wanted(trainings=True)))
    assert not store.training(OTHER.training).path.exists()
    assert store.training(PLAIN.training).record() is not None  # STUDENT's teacher


def test_age_counts_for_what_is_asked_for(store):
    assert list(collect(store, Wanted(unfinished=True, older_than=1))) == []
    aged(store, hours=25)
    put(store, f"{CUT.id}/checkpoint.json", (store.root / CUT.id / "checkpoint.json").read_bytes())
    assert list(collect(store, Wanted(unfinished=True, older_than=1))) == []  # a run goes whole or stays
    aged(store, hours=25)
    assert list(collect(store, Wanted(unfinished=True, older_than=1))) != []


@pytest.mark.parametrize("text", ["0123456789abcdef", "abc", "../..", ""])
def test_an_id_that_is_not_there(store, text):
    with pytest.raises(SpecError, match="--runs"):
        list(collect(store, Wanted(runs=[text])))


def test_a_teacher_does_not_go_alone(store):
    with pytest.raises(SpecError, match="is a teacher or guide of"):
        list(collect(store, Wanted(runs=[PLAIN.training.id])))
    assert damaged(store) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("fatal", range(1, 8))
def test_a_collection_that_dies_leaves_runs_whole_or_unfinished(store, fatal):
    from moonbed.experiments.storage import places

    wanted, remove, count = Wanted(runs=[OTHER.training.id], unfinished=True), places.remove, iter(range(1, 100))

    def deadly(path):
        if next(count) == fatal:
            os._exit(9)
        remove(path)

    child = os.fork()
    if child == 0:
        places.remove = deadly
        list(collect(store, wanted))
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert damaged(store) == []
    run([OTHER], metrics=METRICS, store=store, device="cpu")
    assert store.experiment(OTHER).record() is not None
    assert damaged(store) == []


def test_gc_as_a_command(moonbed, store):
    there = rubbish(store)
    code, out, err = moonbed("gc", "--dry-run", "--store", store.root)
    assert (code, err) == (0, "")
    assert "would be freed" in out
    assert all(name in out for name in there)
    code, out, _ = moonbed("gc", "--store", store.root, "--json")
    data = json.loads(out)
    assert {f["name"] for f in data["files"]} == set(there)
    assert data["bytes"] == sum(f["bytes"] for f in data["files"])
    assert moonbed("gc", "--store", store.root)[1].startswith("0 bytes freed")
    assert moonbed("gc", "--older-than", "-1", "--store", store.root)[0] == 2
