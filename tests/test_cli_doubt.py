"""`moonbed evaluate`, `compare` and `anatomy`, as they are written on a command line."""

import csv
import json
import pickle
import re

import numpy as np
import pytest
import torch
from defects import draw
from safetensors.torch import save_file

TINY = [
    *("training.steps=60", "training.batch=64", "training.points=1000", "sampler.steps=4", "n=40"),
    "training.network.hidden=[16]",
]
CHEAP = ["--metrics", "SlicedW1,OffSupport", "--draws", "4", "--jobs", "1"]


@pytest.fixture
def samples(tmp_path):
    """One table in every format; (path, further options)."""
    x = draw(60, np.random.default_rng(0))
    np.save(tmp_path / "x.npy", x)
    np.savez(tmp_path / "x.npz", x=x, label=np.zeros(60))
    np.savetxt(tmp_path / "x.csv", x, delimiter=",", header="x,y", comments="", fmt="%.17g")
    torch.save({"x": torch.from_numpy(x), "more": torch.zeros(3)}, tmp_path / "x.pt")
    save_file({"x": torch.from_numpy(x)}, tmp_path / "x.safetensors")
    return x


def test_evaluate_reads_every_format_alike(moonbed, samples):
    found = []
    for file, more in (("npy", []), ("npz", ["--key", "x"]), ("csv", []), ("pt", ["--key", "x"]), ("safetensors", [])):
        code, out, err = moonbed("evaluate", f"x.{file}", "--target", "TwoMoons", *more, *CHEAP, "--json", "--quiet")
        assert (code, err) == (0, ""), file
        found.append(json.loads(out))
    assert all(data == found[0] for data in found)
    assert found[0]["target"] == "TwoMoons"
    assert found[0]["n"] == 60
    assert found[0]["coordinates"] == "own"
    for cell in found[0]["metrics"].values():
        assert set(cell) == {"value", "interval", "floor", "p_value"}  # no details from these two
        assert set(cell["floor"]) == {"mean", "lo", "hi", "draws"}
        assert cell["floor"]["draws"] == 4


def test_evaluate_says_what_is_wrong_and_how_it_read_the_points(moonbed, tmp_path):
    np.save(tmp_path / "wide.npy", draw(800, np.random.default_rng(0), noise=0.07))
    code, out, _ = moonbed("evaluate", "wide.npy", "--target", "TwoMoons", "--metrics", "Panel,N50", "--draws", "4")
    text = " ".join(out.split())
    assert code == 0
    assert re.search(r"arcs \d+ ± \d+ % too wide", text)
    assert "read in own coordinates" in text
    assert "4 draws of a perfect sampler" in text
    assert re.search(r"width \+4\d\.?\d* ± \d", text)  # the panel's estimates, in words of their own
    code, out, _ = moonbed(
        "evaluate", "wide.npy", "--target", "TwoMoons", "noise=0.07", "--metrics", "Panel", "--draws", "4", "--json"
    )
    assert json.loads(out)["sentence"].startswith("cannot be told from the exact law")


def test_the_default_set_needs_no_training_points(moonbed, samples, tmp_path):
    np.save(tmp_path / "train.npy", draw(200, np.random.default_rng(1)))
    words = ["evaluate", "x.npy", "--target", "TwoMoons", "--draws", "2", "--jobs", "1", "--json", "--quiet"]
    without = json.loads(moonbed(*words)[1])
    assert "needs the training points" in without["lacks"]["train distance"]
    given = json.loads(moonbed(*words, "--train", "train.npy")[1])
    assert given["lacks"] == {}
    assert given["metrics"].keys() - without["metrics"].keys() == {"train distance"}
    assert json.loads(moonbed(*words, "--n", "50")[1])["n"] == 50


def saved(tmp_path, x, name="bad.npy"):
    np.save(tmp_path / name, x)
    return name


