"""The page: what stands where, drawn where it should be, and nothing that a name can break."""

from __future__ import annotations

import math
import re
from html.parser import HTMLParser

import pytest
from small import tiny

from moonbed.component import Component
from moonbed.diffusion.samplers import DDIM
from moonbed.experiments.compare import judge_difference
from moonbed.experiments.differences import between_experiments, differing, short
from moonbed.experiments.presets import PRESETS
from moonbed.experiments.results import Result
from moonbed.experiments.rows import Cell, Row
from moonbed.metrics.significance import Floor
from moonbed.metrics.two_sample import C2ST, Energy, SlicedW1
from moonbed.networks.mlp import MLP
from moonbed.report.page import fragment, page
from moonbed.report.page.build import script_data
from moonbed.report.page.bundle import ENGINE_FILES, LIVE_FILES, bundle
from moonbed.report.page.marks import Axis, axis_of, effect_mark, position, value_mark
from moonbed.report.page.views import headline, labels_of, measured

NAN, INF = math.nan, math.inf
METRICS = {"sliced W1": SlicedW1(), "energy": Energy(), "C2ST accuracy": C2ST(score="accuracy")}


def cell(*values, floor=(0.1, 0.2, 0.3), published=None, drawn=None, metric=METRICS["sliced W1"]) -> Cell:
    return Cell(metric, values, Floor(floor) if floor else None, published, drawn)


def row(name="ddpm", *values, experiment=None, change="", message="", sentence="", **more) -> Row:
    experiment = experiment or tiny()
    values = values or (0.25, 0.35)
    details = {"sentence": sentence} if sentence else {}
    results = []
    for k, value in enumerate(values):
        seeded = experiment.replace(**{"training.seed": experiment.training.seed + k})
        answers = {m.id: _answer(value, details) for m in METRICS.values()}
        results.append(Result(seeded, "done", answers=answers, parameters=1234, training_seconds=2.0))
    if message:
        results.append(Result(experiment, "diverged", message))
    cells = {label: cell(*values, metric=metric, **more) for label, metric in METRICS.items()}
    return Row(name, change, tuple(results), cells)


def _answer(value, details):
    from moonbed.experiments.evaluate import Answer

    return Answer(value, None, details)


