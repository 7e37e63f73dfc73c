"""Tables: every number with its doubt, in every format, and nothing that went wrong left out."""

from __future__ import annotations

import csv
import io
import json
import math

import pytest
from rich.console import Console
from small import tiny

from moonbed.experiments.results import Result
from moonbed.experiments.rows import Cell, Row
from moonbed.metrics.significance import Floor
from moonbed.metrics.two_sample import C2ST, SlicedW1
from moonbed.report import tables

EXPERIMENT = tiny()
INF, NAN = math.inf, math.nan
LABELS = ["sliced W1", "C2ST 2|AUC-.5|"]


def result(seed: int = 0, **more) -> Result:
    experiment = EXPERIMENT.replace(**{"training.seed": seed})
    return Result(**{"experiment": experiment, "status": "done", "parameters": 33_666, "training_seconds": 2.5} | more)


def row(
    name="ddpm", values=(0.5,), floor=(0.1, 0.2, 0.3), published=None, change="DDPM sampler", results=None, drawn=None
) -> Row:
    band = Floor(floor) if floor else None
    cells = {
        LABELS[0]: Cell(SlicedW1(), tuple(values), band, published, drawn),
        LABELS[1]: Cell(C2ST(), tuple(values), band, published, drawn),
    }
    found = [result(k) for k in range(len(values))] if results is None else results
    return Row(name, change, tuple(found), cells)


DIVERGED = result(status="diverged", message="training diverged at step 2 (loss nan); kept the weights of step 0")
ROWS = {
    "one seed": row(),
    "three seeds": row(values=(0.5, 0.6, 0.7), published=0.055),
    "no floor": row(floor=None),
    "not finite": row(values=(0.5, INF), floor=(0.1, NAN)),
    "diverged": row(values=(), results=[DIVERGED]),
    "partly diverged": row(values=(0.5,), results=[result(), DIVERGED]),
    "exploded": row(values=(0.5, 0.6), results=[result(0, exploded=3), result(1, exploded=1200)]),
    "interval": row(drawn=(0.4, 0.6)),
    "odd name": row(name="a|b[red]_%&", change='x, "y"\nz'),
}


def terminal(rows) -> str:
    out = io.StringIO()
    Console(file=out, width=200).print(tables.to_terminal(rows, LABELS))
    return out.getvalue()


def formats(rows) -> dict[str, str]:
    return {
        "terminal": terminal(rows),
        "csv": tables.to_csv(rows),
        "markdown": tables.to_markdown(rows, LABELS),
        "latex": tables.to_latex(rows, LABELS),
        "json": json.dumps(tables.to_json(rows), allow_nan=False),
    }


def measured(text: str, mark: str = "measured") -> str:
    return next(line for line in text.splitlines() if mark in line and "mean" not in line)


# Numbers


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (NAN, "not finite"),
        (-INF, "not finite"),
        (0.0, "0"),
        (0.043403, "0.0434"),
        (0.000001, "1e-06"),
        (-0.00012, "-0.00012"),
        (7000.0, "7,000"),
        (-2.5e7, "-2.5e+07"),
        (999.12345, "999.1235"),
    ],
)
def test_numbers(value, text):
    assert tables.number(value) == text


def test_one_seed_shows_no_spread_and_several_show_mean_and_sd():
    one, three = (tables.measured(ROWS[k].cells[LABELS[0]]) for k in ("one seed", "three seeds"))
    assert one == "0.5000"
    assert three == "0.6000 ± 0.1000"
    for kind, text in formats([ROWS["one seed"]]).items():
        body = text if kind in ("csv", "json") else measured(text)
        assert "±" not in body
        assert r"\pm" not in body
    for kind, sign in (("terminal", "±"), ("markdown", "±"), ("latex", r"$\pm$")):
        assert f"0.6000 {sign} 0.1000" in formats([ROWS["three seeds"]])[kind]


def test_within_the_floor_is_for_every_seed():
    assert tables.within_floor(row(values=(0.15, 0.2)).cells[LABELS[0]])
    assert not tables.within_floor(row(values=(0.15, 0.4)).cells[LABELS[0]])
    assert not tables.within_floor(row(values=(0.15, NAN)).cells[LABELS[0]])
    assert not tables.within_floor(row(values=(), results=[DIVERGED]).cells[LABELS[0]])
    assert not tables.within_floor(row(values=(0.2,), floor=None).cells[LABELS[0]])
    assert "≈" in measured(terminal([row(values=(0.15,))]))
    assert "≈" not in measured(terminal([row(values=(0.5,))]))


def test_the_caption_says_what_the_numbers_are():
    rows = [ROWS["three seeds"], row(name="b", results=[result().__class__(EXPERIMENT.replace(n=250), "done")])]
    text = tables.caption(rows)
    assert "n = 100 or 250 samples" in text
    assert "over 3 seeds" in text
    assert "one seed" in tables.caption([ROWS["one seed"]])
    assert "3 draws of a perfect sampler" in text


@pytest.mark.parametrize("name", ROWS)
def test_every_format_takes_every_row(name):
    for kind, text in formats([ROWS["one seed"], ROWS[name]]).items():
        assert "ddpm" in text, kind
        if kind not in ("csv", "json"):
            assert "0.1100 .. 0.2900" in text, kind


