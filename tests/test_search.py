"""Searches: spaces, trials that do not depend on jobs or kills, pruning, and what stays apart from comparisons."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small import METRICS, TINY, files, only_here, tiny

from moonbed.component import SpecError
from moonbed.experiments import PRESETS, Store, StoreError, run
from moonbed.experiments._study import Study
from moonbed.experiments.batches import Trial, seeds_of
from moonbed.experiments.engines import Local, Progress
from moonbed.experiments.search import FRESH, Searched, _alone, _command, _place, choices, find_search, search
from moonbed.experiments.spaces import Choice, Float, Int, Pruning, Search, Space
from moonbed.experiments.storage.runs import load_checkpoint
from moonbed.experiments.stored import finished
from moonbed.experiments.trackers import Log, Tracker
from moonbed.targets.empirical import Points

OVER = {"training.optimizer.lr": "1e-3..1e-1:log", "training.prediction": "Epsilon,V"}
EAGER = Pruning(rungs=(0.5,), after=2, keep=0.5, n=50)
WORDS = [*(f"{k}={v}" for k, v in TINY.items() if "sampler" not in k), "training.network.hidden=[16]"]
QUICK = ["--draws", "2", "--device", "cpu", "--quiet"]


def small(**fields) -> Search:
    given = {"base": tiny("ema", n=50), "over": OVER, "metric": METRICS[0], "prune": None, "together": 2}
    return Search(**{**given, **fields})


def found(what, store, **options) -> tuple[Searched, list]:
    events = list(search(what, **{"draws": 2, "device": "cpu", "confirm": 0, "store": store, **options}))
    assert isinstance(events[-1][1], Searched)
    return events[-1][1], events


def told(result: Searched) -> list:
    return [(t.number, dict(t.changes), t.status, t.value, dict(t.rungs)) for t in result.trials]


def trainings(events) -> int:
    done = [e for _, e in events if isinstance(e, Progress) and e.stage == "train" and e.done == e.total]
    return len(done)


# Spaces


@pytest.mark.parametrize(
    ("text", "space"),
    [
        ("4..64", Int(low=4, high=64)),
        ("1e-4..1e-2:log", Float(low=1e-4, high=1e-2, log=True)),
        ("-1..1.5", Float(low=-1, high=1.5)),
        ("Epsilon,V", Choice(values=("Epsilon", "V"))),
        (["V", 3], Choice(values=("V", 3))),
        ({"type": "Int", "low": 1, "high": 2}, Int(low=1, high=2)),
        ('{"type": "Int", "low": 1, "high": 2}', Int(low=1, high=2)),
        ('{"type":"DDIM","eta":1.0},Heun', Choice(values=('{"type":"DDIM","eta":1.0}', "Heun"))),
    ],
    ids=str,
)
def test_spaces_are_written_short(text, space):
    assert Space.parse(text) == space
    assert Space.parse(space.spec()) == space


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("2..1", "should be above low"),
        ("0..1:log", "above 0 for a logarithm"),
        ("1..2:lin", "low..high:log"),
        ("a..b", "are numbers"),
        ("V", "two or more"),
        ("V,V", "two or more"),
    ],
)
def test_spaces_that_cannot_be(text, says):
    with pytest.raises(SpecError, match=says):
        Space.parse(text)


@pytest.mark.parametrize(
    ("over", "place"),
    [
        ({}, "over"),
        ({"n": "10..20"}, "over.n"),
        ({"training.target.noise": "0.1..0.2"}, "over.training.target.noise"),
        ({"training.seed": "0..3"}, "over.training.seed"),
        ({"sampler.stepz": "4..8"}, "over.sampler.stepz"),
        ({"training.prediction": "Epsilom,W"}, "over.training.prediction"),
    ],
    ids=str,
)
def test_a_search_that_cannot_be_is_said_before_it_begins(over, place):
    with pytest.raises(SpecError) as caught:
        small(over=over)
    assert place in [where for where, _ in caught.value.problems]


def test_a_search_is_a_component():
    assert Search.parse(json.loads(json.dumps(small().spec()))) == small()
    assert small(over=dict(reversed(OVER.items()))).id == small().id


def test_numbers_are_short_and_stay_within():
    space = Float(low=0.0012345, high=1.0)
    assert [space.value(x) for x in (0.0012345, 0.123456)] == [0.0012345, 0.123]


def test_limits():
    prune = Pruning(keep=0.5, after=4)
    assert prune.limit([1.0, 2.0, 3.0]) is None
    assert prune.limit([4.0, 1.0, 3.0, 2.0]) == 2.0
    assert Pruning(keep=0.0, after=1).limit([3.0, 5.0]) == 3.0


# What it finds


def test_components_are_searched_and_the_base_is_trial_0(tmp_path):
    from moonbed.diffusion.samplers import DDIM, Heun

    base = tiny("ema", n=50, sampler=DDIM(steps=5))
    what = small(base=base, over={"sampler": [DDIM(steps=5), Heun(steps=3), DDIM(steps=4, eta=1.0)]})
    result, events = found(what, tmp_path, trials=8)
    assert dict(result.trials[0].changes) == {"sampler": DDIM(steps=5)}
    assert trainings(events) == 1, "all share a network"
    assert len(Store(Path(result.folder) / "runs").runs()) == len({t.changes["sampler"].id for t in result.trials})
    assert all(cell.interval and cell.floor for row in result.best for cell in row.cells.values())


def test_trials_do_not_depend_on_jobs(tmp_path):
    one, _ = found(small(), tmp_path / "one", trials=4)
    two, _ = found(small(), tmp_path / "two", trials=4, engine=Local(jobs=2))
    assert told(one) == told(two)


def test_what_is_over_is_only_shown_and_goes_on_where_more_is_wanted(tmp_path):
    first, _ = found(small(), tmp_path, trials=2)
    again, events = found(small(), tmp_path, trials=2)
    assert told(first) == told(again)
    assert trainings(events) == 0
    more, _ = found(small(), tmp_path, trials=4)
    assert told(more)[:2] == told(first)
    assert len(more.trials) == 4


def test_the_best_is_tried_again_with_seeds_that_it_has_not_seen(tmp_path):
    result, _ = found(small(seeds=2, base=tiny("ema", n=50, training__seed=3)), tmp_path, trials=4, confirm=2, name="x")
    seen = {r.experiment.training.seed for row in result.best for r in row.results}
    assert seen == {3, 4}
    best = result.best[0].name
    assert [row.name for row in result.confirmed] == ["base", best] or best.startswith("0:")
    assert {r.experiment.training.seed for row in result.confirmed for r in row.results} == {FRESH + 3, FRESH + 4}
    assert "luckiest" in result.sentence
    if result.command:
        words = shlex.split(result.command)
        assert words[:3] == ["moonbed", "compare", "x"]
        assert f"training.seed={FRESH + 3}" in words


def test_the_command_it_gives_is_the_best_trial(tmp_path):
    """To the last bit of every number."""
    from moonbed.experiments.named import find_experiment

    what = Search(base=PRESETS["ema"].replace(**TINY), over=OVER, metric=METRICS[0], prune=None, together=1, seed=2)
    name = " ".join(["ema", *(f"{k}={v}" for k, v in TINY.items())])
    result, _ = found(what, tmp_path, trials=3, name=name)
    best = min((t for t in result.trials if t.value is not None), key=lambda t: t.value)
    assert result.command
    words = shlex.split(result.command)
    assert find_experiment(words[3], Store(tmp_path))[1] == what.base.replace(**best.changes)
    assert words[-2:] == ["--store", str(tmp_path)]


def test_the_command_it_gives_names_no_store_that_a_command_takes_anyway(tmp_path, monkeypatch):
    what = small(base=PRESETS["ema"].replace(**TINY), over={"sampler.steps": "2,40"}, together=1, seed=2)
    worse, better = (
        Trial(k, {"sampler.steps": steps}, "done", value) for k, (steps, value) in enumerate([(2, 0.5), (40, 0.1)])
    )
    for given, root, named in (
        (None, "runs", False),
        (None, "other/runs", True),
        ("other/runs", "other/runs", False),
        ("other/runs", "runs", True),
    ):
        monkeypatch.delenv("MOONBED_STORE", raising=False)
        if given:
            monkeypatch.setenv("MOONBED_STORE", given)
        words = shlex.split(_command(what, "ema", [better, worse], Store(root)))
        assert words[-2:] == (["--store", root] if named else ["--seeds", "5"])
    assert _command(what, "ema", [], Store("runs")) == ""


class Heard(Tracker):
    """What it was told, by the id of the experiment."""

    def open(self, run):
        HEARD.setdefault(run.id, (run.name, []))
        return Hearing(HEARD[run.id][1])


class Hearing(Log):
    def __init__(self, lines):
        self.lines, self.seen = lines, max((line for line in lines if isinstance(line, int)), default=0)
        self.over = any(isinstance(line, str) for line in lines)

    def step(self, step, values):
        self.lines.append(step)

    def finish(self, values, status):
        self.lines.append(status)


HEARD: dict[str, tuple[str, list]] = {}
known = only_here(Heard)


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_tracker_hears_of_every_trial(tmp_path, jobs):
    """Each step once, in order, for every seed; what was given up has no end; fresh seeds are told as well."""
    HEARD.clear()
    what = small(prune=EAGER, seeds=2, base=tiny("ema", n=50, training__steps=400))
    options = {"trials": 6, "confirm": 1, "engine": Local(jobs=jobs)}
    result, _ = found(what, tmp_path, track=[Heard()], **options)
    of = {t.number: [e.id for e in seeds_of(what, what.base.replace(**t.changes))] for t in result.trials}
    for t in result.trials:
        lines = [HEARD[key][1] for key in of[t.number] if key in HEARD]
        if t.status == "done":
            assert lines == [[100, 200, 300, 400, "done"]] * 2
        else:
            assert t.status == "pruned"
            assert lines[0] == [100, 200]
    assert {HEARD[of[t.number][0]][0] for t in result.trials} == {f"{t.name}, seed 0" for t in result.trials}
    fresh = {r.experiment.id for row in result.confirmed for r in row.results}
    assert fresh <= set(HEARD)


def test_nothing_of_it_is_in_the_store_of_comparisons(moonbed, tmp_path):
    code, out, err = moonbed(
        "search", "ema", *WORDS, "sampler.steps=3,4", "--trials", 2, "--json", "--confirm", 0, *QUICK
    )
    assert code == 0, err
    store = Store(tmp_path / "runs")
    inside = Store(Path(json.loads(out)["folder"]) / "runs")
    ids = [record["id"] for _, record in inside.runs()]
    assert ids
    assert store.runs() == []
    assert finished(store) == ([], [])
    assert all(store.find(each[:6]) == [] for each in ids)
    assert json.loads(moonbed("list", "runs", "--json")[1])["runs"] == {}
    code, _, err = moonbed("report")
    assert code == 2
    assert "no finished run" in err


def test_one_that_diverges_and_one_that_cannot_be_do_not_stop_it(tmp_path):
    over = {"training.optimizer.lr": [1e-3, 1e30], "training.batch": [64, 2000]}
    what = small(base=tiny("ema", n=50, training__clip=None), over=over, together=4, method="Random")
    result, _ = found(what, tmp_path, trials=12)
    by = {(t.changes["training.optimizer.lr"], t.changes["training.batch"]): t for t in result.trials}
    assert by[1e-3, 64].status == "done"
    assert by[1e30, 64].status == "diverged"
    assert "diverged at step" in by[1e30, 64].message
    assert by[1e-3, 2000].status == "invalid"
    assert "at most points" in by[1e-3, 2000].message
    assert list(result.importance) == [] or set(result.importance) == set(over)


def test_importance(tmp_path):
    what = small(over={"training.optimizer.lr": "1e-4..1e-1", "sampler.steps": "3..9"})
    study = Study(Store(tmp_path).folder("study"), what)
    for trial in study.ask(20):
        study.tell(trial.number, "done", 10 * trial.params["training.optimizer.lr"], {}, "")
    assert next(iter(study.importance())) == "training.optimizer.lr"
    assert sum(study.importance().values()) == pytest.approx(1.0)


def test_two_at_one_search_are_one_too_many(tmp_path):
    what = small()
    with _alone(_place(what, "", Store(tmp_path))), pytest.raises(StoreError, match="another process is at"):
        found(what, tmp_path, trials=1)


def test_without_optuna_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    monkeypatch.delitem(sys.modules, "moonbed.experiments._study", raising=False)
    with pytest.raises(SpecError, match=r"moonbed\[search\]"):
        list(search(small(), store=tmp_path, device="cpu", trials=1))


# Pruning


def test_a_pruned_training_stops_early_and_can_be_taken_up(tmp_path):
    what = small(prune=EAGER, over={"training.optimizer.lr": "1e-6..1e-1:log"}, method="Random", together=2)
    result, _ = found(what, tmp_path / "store", trials=8)
    pruned = [t for t in result.trials if t.status == "pruned"]
    assert pruned
    assert all(t.status in ("pruned", "done") for t in result.trials)
    by_rung = {t.number: t.rungs[500] for t in result.trials}
    for trial in pruned:
        before = sorted(by_rung[k] for k in range(trial.number // 2 * 2))
        assert by_rung[trial.number] > EAGER.limit(before)
    inside = Store(Path(result.folder) / "runs")
    experiment = what.base.replace(**pruned[0].changes)
    assert inside.training(experiment.training).record() is None
    assert load_checkpoint(inside.training(experiment.training))[1] == 100
    for store in (inside, Store(tmp_path / "plain")):
        run(experiment, metrics=METRICS, store=store, device="cpu")
    ends = (".safetensors", ".npy")
    ours, plain = (files(s.root, ends) for s in (inside, Store(tmp_path / "plain")))
    assert plain.items() <= ours.items()


# A process that is killed


def command(store: Path, jobs: int) -> list[str]:
    words = ["search", "ema", "training.batch=64", "training.points=1000", "training.steps=400", "sampler.steps=5"]
    words += ["n=50", "training.network.hidden=[16]", "training.optimizer.lr=1e-6..1e-1:log", "sampler.eta=0.0"]
    words += ["sampler=DDIM", "--prune", json.dumps(EAGER.spec()), "--together", "2"]
    words += ["--metric", "SlicedW1", "--trials", "4", "--confirm", "1", "--json", "--store", str(store)]
    return [*words, "--jobs", str(jobs), *QUICK]


@pytest.mark.slow
def test_killed_again_and_again_it_gives_the_same_trials(moonbed, tmp_path):
    """Two jobs that are killed, and then one, against one that nobody disturbs."""
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    code, whole, err = moonbed(*command(tmp_path / "whole", 1))
    assert code == 0, err
    store, kills = tmp_path / "killed", 0
    for pause in (0.1, 0.4):
        words = [sys.executable, "-m", "moonbed", *command(store, 2)]
        process = subprocess.Popen(words, env=env, start_new_session=True, stdout=subprocess.DEVNULL)
        seen = len(list(store.rglob("*.safetensors")))
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            if len(list(store.rglob("*.safetensors"))) > seen:
                time.sleep(pause)
                break
            time.sleep(0.02)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            kills += 1
        process.wait()
    assert kills == 2
    code, done, err = moonbed(*command(store, 1))
    assert code == 0, err
    one, two = json.loads(whole), json.loads(done)
    assert two["trials"] == one["trials"]
    assert [r["metrics"] for r in two["confirmed"]] == [r["metrics"] for r in one["confirmed"]]
    ends = ("weights.safetensors", ".npy")
    assert files(store, ends) == files(tmp_path / "whole", ends)
    (journal,) = store.rglob("journal.log")
    assert all(isinstance(json.loads(line), dict) for line in journal.read_text().splitlines())


# On the command line


def test_a_file_holds_a_search(moonbed, tmp_path):
    text = f"""
