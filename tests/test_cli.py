"""The command line: every command, and one clear line for every mistake."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from small import files, tiny

from moonbed.component import kinds, members
from moonbed.experiments import PRESETS, Experiment, Store, process, run
from moonbed.experiments.device import choose_device
from moonbed.experiments.presets import BUDGETS, PUBLISHED, Budget
from moonbed.metrics.suites import SUITES
from moonbed.metrics.two_sample import C2ST, Energy, SlicedW1
from moonbed.report import figures

TINY = [
    *("training.steps=60", "training.batch=64", "training.points=1000", "sampler.steps=4", "n=30"),
    "training.network.hidden=[16]",
]
CHEAP = ["--metrics", "SlicedW1", "--draws", "2", "--jobs", "1", "--device", "cpu"]
COMMANDS = ["run", "reproduce", "evaluate", "compare", "anatomy", "export", "import", "gc", "verify", "list", "show"]


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A store that holds one run of `TINY`."""
    store = Store(tmp_path_factory.mktemp("kept"))
    small = PRESETS["ddpm"].replace(**dict(word.split("=", 1) for word in TINY))
    run(small, metrics=[SlicedW1()], store=store, device="cpu")
    return store, small


# Help and lists


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_examples(moonbed, command):
    code, out, err = moonbed(command, "--help")
    assert (code, err) == (0, "")
    assert out.startswith(f"Usage: moonbed {command}")
    assert len(re.findall(rf"^\s*moonbed {command}", out, re.M)) >= 3
    assert "For example:" in out


def test_help_of_the_whole(moonbed):
    code, out, _ = moonbed("--help")
    assert code == 0
    assert all(command in out for command in COMMANDS)
    assert "Exit" in out
    assert moonbed("--version")[1].strip() == __import__("moonbed").__version__


def test_list(moonbed):
    code, out, err = moonbed("list")
    assert (code, err) == (0, "")
    for kind, cls in kinds().items():
        assert f"{kind.lower()}\n" in out
        assert all(name in out for name in members(cls) if not name.startswith("_"))
    assert all(name in out for name in PRESETS)
    data = json.loads(moonbed("list", "--json")[1])
    assert list(data["presets"]) == list(PRESETS)
    assert {"Diffusers", "DDIM", "Heun"} <= data["sampler"].keys()
    assert all(text for name, text in data["network"].items())


@pytest.mark.parametrize("kind", ["presets", "preset", "sampler", "samplers", "Schedule", "METRIC"])
def test_list_one_kind(moonbed, kind):
    code, out, _ = moonbed("list", kind, "--json")
    data = json.loads(out)
    assert code == 0
    assert len(data) == 1
    assert next(iter(data)).rstrip("s") == kind.lower().rstrip("s")


def test_list_runs(moonbed, kept):
    store, small = kept
    assert "none" in moonbed("list", "runs")[1]
    _, out, _ = moonbed("list", "runs", "--store", store.root)
    assert small.id in out
    assert re.search(rf"{small.id} +done, \d+ exploded +30 ", out)
    assert list(json.loads(moonbed("list", "runs", "--json", "--store", store.root)[1])["runs"]) == [small.id]


# Show


@pytest.mark.parametrize("name", PRESETS)
def test_show_a_preset(moonbed, name):
    code, out, err = moonbed("show", name)
    assert (code, err) == (0, "")
    assert out == f"{PRESETS[name]}\n# id {PRESETS[name].id}\n"
    data = json.loads(moonbed("show", name, "--json")[1])
    assert data["id"] == PRESETS[name].id
    assert Experiment.parse(data["spec"]) == PRESETS[name]


def test_show_every_member(moonbed):
    for cls in kinds().values():
        for name, member in members(cls).items():
            if not member.__module__.startswith("moonbed."):
                continue
            code, out, err = moonbed("show", name)
            assert (code, err) == (0, ""), name
            assert out.startswith(f"{cls.__name__} {name}\n")
            data = json.loads(moonbed("show", name, "--json")[1])
            assert data["type"] == name
            assert data["doc"]


