"""What the templates show: rows, a comparison and configurations, turned into plain texts, marks and keys to sort by.

Every number is written by `moonbed.report.tables`, as in the terminal. Few metrics, or many rows, make a matrix: a row
a line, a metric a column. Many metrics of one or two rows stand below one another.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from moonbed.metrics.significance import spread
from moonbed.report import tables
from moonbed.report.page.marks import Axis, axis_of, effect_mark, position, value_mark
from moonbed.report.verdicts import measured_arm

if TYPE_CHECKING:
    from moonbed.experiments.compare import Comparison, Difference
    from moonbed.experiments.rows import Cell, Row

__all__ = ["comparison_view", "configuration_view", "headline", "labels_of", "results_view", "row_views"]

FEW = 2
"""Rows of which many metrics are shown below one another."""


def labels_of(rows: Sequence[Row]) -> list[str]:
    """The metrics that a page shows: those that something is known of, and of the published ones those with a value."""
    labels = list(dict.fromkeys(label for row in rows for label in row.cells))
    cells = {label: [row.cells[label] for row in rows if label in row.cells] for label in labels}
    if any(c.published is not None for found in cells.values() for c in found):
        labels = labels[: tables.WIDE]
    return [label for label in labels if any(c.values or c.lacks for c in cells[label])]


# The verdict


def headline(rows: Sequence[Row], labels: Sequence[str]) -> str:
    """One sentence on all rows: the diagnosis of a single one, or how many are within the floor."""
    if len(rows) == 1 and rows[0].sentence:
        return f"{rows[0].name}: {rows[0].sentence}"
    counts = {row.name: _near(row, labels) for row in rows}
    if not any(asked for _, asked in counts.values()):
        return "Nothing was measured."
    if len(rows) == 1:
        near, asked = counts[rows[0].name]
        return f"{rows[0].name} is within the floor in {near} of {_count(asked, 'metric')}."
    whole = [name for name, (near, asked) in counts.items() if asked and near == asked]
    if whole:
        return f"{_listed(whole)} {'is' if len(whole) == 1 else 'are'} within the floor in every metric."
    best = max(counts, key=lambda name: counts[name][0])
    if not counts[best][0]:
        return f"None of {_count(len(rows), 'row')} is within the floor in any metric."
    ties = [name for name in counts if counts[name][0] == counts[best][0]]
    are = "comes nearest" if len(ties) == 1 else "come nearest"
    return (
        f"None of {_count(len(rows), 'row')} is within the floor in every metric; {_listed(ties)} {are}, with "
        f"{counts[best][0]} of {counts[best][1]}."
    )


def _near(row: Row, labels: Sequence[str]) -> tuple[int, int]:
    """In how many metrics the row is within the floor, and of how many."""
    asked = [row.cells[label] for label in labels if label in row.cells]
    asked = [cell for cell in asked if cell.values and cell.floor is not None]
    return sum(map(tables.within_floor, asked)), len(asked)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _listed(names: Sequence[str], most: int = 3) -> str:
    shown = [*names[:most], *([f"{len(names) - most} more"] if len(names) > most else [])]
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"


def row_views(rows: Sequence[Row], labels: Sequence[str], said: bool = False) -> list[dict[str, Any]]:
    """Name, change, diagnosis (unless it was said), counts and warnings of each row."""
    out = []
    for row in rows:
        near, asked = _near(row, labels)
        blank = bool(row.done) and not any(row.cells[label].values for label in labels if label in row.cells)
        notes = "; ".join(filter(None, (tables.notes(row), "none of these metrics was asked of it" if blank else "")))
        out.append(
            {
                "name": row.name,
                "change": row.change,
                "sentence": "" if said else row.sentence,
                "counts": f"within the floor in {near} of {asked}" if asked else "",
                "whole": bool(asked) and near == asked,
                "notes": notes,
            }
        )
    return out


# The table


@dataclass(frozen=True)
class Column:
    """A column of a table: its title, what it is sorted as ("" for not at all), and a line below the title."""

    title: str
    sort: str = "number"
    below: str = ""


@dataclass(frozen=True)
class Shown:
    """A cell as it stands on the page; `key` is what it is sorted by, "" for nothing."""

    key: str = ""
    text: str = ""
    mark: str = ""
    near: bool = False
    lines: Sequence[tuple[str, str]] = ()
    """Further (name, text), smaller."""
    said: str = ""
    """For screen readers only."""


@dataclass(frozen=True)
class Line:
    """A line of a table; the first cell is its header."""

    head: Shown
    cells: Sequence[Shown]
    row: int | None = None


@dataclass(frozen=True)
class Table:
    """What `sections/table.html.j2` draws."""

    caption: str
    columns: Sequence[Column]
    lines: Sequence[Line]
    kind: str = "matrix"
    label: str = ""
    legend: Mapping[str, str] = field(default_factory=dict)


def results_view(rows: Sequence[Row], labels: Sequence[str]) -> Table:
    """Every metric of every row with its doubt."""
    axes = {label: axis_of(row.cells[label] for row in rows if label in row.cells) for label in labels}
    long = len(rows) <= FEW and len(labels) > tables.WIDE
    columns, lines = (_long if long else _matrix)(rows, labels, axes)
    caption = tables.caption(rows) if labels else "nothing was measured"
    return Table(caption, columns, lines, "long" if long else "matrix", "Results", _legend(rows, labels))


def _legend(rows: Sequence[Row], labels: Sequence[str]) -> dict[str, str]:
    cells = [row.cells[label] for row in rows for label in labels if label in row.cells]
    out = {"value": "measured, mean over seeds" if any(len(c.values) > 1 for c in cells) else "measured"}
    if any(len(c.values) > 1 for c in cells):
        out["seed"] = "each seed"
    if any(c.interval for c in cells):
        out["interval"] = "95 % interval"
    if any(c.floor for c in cells):
        out["floor"] = "floor: perfect samplers"
    if any(c.published is not None for c in cells):
        out["published"] = "published"
    return out


def _matrix(
    rows: Sequence[Row], labels: Sequence[str], axes: Mapping[str, Axis | None]
) -> tuple[list[Column], list[Line]]:
    floors = {
        label: {tables.floor(row.cells[label]) for row in rows if label in row.cells and row.cells[label].values}
        for label in labels
    }
    shared = {label: next(iter(found)) if len(found) == 1 else "" for label, found in floors.items()}
    below = {label: f"floor {text}" if text not in ("", "–") else "" for label, text in shared.items()}
    columns = [Column("row", "text"), *(Column(label, "number", below[label]) for label in labels)]
    lines = []
    for k, row in enumerate(rows):
        cells = []
        for label in labels:
            cell = row.cells.get(label)
            cells.append(Shown() if cell is None else _shown(cell, axes[label], floor=not shared[label]))
        lines.append(Line(_head(row), cells, k))
    return columns, lines


def _head(row: Row) -> Shown:
    about = [("", f"{row.results[0].parameters:,} parameters"), ("", f"{tables.seconds(row):.0f} s training")]
    about += [("warning", "diverged")] * any(r.status == "diverged" for r in row.results)
    return Shown(row.name, row.name, lines=about)


def _shown(cell: Cell, axis: Axis | None, floor: bool) -> Shown:
    """A metric of a row in a matrix."""
    if not cell.values:
        return Shown(text="–", lines=[("", cell.lacks)] if cell.lacks else [])
    lines = [("interval", tables.interval(cell))]
    if floor:
        lines.append(("floor", tables.floor(cell)))
    lines.append(("p", tables.number(cell.p_value)))
    if cell.published is not None:
        lines.append(("published", tables.number(cell.published)))
    lines = [(name, text) for name, text in lines if text != "–"]
    mark = value_mark(cell, axis) if axis else ""
    return Shown(_key(cell), measured(cell), mark, tables.within_floor(cell), lines, position(cell))


def measured(cell: Cell) -> str:
    """As the terminal says it, but with two digits of the standard deviation."""
    if not cell.values or "text" in cell.details:
        return tables.measured(cell)
    mean, sd = spread(cell.values)
    if sd is None or not math.isfinite(sd):
        return tables.number(mean)
    digits = "0" if not sd else f"{sd:,.0f}" if 100 <= sd < 1e6 else f"{sd:#.2g}".rstrip(".")
    return f"{tables.number(mean)} ± {digits}"


def _key(cell: Cell) -> str:
    mean = spread(cell.values).mean
    return "" if math.isnan(mean) else repr(mean)


def _number(value: float | None) -> Shown:
    return Shown("" if value is None else repr(value), tables.number(value))


def _long(
    rows: Sequence[Row], labels: Sequence[str], axes: Mapping[str, Axis | None]
) -> tuple[list[Column], list[Line]]:
    several, published = len(rows) > 1, any(c.published is not None for row in rows for c in row.cells.values())
    titles = [Column("metric", "text"), *([Column("row", "text")] if several else []), Column("measured")]
    titles += [Column("p"), Column("95 % interval", ""), Column("floor", ""), *([Column("published")] * published)]
    lines = []
    for label in labels:
        for k, row in enumerate(rows):
            if label not in row.cells:
                continue
            cell, axis = row.cells[label], axes[label]
            drawn = value_mark(cell, axis, 200) if cell.values and axis else ""
            shown = Shown(
                _key(cell) if cell.values else "",
                measured(cell),
                drawn,
                tables.within_floor(cell),
                [("", cell.lacks)] if cell.lacks else [],
                position(cell),
            )
            cells = [Shown(row.name, row.name)] if several else []
            cells += [shown, _number(cell.p_value), Shown(text=tables.interval(cell)), Shown(text=tables.floor(cell))]
            lines.append(Line(Shown(label, label), cells + [_number(cell.published)] * published, k))
    return titles, lines


# Two experiments


def comparison_view(found: Comparison) -> Table:
    """A line a metric: the difference drawn in standard deviations of a pair's, with p-value and verdict."""
    scaled = {label: _scaled(found, d) for label, d in found.differences.items()}
    ends = [abs(end) for effect, pair in scaled.values() for end in (effect, *pair) if math.isfinite(end)]
    limit = min(max([1.6 * found.margin, *(1.05 * end for end in ends)]), max(8.0, 2 * found.margin))
    a, b = found.rows
    columns = [
        Column("metric", "text"),
        Column("B - A", "number", "← B better, in sd of a pair, B worse →"),
        Column("B is", "text"),
        Column("Holm p"),
        Column("difference", "number", "badness, 95 % interval"),
        Column(f"A: {a.name.removeprefix('A: ')}"),
        Column(f"B: {b.name.removeprefix('B: ')}"),
        Column("floor", ""),
    ]
    lines = []
    for label, d in found.differences.items():
        effect, pair = scaled[label]
        drawn = effect_mark(effect, pair, found.margin, limit, d.verdict)
        low, high = d.interval
        doubt = [("", f"{low:.3g} .. {high:.3g}")] if math.isfinite(high - low) else []
        cells = [
            Shown(_finite(effect), f"{effect:+.2f} sd" if math.isfinite(effect) else "–", drawn),
            Shown(d.verdict, d.verdict),
            Shown(repr(d.p_holm), f"{d.p_holm:.2g}"),
            Shown(_finite(d.mean), f"{d.mean:.3g}" if math.isfinite(d.mean) else "not finite", lines=doubt),
            _arm(d.a),
            _arm(d.b),
            Shown(text=tables.floor(a.cells[label])),
        ]
        lines.append(Line(Shown(label, label), cells))
    caption = (
        f"{found.seeds} paired seeds; difference: B - A in badness (positive: B is worse), with its 95 % interval; "
        f"drawn over the sd of a pair's difference, equivalence margin of {found.margin:g} sd shaded; p: paired t, "
        f"adjusted by Holm over {len(found.differences)} metrics; level {found.level:.3g}; arms: mean ± sd over seeds"
    )
    return Table(caption, columns, lines, "comparison", "Comparison")


