"""`moonbed plot` and `moonbed table`: valid files of what the store holds, tables that read back, nothing trained."""

from __future__ import annotations

import csv
import io
import json
import math
import sys
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from small import METRICS, names_in, tiny

from moonbed.calls import measure
from moonbed.experiments.storage.store import Store
from moonbed.experiments.stored import groups_of, stored_rows
from moonbed.metrics.detection import N50
from moonbed.report import tables

ASKED = (*METRICS, N50(n_max=200))


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A training of two seeds under three numbers of steps."""
    root = tmp_path_factory.mktemp("store") / "runs"
    few = {
        f"DDIM {steps}": [tiny(sampler={"type": "DDIM", "steps": steps}, training__seed=seed) for seed in (0, 1)]
        for steps in (2, 5, 10)
    }
    measure(few, metrics=ASKED, draws=9, store=root, device="cpu")
    return root


@pytest.fixture
def call(moonbed, store, monkeypatch):
    """The command on that store, which must not train."""
    monkeypatch.setattr("moonbed.experiments.rows.execute", lambda *a, **k: pytest.fail("trained"))
    return lambda *arguments: moonbed(*arguments, "--store", store)


def rows(store):
    groups, _ = groups_of([], Store(store))
    return stored_rows(groups, ASKED, Store(store))


def test_every_format_is_a_valid_file(call, tmp_path):
    code, out, err = call("plot", "--figures", "verdict,n50,training,quality", "--formats", "png,svg,pdf")
    assert code == 0, err
    folder = tmp_path / "figures"
    assert names_in(folder) == sorted(
        f"{name}.{kind}" for name in ("verdict", "n50", "training", "quality") for kind in ("png", "svg", "pdf")
    )
    for path in folder.iterdir():
        assert path.name in out
        data = path.read_bytes()
        if path.suffix == ".png":
            assert Image.open(io.BytesIO(data)).size[0] == 680
        elif path.suffix == ".svg":
            assert ElementTree.fromstring(data).tag.endswith("svg")
        else:
            assert data.startswith(b"%PDF")
            assert data.rstrip().endswith(b"%%EOF")


def test_all_that_there_is_unless_said(call, store, tmp_path):
    some = rows(store)[0].results[0].experiment
    code, _, err = call("plot", some.training.id, "--out", "here", "--quiet", "--width", "7")
    assert code == 0, err
    found = names_in(tmp_path / "here")
    assert {"verdict.png", "n50.png", "training.png", "quality.png", "samples.png"} <= set(found)
    assert len([name for name in found if name.startswith("samples-")]) == 3


@pytest.mark.slow
def test_a_field(call, store):
    some = rows(store)[0].results[0].experiment
    code, out, err = call("plot", some.id, "--figures", "field")
    assert code == 0, err
    assert "field-" in out


@pytest.mark.parametrize("words", [("--animation", "gif"), ("--formats", "webp")])
def test_an_animation(call, store, tmp_path, words):
    some = rows(store)[0].results[0].experiment
    code, _, err = call("plot", some.id, "--figures", "verdict", *words, "--quiet")
    assert code == 0, err
    (path,) = (p for p in (tmp_path / "figures").iterdir() if p.suffix in (".gif", ".webp"))
    found = Image.open(path)
    assert found.n_frames == some.sampler.steps + 2  # the noise before the first step, and the last denoising
    assert path.stat().st_size < 3e6
    assert "inf" not in str(found.info)


def test_an_interrupt_leaves_no_half_file(call, store, tmp_path, monkeypatch):
    def cut(*arguments):
        raise KeyboardInterrupt

    some = rows(store)[0].results[0].experiment
    monkeypatch.setattr("moonbed.report.figures.animation.encode", cut)
    code, _, _ = call("plot", some.id, "--figures", "verdict", "--formats", "gif", "--quiet")
    assert code == 130
    assert names_in(tmp_path / "figures") == []


def test_the_last_frame_is_where_the_particles_end(store):
    from moonbed.experiments.motion import states

    some = rows(store)[0].results[0].experiment
    found = [*states(some, Store(store), 200)]
    assert len(found) == some.sampler.steps + 2
    assert all(x.shape == (200, 2) for x in found)
    assert np.isfinite(found[-1]).all()
    again = [*states(some, Store(store), 200)]
    assert all(np.array_equal(a, b) for a, b in zip(found, again, strict=True))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("plot", "--figures", "verdit"), "did you mean 'verdict'"),
        (("plot", "--formats", "jpg"), "known: "),
        (("plot", "--animation", "mp4"), "known: gif, webp"),
        (("plot", "--width", "99"), "between 2 and 20"),
        (("plot", "--figures", "budget"), "`moonbed anatomy` takes one"),
        (("plot", "nothing"), "nothing"),
        (("table", "--format", "xls"), "no such name 'xls'"),
        (("table", "--wide"), "is a form of CSV"),
    ],
)
def test_bad_input(call, words, said):
    code, _, err = call(*words)
    assert code == 2
    assert said in err


# Tables


def same(text: str, value: float | None) -> bool:
    if value is None:
        return text == ""
    return float(text) == value or (math.isnan(value) and math.isnan(float(text)))


def test_csv_reads_back(call, store):
    code, out, err = call("table", "--format", "csv", "--metrics", json.dumps(ASKED[0].spec()))
    assert code == 0, err
    lines = [*csv.DictReader(io.StringIO(out))]
    known = {row.name: row.cells["sliced W1"] for row in rows(store)}
    assert {line["row"] for line in lines} == set(known)
    for line in lines:
        cell = known[line["row"]]
        assert same(line["mean"], sum(cell.values) / 2)
        assert same(line["interval_lo"], cell.interval[0])
        assert same(line["floor_hi"], cell.floor.hi)
        assert (line["n"], line["seeds"], line["floor_draws"]) == ("100", "2", "9")


def test_wide_csv_has_a_line_a_row(call, store):
    _, out, _ = call("table", "--format", "csv", "--wide")
    lines = [*csv.DictReader(io.StringIO(out))]
    for line, row in zip(lines, rows(store), strict=True):
        assert line["row"] == row.name
        assert same(line["sliced W1 floor_lo"], row.cells["sliced W1"].floor.lo)
        assert line["sliced W1 seeds"] == "2"


@pytest.mark.parametrize(
    ("kind", "begins"), [("markdown", "n = 100 samples"), ("latex", "% n = 100"), ("json", "["), ("text", "")]
)
def test_other_formats_print_and_write_the_same(call, tmp_path, kind, begins):
    code, out, err = call("table", "--format", kind)
    assert code == 0, err
    assert out.lstrip().startswith(begins)
    assert call("table", "--format", kind, "--out", "table.txt")[0] == 0
    text = (tmp_path / "table.txt").read_text(encoding="utf-8")
    if kind == "text":
        assert "sliced W1" in text
    else:
        assert text == out


def test_a_data_frame_has_every_number(store):
    pytest.importorskip("pandas")
    found = rows(store)
    long, wide = tables.to_pandas(found), tables.to_pandas(found, wide=True)
    assert len(long) == len(found) * len(ASKED)
    assert list(wide.index) == [row.name for row in found]
    for row in found:
        for label, cell in row.cells.items():
            line = long[(long["row"] == row.name) & (long["metric"] == label)].iloc[0]
            assert line["mean"] == pytest.approx(sum(cell.values) / len(cell.values), nan_ok=True)
            assert wide.loc[row.name, (label, "mean")] == pytest.approx(line["mean"], nan_ok=True)
            assert line["seeds"] == 2
    assert wide[("sliced W1", "floor_hi")].dtype == float


def test_rows_have_the_tables_as_methods(store):
    found = rows(store)
    assert found.to_csv() == tables.to_csv(found)
    assert found.to_csv(wide=True) == tables.to_csv(found, wide=True)
    assert found.to_markdown() == tables.to_markdown(found)
    assert found.to_latex(["sliced W1"]) == tables.to_latex(found, ["sliced W1"])


def test_without_pandas_it_says_what_to_install(store, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r'pip install "moonbed\[pandas\]"'):
        tables.to_pandas(rows(store))


def test_the_page_gets_curves_and_sweeps_too(store):
    from moonbed.report import figures

    found = figures.for_page(rows(store), Store(store))
    assert [f.title for f in found] == [
        "Samples that tell the model from the truth (N50)",
        "Training loss above its floor",
        "sliced W1 against network evaluations",
    ]
    assert len(found[-1].table[1]) == 3
    assert "±" in found[1].table[1][0][3]
    assert figures.for_page(rows(store), Store(store)) == found