def test_show_a_run_by_the_beginning_of_its_id(moonbed, kept):
    store, small = kept
    code, out, _ = moonbed("show", small.id[:8], "--store", store.root)
    assert code == 0
    assert out.startswith(str(small))
    assert "# status: done" in out
    data = json.loads(moonbed("show", small.training.id[:8], "--store", store.root, "--json")[1])
    assert data["spec"] == small.training.spec()
    assert data["record"]["step"] == 60


def test_an_id_that_begins_like_two(moonbed, tmp_path):
    for end in "ab":
        folder = tmp_path / "runs" / f"0123{end}"
        folder.mkdir(parents=True)
        (folder / "training.json").write_text("{}")
    code, _, err = moonbed("show", "0123")
    assert code == 2
    assert "is the beginning of 2 ids: 0123" in err


# Run


def test_run(moonbed, tmp_path):
    code, out, err = moonbed("run", "ddpm", *TINY, *CHEAP)
    assert code == 0
    assert re.search(r"ddpm\s+measured\s+\d+\.\d+", out)
    assert re.search(r"floor\s+\d\.\d{4} \.\. \d\.\d{4}", out)
    assert "ddpm: train 60 in" in err
    before = files(tmp_path / "runs")
    assert len(before) == 2
    code, again, err = moonbed("run", "ddpm", *TINY, *CHEAP)
    assert (code, again, err) == (0, out, "")
    assert files(tmp_path / "runs") == before


def test_run_json_has_a_floor_beside_every_value(moonbed):
    code, out, _ = moonbed("run", "ddpm", *TINY, "training.seed=0,1", *CHEAP, "--json")
    data = json.loads(out)
    assert code == 0
    assert [row["name"] for row in data] == ["ddpm training.seed=0", "ddpm training.seed=1"]
    for row in data:
        ((label, metric),) = row["metrics"].items()
        assert label == "sliced W1"
        assert len(metric["values"]) == 1
        assert metric["floor"]["draws"] == 2
        assert 0 < metric["floor"]["lo"] <= metric["floor"]["hi"]
        assert row["runs"][0]["status"] == "done"
    assert data[0]["runs"][0]["id"] != data[1]["runs"][0]["id"]


def test_a_sweep_is_every_combination(moonbed):
    _, out, _ = moonbed("run", "ddpm", *TINY, "training.clip=1,2", "training.seed=0,1", *CHEAP, "--json")
    assert [row["name"].removeprefix("ddpm ") for row in json.loads(out)] == [
        f"training.clip={clip} training.seed={seed}" for clip in (1, 2) for seed in (0, 1)
    ]


def test_quiet_is_quiet(moonbed):
    code, out, err = moonbed("run", "ddpm", *TINY, *CHEAP, "--quiet")
    assert (code, err) == (0, "")
    assert "measured" in out


def test_budget_and_protocol(moonbed, monkeypatch):
    small = dict(word.split("=", 1) for word in TINY)
    monkeypatch.setitem(BUDGETS, "quick", Budget(small, seeds=1, draws=2))
    code, out, _ = moonbed("run", "ddpm", "--budget", "quick", "--protocol", "published", *CHEAP[2:], "--json")
    (row,) = json.loads(out)
    assert code == 0
    assert list(row["metrics"]) == [metric.label for metric in SUITES["published"]]
    ((folder, record),) = Store("runs").runs()
    assert record["n"] == 30
    spec = json.loads((folder.path / "experiment.json").read_text())["spec"]
    assert spec["training"]["target"]["type"] == "PublishedMoons"
    assert row["metrics"]["sliced W1"]["published"] == PUBLISHED["ddpm"][2]


def test_metrics_by_name_and_suite(moonbed):
    _, out, _ = moonbed("run", "ddpm", *TINY, *CHEAP[2:], "--metrics", "Energy, SlicedW1,Energy", "--json")
    assert list(json.loads(out)[0]["metrics"]) == [Energy().label, SlicedW1().label]
    words = ["--metrics", 'Energy,{"type": "SlicedW1", "directions": 8}', "--json"]
    _, out, _ = moonbed("run", "ddpm", *TINY, *CHEAP[2:], *words)
    assert list(json.loads(out)[0]["metrics"]) == [Energy().label, SlicedW1().label]
    _, out, _ = moonbed("run", "ddpm", *TINY, *CHEAP[2:], "--metrics", "default", "--json")
    assert len(json.loads(out)[0]["metrics"]) == len(SUITES["default"])