def _scaled(found: Comparison, d: Difference) -> tuple[float, tuple[float, float]]:
    """Effect and interval over the standard deviation of the pairs' differences."""
    from moonbed.experiments.compare import paired_badness

    sd = spread(paired_badness(*found.rows, d.metric)).sd
    if not sd or not math.isfinite(sd):
        return d.effect, (d.effect, d.effect)
    return d.effect, (d.interval[0] / sd, d.interval[1] / sd)


def _arm(values: tuple[float, ...]) -> Shown:
    return Shown(_finite(spread(values).mean) if values else "", measured_arm(values))


def _finite(value: float) -> str:
    return "" if math.isnan(value) else repr(value)


# Configurations


@dataclass(frozen=True)
class Differences:
    """A grid of texts, each with whether it is unlike the first row's."""

    corner: str
    titles: Sequence[str]
    lines: Sequence[tuple[str, Sequence[tuple[str, bool]]]]


def configuration_view(rows: Sequence[Row]) -> dict[str, Any]:
    """The fields in which rows differ, and every configuration whole with the ids of its runs.

    A field is a line where there are few rows, else a column.
    """
    from moonbed.experiments.differences import between_experiments, short

    groups = [[r.experiment for r in row.results] for row in rows]
    names = [row.name for row in rows]
    fields = {
        place: [(short(value), value != values[0]) for value in values]
        for place, values in between_experiments(groups).items()
    }
    if len(rows) <= FEW + 1:
        grid = Differences("field", names, [*fields.items()])
    else:
        grid = Differences(
            "row", [*fields], [(n, [cells[k] for cells in fields.values()]) for k, n in enumerate(names)]
        )
    runs = [
        [{"seed": e.training.seed, "id": e.id, "training": e.training.id} for e in sorted(g, key=_seed)] for g in groups
    ]
    whole = [(name, str(group[0]), ids) for name, group, ids in zip(names, groups, runs, strict=True)]
    return {"several": len(rows) > 1, "grid": grid if fields else None, "whole": whole}


def _seed(experiment: Any) -> int:
    return int(experiment.training.seed)
