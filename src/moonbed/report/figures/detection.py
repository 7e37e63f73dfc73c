"""N50 drawn: how many samples it takes to tell each model from the truth, on a logarithmic axis that ends in infinity.

Right is better. What the pool of samples could not tell from the truth stands at the end, where a perfect sampler is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from moonbed.metrics.significance import spread
from moonbed.report.figures.style import (
    BAND,
    GENERATED,
    INK,
    INSIDE,
    TARGET,
    WIDTH,
    logarithmic,
    new,
    note,
    parted,
    pitch,
    plain,
    styled,
)
from moonbed.report.tables import interval_caption, within_floor

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from moonbed.experiments.rows import Cell, Row

__all__ = ["n50", "n50_cell"]


def n50_cell(row: Row) -> Cell | None:
    """The cell of N50 of a row, None where it was not asked."""
    cells = (c for c in row.cells.values() if type(c.metric).__name__ == "N50")
    return next((c for c in cells if c.values), None)


@styled
def n50(rows: Sequence[Row], width: float = WIDTH) -> Figure:
    """Samples at which the panel's test tells a model from the truth half of the time, a line a row."""
    found = [(row, cell) for row in rows if (cell := n50_cell(row)) is not None]
    names, shared = parted([row.name for row, _ in found])
    figure = new(width, pitch(names, 0.2) * len(found) + 1.25)
    axes = figure.subplots()
    sizes = sorted({row.results[0].experiment.n for row, _ in found})
    ends = [v for _, c in found for v in (*c.values, *(c.interval or ())) if v > 0]
    ends += [c.floor.lo for _, c in found if c.floor]
    finite = [*plain(ends), *map(float, sizes)]
    low, top = 10 ** math.floor(math.log10(min(finite) / 1.2)), max(finite) * 1.3
    end = top * (top / low) ** 0.2
    axes.set_xlim(low, end)
    logarithmic(axes, "x")
    for k, (row, cell) in enumerate(found):
        n = row.results[0].experiment.n
        axes.plot([n, n], [k - 0.5, k + 0.5], color=INK, linewidth=0.7, linestyle=(0, (3, 2)), gid="n")
        _line(axes, cell, k, (low, top, end))
    axes.axvline(end, color=TARGET, linewidth=2.0)
    axes.text(end, -0.62, "a perfect sampler: ∞", fontsize=6, ha="right", va="bottom", color=TARGET)
    axes.set(yticks=range(len(found)), yticklabels=names)
    axes.set(ylim=(len(found) - 0.45, -0.55), xlabel="N50 [samples]; more is better →")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    note(
        figure,
        "N50: samples at which a score test of the exact law tells the model from it half of the time; "
        f"band: floor; dashed: n. {f'{shared}; ' if shared else ''}{interval_caption([row for row, _ in found])}",
    )
    return figure


def _line(axes: Axes, cell: Cell, k: int, ends: tuple[float, float, float]) -> None:
    low, top, end = ends
    mean = spread(cell.values).mean
    inside = within_floor(cell) or math.isinf(mean)
    colour, marker = (INSIDE, "s") if inside else (GENERATED, "o")
    if cell.floor is not None and not math.isnan(cell.floor.lo):
        start = min(max(cell.floor.lo, low), top if math.isinf(cell.floor.lo) else end)
        axes.fill_betweenx([k - 0.5, k + 0.5], start, end, color=TARGET, alpha=BAND, linewidth=0, gid="floor")
    if math.isnan(mean):
        axes.text(low, k, " not finite", va="center", fontsize=6)
        return
    at = end if math.isinf(mean) else min(max(mean, low), end)
    if cell.interval is not None and cell.interval != (-math.inf, math.inf):
        a, b = max(cell.interval[0], low), min(cell.interval[1], end)
        axes.plot([a, b], [k, k], color=colour, linewidth=1.0, gid="interval")
        if math.isinf(cell.interval[1]):
            axes.plot(end, k, ">", color=colour, ms=4, clip_on=False, zorder=5)
    if len(cell.values) > 1:
        axes.plot(
            [min(v, end) for v in cell.values], [k] * len(cell.values), "|", color=colour, ms=6, mew=0.7, gid="seeds"
        )
    axes.plot(at, k, ">" if math.isinf(mean) else marker, color=colour, ms=4.5, clip_on=False, zorder=5, gid="value")
    near = at > top / 3
    axes.annotate(
        f"> {cell.details['n_max']:,}" if math.isinf(mean) and "n_max" in cell.details else f"{mean:,.0f}",
        (at, k),
        (-5 if near else 5, 3.2),
        textcoords="offset points",
        fontsize=6,
        ha="right" if near else "left",
        va="bottom",
    )