def test_a_file_of_experiments(moonbed, tmp_path):
    (tmp_path / "mine.py").write_text(
        "from moonbed.experiments import PRESETS\n"
        "first = PRESETS['ddpm'].replace(n=40)\n"
        "other = first.replace(seed=1)\n"
    )
    code, out, _ = moonbed("run", "mine.py", *TINY[:4], TINY[5], *CHEAP, "--json")
    assert code == 0
    assert [row["name"] for row in json.loads(out)] == ["first", "other"]
    assert len(list((tmp_path / "runs").glob("*/weights.safetensors"))) == 1


# Mistakes

MISTAKES = [
    (["run", "baselin"], "no preset is called 'baselin'; did you mean 'baseline'?"),
    (["run", "ddpm", "trainin.steps=5"], "trainin: Experiment has no such field; did you mean 'training'?"),
    (["run", "ddpm", "training.step=5"], "training.step: Training has no such field; did you mean 'steps'?"),
    (["run", "ddpm", "training.steps=many"], "training.steps: input should be a valid integer"),
    (["run", "ddpm", "training.steps=0"], "training.steps: input should be greater than 0, given"),
    (["run", "ddpm", "training.steps=-5"], "training.steps: input should be greater than 0, given"),
    (["run", "ddpm", "sampler.steps=0"], "sampler.steps: input should be greater than 0"),
    (["run", "ddpm", "n=0"], "n: input should be greater than 0"),
    (["run", "ddpm", "n=-3"], "n: input should be greater than 0"),
    (["run", "ddpm", "n=5"], "n: should be at least 10, given 5"),
    (["run", "ddpm", "training.network=MLPP"], "training.network: no Network is called 'MLPP'; did you mean 'MLP'?"),
    (["run", "ddpm", "training.optimizer.lr=nan"], "training.optimizer.lr: "),
    (["run", "ddpm", "training.batch=60000"], "batch: should be at most points (50000), given 60000"),
    (["run", "ddpm", "--metrics", "SlicedW2"], "--metrics: no such name 'SlicedW2'; did you mean 'SlicedW1'?"),
    (["run", "ddpm", "--metrics", "defaul"], "did you mean 'default'?"),
    (
        ["run", "ddpm", "--metrics", '{"type": "KSD", "bandwidht": [1]}'],
        "KSD has no such field; did you mean 'bandwidths'",
    ),
    (["run", "ddpm", "--protocol", "publised"], "--protocol: no such name 'publised'; did you mean 'published'?"),
    (["run", "ddpm", "--budget", "papr"], "--budget: no such name 'papr'; did you mean 'paper'?"),
    (["run", "ddpm", "--draws", "0"], "--draws: should be at least 1, given 0"),
    (["run", "ddpm", "--jobs", "0"], "--jobs: should be at least 1, given 0"),
    (["run", "ddpm", "--jobs", "two"], "--jobs"),
    (["run", "ddpm", "--seed", "3"], "--seed"),
    (["run", "ddpm", "--store"], "--store"),
    (["run", "training.stps=3"], "did you mean 'steps'?"),
    (["run", "ddpm", "seed"], "seed: write name=value"),
    (["run", "ddpm", "training.seed="], "training.seed=: write name=value"),
    (["run", "ddpm", "training.seed=0,,1"], "training.seed=0,,1: write name=value"),
    (["run", "ddpm", "training.seed=0", "training.seed=1"], "training.seed: given twice"),
    (["run", "nothing.py"], "no Python file"),
    (["run", "ddpm", "sampler.scheduler=DPMScheduler"], "sampler.scheduler: diffusers has no 'DPMScheduler'"),
    (["run", "ddpm", "sampler.scheduler=Euler"], "sampler.scheduler: 'Euler' is no diffusers scheduler"),
    (["run", "ddpm", "--device", "gpu"], "device: no device is called 'gpu'"),
    (["run", "ddpm", "--store", "/dev/null/x"], "cannot write /dev/null/x"),
    (["run", "ddpm", "--store", "{tmp}/file"], "cannot write {tmp}/file"),
    (["reproduce", "--rows", "baseline,residul"], "no published row is called 'residul'; did you mean 'residual'?"),
    (["reproduce", "--rows", "baseline,"], "no published row is called ''"),
    (["reproduce", "--seeds", "0"], "--seeds: should be at least 1, given 0"),
    (["reproduce", "--draws", "0"], "--draws: should be at least 1, given 0"),
    (["reproduce", "--jobs", "-1"], "--jobs: should be at least 1, given -1"),
    (["reproduce", "--budget", "fast"], "no budget is called 'fast'"),
    (["reproduce", "--out", "/dev/null/x"], "cannot write /dev/null/x"),
    (["reproduce", "--out", "{tmp}/file"], "cannot write {tmp}/file"),
    (["reproduce", "baseline"], "baseline"),
    (["list", "sampllers"], "kind: no such name 'sampllers'; did you mean 'sampler'?"),
    (["list", "everything"], "kind: no such name 'everything'"),
    (["show", "residul"], "did you mean 'residual'?"),
    (["show", "0123456789abcdef"], "no preset, component or run in runs is called"),
    (["show"], "requires an argument"),
    (["sow"], "Unknown command"),
    (["evaluate", "x.npy"], "--target"),
    (["evaluate", "nothing.npy", "--target", "TwoMoons"], "cannot read nothing.npy"),
    (["evaluate", "{tmp}/file", "--target", "TwoMoons"], "should be one of .csv, .npy"),
    (["evaluate", "x.npy", "--target", "TwoMoon"], "no Target is called 'TwoMoon'; did you mean 'TwoMoons'?"),
    (
        ["evaluate", "x.npy", "--target", "TwoMoons", "nose=1"],
        "nose: TwoMoons has no such field; did you mean 'noise'?",
    ),
    (["evaluate", "x.npy", "--target", "TwoMoons", "noise=0.1,0.2"], "one target at a time"),
    (["evaluate", "x.npy", "--target", "TwoMoons", "--draws", "0"], "--draws: should be at least 1, given 0"),
    (["compare", "ddpm"], "requires an argument"),
    (["compare", "ddpm", "em"], "no preset, file or run in runs is called 'em'; did you mean 'ema'?"),
    (["compare", "ddpm", "ema", "--seeds", "1"], "--seeds: should be at least 2, given 1"),
    (["compare", "ddpm", "ema", "--margin", "0"], "--margin: should lie between 0 and inf, given 0"),
    (["compare", "ddpm", "ema", "--level", "1"], "--level: should lie between 0 and 1, given 1"),
    (["compare", "ddpm", "ema n=50"], "n: differs: 5000 and 50"),
    (["compare", "ddpm", "ema", "n=50,60"], "one experiment at a time"),
    (["compare", "ddpm", "mine.py"], "no Python file"),
    (["export", "--format", "result"], "--format: no such name 'result'; did you mean 'results'?"),
    (["export"], "no finished run in runs; `moonbed run` makes one"),
    (["export", "fast", "ema", "--format", "onnx"], "--format: onnx is of one finished run; results are of several"),
    (["export", "0123456789abcdef", "--out", "x.zip"], "is called '0123456789abcdef'"),
    (["export", "fast", "--out", "x.zip"], "is not in the store runs; `moonbed run fast` makes it"),
    (["export", "--out", "{tmp}"], "is a folder; name a file"),
    (["export", "--out", "{tmp}/file"], "{tmp}/file exists already; --force writes over it"),
    (["import", "nothing.zip"], "no file or folder nothing.zip"),
    (["import", "{tmp}/file"], "{tmp}/file is no archive, or a damaged one"),
    (["import", "/dev/null"], "/dev/null is no file"),
    (["gc", "--runs", "0123456789abcdef"], "--runs: '0123456789abcdef' is no run in runs"),
    (["gc", "--older-than", "-1"], "--older-than: should be at least 0, given -1"),
    (["verify"], "--store: no folder runs"),
    (["anatomy", "residul"], "did you mean 'residual'?"),
    (["anatomy", "ddpm", "--repeats", "1"], "--repeats: should be at least 2, given 1"),
    (["anatomy", "ddpm", "--out", "/dev/null/x"], "cannot write /dev/null/x"),
]


