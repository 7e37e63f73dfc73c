"""`moonbed report`, and the page that `run`, `reproduce` and `compare` write."""

from __future__ import annotations

import json
import shutil

import pytest
from conftest import command
from small import tiny

from moonbed import writing
from moonbed.component import digest
from moonbed.experiments import Experiment, Store, process, run
from moonbed.experiments.presets import BUDGETS, PRESETS, PUBLISHED, Budget, published
from moonbed.experiments.rows import follow
from moonbed.experiments.run import gather
from moonbed.experiments.storage.folder import Folder
from moonbed.experiments.stored import by_seed, finished, groups_of, name_of, questions, seedless, stored_rows
from moonbed.metrics.suites import SUITES
from moonbed.metrics.two_sample import SlicedW1

TINY = [
    *("training.steps=60", "training.batch=64", "training.points=1000", "sampler.steps=4", "n=30"),
    "training.network.hidden=[16]",
]
CHEAP = ["--metrics", "SlicedW1", "--draws", "2", "--jobs", "1", "--device", "cpu", "--quiet"]
SMALL = {"training.steps": 30, "training.batch": 64, "training.points": 1000, "sampler.steps": 4, "n": 30}
SMALL |= {"training.network": {"type": "MLP", "hidden": [16]}}


@pytest.fixture
def moonbed(capsys, monkeypatch, tmp_path):
    """The command, with the pages that it writes beside results."""
    monkeypatch.chdir(tmp_path)
    return command(capsys, pages=True)


@pytest.fixture
def still(monkeypatch):
    """Pages without live models, which take a second each."""
    monkeypatch.setattr(writing, "_live", lambda *given: None)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """Two seeds of one experiment and one of another, with floors."""
    store = Store(tmp_path_factory.mktemp("kept"))
    first, other = tiny("ddpm", **{k.replace(".", "__"): v for k, v in SMALL.items()}), tiny("ema")
    wanted = {"first": [first, first.shifted(1)], "other": [other]}
    list(gather(follow(wanted, [SlicedW1()], 2, store, "cpu")))
    return store, first, other


def page(path) -> str:
    return path.read_text(encoding="utf-8")


@pytest.mark.slow
def test_report(moonbed, kept, tmp_path):
    store, first, other = kept
    code, out, err = moonbed("report", first.id[:8], first.shifted(1).id, other.id, "--store", store.root)
    assert (code, err) == (0, "")
    assert out.startswith("report.html, ")
    html = page(tmp_path / "report.html")
    assert html.count('<tr data-row="') == 2
    for text in (first.id, other.id, first.shifted(1).id, "sliced W1", "mean ± sd over 2 seeds", "moonbed report "):
        assert text in html
    assert 'id="moonbed-live"' in html


def test_report_json(moonbed, still, kept, tmp_path):
    store, first, other = kept
    words = ["report", "--store", store.root, "--out", "a/b.html", "--title", "Mine <i>", "--json"]
    code, out, err = moonbed(*words)
    data = json.loads(out)
    assert (code, err) == (0, "")
    assert data["report"] == "a/b.html"
    assert data["bytes"] == (tmp_path / "a" / "b.html").stat().st_size
    ids = [[r["id"] for r in row["runs"]] for row in data["rows"]]
    assert sorted(ids) == sorted([[first.id, first.shifted(1).id], [other.id]])
    assert all(row["metrics"]["sliced W1"]["floor"]["draws"] == 2 for row in data["rows"])
    assert "<h1>Mine &lt;i&gt;</h1>" in page(tmp_path / "a" / "b.html")


def test_nothing_is_computed(moonbed, still, kept, monkeypatch):
    """Neither trained nor sampled nor measured: the store is as it was, but for what is only drawn of it."""

    store, first, _ = kept
    for name in ("_train", "_sample", "_answer"):
        monkeypatch.setattr(process, name, None)
    before = {p: p.stat().st_mtime_ns for p in store.root.rglob("metrics/*.json")}
    assert moonbed("report", first.id, "--store", store.root)[0] == 0
    assert {p: p.stat().st_mtime_ns for p in store.root.rglob("metrics/*.json")} == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["residul"], "no preset, file or run in {store} is called 'residul'; did you mean 'residual'?"),
        (["residual"], "residual: is not in the store {store}; `moonbed run residual` makes it"),
        (["ema n=77"], "ema n=77: is not in the store {store}; `moonbed run ema n=77` makes it"),
        (["mine.py:two"], "two: is not in the store {store}; `moonbed run mine.py` makes it"),
        (["mine.py:tow"], "did you mean 'two'?"),
        (["none.py"], "no Python file"),
        (["{id} n=5"], "a stored run is as it is: give its id alone"),
        (["--metrics", "SlicedW2"], "did you mean 'SlicedW1'?"),
        (["--metrics", "NLL"], "none of these was asked of these runs"),
        (["--out", "/dev/null/x.html"], "cannot write /dev/null"),
        (["--out", "."], "is a folder; name a file in it"),
        (["--store", "nowhere"], "no finished run in nowhere; `moonbed run` makes one"),
        (["ab cd"], "cd: write name=value"),
        ([""], "name a preset, a file.py:name or the id of a run"),
    ],
)
def test_a_mistake_is_one_clear_line(moonbed, kept, tmp_path, words, said):
    store, first, _ = kept
    (tmp_path / "mine.py").write_text("from moonbed import PRESETS\ntwo = PRESETS['ema'].replace(n=123)\n")
    known = {"store": store.root, "id": first.id}
    words = [word.format(**known) for word in words]
    given = [] if "--store" in words else ["--store", store.root]
    code, out, err = moonbed("report", *words, *given)
    assert (code, out) == (2, "")
    assert said.format(**known) in err
    assert err.startswith("moonbed: ")
    assert "Traceback" not in err
    assert not (tmp_path / "report.html").exists()