@pytest.mark.parametrize(
    ("x", "said"),
    [
        (np.zeros((50, 3)), "TwoMoons has points (n, 2), given the shape (50, 3)"),
        (np.zeros(50), "(points, coordinates)"),
        (np.full((50, 2), np.nan), "point 1, column 1 is NaN"),
        (np.zeros((5, 2)), "too few points: 5, at least 10"),
        (np.array([["a", "b"]] * 20), "should hold real numbers"),
        (np.array([[object(), 1]] * 20, dtype=object), "pickle"),
    ],
)
def test_bad_samples_are_one_clear_line(moonbed, tmp_path, x, said):
    code, out, err = moonbed("evaluate", saved(tmp_path, x), "--target", "TwoMoons", *CHEAP)
    assert (code, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1


class Evil:
    def __reduce__(self):
        return print, ("executed",)


def test_a_pickle_is_never_opened(moonbed, tmp_path, capsys):
    (tmp_path / "evil.pt").write_bytes(pickle.dumps(Evil()))
    (tmp_path / "evil.npy").write_bytes(pickle.dumps(Evil()))
    for name in ("evil.pt", "evil.npy"):
        code, out, err = moonbed("evaluate", name, "--target", "TwoMoons", *CHEAP)
        assert (code, out) == (2, "")
        assert err.startswith("moonbed: ")
        assert "executed" not in err


def test_every_table_comes_as_csv(moonbed, samples, tmp_path):
    """The numbers of the JSON, with interval, floor and p-value."""
    doubt = {"interval_lo", "interval_hi", "floor_lo", "floor_hi", "p_value"}
    for words in (
        ["evaluate", "x.npy", "--target", "TwoMoons"],
        ["run", "ddpm", *TINY],
        ["compare", "ddpm", "ema", *TINY, "--seeds", "2"],
    ):
        code, _, err = moonbed(*words, *CHEAP, "--csv", "out/table.csv", "--quiet")
        assert code == 0, err
        lines = list(csv.DictReader((tmp_path / "out" / "table.csv").open()))
        assert [line["metric"] for line in lines] == ["sliced W1", "off support"]
        assert doubt <= set(lines[0])
        assert float(lines[0]["floor_lo"]) > 0
    code, out, err = moonbed("evaluate", "x.npy", "--target", "TwoMoons", *CHEAP, "--csv", "/dev/null/x", "--quiet")
    assert (code, out) == (2, "")
    assert "cannot write /dev/null" in err


def test_compare(moonbed):
    words = ["compare", "ddpm training.steps=60", "ddpm training.steps=300", *TINY[1:], "--seeds", "3", *CHEAP]
    code, out, err = moonbed(*words, "--json", "--quiet")
    assert code == 0, err
    data = json.loads(out)
    assert data["verdict"] in ("better", "worse", "equivalent", "mixed", "cannot tell yet")
    assert data["seeds"] == 3
    assert set(data["metrics"]) == {"sliced W1", "off support"}
    assert len(data["metrics"]["sliced W1"]["a"]) == 3
    code, out, _ = moonbed(*words)
    assert code == 0
    assert "paired seeds" in out
    assert " ".join(data["sentence"].split()[:4]) in " ".join(out.split())


def test_compare_takes_ids_and_files(moonbed, tmp_path):
    code, out, _ = moonbed("run", "ddpm", *TINY, *CHEAP, "--json", "--quiet")
    key = json.loads(out)[0]["runs"][0]["id"]
    (tmp_path / "idea.py").write_text(
        "from moonbed import PRESETS\n"
        f"changes = {dict(word.split('=', 1) for word in TINY)!r}\n"
        "experiments = {'one': PRESETS['ddpm'].replace(**changes), 'two': PRESETS['ema'].replace(**changes)}\n"
    )
    for b, verdict in (("idea.py:one", "equivalent"), ("idea.py:two", None)):
        code, out, err = moonbed("compare", key[:8], b, "--seeds", "2", *CHEAP, "--json", "--quiet")
        assert code == 0, err
        assert verdict in (None, json.loads(out)["verdict"])
    code, _, err = moonbed("compare", key[:8], "idea.py", "--seeds", "2", *CHEAP)
    assert code == 2
    assert "idea.py has 2 experiments; say which, as idea.py:NAME; " in err
    assert moonbed("compare", key[:8], "idea.py:tow", *CHEAP)[2].count("did you mean 'two'") == 1


def test_until_decided(moonbed):
    words = ["compare", "ddpm", "ddpm", *TINY, *CHEAP, "--until-decided", "--json", "--quiet"]
    data = json.loads(moonbed(*words)[1])
    assert (data["verdict"], data["seeds"]) == ("equivalent", 4)


def test_anatomy(moonbed, tmp_path):
    code, out, _ = moonbed("run", "ddpm", *TINY, *CHEAP, "--json", "--quiet")
    key = json.loads(out)[0]["runs"][0]["id"]
    words = ["anatomy", key, *CHEAP, "--repeats", "2"]
    code, out, err = moonbed(*words, "--json")
    assert code == 0, err
    data = json.loads(out)
    assert data["id"] == key
    parts = data["metrics"]["sliced W1"]
    assert list(parts) == ["floor", "sampler", "capacity", "estimation", "total"]
    assert sum(parts[k]["value"] for k in ("sampler", "capacity", "estimation")) == pytest.approx(
        parts["total"]["value"]
    )
    code, out, _ = moonbed(*words)
    assert "estimation" in out
    assert (tmp_path / "anatomy" / "anatomy.png").stat().st_size > 5_000
    assert (tmp_path / "anatomy" / "anatomy.csv").read_text().startswith("metric,part,value,interval_lo,interval_hi")


def test_a_target_without_a_score_runs_with_what_can_be_asked(moonbed):
    words = ["run", "ddpm", *TINY, "training.target=Checkerboard", "--draws", "2", "--jobs", "1"]
    code, out, err = moonbed(*words, "--metrics", "KSD,SlicedW1", "--json", "--quiet")
    assert code == 0, err
    metrics = json.loads(out)[0]["metrics"]
    assert "a law with a score" in metrics["KSD"]["lacks"]
    assert metrics["KSD"]["value"] is None
    assert metrics["sliced W1"]["p_value"] is not None


def test_a_run_has_intervals_p_values_and_a_diagnosis(moonbed):
    code, out, _ = moonbed("run", "ema", *TINY, "--draws", "2", "--jobs", "1", "--json", "--quiet")
    (row,) = json.loads(out)
    assert code == 0
    assert next(iter(row["metrics"])) == "panel |z|"
    assert "N50" in row["metrics"]
    for label, cell in row["metrics"].items():
        assert cell["p_value"] is not None, label
        assert len(cell["interval"]) == 2
    assert "too wide" in row["runs"][0]["sentence"] or "off the support" in row["runs"][0]["sentence"]