@pytest.mark.parametrize(("words", "said"), MISTAKES, ids=lambda v: " ".join(v)[:50] if isinstance(v, list) else "")
def test_a_mistake_is_one_clear_line(moonbed, tmp_path, monkeypatch, words, said):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setattr(process, "advance", lambda *_: pytest.fail("trained before it looked"))
    code, out, err = moonbed(*(word.format(tmp=tmp_path) if "{tmp}" in word else word for word in words))
    assert code == 2
    assert out == ""
    assert err.startswith("moonbed: ")
    assert err.count("\n") == 1
    assert err.endswith("\n")
    assert said.format(tmp=tmp_path) in err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = (1\n", "bad.py:1: SyntaxError: '(' was never closed"),
        ("\n\nimport nothing_of_that_name\n", "bad.py:3: ModuleNotFoundError: No module named"),
        ("def f():\n    raise KeyError('a\\n\\nb')\nf()\n", "bad.py:2: KeyError"),
        ("x = 1\n", "defines no Experiment"),
        ("from moonbed.experiments import PRESETS\n", "defines no Experiment"),
        ("from moonbed import Experiment\n\ne = Experiment(n=0)\n", "bad.py:3: n: input should be greater than 0"),
        ("from moonbed import Sampler\nclass DDIM(Sampler): pass\n", "bad.py:2: Sampler 'DDIM' exists already"),
    ],
)
def test_a_mistake_in_a_file_is_named_with_its_line(moonbed, tmp_path, text, said):
    (tmp_path / "bad.py").write_text(text)
    code, out, err = moonbed("run", "bad.py")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("moonbed: ")
    assert said in err