class Seen(HTMLParser):
    """Elements with their attributes, and the text outside of style and script."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.open = "", []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "br", "wbr", "circle", "rect", "path"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in ("circle", "rect", "path"):
            assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"style", "script"} & set(self.open):
            self.text += data

    def attributes(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


# Marks


def drawn(svg: str) -> dict[str, float]:
    """Where the parts of a mark are."""
    out = {}
    if found := re.search(r'class="mk-floor" [^>]*?x="([\d.]+)" y="3" width="([\d.]+)"', svg):
        out["lo"], out["hi"] = float(found[1]), float(found[1]) + float(found[2])
    if found := re.search(r'class="mk-value[^"]*" [^>]*?cx="([\d.]+)"', svg):
        out["value"] = float(found[1])
    if found := re.search(r'class="mk-published" [^>]*?d="M([\d.]+)', svg):
        out["published"] = float(found[1])
    if found := re.search(r'class="mk-interval" [^>]*?d="M([\d.]+) 11H([\d.]+)', svg):
        out["from"], out["to"] = float(found[1]), float(found[2])
    return out


@pytest.mark.parametrize(
    ("value", "where"), [(0.2, "within the floor"), (0.05, "below the floor"), (0.4, "above the floor")]
)
def test_a_value_is_drawn_where_it_lies(value, where):
    one = cell(value, published=0.5, drawn=(value - 0.02, value + 0.02))
    axis = axis_of([one, cell(0.0), cell(1.0)])
    at = drawn(value_mark(one, axis))
    assert position(one) == where
    assert (at["lo"] <= at["value"] <= at["hi"]) == (where == "within the floor")
    assert (at["value"] < at["lo"]) == (where == "below the floor")
    assert at["from"] < at["value"] < at["to"] < at["published"]
    assert f'aria-label="{where}"' in value_mark(one, axis)


def test_marks_of_a_metric_share_an_axis():
    cells = [cell(0.2, 0.3), cell(0.9), cell(0.5, published=0.0)]
    axis = axis_of(cells)
    places = [drawn(value_mark(c, axis))["value"] for c in cells]
    assert places[1] > places[2] > places[0]
    assert (places[1] - places[2]) / (places[2] - places[0]) == pytest.approx(0.4 / 0.25, rel=0.05)
    assert drawn(value_mark(cells[2], axis))["published"] < places[0]


def test_an_axis_is_logarithmic_where_values_are_far_apart():
    axis = axis_of([cell(0.001, floor=None), cell(0.1, floor=None), cell(10.0, floor=None)])
    assert axis.log
    assert axis.share(0.1) == pytest.approx(0.5)
    assert not axis_of([cell(0.0, floor=None), cell(10.0, floor=None)]).log
    assert not axis_of([cell(-1.0, floor=None), cell(100.0, floor=None)]).log


def test_an_interval_beyond_the_axis_ends_in_an_arrow():
    wide = cell(0.2, drawn=(-50.0, 50.0))
    axis = axis_of([wide])
    assert axis.high < 1
    svg = value_mark(wide, axis)
    assert svg.count("l-3.5 3.5l3.5 3.5") == svg.count("l3.5 3.5l-3.5 3.5") == 1
    assert "v6" in value_mark(cell(0.2, drawn=(0.1, 0.3)), axis)


@pytest.mark.parametrize(
    "odd",
    [
        cell(NAN),
        cell(INF),
        cell(-INF, 0.2),
        cell(0.2, floor=(NAN, 0.1)),
        cell(0.2, floor=(INF, INF)),
        cell(0.2, floor=(0.1, INF)),
        cell(0.0, floor=(0.0, 0.0)),
        cell(1e300, floor=(-1e300, 0.0)),
        cell(5e-324, floor=None),
        cell(0.3, drawn=(-INF, INF)),
        Cell(METRICS["energy"], (), Floor([0.1])),
    ],
)
def test_odd_numbers_are_drawn_or_left_out(odd):
    axis = axis_of([odd, cell(0.5)])
    svg = value_mark(odd, axis)
    assert "nan" not in svg
    assert "inf" not in svg
    assert all(0 <= x <= 132 for x in drawn(svg).values())
    assert axis_of([cell(NAN, floor=None)]) is None


def test_an_infinite_floor_is_at_the_end():
    found = cell(3000.0, floor=(INF, INF))
    at = drawn(value_mark(found, axis_of([found])))
    assert at["value"] < at["lo"]
    assert position(found) == "below the floor"


def test_an_effect_lies_on_its_side_of_zero():
    for effect, verdict, said in ((-1.5, "better", "B is better"), (1.5, "worse", "B is worse")):
        svg = effect_mark(effect, (effect - 1, effect + 1), 1.0, 4.0, verdict)
        zero = float(re.search(r'class="mk-zero" [^>]*?d="M([\d.]+)', svg)[1])
        assert (drawn(svg)["value"] < zero) == (effect < 0)
        assert f'class="mk-{verdict}"' in svg
        assert said in svg
    for effect in (INF, -INF, 40.0):
        assert "circle" not in effect_mark(effect, (effect, effect), 1.0, 4.0, "worse")
    assert Axis(1, 2).share(5) == 1


# The page


def test_the_verdict_stands_first_and_everything_is_there():
    rows = [row("one", 0.2, 0.25, published=0.5), row("two", 0.5, 0.6, change="more steps", message="it diverged")]
    html = page(rows, title="A title", lead="A lead", command="moonbed report", versions={"torch": "2.6"})
    seen = Seen(html)
    assert seen.open == ["html"] or not seen.open
    places = [html.index(f'<section id="{name}"') for name in ("verdict", "results", "configuration", "about")]
    assert places == sorted(places)
    for text in ("A title", "A lead", "more steps", "it diverged", "moonbed report", "torch 2.6", "0.2250 ± 0.035"):
        assert text in seen.text
    assert "one is within the floor in every metric." in " ".join(seen.text.split())
    assert "≈" in seen.text
    assert len(seen.attributes("svg")) >= 6
    assert all(svg.get("aria-label") or svg.get("aria-hidden") for svg in seen.attributes("svg"))
    ids = [attrs["id"] for _, attrs in seen.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    named = {attrs["aria-labelledby"] for _, attrs in seen.tags if "aria-labelledby" in attrs}
    assert named <= set(ids)


def test_it_asks_nothing_of_a_network():
    html = page([row(published=0.1)])
    assert not re.search(r"https?://|//\w+\.\w|url\(|@import|<link|<img|src=", html)
    assert "default-src 'none'" in html
    assert len(html) < 120_000


HOSTILE = [
    "<script>alert(1)</script>",
    "\"><img src=x onerror='alert(1)'>",
    "</style></script><!--",
    "a\u2028b\u2029c{{ 7 * 7 }}{% raw %}",
    "' onload='x",
]


PLAIN = {"title": "x", "lead": "x", "command": "x", "versions": {"x": "x"}}


@pytest.mark.parametrize("name", HOSTILE)
def test_names_cannot_break_out(name):
    rows = [row(name, change=name, message=name, sentence=name), row("other", 0.5, sentence=name)]
    base = Seen(page([row("x", change="x", message="x", sentence="x"), row("other", 0.5, sentence="x")], **PLAIN))
    html = page(rows, title=name, lead=name, command=name, versions={name: name})
    seen = Seen(html)
    assert [tag for tag, _ in seen.tags] == [tag for tag, _ in base.tags]
    assert [set(attrs) for _, attrs in seen.tags] == [set(attrs) for _, attrs in base.tags]
    assert name in seen.text
    assert "49" not in re.findall(r"b\u2029c(\d+)", html)
    named = Row(rows[0].name, "", rows[0].results, {name: cell(0.1)})
    assert name in Seen(fragment([named])).text


def test_data_cannot_end_its_script():
    text = script_data({"name": "</script><!--\u2028", "x": [1.5]})
    assert "<" not in text
    assert "\u2028" not in text
    assert __import__("json").loads(text)["name"] == "</script><!--\u2028"
    with pytest.raises(ValueError):
        script_data([NAN])


def test_models_stand_behind_what_is_read_first():
    live = {
        "version": 1,
        "networks": {},
        "laws": {},
        "levels": {},
        "plans": {},
        "models": [{"name": "</script>\u2028"}],
    }
    html = page([row("one")], live=(live, b"12345678"))
    places = [html.index(f'id="{name}"') for name in ("verdict", "about", "moonbed-live", "moonbed-blob")]
    assert places == sorted(places)
    assert html.rindex("<section") < places[2]
    assert html.index("MTIzNDU2Nzg=") > places[3]
    assert "\u2028" not in html
    assert len(re.findall("</script>", html)) == len(re.findall("<script", html)) == 5
    assert not [name for name in (*ENGINE_FILES, *LIVE_FILES) if re.search("</?script|<!--", bundle([name]))]


def test_many_metrics_of_one_row_stand_below_one_another():
    metrics = {f"metric {k}": cell(0.1 * k + 0.05, drawn=(0.0, 1.0)) for k in range(9)}
    one = Row("fast", "", row().results[:1], metrics)
    html = page([one])
    assert "mb-long" in html
    assert html.count("<tr") == 1 + 9
    assert "mb-matrix" in page([one, Row("b", "", one.results, metrics), Row("c", "", one.results, metrics)])


def test_what_was_not_measured_is_said():
    blank = Row("blank", "", row().results, {"energy": Cell(METRICS["energy"], (), None)})
    seen = Seen(page([row("full"), blank]))
    assert "none of these metrics was asked of it" in seen.text
    lacking = Row("no score", "", row().results, {"KSD": Cell(METRICS["energy"], (), None, lacks="needs a score")})
    assert "needs a score" in Seen(page([lacking])).text
    assert "The store holds no value" in Seen(page([blank])).text
    with pytest.raises(ValueError):
        page([])


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ((0.5,), "0.5000"),
        ((3893.4, 4124.7), "4,009 ± 164"),
        ((0.0170, 0.0172), "0.0171 ± 0.00014"),
        ((0.5, 0.5), "0.5000 ± 0"),
        ((10.0, 43.0), "26.5000 ± 23"),
        ((0.1, 0.11414), "0.1071 ± 0.010"),
        ((0.1, INF), "∞"),
        ((NAN,), "not finite"),
        ((), "–"),
    ],
)
def test_a_number_with_its_spread(values, said):
    assert measured(cell(*values)) == said


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([row("a", 0.2)], "a is within the floor in 3 of 3 metrics."),
        ([row("a", 0.2), row("b", 0.9)], "a is within the floor in every metric."),
        ([row(n, 0.2) for n in "abcde"], "a, b, c and 2 more are within the floor in every metric."),
        ([row("a", 0.9), row("b", 0.8)], "None of 2 rows is within the floor in any metric."),
        ([row("a", 0.9, floor=None), row("b", 0.8, floor=None)], "Nothing was measured."),
    ],
)
def test_the_headline(rows, said):
    assert headline(rows, labels_of(rows)) == said


def test_the_published_metrics_are_those_of_the_terminal():
    cells = {f"m{k}": cell(0.1, published=0.2) for k in range(8)}
    assert labels_of([Row("a", "", row().results, cells)]) == [f"m{k}" for k in range(6)]


def test_a_comparison_is_drawn():
    a, b = row("plain", 0.5, 0.52, 0.51, 0.53), row("better <b>", 0.2, 0.23, 0.2, 0.22)
    found = judge_difference(a, b)
    seen = Seen(page(found.rows, comparison=found))
    assert found.verdict == "better"
    assert found.sentence in " ".join(seen.text.split())
    marks = [svg for svg in seen.attributes("svg") if "B is better" in (svg.get("aria-label") or "")]
    assert len(marks) == 3
    assert "sentence-better" in page(found.rows, comparison=found)
    assert "mk-better" in fragment(found.rows, found)
    same = judge_difference(a, a)
    assert "equivalent" in Seen(page(same.rows, comparison=same)).text


def test_a_fragment_stands_alone():
    html = fragment([row("one", sentence="too wide"), row("two", message="it diverged")])
    seen = Seen(html)
    assert seen.tags[0] == ("div", {"class": "moonbed"})
    assert not seen.open
    assert "script" not in [tag for tag, _ in seen.tags]
    assert "too wide" in seen.text
    assert "it diverged" in seen.text
    css = re.search(r"<style>(.*?)</style>", html, re.S)[1]
    rules = re.findall(r"^(?:@media[^{]*\{\s*)?([.\[\w][^{}@]*)\{", css, re.M)
    assert [rule for rule in rules if not re.match(r"\.(moonbed|mb-|mk-)|\[aria-sort|td \.mb-", rule.strip())] == []


# Configurations


def test_only_what_differs_is_shown():
    base = tiny()
    other = base.replace(**{"sampler": DDIM(steps=7), "training.network": MLP(hidden=(8, 8)), "n": 50})
    fields = between_experiments([[base], [other]])
    assert set(fields) == {"sampler", "training.network.hidden", "n"}
    seen = Seen(page([row("a", experiment=base), row("b", experiment=other)]))
    assert "differs: " in seen.text
    assert "DDIM(steps=7)" in seen.text
    assert "training.network.hidden" in seen.text
    assert "training.<wbr>network.<wbr>hidden" in page([row("a", experiment=base), row("b", experiment=other)])
    assert len([td for td in seen.attributes("td") if td.get("class") == "unlike"]) == 3
    assert str(base) in seen.text
    assert base.id in seen.text
    assert "The rows have the same configuration." in Seen(page([row("a"), row("b")])).text


def test_seeds_of_a_row_are_no_difference():
    base = tiny()
    seeds = [base.shifted(k) for k in range(3)]
    assert between_experiments([seeds, seeds]) == {}
    assert between_experiments([seeds, seeds[:2]]) == {"training.seed": ("0, 1, 2", "0, 1")}
    assert differing([base, base.replace(seed=3)]) == {"seed": (0, 3)}


def test_a_value_in_a_line():
    assert short(PRESETS["fast"].training.schedule) == "VE(sigma_max=20)"
    assert short(MLP(hidden=(1, 2))) == "MLP(hidden=[1, 2])"
    assert (short(None), short(True), short(1_000_000), short(0.5)) == ("None", "True", "1000000", "0.5")
    assert all(isinstance(short(e), str) and isinstance(e, Component) for e in PRESETS.values())


# In the browser


@pytest.fixture
def table(page, tmp_path):
    """A page with three rows, open in the browser: the first, the least, one without a value."""
    rows = [row("b", 0.5), row("a", 0.25), row("a10", 0.9), row("a9", 0.25)]
    rows.append(Row("none", "", rows[0].results, {"energy": Cell(METRICS["energy"], (), None)}))
    from moonbed.report.page import page as build

    (tmp_path / "page.html").write_text(build(rows, title="Sorting"), encoding="utf-8")
    page.goto((tmp_path / "page.html").as_uri())
    return page


def names(table) -> list[str]:
    return table.eval_on_selector_all(
        "#results tbody th .mb-main", "cells => cells.map(cell => cell.textContent.trim())"
    )


def test_a_table_sorts_by_mouse_and_keyboard(table):
    first = ["b", "a", "a10", "a9", "none"]
    assert names(table) == first
    button = table.get_by_role("button", name="energy")
    heading = table.locator("#results th", has=button)
    button.click()
    assert names(table) == ["a", "a9", "b", "a10", "none"]
    assert heading.get_attribute("aria-sort") == "ascending"
    button.press("Enter")
    assert names(table) == ["a10", "b", "a", "a9", "none"]
    assert heading.get_attribute("aria-sort") == "descending"
    button.press("Space")
    assert names(table) == first
    assert heading.get_attribute("aria-sort") == "none"
    table.get_by_role("button", name="row").click()
    assert names(table) == ["a", "a9", "a10", "b", "none"]
    assert table.evaluate("document.activeElement.textContent") == "row"
    assert table.locator("th[aria-sort=ascending]").count() == 1


@pytest.mark.parametrize("width", [320, 360, 800, 1440])
def test_no_width_scrolls_the_page_itself(table, width):
    table.set_viewport_size({"width": width, "height": 800})
    assert table.evaluate("document.documentElement.scrollWidth") <= width
    region = table.locator("#results .moonbed-table")
    region.focus()
    assert region.evaluate("node => node === document.activeElement")


def test_contrast_in_both_themes(table):
    """Text on its ground reaches 4.5 : 1, marks 3 : 1 (WCAG 2.2)."""
    measure = """theme => {
        document.documentElement.dataset.theme = theme;
        const of = name => {
            const probe = document.createElement("i");
            probe.style.color = `var(--${name})`;
            document.body.append(probe);
            const [r, g, b] = getComputedStyle(probe).color.match(/\\d+/g).map(Number).map(v => v / 255)
                .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
            probe.remove();
            return 0.2126 * r + 0.7152 * g + 0.0722 * b;
        };
        const ratio = (a, b) => (Math.max(of(a), of(b)) + 0.05) / (Math.min(of(a), of(b)) + 0.05);
        const out = {};
        const texts = ["ink", "muted", "accent", "good", "bad"];
        for (const ground of ["bg", "panel", "changed"])
            for (const name of texts) out[`${name} ${ground}`] = ratio(name, ground);
        for (const name of ["target", "generated"]) out[name] = ratio(name, "bg") * 1.5;
        return out;
    }"""
    for theme in ("light", "dark"):
        found = table.evaluate(measure, theme)
        assert {name: ratio for name, ratio in found.items() if ratio < 4.5} == {}, theme
