"""Figures: target beside generated, always on the same axes.

What lies outside the axes is not silently cut off: its number stands in the panel.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from moonbed.experiments.anatomy import Anatomy

__all__ = ["Panel", "budget", "overview", "pair", "save", "score_errors"]

TARGET, GENERATED = "#0072B2", "#D55E00"  # blue and vermilion of Okabe & Ito: told apart with any colour vision
SHOWN = 5_000


class Panel(NamedTuple):
    """One scatter plot: a title, points (n, dim), and whether they were generated."""

    title: str
    points: Any
    generated: bool


def _limits(points: Any) -> tuple[tuple[float, float], tuple[float, float]]:
    low, high = points[:, :2].min(0), points[:, :2].max(0)
    pad = 0.15 * (high - low) + 1e-9
    return (low[0] - pad[0], high[0] + pad[0]), (low[1] - pad[1], high[1] + pad[1])


def _draw(axes: Axes, panel: Panel, limits: tuple[tuple[float, float], tuple[float, float]]) -> None:
    x, y = panel.points[:, 0], panel.points[:, min(1, panel.points.shape[1] - 1)]
    colour = GENERATED if panel.generated else TARGET
    axes.scatter(x[:SHOWN], y[:SHOWN], s=2, alpha=0.5, linewidths=0, color=colour, rasterized=True)
    (left, right), (bottom, top) = limits
    axes.set(xlim=(left, right), ylim=(bottom, top), aspect="equal")
    axes.set_title(panel.title, fontsize=9)
    axes.tick_params(labelsize=7)
    outside = int((~((x >= left) & (x <= right) & (y >= bottom) & (y <= top))).sum())
    if outside:
        text = f"{outside:,} of {len(x):,} outside"
        axes.text(0.98, 0.02, text, transform=axes.transAxes, ha="right", va="bottom", fontsize=8, color="black")


def _panels(panels: Sequence[Panel], columns: int, title: str) -> Figure:
    from matplotlib.figure import Figure

    count = -(-len(panels) // columns)
    figure = Figure(figsize=(3.0 * columns, 2.7 * count + 0.4), layout="constrained")
    limits = _limits(next(p.points for p in panels if not p.generated))
    grid = figure.subplots(count, columns, squeeze=False, sharex=True, sharey=True)
    for axes, panel in zip(grid.flat, panels, strict=False):
        _draw(axes, panel, limits)
    for axes in list(grid.flat)[len(panels) :]:
        axes.set_axis_off()
    figure.suptitle(title, fontsize=10)
    return figure


def pair(title: str, target: Any, samples: Any) -> Figure:
    """Target beside generated, on the target's axes."""
    panels = [
        Panel(f"target, n = {len(target):,}", target, False),
        Panel(f"generated, n = {len(samples):,}", samples, True),
    ]
    return _panels(panels, 2, title)


def overview(title: str, target: Any, rows: Sequence[tuple[str, Any]]) -> Figure:
    """The target and the samples of every row, all on the target's axes."""
    panels = [Panel("target", target, False), *(Panel(name, samples, True) for name, samples in rows)]
    return _panels(panels, min(3, len(panels)), title)


PARTS = {"sampler": "#56B4E9", "capacity": "#E69F00", "estimation": "#009E73", "total": "#999999"}
LINKS = {"capacity": "trained on the exact target", "estimation": "as it was trained"}


def budget(found: Anatomy) -> Figure:
    """The error budget: a panel a metric, a bar with its 95 % interval for what each cause adds above the floor."""
    from matplotlib.figure import Figure

    columns = min(3, len(found.parts))
    count = -(-len(found.parts) // columns)
    figure = Figure(figsize=(3.4 * columns, 2.4 * count + 0.5), layout="constrained")
    grid = figure.subplots(count, columns, squeeze=False)
    for axes, (label, parts) in zip(grid.flat, found.parts.items(), strict=False):
        names = list(PARTS)
        values = [parts[name].value for name in names]
        errors = [[max(0.0, v - parts[k].interval[0]) for k, v in zip(names, values, strict=True)]]
        errors += [[max(0.0, parts[k].interval[1] - v) for k, v in zip(names, values, strict=True)]]
        if all(map(math.isfinite, [*values, *errors[0], *errors[1]])):
            axes.bar(names, values, yerr=errors, color=list(PARTS.values()), width=0.6, capsize=3)
        else:
            axes.text(0.5, 0.5, "not finite", transform=axes.transAxes, ha="center")
        axes.axhline(0, color="black", linewidth=0.6)
        axes.set_title(f"{label}, floor {parts['floor'].value:.3g}", fontsize=9)
        axes.tick_params(labelsize=7)
    for axes in list(grid.flat)[len(found.parts) :]:
        axes.set_axis_off()
    over = f"{found.seeds} trainings" if found.seeds > 1 else f"{found.repeats} draws, one training"
    figure.suptitle(f"What each cause adds above the floor, n = {found.experiment.n:,}, {over}", fontsize=10)
    return figure


def score_errors(title: str, curves: Mapping[str, Mapping[str, Sequence[float]]]) -> Figure:
    """Score error against noise level, both logarithmic, with 95 % bands: columns sigma, mean, error of each curve."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2, 3.4), layout="constrained")
    axes = figure.subplots()
    for name, curve in curves.items():
        mean, doubt = list(curve["mean"]), [1.96 * e for e in curve["error"]]
        low = [max(m - d, m / 10) for m, d in zip(mean, doubt, strict=True)]  # a logarithm has no place for 0
        high = [m + d for m, d in zip(mean, doubt, strict=True)]
        axes.plot(curve["sigma"], mean, color=PARTS.get(name), label=LINKS.get(name, name))
        axes.fill_between(curve["sigma"], low, high, color=PARTS.get(name), alpha=0.3, linewidth=0)
    axes.set(xscale="log", yscale="log", xlabel="sigma/alpha", ylabel="E |D* - D|²/sigma²\nnats a unit of log sigma")
    axes.legend(fontsize=8)
    axes.set_title(title, fontsize=10)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write a figure in the format of the path's suffix."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
