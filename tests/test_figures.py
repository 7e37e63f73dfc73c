"""Figures: marks where the numbers are, floors drawn and said, no colour alone, the same bytes, no warning."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import matplotlib.colors
import numpy as np
import pytest
from small import tiny

from moonbed.experiments.anatomy import PARTS, Anatomy, Part, load_anatomy, save_anatomy
from moonbed.experiments.compare import Comparison, Difference
from moonbed.experiments.fields import Field
from moonbed.experiments.lossfloor import LossFloor
from moonbed.experiments.results import Result
from moonbed.experiments.rows import Cell, Row
from moonbed.experiments.storage.store import Store
from moonbed.experiments.sweeps import evaluations, sampler_name
from moonbed.metrics.detection import N50
from moonbed.metrics.significance import Floor
from moonbed.metrics.two_sample import SlicedW1
from moonbed.report import figures
from moonbed.report.figures import animation, sources
from moonbed.report.figures.style import PALETTE, parted, power

pytestmark = pytest.mark.filterwarnings("error")
INF = math.inf
W1 = {"values": (0.2, 0.3), "floor": (0.05, 0.1, 0.15), "published": 0.12, "drawn": None}


def result(seed: int = 0, **changes) -> Result:
    return Result(tiny(training__seed=seed, **changes), "done", parameters=300)


def row(name="ddpm", n50=(3_000.0,), **w1) -> Row:
    given = W1 | w1
    w1_cell = Cell(SlicedW1(), given["values"], Floor(given["floor"]), given["published"], given["drawn"])
    z = Cell(N50(), n50, Floor([INF] * 19), drawn=(2_000.0, 5_000.0), details={"n_max": 20_000})
    cells = {"sliced W1": w1_cell, "N50": z}
    return Row(name, "", tuple(result(k) for k in range(len(given["values"]))), cells)


ROWS = [row(), row("ema", n50=(INF,), values=(0.1, 0.12)), row("odd & <b>", values=(math.nan,), published=None)]


def marked(figure, gid: str) -> list[tuple[float, float]]:
    """(x, y) of what is drawn under a name in the first panel that has it."""
    for axes in figure.axes:
        lines = [line for line in axes.lines if line.get_gid() == gid]
        if lines:
            return [tuple(map(float, point)) for line in lines for point in zip(*line.get_data(), strict=True)]
    return []


def words(figure) -> str:
    import matplotlib.text

    return " ".join(t.get_text() for t in figure.findobj(matplotlib.text.Text))


def svg(figure) -> ElementTree.Element:
    return ElementTree.fromstring(figures.svg(figure, "a title & more", "one"))


# The verdict


def test_values_seeds_published_and_floor_stand_where_they_are():
    figure = figures.verdict(ROWS)
    assert {y: pytest.approx(x) for x, y in marked(figure, "value")} == {0: 0.25, 1: 0.11}
    assert sorted(marked(figure, "seeds")) == [(0.1, 1.0), (0.12, 1.0), (0.2, 0.0), (0.3, 0.0)]
    assert marked(figure, "published") == [(0.12, 0.0), (0.12, 1.0)]
    bands = [c for c in figure.axes[0].collections if c.get_gid() == "floor"]
    assert len(bands) == 1  # rows of one floor have one band
    x, y = bands[0].get_paths()[0].vertices.T
    floor = ROWS[0].cells["sliced W1"].floor
    assert (x.min(), x.max()) == pytest.approx((floor.lo, floor.hi))
    assert (y.min(), y.max()) == (-0.5, 2.5)
    assert "not finite" in words(figure)


def test_inside_and_beside_the_floor_differ_in_shape_as_well():
    by_row = {}
    for line in figures.verdict(ROWS).axes[0].lines:
        if line.get_gid() == "value":
            by_row |= {int(y): (line.get_marker(), line.get_color()) for y in line.get_ydata()}
    assert by_row[0][0] != by_row[1][0]
    assert by_row[0][1] != by_row[1][1]


def test_it_says_n_seeds_interval_floor_and_units():
    text = " ".join(words(figures.verdict(ROWS)).split())
    for part in ("n = 100", "seeds", "95 %", "19 draws", "[units of x]", "[samples]", "published", "floor"):
        assert part in text


@pytest.mark.parametrize(("width", "count"), [(3.4, 9), (7.0, 1)])
def test_any_number_of_rows_and_metrics_fits(width, count, tmp_path):
    rows = [row(f"row {k} training.steps=2000 sampler.steps=64") for k in range(count)]
    cells = {f"{label} {j} with a long name": cell for j in range(3) for label, cell in rows[0].cells.items()}
    wide = [Row(r.name, "", r.results, cells) for r in rows]
    figures.save(figures.verdict(wide, width=width), tmp_path / "verdict.png")


def test_the_comparison_shows_effects_and_verdicts():
    def difference(mean, effect, verdict):
        half = 1.0
        ends = (mean - half, mean + half)
        return Difference(SlicedW1(), (1.0,), (2.0,), None, mean, ends, effect, 0.1, 0.2, 0.3, verdict)

    found = {"a": difference(-1.0, -2.0, "better"), "b": difference(0.1, 0.05, "cannot tell yet")}
    found["c"] = difference(1.0, INF, "worse")
    comparison = Comparison("A: one", "B: two", 5, 0.05, 1.0, found, "mixed", None, (ROWS[0], ROWS[1]))
    figure = figures.differences(comparison)
    axes = figure.axes[0]
    assert marked(figure, "value")[:2] == [(-2.0, 0.0), (0.05, 1.0)]
    assert marked(figure, "value")[2][0] > 2  # at the edge
    assert marked(figure, "interval")[:2] == [(pytest.approx(-2.5), 0.0), (pytest.approx(0.0), 0.0)]
    assert [t.get_text() for t in axes.texts] == ["better", "cannot tell yet", "worse"]
    markers = {line.get_marker() for line in axes.lines if line.get_gid() == "value"}
    assert len(markers) == 3
    assert "5 paired seeds" in " ".join(words(figure).split())


def test_n50_ends_in_infinity():
    figure = figures.n50(ROWS[:2])
    axes = figure.axes[0]
    (x, y), (end, other) = marked(figure, "value")
    assert (x, y, other) == (3_000, 0, 1)
    assert end == pytest.approx(axes.get_xlim()[1])
    assert axes.get_xscale() == "log"
    text = " ".join(words(figure).split())
    assert "a perfect sampler: ∞" in text
    assert "> 20,000" in text
    assert "N50 [samples]" in text


# Curves


def test_a_training_curve_stands_above_its_floor():
    log = [(100, 0.9), (200, 0.5), (300, 0.41)]
    floor = LossFloor(0.4, 0.01, 5_000)
    none = LossFloor(None, reason="no floor: Consistency is not regressed on data")
    figure = figures.training([figures.Curve("a", log, floor), figures.Curve("b", log, none)])
    first, second = figure.axes
    assert marked(figure, "curve") == log
    (line,) = [line for line in first.lines if line.get_gid() == "floor"]
    assert set(line.get_ydata()) == {0.4}
    assert first.get_ylim()[0] < 0.4
    assert not [line for line in second.lines if line.get_gid() == "floor"]
    text = " ".join(words(figure).split())
    assert "loss floor 0.4 ± 0.02" in text
    assert "Consistency is not regressed on data" in text
    assert "5,000 examples" in text


def test_curves_of_one_floor_share_a_panel_and_differ_in_more_than_colour():
    log = [(100, 0.9), (200, 0.5)]
    axes = figures.training([figures.Curve(name, log, LossFloor(0.4, 0.01, 9)) for name in "abc"]).axes
    assert len(axes) == 1
    curves = [line for line in axes[0].lines if line.get_gid() == "curve"]
    assert len({line.get_marker() for line in curves}) == 3
    assert len({str(line._unscaled_dash_pattern) for line in curves}) == 3


def test_quality_against_evaluations():
    points = [figures.Point("DDIM", nfe, row(values=(1 / nfe,), drawn=(0.5 / nfe, 2 / nfe))) for nfe in (4, 16, 64)]
    figure = figures.quality(points, "sliced W1")
    assert marked(figure, "value") == [(4, 0.25), (16, 0.0625), (64, 0.015625)]
    assert marked(figure, "interval")[:2] == [(4, 0.125), (4, 0.5)]
    (band,) = [patch for patch in figure.axes[0].patches if patch.get_gid() == "floor"]
    floor = points[0].row.cells["sliced W1"].floor
    assert band.get_extents().height > 0
    assert (band.get_y(), band.get_y() + band.get_height()) == pytest.approx((floor.lo, floor.hi))
    assert "NFE" in words(figure)


@pytest.mark.parametrize(
    ("sampler", "count"),
    [({"type": "DDIM", "steps": 8}, 9), ({"type": "Heun", "steps": 8}, 17), ({"type": "Jump", "steps": 1}, 1)],
)
def test_evaluations_are_counted(sampler, count):
    assert evaluations(tiny(sampler=sampler)) == count


def test_guidance_costs_two():
    plain = tiny(
        training__target="EightGaussians", training__label_dropout=0.1, sampler={"type": "DDIM", "steps": 8}, label=1
    )
    assert evaluations(plain.replace(guidance={"type": "CFG"})) == 2 * evaluations(plain)


def test_a_sampler_is_called_by_what_is_unusual():
    assert sampler_name(tiny(sampler={"type": "DDIM", "steps": 8, "eta": 1.0})) == "DDIM eta=1.0"
    assert sampler_name(tiny(sampler={"type": "Heun", "steps": 9})) == "Heun"


# The error budget


def anatomy(experiment=None) -> Anatomy:
    values = {
        "floor": [0.1, 0.2, 0.3],
        "sampler": [0.2, 0.3, 0.4],
        "capacity": [0.3, 0.5, 0.4],
        "estimation": [1, 2, 2.0],
    }
    from moonbed.experiments.anatomy import _parts

    curve = {"sigma": [0.01, 0.1, 1.0], "mean": [0.5, 0.1, 0.2], "error": [0.1, 0.01, 0.3]}
    parts = {"sliced W1": _parts(values), "KSD": dict.fromkeys(PARTS, Part(INF, (-INF, INF)))}
    return Anatomy(experiment or tiny(), 3, 1, parts, {"sliced W1": values}, {"estimation": curve})


def test_a_budget_has_a_bar_for_each_cause_with_its_doubt():
    figure = figures.budget(found := anatomy())
    bars = [patch for patch in figure.axes[0].patches if (patch.get_gid() or "").startswith("part-")]
    causes = ("sampler", "capacity", "estimation", "total")
    assert [b.get_width() for b in bars] == [pytest.approx(found.parts["sliced W1"][c].value) for c in causes]
    assert len({b.get_hatch() for b in bars}) == 4
    text = " ".join(words(figure).split())
    assert "floor 0.2" in text
    assert "not finite" in text
    assert "n = 100" in text


def test_score_errors_are_where_they_are():
    axes = figures.score_errors(anatomy().score_error).axes[0]
    x, y = axes.lines[0].get_data()
    assert list(x) == [0.01, 0.1, 1.0]
    assert list(y) == [0.5, 0.1, 0.2]
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    assert "nats" in axes.get_ylabel()


def test_a_budget_is_kept(tmp_path):
    store, found = Store(tmp_path), anatomy()
    del found.parts["KSD"]
    assert load_anatomy(store, found.experiment) is None
    path = save_anatomy(store, found)
    assert path.is_file()
    assert load_anatomy(store, found.experiment) == found
    named = Row("a", "", (Result(found.experiment, "done"),), {})
    assert [name for name, _ in sources.budgets([named], store)] == ["a"]
    assert [name for name, _ in sources.errors([named], store)] == ["a"]


# Fields and animations


def planted(side: int = 12) -> Field:
    x = np.linspace(-1.0, 1.0, side)
    grid = np.stack(np.meshgrid(x, x), axis=-1)
    return Field(0.5, x, x, (grid + 0.1, grid), (np.zeros((side, side)) - 1, np.zeros((side, side))))


def test_a_field_shows_learned_exact_and_their_difference():
    figure = figures.field([planted(), planted()], "a run")
    assert [axes.get_title() for axes in figure.axes[:3]] == ["learned", "exact", "learned − exact"]
    assert planted().error == pytest.approx(math.sqrt(2) * 0.1 / 0.5)
    assert f"error {planted().error:.3g}" in words(figure)
    assert "σ/α = 0.5" in words(figure)
    assert "nats" in words(figure)


@pytest.mark.parametrize("kind", animation.KINDS)
def test_an_animation_plays_from_noise_to_data(kind):
    import io

    from PIL import Image

    rng = np.random.default_rng(0)
    states = [rng.normal(size=(50, 2)) * size for size in (20.0, 3.0, 1.0)]
    pictures = [*animation.frames(states, states[-1], np.ones((9, 9)), "a run")]
    data = animation.encode(pictures, kind)
    found = Image.open(io.BytesIO(data))
    assert (found.format, found.n_frames) == (kind.upper(), 3)
    assert found.size == pictures[0].size
    assert animation.encode(pictures, kind) == data


def test_long_trajectories_are_thinned_and_keep_their_ends():
    assert animation.chosen(3) == [0, 1, 2]
    found = animation.chosen(1_001)
    assert (found[0], found[-1], len(found)) == (0, 1000, animation.FRAMES)


# Files


EVERY = {
    "verdict": lambda: figures.verdict(ROWS),
    "n50": lambda: figures.n50(ROWS[:2]),
    "training": lambda: figures.training([figures.Curve("a", [(1, 2.0), (2, 1.0)], LossFloor(0.5, 0.1, 9))]),
    "budget": lambda: figures.budget(anatomy()),
    "score errors": lambda: figures.score_errors(anatomy().score_error),
    "quality": lambda: figures.quality([figures.Point("DDIM", k, row()) for k in (1, 9)], "sliced W1"),
    "pair": lambda: figures.pair("a", np.eye(4)[:, :2], np.eye(5)[:, :2]),
    "field": lambda: figures.field([planted()], "a run"),
}


@pytest.mark.parametrize("name", EVERY)
def test_the_same_figure_has_the_same_text(name):
    assert figures.svg(EVERY[name](), "t", "one") == figures.svg(EVERY[name](), "t", "one")


@pytest.mark.parametrize(("kind", "head"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_the_same_figure_has_the_same_bytes(kind, head, tmp_path):
    paths = [tmp_path / folder / f"figure.{kind}" for folder in "ab"]
    for path in paths:
        figures.save(EVERY["n50"](), path)
    first, second = (path.read_bytes() for path in paths)
    assert first.startswith(head)
    assert first == second


@pytest.mark.parametrize("name", EVERY)
def test_an_svg_may_stand_in_any_document(name):
    text = figures.svg(EVERY[name](), "a title & more", "one")
    root = ElementTree.fromstring(text)
    space = "{http://www.w3.org/2000/svg}"
    assert root.tag == f"{space}svg"
    assert root.attrib["role"] == "img"
    assert root.attrib["aria-label"] == root.find(f"{space}title").text == "a title & more"
    assert "viewBox" in root.attrib
    assert not {"width", "height"} & set(root.attrib)
    ids = [e.attrib["id"] for e in root.iter() if "id" in e.attrib]
    assert all(found.startswith("one-") for found in ids)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:url\(#|href="#)([^)"]+)', text)) <= set(ids)
    assert not re.search(r"<style|<script|<metadata|<!--|#000000|https?://(?!www\.w3\.org)", text)
    assert "currentColor" in text
    assert root.findall(f".//{space}text")
    assert root.attrib["font-family"] == "sans-serif"
    assert "DejaVu" not in text


@pytest.mark.parametrize("name", ["verdict", "n50", "training", "quality"])
def test_colours_are_those_of_the_palette(name):
    allowed = {c.lower() for c in PALETTE}
    text = figures.svg(EVERY[name](), "t", "one")
    used = {c.lower() for c in re.findall(r"#[0-9a-fA-F]{6}", text)}
    assert used <= allowed
    assert len({matplotlib.colors.to_rgb(c) for c in PALETTE}) == len(PALETTE)


def test_the_users_settings_do_not_matter():
    import matplotlib

    plain = figures.svg(EVERY["verdict"](), "t", "one")
    with matplotlib.rc_context(
        {"font.size": 20, "axes.facecolor": "red", "lines.linewidth": 9, "svg.fonttype": "path"}
    ):
        assert figures.svg(EVERY["verdict"](), "t", "one") == plain


@pytest.mark.parametrize(
    ("value", "text"), [(0.01, "0.01"), (2_000, "2,000"), (1e5, "10⁵"), (2e-4, "2×10⁻⁴"), (1e-3, "10⁻³")]
)
def test_ticks_of_logarithmic_axes(value, text):
    assert power(value) == text


def test_names_lose_what_all_have():
    assert parted(["a, published data, quick", "b, published data, quick"]) == (["a", "b"], "published data, quick")
    assert parted(["a, quick", "b"]) == (["a, quick", "b"], "")
    assert parted(["a, quick"]) == (["a, quick"], "")


# The page


def test_the_page_gets_what_the_data_allow(tmp_path):
    found = figures.for_page(ROWS[:2], Store(tmp_path))
    store = Store(tmp_path / "kept")
    save_anatomy(store, kept := anatomy(tiny(n=120)))
    del kept.parts["KSD"]
    more = figures.for_page([*ROWS[:2], Row("kept", "", (Result(kept.experiment, "done"),), ROWS[0].cells)], store)
    assert [f.title for f in found] == ["Samples that tell the model from the truth (N50)"]
    assert [f.title for f in more[1:]] == ["Error budget of kept", "Score error of kept by noise level"]
    for one in more:
        head, body = one.table
        assert all(len(line) == len(head) for line in body)
        assert all(isinstance(text, str) for line in body for text in line)
    assert "n = 100" in found[0].caption
    ids = [name for one in more for name in re.findall(r'\sid="([^"]*)"', one.svg)]
    assert len(ids) == len(set(ids))
    assert all(len(one.svg) < 100_000 for one in more)
    assert figures.for_page([], Store(tmp_path)) == []
