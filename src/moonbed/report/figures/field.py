"""The learned probability flow and its density beside the exact ones, and how they differ, at a few noise levels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from moonbed._lazy import lazy_import
from moonbed.report.figures.style import INK, linear, new, note, styled

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from moonbed.experiments.fields import Field
else:
    np = lazy_import("numpy")

__all__ = ["field"]

ARROWS = 12
"""Arrows a side."""
NATS = 2.0
"""Log density ratios that the colours of a difference reach."""
FAINT = 6.0
"""Differences are shown where the exact density is above exp(-this) of its largest."""


@styled
def field(found: Sequence[Field], title: str, width: float = 7.0) -> Figure:
    """A line a noise level: learned, exact, and learned minus exact, each with its density and its flow."""
    each = (width - 0.9) / 3
    span = [(f.y[-1] - f.y[0]) / (f.x[-1] - f.x[0]) for f in found]
    figure = new(width, sum(each * s + 0.22 for s in span) + 1.1)
    grid = figure.subplots(len(found), 3, squeeze=False, height_ratios=span)
    shade: Any = None
    for axes, one in zip(grid, found, strict=True):
        shade = _line(axes, one) or shade
    for axes, head in zip(grid[0], ("learned", "exact", "learned − exact"), strict=True):
        axes.set_title(head)
    if shade is not None:
        bar = figure.colorbar(shade, ax=grid[-1, 2], orientation="horizontal", aspect=24, pad=0.04)
        bar.set_label("log density ratio [nats]", fontsize=6)
        bar.ax.tick_params(labelsize=6)
        bar.outline.set_linewidth(0.4)
    figure.suptitle(title)
    note(
        figure,
        "First seed; standardised coordinates. Colour: density at the noise level; right: log ratio of learned and "
        f"exact, where the exact is above {np.exp(-FAINT):.2g} of its largest. Arrows: probability flow "
        "dy/dlog σ = y − D(y, σ) in y = x_t/α, one scale a line; right: the difference, 4 times as long. "
        "Error: root mean square of |D − D*|/σ under the exact density (floor: 0)",
    )
    return figure


def _line(axes: Any, one: Field) -> Any:
    learned, exact = one.flow
    mine, truth = one.log_density
    step = max(1, len(one.x) // ARROWS)
    thin = slice(step // 2, None, step)
    longest = float(np.sqrt((exact**2).sum(-1))[thin, thin].max()) or 1.0
    scale = longest / (1.6 * step * (one.x[1] - one.x[0]))
    top = float(truth.max())
    shade = None
    for panel, flow, log_density, cmap in ((axes[0], learned, mine, "Oranges"), (axes[1], exact, truth, "Blues")):
        if log_density is not None:
            level = np.exp(np.clip(log_density - top, -30.0, 0.5))
            panel.pcolormesh(one.x, one.y, level, cmap=cmap, vmin=0, vmax=1.15, shading="nearest", rasterized=True)
        _arrows(panel, one, flow, thin, scale)
    if mine is not None:
        ratio = np.where(truth > top - FAINT, mine - truth, np.nan)
        shade = axes[2].pcolormesh(
            one.x, one.y, ratio, cmap="PuOr_r", vmin=-NATS, vmax=NATS, shading="nearest", rasterized=True
        )
    seen = (truth > top - FAINT)[..., None]
    _arrows(axes[2], one, np.where(seen, learned - exact, np.nan), thin, scale / 4)
    axes[0].set_ylabel(f"σ/α = {one.sigma:.3g}")
    axes[2].text(0.98, 0.02, f"error {one.error:.3g}", transform=axes[2].transAxes, ha="right", va="bottom", fontsize=6)
    for panel in axes[1:]:
        panel.set_yticklabels([])
    return shade


def _arrows(axes: Axes, one: Field, flow: np.ndarray, thin: slice, scale: float) -> None:
    u, v = flow[thin, thin, 0], flow[thin, thin, 1]
    axes.quiver(
        one.x[thin], one.y[thin], u, v, color=INK, alpha=0.75, angles="xy", scale_units="xy", scale=scale, width=0.006,
        headwidth=4, pivot="tail",
    )  # fmt: skip
    axes.set(xlim=(one.x[0], one.x[-1]), ylim=(one.y[0], one.y[-1]), aspect="equal")
    linear(axes, "x", 3)
    linear(axes, "y", 3)
