"""The error budget drawn, and the error of the score against the noise level."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from textwrap import wrap
from typing import TYPE_CHECKING

from moonbed.metrics.suites import SUITES
from moonbed.report.figures.style import INK, TARGET, WIDTH, linear, logarithmic, new, note, styled
from moonbed.report.tables import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from moonbed.experiments.anatomy import Anatomy, Part

__all__ = ["budget", "score_errors"]

UNITS = {metric.label: metric.unit for suite in SUITES.values() for metric in suite}
CAUSES = {"sampler": "#56B4E9", "capacity": "#E69F00", "estimation": "#009E73", "total": "#999999"}
HATCHES = {"sampler": "", "capacity": "////", "estimation": "\\\\\\\\", "total": "xxxx"}
LINKS = {"capacity": "trained on the exact target", "estimation": "as it was trained"}
TITLE = "Score error: its integral over log σ is Girsanov's bound"
DASHES = {"capacity": (0, (4, 1.5)), "estimation": "-"}


@styled
def budget(found: Anatomy, width: float = WIDTH) -> Figure:
    """The error budget: a panel a metric, a bar with its 95 % interval for what each cause adds above the floor."""
    columns = min(len(found.parts), max(1, round(width / 1.7)))
    lines = -(-len(found.parts) // columns)
    figure = new(width, 1.3 * lines + 0.7)
    grid = figure.subplots(lines, columns, squeeze=False, sharey=True)
    for axes, (label, parts) in zip(grid.flat, found.parts.items(), strict=False):
        _parts(axes, label, parts)
    for axes in list(grid.flat)[len(found.parts) :]:
        axes.set_axis_off()
    over = f"{found.seeds} trainings" if found.seeds > 1 else f"{found.repeats} draws of one training"
    note(
        figure,
        "what each cause adds to a metric above its floor (which exact samples have), mean and 95 % interval over "
        f"{over}; n = {found.experiment.n:,} samples; sampler: exact denoiser, same steps; capacity: same network on "
        "the exact target; estimation: the rest",
    )
    return figure


def _parts(axes: Axes, label: str, parts: Mapping[str, Part]) -> None:
    names = list(CAUSES)
    for k, name in enumerate(names):
        part = parts[name]
        low, high = part.interval
        if not math.isfinite(part.value):
            axes.text(0.5, k, "not finite", transform=axes.get_yaxis_transform(), ha="center", va="center", fontsize=6)
            continue
        axes.barh(
            k, part.value, height=0.62, color=CAUSES[name], hatch=HATCHES[name], edgecolor="#404040", linewidth=0.4,
            gid=f"part-{name}",
        )  # fmt: skip
        if math.isfinite(high - low):
            axes.errorbar(
                part.value, k, xerr=[[max(0.0, part.value - low)], [max(0.0, high - part.value)]], color=INK, capsize=2,
                linewidth=0.8, capthick=0.8,
            )  # fmt: skip
    axes.axvline(0, color=INK, linewidth=0.6)
    axes.set(yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.4, -0.6))
    axes.tick_params(axis="y", length=0)
    linear(axes, "x", 3)
    floor = number(parts["floor"].value).replace("-", "−")
    head = wrap(f"{label} [{unit}]" if (unit := UNITS.get(label)) else label, 24)
    axes.set_title("\n".join([*head, f"floor {floor}"]), loc="left")


@styled
def score_errors(
    curves: Mapping[str, Mapping[str, Sequence[float]]], title: str = TITLE, width: float = WIDTH
) -> Figure:
    """Score error against noise level, both logarithmic, with 95 % bands: columns sigma, mean, error of each curve."""
    figure = new(width, 2.5)
    axes = figure.subplots()
    highest = lowest = None
    for name, curve in curves.items():
        mean, doubt = list(curve["mean"]), [1.96 * e for e in curve["error"]]
        low = [max(m - d, m / 10) for m, d in zip(mean, doubt, strict=True)]  # a logarithm has no place for 0
        high = [m + d for m, d in zip(mean, doubt, strict=True)]
        color = CAUSES.get(name, TARGET)
        axes.plot(curve["sigma"], mean, color=color, linestyle=DASHES.get(name, "-"), label=LINKS.get(name, name))
        axes.fill_between(curve["sigma"], low, high, color=color, alpha=0.3, linewidth=0)
        highest = max([*high, *([highest] if highest else [])])
        lowest = min([*(v for v in low if v > 0), *([lowest] if lowest else [])], default=None)
    if lowest and highest and math.isfinite(highest):
        axes.set_ylim(lowest, highest)
        logarithmic(axes, "y")
    levels = [s for curve in curves.values() for s in curve["sigma"]]
    axes.set_xlim(min(levels), max(levels))
    logarithmic(axes, "x")
    axes.set(xlabel="noise level σ/α [units of x]", ylabel="E |D* − D|²/σ²\n[nats a unit of log σ]")
    axes.legend(loc="lower left")
    axes.set_title("\n".join(wrap(title, int(13 * width))), loc="left")
    note(figure, "band: 95 % interval of the mean; floor: 0, which the exact denoiser D* has at every noise level")
    return figure