def test_all_mistakes_at_once_each_on_its_line(moonbed):
    code, _, err = moonbed("run", "ddpm", "n=-1", "trainin.steps=3", "training.batch=x")
    assert code == 2
    assert len(err.splitlines()) == 3
    assert all(line.startswith("moonbed: ") for line in err.splitlines())


@pytest.mark.skipif(choose_device("auto") != "cpu", reason="there is a GPU")
def test_a_missing_gpu(moonbed):
    for device in ("cuda", "mps"):
        code, out, err = moonbed("run", "ddpm", "--device", device)
        assert (code, out) == (2, "")
        assert err == f"moonbed: device: '{device}' was asked for, but this machine has only: cpu\n"


@pytest.mark.parametrize("name", ["samples.npy", "experiment.json", "record.json"])
def test_a_damaged_file_is_named(moonbed, kept, tmp_path, name):
    store, small = kept
    path = store.experiment(small).path / name
    good = path.read_bytes()
    path.write_bytes(good[:-9] + bytes([good[-9] ^ 4]) + good[-8:])
    try:
        calls = [["run", "ddpm", *TINY, *CHEAP, "--quiet"], ["show", small.id]]
        calls += [["list", "runs"]] * (name == "record.json")
        for words in calls:
            code, out, err = moonbed(*words, "--store", store.root)
            assert (code, out) == (2, "")
            assert err.count("\n") == 1
            assert err.startswith("moonbed: ")
            assert f"{path} is damaged" in err
    finally:
        path.write_bytes(good)


def test_a_run_that_diverges_stays_in_the_table(moonbed):
    words = ["run", "ddpm", *TINY, "training.optimizer.lr=1e30,1e-3", *CHEAP]
    for extra in ([], ["--json"]):
        code, out, err = moonbed(*words, *extra)
        last = err.splitlines()[-1]
        assert code == 2
        assert last.startswith("moonbed: ddpm training.optimizer.lr=1e30: training diverged at step 2 (loss ")
        assert "Traceback" not in err
        assert "diverged at step 2" in out
        assert "1e-3" in out
    bad, good = json.loads(out)
    assert (bad["runs"][0]["status"], good["runs"][0]["status"]) == ("diverged", "done")
    assert bad["metrics"]["sliced W1"]["values"] == []
    assert len(good["metrics"]["sliced W1"]["values"]) == 1


