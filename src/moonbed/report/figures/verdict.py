"""The verdict drawn: every value with its 95 % interval on the band of its floor, and the differences of a comparison.

A strip a metric, a line a row. The band is the 5 % to 95 % range of what exact samples get under the same protocol; a
mark on it (green square) cannot be told from perfect, one beside it (vermilion disc) can. Seeds are small ticks. A
published value is a hollow diamond.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import groupby
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from moonbed.metrics.significance import spread
from moonbed.report.figures.style import (
    BAND,
    GENERATED,
    INK,
    INSIDE,
    TARGET,
    WIDTH,
    linear,
    logarithmic,
    margin,
    new,
    note,
    parted,
    pitch,
    plain,
    short,
    styled,
)
from moonbed.report.tables import interval_caption, within_floor

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from moonbed.experiments.compare import Comparison
    from moonbed.experiments.rows import Cell, Row

__all__ = ["differences", "verdict"]

STRIP = 1.3
"""Inches of a strip, at least."""
VERDICTS = {
    "better": (TARGET, "v"),
    "worse": (GENERATED, "^"),
    "equivalent": (INSIDE, "s"),
    "mixed": (INK, "D"),
    "cannot tell yet": (INK, "o"),
}


@styled
def verdict(rows: Sequence[Row], labels: Sequence[str] | None = None, width: float = WIDTH) -> Figure:
    """Values and intervals of all rows on their floors, a strip for each metric (all with values, unless said)."""
    labels = list(labels or shown(rows))
    names, shared = parted([row.name for row in rows])
    room = width - margin(names)
    columns = max(1, min(len(labels), int(room / STRIP)))
    lines = -(-len(labels) // columns)
    wrapped = {label: wrap(titled(label, rows[0].cells[label]), int(15 * room / columns)) for label in labels}
    head = 0.3 + 0.13 * max(map(len, wrapped.values()))
    figure = new(width, lines * (head + pitch(names, 0.155) * len(rows)) + 0.85)
    grid = figure.subplots(lines, columns, squeeze=False, sharey=True)
    for axes, label in zip(grid.flat, labels, strict=False):
        axes.set_title("\n".join(wrapped[label]), loc="left", pad=3)
        _strip(axes, [row.cells[label] for row in rows])
    for axes in list(grid.flat)[len(labels) :]:
        axes.set_axis_off()
    grid[0, 0].set(yticks=range(len(rows)), yticklabels=names, ylim=(len(rows) - 0.4, -0.6))
    cells = [cell for row in rows for cell in row.cells.values()]
    seeds = max(len(cell.values) for cell in cells) > 1
    published = any(row.cells[label].published is not None for row in rows for label in labels)
    handles = _key(seeds, published)
    figure.legend(handles=handles, loc="outside upper left", ncols=2 if width < 5 else len(handles), columnspacing=1.2)
    note(figure, (f"{shared}; " if shared else "") + interval_caption(rows))
    return figure


def shown(rows: Sequence[Row]) -> list[str]:
    """The metrics that any row has a value of."""
    return [label for label in rows[0].cells if any(row.cells[label].values for row in rows)]


def titled(label: str, cell: Cell) -> str:
    """A metric with its unit."""
    return f"{label} [{cell.metric.unit}]" if cell.metric.unit else label


def _strip(axes: Axes, cells: Sequence[Cell]) -> None:
    low, high, log = _range(cells)
    axes.set_xlim(low, high)
    logarithmic(axes, "x") if log else linear(axes, "x", 4)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    _bands(axes, cells, (low, high))
    for inside in (False, True):
        _marks(axes, {k: c for k, c in enumerate(cells) if c.values and within_floor(c) == inside}, inside, (low, high))
    for k, cell in enumerate(cells):
        if not cell.values:
            axes.text(0.02, k, "–", transform=axes.get_yaxis_transform(), va="center", fontsize=6)
    published = {k: min(max(c.published, low), high) for k, c in enumerate(cells) if c.published is not None}
    if published:
        axes.plot(
            [*published.values()], [*published], "D", mfc="none", mec=INK, ms=4.2, mew=0.8, zorder=4, gid="published"
        )


def _bands(axes: Axes, cells: Sequence[Cell], ends: tuple[float, float]) -> None:
    """The floors, neighbours of one floor as one band; a floor of no width, or at infinity, is a line."""
    floors = [(c.floor.lo, c.floor.hi) if c.floor and not math.isnan(c.floor.lo) else None for c in cells]
    for floor, group in groupby(enumerate(floors), key=lambda pair: pair[1]):
        places = [k for k, _ in group]
        if floor is None:
            continue
        lo, hi = (min(max(end, ends[0]), ends[1]) for end in floor)
        bottom, top = places[0] - 0.5, places[-1] + 0.5
        axes.fill_betweenx([bottom, top], lo, hi, color=TARGET, alpha=BAND, linewidth=0, gid="floor")
        axes.vlines([lo, hi], bottom, top, color=TARGET, linewidth=0.6, alpha=0.6)


def _marks(axes: Axes, cells: Mapping[int, Cell], inside: bool, ends: tuple[float, float]) -> None:
    """Values, intervals and seeds of the rows that are all on the floor, or all beside it."""
    low, high = ends
    colour, marker = (INSIDE, "s") if inside else (GENERATED, "o")
    means = {k: spread(cell.values).mean for k, cell in cells.items()}
    for k in [k for k, mean in means.items() if math.isnan(mean)]:
        axes.text(0.5, k, "not finite", transform=axes.get_yaxis_transform(), ha="center", va="center", fontsize=6)
        del means[k]
    doubts = {k: i for k in means if (i := cells[k].interval) is not None}
    axes.hlines(
        [*doubts], [max(a, low) for a, _ in doubts.values()], [min(b, high) for _, b in doubts.values()], color=colour,
        linewidth=1.0, gid="interval",
    )  # fmt: skip
    below, above = [k for k, (a, _) in doubts.items() if a < low], [k for k, (_, b) in doubts.items() if b > high]
    seeds = [(v, k) for k in means for v in cells[k].values if len(cells[k].values) > 1 and math.isfinite(v)]
    at = [(min(max(mean, low), high), k) for k, mean in means.items()]
    for places, look, options in (
        ([(low, k) for k in below], "<", {"ms": 2.5}),
        ([(high, k) for k in above], ">", {"ms": 2.5}),
        (seeds, "|", {"ms": 5, "mew": 0.7, "gid": "seeds"}),
        (at, marker, {"ms": 4.0, "zorder": 5, "gid": "value"}),
    ):
        if places:  # an empty line that is not clipped would take part in the layout, at the origin
            axes.plot([x for x, _ in places], [k for _, k in places], look, color=colour, clip_on=False, **options)
    for k, mean in means.items():
        if mean > high:
            text = "∞" if math.isinf(mean) else f"{mean:.3g}"
            axes.annotate(text, (high, k), (-4, 0), textcoords="offset points", fontsize=6, ha="right", va="center")


def _range(cells: Sequence[Cell]) -> tuple[float, float, bool]:
    """What an axis shows: values, floors, published values, and intervals as far as they leave room for these."""
    inner = plain([v for c in cells for v in (*c.values, c.published)])
    inner += plain([v for c in cells if c.floor for v in (c.floor.lo, c.floor.hi)])
    outer = plain([v for c in cells if c.interval for v in c.interval])
    infinite = any(math.isinf(v) and v > 0 for c in cells for v in (*c.values, *((c.floor.hi,) if c.floor else ())))
    if not inner:
        return 0.0, 1.0, False
    low, high = min(inner), max(inner)
    if low > 0 and (high / low > 50 or infinite):
        low, high = min([low, *(v for v in outer if v > low / 4)]), max([high, *(v for v in outer if v < high * 4)])
        return low / 1.25, high * (3 if infinite else 1.25), True
    room = (high - low) or abs(high) or 1.0
    low = min([low, *(max(v, low - 0.6 * room) for v in outer)])
    high = max([high, *(min(v, high + 0.6 * room) for v in outer)])
    pad = 0.06 * ((high - low) or 1.0)
    return low - pad, high + pad, False


def _key(seeds: bool, published: bool) -> list[Any]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    out: list[Any] = [
        Line2D(
            [],
            [],
            color=INSIDE,
            marker="s",
            linewidth=1.0,
            label="every seed on the floor" if seeds else "on the floor",
        ),
        Line2D(
            [], [], color=GENERATED, marker="o", linewidth=1.0, label="not every seed" if seeds else "beside the floor"
        ),
        Patch(color=TARGET, alpha=BAND, linewidth=0, label="floor: perfect samples"),
    ]
    if seeds:
        out.append(Line2D([], [], linestyle="", marker="|", color=INK, ms=5, label="one seed"))
    if published:
        out.append(Line2D([], [], linestyle="", marker="D", mfc="none", mec=INK, ms=4.2, label="published"))
    return out


@styled
def differences(found: Comparison, width: float = WIDTH) -> Figure:
    """B against A: for each metric the difference of badness in standard deviations of a pair's, and its verdict.

    Left of 0, B is better. Within the margin (band) they are equivalent as far as that is asked.
    """
    labels = list(found.differences)
    figure = new(width, 0.17 * len(labels) + 1.15)
    axes = figure.subplots()
    axes.axvspan(-found.margin, found.margin, color=TARGET, alpha=BAND, linewidth=0, gid="margin")
    axes.axvline(0, color=INK, linewidth=0.6)
    effects = {label: _standardised(d) for label, d in found.differences.items()}
    reach = max([2.5 * found.margin, *(1.15 * abs(e[0]) for e in effects.values() if math.isfinite(e[0]))])
    reach = min(reach, 12.0 * found.margin)
    for k, label in enumerate(labels):
        d, (effect, low, high) = found.differences[label], effects[label]
        colour, marker = VERDICTS[d.verdict]
        axes.plot([max(low, -reach), min(high, reach)], [k, k], color=colour, linewidth=1.0, gid="interval")
        at = min(max(effect, -reach), reach)
        axes.plot(at, k, marker, color=colour, ms=4.2, clip_on=False, zorder=5, gid="value")
        axes.text(1.02, k, d.verdict, transform=axes.get_yaxis_transform(), va="center", fontsize=6.0, color=colour)
    axes.set(yticks=range(len(labels)), yticklabels=[short(label, 20) for label in labels])
    axes.set(xlim=(-1.02 * reach, 1.02 * reach), ylim=(len(labels) - 0.4, -0.6))
    axes.set_xlabel("difference / standard deviation of a pair's\n← B better        B worse →")
    linear(axes, "x", 5)
    axes.tick_params(axis="y", length=0)
    a, b = (short(name.removeprefix(f"{arm}: "), 24) for arm, name in (("A", found.a), ("B", found.b)))
    axes.set_title(f"A: {a}    B: {b}", loc="left")
    note(
        figure,
        f"{found.seeds} paired seeds, n = {found.rows[0].results[0].experiment.n:,}; interval: 95 % (Student's t); "
        f"verdict: paired t adjusted by Holm, level {found.level:.3g}; band: equivalent within {found.margin:g}; "
        "infinite or constant differences stand at the edge",
    )
    return figure


def _standardised(d: Any) -> tuple[float, float, float]:
    """Effect and its interval; 0 where nothing differs."""
    scale = d.mean / d.effect if d.effect and math.isfinite(d.effect) else math.nan
    if not scale or math.isnan(scale):
        return d.effect, d.effect, d.effect
    low, high = d.interval
    return d.effect, low / scale, high / scale
