"""Small drawings that stand in a line of text: a measured value on its floor, and an effect on a zero line.

Inline SVG whose colours come from the page's classes. All marks of a metric share an axis, which spans floors, values
and published values; it is logarithmic where these are positive and span more than a factor of 30. An interval that
leaves the axis ends in an arrow there. What a mark shows is also said in words, as its label.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from moonbed.metrics.significance import spread
from moonbed.report.tables import number, within_floor

if TYPE_CHECKING:
    from moonbed.experiments.rows import Cell

__all__ = ["Axis", "axis_of", "effect_mark", "position", "value_mark"]

AXIS, ZERO = 'stroke="#ccc"', 'stroke="#888"'
FLOOR, MARGIN = 'fill="#9cc7e0"', 'fill="#ddd"'
VALUE, INTERVAL = 'fill="#d55e00"', 'stroke="#d55e00"'
PUBLISHED = 'fill="none" stroke="#444"'
# Where style is stripped, as GitHub does with a notebook's; style sheets win over them

EDGE = 7.0
"""Free room at both ends of a mark, for half a dot."""
LOG, MOST = 30.0, 1e15
"""Spans between which an axis is logarithmic."""
LEAST = 3.0
"""Width of a band that has none."""
ROOM = 0.4
"""How far intervals may stretch an axis, as a share of its length."""


@dataclass(frozen=True)
class Axis:
    """From `low` to `high`, linear or logarithmic."""

    low: float
    high: float
    log: bool = False

    def share(self, value: float) -> float:
        """Where a value lies, from 0 to 1; ends for what is beyond them."""
        if value <= self.low:
            return 0.0
        if value >= self.high:
            return 1.0
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    @property
    def text(self) -> str:
        """Its ends in words."""
        return f"{number(self.low)} to {number(self.high)}{', logarithmic' if self.log else ''}"


def axis_of(cells: Iterable[Cell]) -> Axis | None:
    """The axis that the cells of one metric share; None where there is nothing to show."""
    cells = list(cells)
    bands = [end for c in cells if c.floor for end in (c.floor.lo, c.floor.hi)]
    core = [*bands, *(v for c in cells for v in (*c.values, c.published) if v is not None)]
    core = [value for value in core if math.isfinite(value)]
    if not core:
        return None
    low, high = min(core), max(core)
    beyond = any(math.inf in (*c.values, *((c.floor.hi,) if c.floor else ())) for c in cells)
    if beyond and high > 0:
        high *= 3  # room before the end, which then stands for infinity
    if log := low > 0 and LOG < high / low < MOST:
        stretch = (high / low) ** 0.08
        return Axis(low / stretch, high * stretch, True)
    if low == high:
        low, high = low - (abs(low) / 2 or 1.0), high + (abs(high) / 2 or 1.0)
    width = high - low
    ends = [end for c in cells for end in c.interval or () if math.isfinite(end)]
    low = max(min([low, *ends]), low - ROOM * width) - 0.05 * width
    high = min(max([high, *ends]), high + ROOM * width) + 0.05 * width
    return Axis(low, high, log)


def position(cell: Cell) -> str:
    """Where the values lie beside the floor, in words."""
    if not cell.values or cell.floor is None:
        return ""
    if within_floor(cell):
        return "within the floor"
    sides = {"below" if v < cell.floor.lo else "above" if v > cell.floor.hi else "within" for v in cell.values}
    if any(math.isnan(v) for v in cell.values) or math.isnan(cell.floor.lo):
        return ""
    return f"{sides.pop()} the floor" if len(sides) == 1 else "partly outside the floor"


def value_mark(cell: Cell, axis: Axis, width: int = 132) -> str:
    """The floor as a band, the interval as a line, each seed as a tick, their mean as a dot, published as a diamond."""

    def x(value: float) -> float:
        return EDGE + axis.share(value) * (width - 2 * EDGE)

    parts = [f'<path class="mk-axis" {AXIS} d="M{EDGE:g} 11H{width - EDGE:g}"/>']
    if cell.floor and not math.isnan(cell.floor.lo):
        low, high = x(cell.floor.lo), x(cell.floor.hi)
        short = max(0.0, LEAST - (high - low)) / 2
        place = f'x="{low - short:.1f}" y="3" width="{high - low + 2 * short:.1f}" height="16" rx="1.5"'
        parts.append(f'<rect class="mk-floor" {FLOOR} {place}/>')
    if cell.interval and cell.values and all(map(math.isfinite, cell.interval)):
        parts.append(_line(*cell.interval, axis, x))
    if cell.published is not None:
        parts.append(
            f'<path class="mk-published" {PUBLISHED} d="M{x(cell.published):.1f} 5.5l5.5 5.5l-5.5 5.5l-5.5 -5.5z"/>'
        )
    mean = spread(cell.values).mean if cell.values else math.nan
    if len(cell.values) > 1:
        ticks = "".join(f"M{x(v):.1f} 6v10" for v in cell.values if math.isfinite(v))
        parts.append(f'<path class="mk-seed" {INTERVAL} d="{ticks}"/>' * bool(ticks))
    if math.isfinite(mean):
        near = " mk-near" * within_floor(cell)
        parts.append(f'<circle class="mk-value{near}" {VALUE} cx="{x(mean):.1f}" cy="11" r="4"/>')
    elif not math.isnan(mean):
        parts.append(_arrow(x(mean), 1 if mean > 0 else -1, "mk-value"))
    return _svg(width, parts, position(cell) or "no floor")


def effect_mark(
    effect: float, interval: tuple[float, float], margin: float, limit: float, verdict: str, width: int = 220
) -> str:
    """A difference over the sd of a pair's, with its interval; the zero line, and the margin of equivalence shaded."""
    axis = Axis(-limit, limit)

    def x(value: float) -> float:
        return EDGE + axis.share(value) * (width - 2 * EDGE)

    band = min(margin, limit)
    kind = verdict.split()[0]
    parts = [
        f'<rect class="mk-margin" {MARGIN} x="{x(-band):.1f}" y="2" width="{x(band) - x(-band):.1f}" height="18"/>',
        f'<path class="mk-axis" {AXIS} d="M{EDGE:g} 11H{width - EDGE:g}"/>',
        f'<path class="mk-zero" {ZERO} d="M{x(0):.1f} 0V22"/>',
        f'<g class="mk-{kind}">',
    ]
    if all(map(math.isfinite, interval)):
        parts.append(_line(*interval, axis, x))
    if math.isfinite(effect) and abs(effect) <= limit:
        parts.append(f'<circle class="mk-value" {VALUE} cx="{x(effect):.1f}" cy="11" r="4.5"/>')
    elif not math.isnan(effect):
        parts.append(_arrow(x(effect), 1 if effect > 0 else -1, "mk-value"))
    side = "B is worse" if effect > 0 else "B is better" if effect < 0 else "no difference"
    return _svg(width, [*parts, "</g>"], f"effect {effect:+.2f}, {side}" if math.isfinite(effect) else side)


def _line(low: float, high: float, axis: Axis, place: Callable[[float], float]) -> str:
    """An interval with caps at its ends, or arrows where the axis ends before it does."""
    out = f"M{place(low):.1f} 11H{place(high):.1f}"
    for end, beyond, way in ((low, low < axis.low, 1), (high, high > axis.high, -1)):
        out += (
            f"M{place(end) + 3.5 * way:.1f} 7.5l{-3.5 * way:g} 3.5l{3.5 * way:g} 3.5"
            if beyond
            else (f"M{place(end):.1f} 8v6")
        )
    return f'<path class="mk-interval" {INTERVAL} d="{out}"/>'


def _arrow(x: float, way: int, name: str) -> str:
    return f'<path class="{name}" {VALUE} d="M{x - 4 * way:.1f} 6.5l{8 * way} 4.5l{-8 * way} 4.5z"/>'


def _svg(width: int, parts: list[str], said: str) -> str:
    size = f'viewBox="0 0 {width} 22" width="{width}" height="22"'
    opening = f'<svg class="mark" {size} fill="none" role="img" aria-label="{said}"><title>{said}</title>'
    return opening + "".join(parts) + "</svg>"