import moonbed
small = moonbed.PRESETS["ema"].replace(**{ {**TINY, "n": 50}!r})
space = moonbed.Search(base=small, over={{"sampler.steps": [2, 3], "training.prediction": ["Epsilon", "V"]}})
"""
    (tmp_path / "space.py").write_text(text)
    code, out, err = moonbed("search", "space.py", "--trials", 3, "--json", "--confirm", 1, "--together", 3, *QUICK)
    assert code == 0, err
    data = json.loads(out)
    assert len(data["trials"]) == 3
    assert Path(data["folder"]).name.startswith("space-")
    if data["command"]:
        assert shlex.split(data["command"])[2] == "space.py:space"
    name, what = find_search("space.py:space", choices({"sampler.steps": "7..9"})[0], Store(tmp_path))
    assert (name, what.over["sampler.steps"]) == ("space.py:space", Int(low=7, high=9))


def test_the_table_says_what_the_best_is_worth(moonbed):
    words = ["ema", *WORDS, "sampler.steps=5", "training.optimizer.lr=1e-3..1e-2:log", "--together", 2, "--confirm", 2]
    code, out, err = moonbed("search", *words, "--trials", 2, *QUICK)
    assert code == 0, err
    flat = " ".join(out.split())
    assert "The best 2 of 2 trials, as the search saw them" in flat
    assert "Again, with seeds that the search has not seen" in flat
    assert "luckiest" in flat


def test_a_tracker_on_the_command_line(moonbed, tmp_path):
    words = [
        "search",
        "ema",
        *WORDS,
        "sampler.steps=5",
        "training.optimizer.lr=1e-3..1e-2:log",
        "--together",
        2,
        "--confirm",
        0,
        "--trials",
        2,
        *QUICK,
    ]
    code, _, err = moonbed(*words, "--track", "TensorBord")
    assert (code, err.count("\n")) == (2, 1)
    assert "did you mean 'TensorBoard'?" in err
    assert not (tmp_path / "runs").exists()
    assert moonbed(*words, "--track", "TensorBoard")[0] == 0
    assert sorted(path.name.partition("-")[0] for path in (tmp_path / "tb").iterdir()) == ["0", "1"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["ema", "sampler.stepz=1..2"], "over.sampler.stepz: "),
        (["ema"], "over: names no place"),
        (["ema", "sampler.steps"], "write name=low..high"),
        (["emma", "sampler.steps=1..2"], "did you mean 'ema'"),
        (["ema", "sampler.steps=1..2", "--metric", "SlicedW1,Energy"], "one metric"),
        (["ema", "sampler.steps=1..2", "--method", "Grid"], "no such name 'Grid'"),
        (["ema", "sampler.steps=1..2", "--trials", "0"], "at least 1"),
        (["ema", "sampler.steps=1..2", "--prune", '{"keep": 3}'], "keep"),
        (["nothing.py", "sampler.steps=1..2"], "nothing.py"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-",
)
def test_what_cannot_be_is_one_line(moonbed, words, says):
    code, out, err = moonbed("search", *words)
    assert (code, out) == (2, "")
    assert says in err
    assert all(line.startswith("moonbed: ") for line in err.splitlines())


def test_a_store_with_a_search_in_it_is_whole(moonbed, tmp_path):
    result, _ = found(small(prune=EAGER, over={"sampler.steps": [2, 3]}), tmp_path / "runs", trials=2)
    run(tiny(n=50), metrics=METRICS, store=tmp_path / "runs", device="cpu")
    for store in (tmp_path / "runs", Path(result.folder) / "runs"):
        code, out, err = moonbed("verify", "--store", store, "--quiet")
        assert code == 0, out + err
    before = files(tmp_path / "runs")
    assert moonbed("gc")[0] == 0
    assert files(tmp_path / "runs") == before


def test_a_base_whose_data_cannot_be_read_is_named():
    with pytest.raises(SpecError) as caught:
        Search(base=tiny(training__target=Points()), over={"sampler.steps": Choice(values=(4, 8))})
    assert [place for place, _ in caught.value.problems] == ["base"]
    assert "file: give the path of a file" in str(caught.value)
