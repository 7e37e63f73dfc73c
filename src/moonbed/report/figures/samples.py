"""Samples: target beside generated, always on the same axes.

What lies outside the axes is not silently cut off: its number stands in the panel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from moonbed.report.figures.style import GENERATED, TARGET, linear, new, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Panel", "limits", "overview", "pair"]

SHOWN = 5_000
Limits = tuple[tuple[float, float], tuple[float, float]]


class Panel(NamedTuple):
    """One scatter plot: a title, points (n, dim), and whether they were generated."""

    title: str
    points: Any
    generated: bool


def limits(points: Any) -> Limits:
    """((left, right), (bottom, top)): the extent of the first two coordinates, and some room."""
    low, high = points[:, :2].min(0), points[:, :2].max(0)
    pad = 0.15 * (high - low) + 1e-9
    return (float(low[0] - pad[0]), float(high[0] + pad[0])), (float(low[-1] - pad[-1]), float(high[-1] + pad[-1]))


def _draw(axes: Axes, panel: Panel, within: Limits, most: int) -> None:
    x, y = panel.points[:, 0], panel.points[:, min(1, panel.points.shape[1] - 1)]
    colour = GENERATED if panel.generated else TARGET
    axes.scatter(x[:most], y[:most], s=1.5, alpha=0.5, linewidths=0, color=colour, rasterized=True)
    (left, right), (bottom, top) = within
    axes.set(xlim=(left, right), ylim=(bottom, top), aspect="equal")
    linear(axes, "x", 3)
    linear(axes, "y", 3)
    axes.set_title(panel.title)
    outside = int((~((x >= left) & (x <= right) & (y >= bottom) & (y <= top))).sum())
    if outside:
        text = f"{outside:,} of {len(x):,} outside"
        axes.text(0.98, 0.02, text, transform=axes.transAxes, ha="right", va="bottom", fontsize=6, color="black")


def _panels(panels: Sequence[Panel], columns: int, title: str, width: float, most: int = SHOWN) -> Figure:
    count = -(-len(panels) // columns)
    within = limits(next(p.points for p in panels if not p.generated))
    shape = (within[1][1] - within[1][0]) / (within[0][1] - within[0][0])
    each = width / columns
    figure = new(width, count * ((each - 0.35) * min(shape, 1.3) + 0.42) + 0.3)
    grid = figure.subplots(count, columns, squeeze=False, sharex=True, sharey=True)
    for axes, panel in zip(grid.flat, panels, strict=False):
        _draw(axes, panel, within, most)
    for axes in list(grid.flat)[len(panels) :]:
        axes.set_axis_off()
    figure.suptitle(title)
    return figure


@styled
def pair(title: str, target: Any, samples: Any, width: float = 5.0) -> Figure:
    """Target beside generated, on the target's axes."""
    panels = [
        Panel(f"target, n = {len(target):,}", target, False),
        Panel(f"generated, n = {len(samples):,}", samples, True),
    ]
    return _panels(panels, 2, title, width)


@styled
def overview(title: str, target: Any, rows: Sequence[tuple[str, Any]], width: float = 7.0) -> Figure:
    """The target and the samples of every row, all on the target's axes."""
    panels = [Panel("target", target, False), *(Panel(name, samples, True) for name, samples in rows)]
    return _panels(panels, min(3, len(panels)), title, width)