def test_a_fault_in_a_plug_in_keeps_the_others(moonbed, tmp_path):
    """Its traceback is for whoever wrote it; the last line says which."""
    (tmp_path / "faulty.py").write_text(
        "from moonbed import PRESETS, Sampler\n"
        "class Faulty(Sampler):\n"
        "    def trajectory(self, denoiser, noise, stream):\n"
        "        yield noise + {}['a']\n"
        "base = PRESETS['ddpm'].replace(n=30)\n"
        "bad = base.replace(**{'sampler': Faulty(), 'training.seed': 3})\n"
    )
    changes = [w for w in TINY if not w.startswith(("sampler", "n="))]
    code, out, err = moonbed("run", "faulty.py", *changes, "sampler.steps=4", *CHEAP)
    assert code == 2
    assert err.splitlines()[-1] == "moonbed: bad: 'a'"
    assert 'faulty.py", line 4' in err
    assert re.search(r"base\s+measured\s+\d", out)


# Reproduce


@pytest.fixture
def budget(monkeypatch):
    small = {"training.steps": 60, "training.batch": 64, "training.points": 1000, "sampler.steps": 4, "n": 60}
    monkeypatch.setitem(BUDGETS, "quick", Budget(small, seeds=2, draws=3))


def test_reproduce(moonbed, budget, tmp_path):
    code, out, err = moonbed("reproduce", "--rows", "baseline,residual", "--jobs", "1", "--out", "out")
    assert code == 0
    assert "Traceback" not in err
    written = {p.name for p in (tmp_path / "out").iterdir()}
    assert written == {"table.csv", "table.md", "table.tex", "baseline.png", "residual.png", "all.png"}
    for name in ("baseline.png", "residual.png", "all.png"):
        assert (tmp_path / "out" / name).read_bytes().startswith(b"\x89PNG")
    for name, parameters in (("baseline", "33,666 p."), ("residual", "134,786 p.")):
        assert re.search(rf"{name}\s+published\s+\d", out)
        assert parameters in out
        assert "±" in out
        assert f"{PUBLISHED[name][2]:.4f}" in out
    with (tmp_path / "out" / "table.csv").open() as file:
        lines = list(csv.DictReader(file))
    count = len(SUITES["published"])
    assert len(lines) == 2 * count
    for k, line in enumerate(lines):
        assert line["row"] == ("baseline", "residual")[k // count]
        assert (line["seeds"], line["floor_draws"], line["diverged"], line["n"]) == ("2", "3", "0", "60")
        assert float(line["floor_lo"]) <= float(line["floor_hi"])
        assert float(line["sd"]) >= 0
        assert float(line["training_seconds"]) > 0
        known = PUBLISHED[line["row"]]
        known = dict(zip([m.label for m in SUITES["published"]], known, strict=False)) | {
            C2ST(score="mean-auc").label: known[3]
        }
        assert line["published"] == str(known.get(line["metric"], ""))
        assert line["parameters"] == ("33666", "134786")[k // count]
    again = moonbed("reproduce", "--rows", "baseline,residual", "--jobs", "1", "--out", "out", "--quiet", "--json")
    assert (again[0], again[2]) == (0, "")
    assert [row["name"] for row in json.loads(again[1])] == ["baseline", "residual"]


def test_run_alone_is_the_fast_preset(moonbed):
    small = ["training.steps=20", "training.batch=64", "training.points=200", "sampler.steps=3", "n=40", *CHEAP]
    code, out, err = moonbed("run", *small, "--json")
    assert code == 0, err
    assert json.loads(out)[0]["name"].startswith("fast")


def test_reproduce_with_a_row_that_diverged(moonbed, budget, tmp_path, monkeypatch):
    from moonbed.experiments.train import Diverged, train

    def sometimes(training, state, ahead):
        if training.network.spec()["type"] == "Residual":
            raise Diverged(7, float("nan"))
        yield from train(training, state, ahead)

    monkeypatch.setattr("moonbed.experiments.together.train", sometimes)
    code, out, err = moonbed("reproduce", "--rows", "ddpm,residual", "--seeds", "1", "--jobs", "1", "--out", "out")
    assert code == 2
    assert "moonbed: residual: training diverged at step 7 (loss nan)" in err
    assert not (tmp_path / "out" / "residual.png").exists()
    assert (tmp_path / "out" / "ddpm.png").exists()
    assert "diverged at step 7" in (tmp_path / "out" / "table.md").read_text()
    assert re.search(r"residual\s+published", out)


def test_the_two_panels_of_a_picture_have_the_same_axes():
    rng = np.random.default_rng(0)
    target, samples = rng.normal(size=(200, 2)), 3 * rng.normal(size=(150, 2))
    samples[0] = [np.nan, 0]
    left, right = figures.pair("a row", target, samples).axes
    assert left.get_xlim() == right.get_xlim()
    assert left.get_ylim() == right.get_ylim()
    low, high = np.array([left.get_xlim(), left.get_ylim()]).T
    assert (low < target.min(0)).all()
    assert (high > target.max(0)).all()
    assert np.array_equal(left.collections[0].get_offsets(), target)
    assert np.array_equal(right.collections[0].get_offsets().data[1:], samples[1:])
    outside = int((~((samples >= low) & (samples <= high)).all(1)).sum())
    assert [t.get_text() for t in right.texts] == [f"{outside} of 150 outside"]
    assert not left.texts
    assert (left.get_title(), right.get_title()) == ("target, n = 200", "generated, n = 150")


def test_all_panels_of_the_overview_have_the_targets_axes():
    rng = np.random.default_rng(0)
    figure = figures.overview(
        "all", rng.normal(size=(50, 2)), [(n, k * rng.normal(size=(50, 2))) for k, n in enumerate("abc")]
    )
    shown = [axes for axes in figure.axes if axes.axison]
    assert [axes.get_title() for axes in shown] == ["target", "a", "b", "c"]
    assert len({(axes.get_xlim(), axes.get_ylim()) for axes in shown}) == 1


# As a process

HEAVY = ("torch", "diffusers", "sklearn", "scipy", "matplotlib", "pandas")
PROBE = f"""
import sys
sys.argv = ["moonbed"]
from moonbed.cli import main
try:
    main(sys.stdin.read().split())
except SystemExit as end:
    print("\\nstatus", end.code, [m for m in {HEAVY!r} if m in sys.modules])
"""


@pytest.mark.parametrize(
    ("words", "status"),
    [
        ("--help", 0),
        ("run --help", 0),
        ("list", 0),
        ("show residual", 0),
        ("run baselin", 2),
        ("run baseline training.step=5 n=x", 2),
        ("reproduce --seeds 0", 2),
    ],
)
def test_start_up_imports_nothing_heavy(words, status, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", PROBE], input=words, capture_output=True, text=True, cwd=tmp_path, check=True
    )
    assert done.stdout.splitlines()[-1] == f"status {status} []"
    assert "Traceback" not in done.stderr


def test_the_command_is_installed(tmp_path):
    command = Path(sys.executable).with_name("moonbed")
    done = subprocess.run([command, "run", "baselin"], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("moonbed: no preset is called 'baselin'; did you mean 'baseline'?")


def test_the_environment_names_the_store(tmp_path):
    code = "from moonbed.cli import STORE; print(STORE)"
    env = {"MOONBED_STORE": "/elsewhere", "PATH": "/usr/bin"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True)
    assert done.stdout.strip() == "/elsewhere"


def test_tiny_is_tiny():
    assert tiny().training.parameters() < 10_000


def test_a_reader_who_has_seen_enough_gets_no_traceback():
    """As `moonbed show residual | head` does: the pipe is closed before anything is written."""
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "moonbed", "show", "residual"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    process.stdout.close()
    assert process.wait(60) == 0
    assert process.stderr.read() == ""
