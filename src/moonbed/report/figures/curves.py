"""Curves: the training loss above its floor, and quality against what a sample costs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from moonbed.metrics.significance import spread
from moonbed.report.figures.style import (
    BAND,
    TARGET,
    WIDTH,
    linear,
    logarithmic,
    look,
    new,
    note,
    parted,
    plain,
    short,
    styled,
)
from moonbed.report.figures.verdict import titled
from moonbed.report.tables import interval_caption

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from moonbed.experiments.lossfloor import LossFloor
    from moonbed.experiments.rows import Row

__all__ = ["Curve", "Point", "quality", "training"]


class Curve(NamedTuple):
    """A training as it went: its name, (step, mean loss) of its log, the loss floor where it was looked for."""

    name: str
    log: Sequence[tuple[float, float]]
    floor: LossFloor | None = None


@styled
def training(curves: Sequence[Curve], width: float = WIDTH) -> Figure:
    """Loss against step, a panel for each floor: what the exact denoiser has in the same loss, with its 95 % interval.

    Losses of different objectives have different floors and are not comparable, so they never share a panel.
    """
    panels = _by_floor(curves)
    columns = 1 if width < 5 or len(panels) == 1 else 2
    lines = -(-len(panels) // columns)
    figure = new(width, 1.75 * lines + 0.65)
    grid = figure.subplots(lines, columns, squeeze=False)
    names, shared = parted([curve.name for curve in curves], 30)
    called = dict(zip([curve.name for curve in curves], names, strict=True))
    for axes, group in zip(grid.flat, panels, strict=False):
        _curves(axes, group, called)
    for axes in list(grid.flat)[len(panels) :]:
        axes.set_axis_off()
    rows = max((c.floor.rows for c in curves if c.floor), default=0)
    text = "each point: mean of 100 steps"
    if rows:
        text += f"; loss floor: the exact denoiser in the same loss, mean ± 1.96 standard errors over {rows:,} examples"
    note(figure, f"{shared}; {text}" if shared else text)
    return figure


def _by_floor(curves: Sequence[Curve]) -> list[list[Curve]]:
    out: dict[object, list[Curve]] = {}
    for curve in curves:
        floor = curve.floor
        key = None if floor is None else floor.reason if floor.value is None else f"{floor.value:.3g}"
        out.setdefault(key, []).append(curve)
    return list(out.values())


def _curves(axes: Axes, group: Sequence[Curve], called: Mapping[str, str]) -> None:
    for k, curve in enumerate(group):
        color, marker, dash = look(k)
        steps, losses = [s for s, _ in curve.log], [v for _, v in curve.log]
        every = max(1, len(steps) // 8)
        axes.plot(
            steps, losses, color=color, linestyle=dash, marker=marker, markevery=(k % every, every), ms=3,
            label=called[curve.name], gid="curve",
        )  # fmt: skip
    floor = group[0].floor
    values = plain([v for curve in group for _, v in curve.log])
    if floor is not None and floor.value is not None:
        axes.axhspan(
            floor.value - 1.96 * floor.error, floor.value + 1.96 * floor.error, color=TARGET, alpha=BAND, linewidth=0,
            gid="floor-band",
        )  # fmt: skip
        axes.axhline(floor.value, color=TARGET, linewidth=1.2, linestyle=(0, (5, 2)), gid="floor")
        text = f"loss floor {floor.value:.4g} ± {1.96 * floor.error:.1g}"
        axes.annotate(
            text, (1.0, floor.value - 1.96 * floor.error), (0, -1), xycoords=("axes fraction", "data"),
            textcoords="offset points", ha="right", va="top", fontsize=6, color=TARGET,
        )  # fmt: skip
        values.append(floor.value)
    elif floor is not None:
        import textwrap

        axes.set_title("\n".join(textwrap.wrap(floor.reason, 70)), loc="left", fontsize=6)
    if values and min(values) > 0:
        room = (max(values) / min(values)) ** 0.08
        axes.set_ylim(min(values) / room**2.5, max(values) * room)
        logarithmic(axes, "y")
    linear(axes, "x", 5)
    axes.set(xlabel="optimiser step", ylabel="mean loss")
    axes.legend(ncols=2 if len(group) > 3 else 1, loc="upper right", columnspacing=1.0)


class Point(NamedTuple):
    """A stored run of a sweep: which series, evaluations of the network a sample, and its row."""

    series: str
    nfe: int
    row: Row


@styled
def quality(points: Sequence[Point], label: str, title: str = "", width: float = WIDTH) -> Figure:
    """A metric against the number of function evaluations (NFE), a series a sampler, on the floor."""
    series: dict[str, list[Point]] = {}
    for point in sorted(points, key=lambda p: p.nfe):
        series.setdefault(point.series, []).append(point)
    figure = new(width, 2.35)
    axes = figure.subplots()
    floors = [c.floor for p in points if (c := p.row.cells[label]).floor is not None and not math.isnan(c.floor.lo)]
    if floors and (ends := plain([floors[0].lo, floors[0].hi])):
        axes.axhspan(ends[0], ends[-1], color=TARGET, alpha=BAND, linewidth=0, gid="floor")
        axes.axhline(ends[-1], color=TARGET, linewidth=0.6)
    values = _series(axes, series, label)
    if values and min(values) > 0 and max(values) / min(values) > 8:
        axes.set_ylim(min(values) / 1.4, max(values) * 1.4)
        logarithmic(axes, "y")
    else:
        linear(axes, "y", 5)
    costs = [p.nfe for p in points]
    axes.set_xlim(min(costs) / 1.25, max(costs) * 1.25)
    logarithmic(axes, "x")
    cell = points[0].row.cells[label]
    axes.set(xlabel="network evaluations a sample (NFE)", ylabel=titled(label, cell))
    axes.set_title(title, loc="left")
    axes.legend(ncols=2 if len(series) > 3 else 1)
    note(figure, f"band: floor. {interval_caption([p.row for p in points])}")
    return figure


def _series(axes: Axes, series: Mapping[str, Sequence[Point]], label: str) -> list[float]:
    """Draw all of them; the values and floors that the axis must show."""
    shown: list[float] = []
    for k, (name, points) in enumerate(series.items()):
        color, marker, dash = look(k + 1)
        x = [p.nfe * 1.02**k for p in points]
        cells = [p.row.cells[label] for p in points]
        y = [spread(c.values).mean if c.values else math.nan for c in cells]
        axes.plot(x, y, color=color, marker=marker, linestyle=dash, label=short(name, 30), gid="value")
        for at, cell in zip(x, cells, strict=True):
            if cell.interval is not None and all(map(math.isfinite, cell.interval)):
                axes.plot([at, at], cell.interval, color=color, linewidth=0.8, gid="interval")
        shown += plain(y) + plain([v for c in cells if c.floor for v in (c.floor.lo, c.floor.hi)])
    return shown