def test_a_damaged_store_is_named(moonbed, kept, tmp_path):
    store, first, _ = kept
    shutil.copytree(store.root, tmp_path / "runs")
    (metric,) = (tmp_path / "runs" / first.training.id / first.id / "metrics").glob("*.json")
    metric.write_text(metric.read_text().replace('"value"', '"valve"'))
    code, _, err = moonbed("report", first.id)
    assert code == 2
    assert f"{metric.name} is damaged" in err


def test_a_plug_in_is_reported_with_its_file(moonbed, still, tmp_path):
    (tmp_path / "mine_too.py").write_text(
        "from moonbed import PRESETS\nfrom moonbed.targets import Curve\nimport torch\n\n\n"
        "class Wave(Curve):\n    '''<b>A wave</b>.'''\n\n    def point(self, u, arc=0):\n"
        "        return torch.stack([u * 4, torch.sin(u * 6)], dim=1)\n\n\n"
        f"wave = PRESETS['ddpm'].replace(**{{'training.target': Wave(noise=0.05), **{SMALL!r}}})\n"
    )
    code, _, err = moonbed("run", "mine_too.py", *CHEAP, "--report", "none")
    assert code == 0, err
    assert not list((tmp_path / "runs").glob("*.html"))
    assert moonbed("report", "mine_too.py")[0] == 0
    html = page(tmp_path / "report.html")
    assert "Wave" in html
    assert "<h1>wave</h1>" in html


def test_a_run_of_an_unknown_class_is_left_out(moonbed, still, kept, tmp_path):
    store, first, _ = kept
    shutil.copytree(store.root, tmp_path / "runs")
    spec = {**first.spec(), "sampler": {"type": "Sorcerer", "source": "0123"}}
    strange = Folder(tmp_path / "runs" / ("0" * 16) / digest(spec))
    strange.write_json("experiment.json", {"id": strange.path.name, "spec": spec})
    strange.finish({"status": "done", "exploded": 0, "seconds": 0.1, "versions": {}}, {})
    code, out, err = moonbed("report", "--json")
    assert code == 0
    assert "left out: " in err
    assert "no Sampler is called 'Sorcerer'" in err
    assert len(json.loads(out)["rows"]) == 2


@pytest.mark.slow
def test_reproduce_writes_its_page(moonbed, still, tmp_path, monkeypatch):
    monkeypatch.setitem(BUDGETS, "quick", Budget(SMALL, seeds=1, draws=2))
    code, _, err = moonbed("reproduce", "--rows", "ddpm", "--quiet", "--jobs", "1", "--device", "cpu")
    assert code == 0, err
    html = page(tmp_path / "reproduction" / "report.html")
    assert html.count("◇ published</span>") == 6
    assert "The published two-moons ablation, reproduced" in html


# What the store holds


def test_a_run_is_called_after_its_preset():
    quick = BUDGETS["quick"].changes
    assert name_of(PRESETS["fast"]) == "fast"
    assert name_of(PRESETS["ema"].shifted(7)) == "ema"
    assert name_of(published(PRESETS["snr"])) == "snr, published data"
    assert name_of(published(PRESETS["snr"]).replace(**quick)) == "snr, published data, quick"
    assert name_of(PRESETS["cosine"].replace(n=70)) == "cosine n=70"
    odd = tiny(training__steps=7)
    assert name_of(odd) == odd.id[:8]


def test_seeds_are_one_row(kept):
    _, first, other = kept
    assert by_seed([first.shifted(2), other, first]) == [[first, first.shifted(2)], [other]]
    assert seedless(first) == seedless(first.shifted(3))
    assert seedless(first) != seedless(first.replace(seed=1))


def test_a_preset_under_a_budget_is_found(tmp_path, monkeypatch):
    """By its short name, with the published values beside it."""
    store = Store(tmp_path)
    spec = published(PRESETS["ddpm"]).replace(**SMALL)
    from moonbed.experiments import stored

    monkeypatch.setattr(stored, "_known", lambda: {**PRESETS, "ddpm, published data, quick": spec})
    run(spec, metrics=SUITES["published"][:3], store=store, device="cpu")
    groups, said = groups_of(["ddpm"], store)
    assert (list(groups), said) == (["ddpm, published data, quick"], [])
    asked = questions(store, [spec])
    (row,) = stored_rows(groups, SUITES["published"], store)
    assert asked == SUITES["published"][:3]
    assert row.name == "ddpm"
    assert row.change == "DDPM sampler, published data, quick"
    assert next(iter(row.cells.values())).published == PUBLISHED["ddpm"][0]
    assert row.results[0].status == "done"


def test_links_of_error_budgets_are_left_out(kept):
    store, first, other = kept
    found = Experiment.parse(first.replace(seed=3))
    run(found, metrics=[], store=store, device="cpu")
    try:
        assert found in finished(store)[0]
        assert found not in [e for group in groups_of([], store)[0].values() for e in group]
        groups, said = groups_of([], store, 1)
        assert len(groups) == 1
        assert said == ["the newest 1 of 2 rows; name others by their ids"]
    finally:
        shutil.rmtree(store.experiment(found).path)
    assert other in finished(store)[0]