@pytest.mark.parametrize("kind", ["terminal", "csv", "markdown", "latex", "json"])
def test_what_went_wrong_stands_in_every_format(kind):
    assert "training diverged at step 2 (loss nan)" in formats([ROWS["diverged"]])[kind]
    assert "training diverged at step 2 (loss nan)" in formats([ROWS["partly diverged"]])[kind]
    text = formats([ROWS["exploded"]])[kind]
    assert "1,203 of 200 samples exploded" in text or '"exploded": 1200' in text  # a sum over the seeds, or by run
    wild = formats([ROWS["not finite"]])[kind]
    assert any(word in wild for word in ("not finite", "inf", "null"))


# CSV


def parsed(rows) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(tables.to_csv(rows))))


@pytest.mark.parametrize("name", ROWS)
def test_csv_comes_back(name):
    (wanted, other), back = tables.flat([ROWS[name]]), parsed([ROWS[name]])
    assert len(back) == 2
    for line, data in zip(back, (wanted, other), strict=True):
        assert line.keys() == data.keys()
        for key, value in data.items():
            if value is None:
                assert line[key] == ""
            elif isinstance(value, float):
                assert float(line[key]) == value or (math.isnan(value) and math.isnan(float(line[key])))
            else:
                assert line[key] == str(value)


def test_csv_holds_unrounded_numbers():
    line = parsed([row(values=(0.1 + 0.2,), published=0.043403)])[0]
    assert float(line["mean"]) == 0.1 + 0.2
    assert (line["published"], line["sd"], line["seeds"]) == ("0.043403", "", "1")
    assert float(line["floor_lo"]) == pytest.approx(0.11)
    assert line["floor_draws"] == "3"
    assert line["parameters"] == "33666"
    assert parsed([ROWS["partly diverged"]])[0]["diverged"] == "1"
    assert parsed([ROWS["exploded"]])[0]["exploded"] == "1203"


# Markdown and LaTeX


@pytest.mark.parametrize("name", ROWS)
def test_markdown_has_as_many_cells_in_every_line(name):
    text = tables.to_markdown([ROWS["three seeds"], ROWS[name]], LABELS)
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1
    assert "C2ST 2\\|AUC-.5\\|" in lines[0]
    assert set(lines[1]) == set("| -")
    assert text.split("\n")[1] == ""  # the caption is a paragraph of its own


def test_markdown_shows_all_metrics_unless_said():
    assert tables.to_markdown([ROWS["one seed"]]) == tables.to_markdown([ROWS["one seed"]], LABELS)
    assert "C2ST" not in tables.to_markdown([ROWS["one seed"]], LABELS[:1])


@pytest.mark.parametrize("name", ROWS)
def test_latex_is_escaped(name):
    text = tables.to_latex([ROWS["three seeds"], ROWS[name]], LABELS)
    body = text.splitlines()[2:]
    assert text.startswith("% n = ")
    lines = [line for line in body if line.endswith(r"\\")]
    columns = text.splitlines()[1].removeprefix(r"\begin{tabular}{").removesuffix("}")
    for line in lines:
        bare = line.replace(r"\&", "")
        assert bare.count("&") == len(columns) - 1
        for char in "%_#":
            assert char not in line.replace(f"\\{char}", "")
        assert not set(line) & set("±≈–")
        assert line.replace(r"\$", "").count("$") % 2 == 0
    assert body[-1] == r"\end{tabular}"


def test_every_special_character_of_latex():
    assert tables._tex("&%_#${}~^\\|") == (r"\&\%\_\#\$\{\}\textasciitilde{}\textasciicircum{}\textbackslash{}$|$")


# JSON


def test_json_has_neither_nan_nor_infinity():
    data = json.loads(json.dumps(tables.to_json([ROWS["not finite"]]), allow_nan=False))
    metric = data[0]["metrics"][LABELS[0]]
    assert metric["values"] == [0.5, None]
    assert metric["floor"] == {"mean": None, "lo": None, "hi": None, "draws": 2}


def test_json_has_a_floor_beside_every_value_and_every_run():
    (data,) = tables.to_json([ROWS["partly diverged"]])
    assert data["metrics"][LABELS[0]] == {
        "value": 0.5,
        "interval": [None, None],
        "values": [0.5],
        "published": None,
        "p_value": 0.25,  # larger than all three draws
        "floor": {"mean": pytest.approx(0.2), "lo": pytest.approx(0.11), "hi": pytest.approx(0.29), "draws": 3},
    }
    assert [(r["status"], r["seed"]) for r in data["runs"]] == [("done", 0), ("diverged", 0)]
    assert data["runs"][0]["id"] == EXPERIMENT.id
    assert tables.to_json([ROWS["no floor"]])[0]["metrics"][LABELS[0]]["floor"] is None


def test_the_interval_stands_in_every_format():
    """Over evaluation draws for one seed, Student's t over several."""
    for kind, text in formats([ROWS["interval"]]).items():
        assert ("0.4000 .. 0.6000" in text) or ("0.4" in text and kind in ("csv", "json")), kind
    low, high = ROWS["three seeds"].cells[LABELS[0]].interval
    assert (low, high) == pytest.approx((0.6 - 2.484 / 10, 0.6 + 2.484 / 10), abs=1e-3)
    assert f"{low:.4f} .. {high:.4f}" in terminal([ROWS["three seeds"]])
    flat = tables.flat([ROWS["three seeds"]])[0]
    assert (flat["interval_lo"], flat["interval_hi"]) == (low, high)
    assert flat["p_value"] == pytest.approx(1 / 20)  # 3 seeds above 3 draws: one of 20 orders


def test_names_are_not_read_as_markup():
    assert "a|b[red]_%&" in terminal([ROWS["odd name"]])
    assert "[red]" in terminal([row(name="x[red]", values=(), results=[DIVERGED])])
