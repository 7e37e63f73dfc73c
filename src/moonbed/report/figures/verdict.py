"""The verdict drawn: every value with its 95 % interval on the band of its floor, and the differences of a comparison.

A strip a metric, a line a row. The band is the 5 % to 95 % range of what exact samples get under the same protocol; a
mark on it (green square) cannot be told from perfect, one beside it (vermilion disc) can. Seeds are small ticks. A
published value is a hollow diamond.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
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
    new,
    note,
    plain,
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
    """Values and intervals of all rows on their floors, a strip for each metric (all that have values, unless said)."""
    labels = [label for label in labels or shown(rows)]
    names = [short(row.name) for row in rows]
    margin = 0.062 * max(map(len, names), default=1) + 0.15
    columns = max(1, min(len(labels), int((width - margin) / STRIP)))
    lines = -(-len(labels) // columns)
    strip = 0.42 + 0.155 * len(rows)
    figure = new(width, lines * strip + 0.75)
    grid = figure.subplots(lines, columns, squeeze=False, sharey=True)
    for axes, label in zip(grid.flat, labels, strict=False):
        _strip(axes, [row.cells[label] for row in rows], label)
    for axes in list(grid.flat)[len(labels) :]:
        axes.set_axis_off()
    first = grid[0, 0]
    first.set(yticks=range(len(rows)), yticklabels=names, ylim=(len(rows) - 0.4, -0.6))
    published = any(cell.published is not None for row in rows for cell in row.cells.values())
    figure.legend(handles=_key(published), loc="outside upper left", ncols=3 if width < 5 else 6, columnspacing=1.2)
    note(figure, interval_caption(rows))
    return figure


def shown(rows: Sequence[Row]) -> list[str]:
    """The metrics that any row has a value of."""
    return [label for label in rows[0].cells if any(row.cells[label].values for row in rows)]


def short(name: str, most: int = 22) -> str:
    """A name that fits beside a panel."""
    return name if len(name) <= most else f"{name[: most - 1]}…"


def titled(label: str, cell: Cell) -> str:
    """A metric with its unit."""
    return f"{label} [{cell.metric.unit}]" if cell.metric.unit else label


def _strip(axes: Axes, cells: Sequence[Cell], label: str) -> None:
    import textwrap

    axes.set_title("\n".join(textwrap.wrap(titled(label, cells[0]), 26)), loc="left", pad=3)
    low, high, log = _range(cells)
    axes.set_xlim(low, high)
    logarithmic(axes, "x") if log else linear(axes, "x", 3)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    for k, cell in enumerate(cells):
        if cell.floor is not None:
            _band(axes, cell, k, (low, high))
        if cell.values:
            _mark(axes, cell, k, (low, high), log)
        elif cell.lacks:
            axes.text(0.02, k, "not asked of this run", transform=axes.get_yaxis_transform(), va="center", fontsize=5.5)
        if cell.published is not None:
            axes.plot(
                min(max(cell.published, low), high),
                k,
                "D",
                mfc="none",
                mec=INK,
                ms=4.2,
                mew=0.8,
                zorder=4,
                gid="published",
            )


def _band(axes: Axes, cell: Cell, k: int, ends: tuple[float, float]) -> None:
    """The floor of one row; a floor of no width, or at infinity, is a line."""
    assert cell.floor is not None
    lo, hi = (min(max(end, ends[0]), ends[1]) for end in (cell.floor.lo, cell.floor.hi))
    if math.isnan(lo) or math.isnan(hi):
        return
    axes.fill_betweenx([k - 0.5, k + 0.5], lo, hi, color=TARGET, alpha=BAND, linewidth=0, gid="floor")
    axes.plot([lo, lo], [k - 0.5, k + 0.5], color=TARGET, linewidth=0.6, alpha=0.6)
    axes.plot([hi, hi], [k - 0.5, k + 0.5], color=TARGET, linewidth=0.6, alpha=0.6)


def _mark(axes: Axes, cell: Cell, k: int, ends: tuple[float, float], log: bool) -> None:
    low, high = ends
    mean = spread(cell.values).mean
    inside = within_floor(cell)
    colour, marker = (INSIDE, "s") if inside else (GENERATED, "o")
    if math.isnan(mean):
        axes.text(0.5, k, "not finite", transform=axes.get_yaxis_transform(), ha="center", va="center", fontsize=5.5)
        return
    if cell.interval is not None:
        a, b = cell.interval
        axes.plot(
            [max(a, low), min(b, high)], [k, k], color=colour, linewidth=1.0, solid_capstyle="butt", gid="interval"
        )
        for end, beyond, arrow in ((low, a < low, "<"), (high, b > high, ">")):
            if beyond:
                axes.plot(end, k, arrow, color=colour, ms=2.5, clip_on=False)
    if len(cell.values) > 1:
        seeds = plain(cell.values)
        axes.plot(seeds, [k] * len(seeds), "|", color=colour, ms=5, mew=0.7, gid="seeds")
    at = min(max(mean, low), high)
    axes.plot(at, k, marker, color=colour, ms=4.0, clip_on=False, zorder=5, gid="value")
    if mean > high:
        text = "∞ " if math.isinf(mean) else f"{mean:.3g} "
        axes.annotate(text, (at, k), (-3, 0), textcoords="offset points", fontsize=5.5, ha="right", va="center")


def _range(cells: Sequence[Cell]) -> tuple[float, float, bool]:
    """What an axis shows: all values, floors and published values, and intervals as far as they leave room for these."""
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


def _key(published: bool) -> list[Any]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    out: list[Any] = [
        Line2D([], [], color=GENERATED, marker="o", linewidth=1.0, label="outside the floor"),
        Line2D([], [], color=INSIDE, marker="s", linewidth=1.0, label="on the floor"),
        Patch(color=TARGET, alpha=BAND, linewidth=0, label="floor: perfect samples"),
    ]
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
