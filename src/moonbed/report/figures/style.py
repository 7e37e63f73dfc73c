"""What all figures share: colours, type, sizes, axes that read without mathematics fonts, and the floor's band.

Colours are those of Okabe & Ito (Color Universal Design, 2008), told apart with any colour vision; none of them is the
only sign of anything: a marker, a line style or a word goes with it. The target is blue and what was generated is
vermilion, here as on the page. A figure is `WIDTH` inches wide, a column of a paper, and legible at 340 pixels.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any, NamedTuple, ParamSpec

from moonbed._shown import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["GENERATED", "PALETTE", "TARGET", "WIDTH", "Look", "look", "new", "parted", "short", "styled"]

TARGET, GENERATED = "#0072B2", "#D55E00"
INSIDE = "#009E73"
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
INK = "#000000"
BAND = 0.22  # opacity of a floor's band
WIDTH = 3.4
STYLE: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.size": 7.5,
    "axes.titlesize": 7.5,
    "axes.labelsize": 7.0,
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    "legend.fontsize": 6.5,
    "figure.titlesize": 8.0,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": True,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "xtick.minor.size": 1.5,
    "ytick.minor.size": 1.5,
    "lines.linewidth": 1.1,
    "lines.markersize": 4.0,
    "legend.frameon": False,
    "legend.handlelength": 2.4,
    "figure.constrained_layout.use": True,
    "figure.facecolor": "white",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
    "figure.max_open_warning": 0,
    "text.parse_math": False,  # a name may have two dollars
}

P = ParamSpec("P")


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """A function that makes a figure: in one style whatever the user's matplotlib is set to, with printable text."""

    @wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> Figure:
        import matplotlib
        from matplotlib.text import Text

        with matplotlib.rc_context():
            matplotlib.rcdefaults()
            matplotlib.rcParams.update(STYLE)  # type: ignore[arg-type]  # its stubs list every name
            figure = draw(*args, **kwargs)
            for text in figure.findobj(Text):
                if text.get_text() != (plain := printable(text.get_text())):
                    text.set_text(plain)
            return figure

    return drawn


def new(width: float, height: float) -> Figure:
    """An empty figure of a size in inches, laid out so that nothing overlaps."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


class Look(NamedTuple):
    """How a series is drawn: with a colour, a marker and a dash that no other of the first 28 has together."""

    color: str
    marker: str
    dash: Any


def look(k: int) -> Look:
    """The look of series k."""
    dashes: tuple[Any, ...] = ("-", (0, (4, 1.5)), (0, (1, 1.2)), (0, (4, 1.2, 1, 1.2)))
    return Look(PALETTE[k % 7], "os^DvPX*"[k % 8], dashes[k % 4])


# Numbers on axes: plain text, so that an SVG needs no mathematics fonts

_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def power(value: float) -> str:
    """A tick of a logarithmic axis: plain where that is short, a power of ten elsewhere."""
    if value <= 0 or not math.isfinite(value):
        return ""
    exponent = math.floor(math.log10(value) + 1e-9)
    if -2 <= exponent <= 4:
        return f"{value:,.10g}"
    lead = value / 10**exponent
    return ("" if abs(lead - 1) < 1e-6 else f"{lead:.3g}×") + f"10{str(exponent).translate(_RAISED)}"


def logarithmic(axes: Axes, which: str) -> None:
    """Make the x or the y axis logarithmic, with plain numbers at its ticks."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    getattr(axes, f"set_{which}scale")("log")
    axis = axes.xaxis if which == "x" else axes.yaxis
    low, high = sorted(axes.get_xlim() if which == "x" else axes.get_ylim())
    narrow = low > 0 and math.log10(high / low) < 2
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if narrow else (1.0,), numticks=9))
    axis.set_major_formatter(FuncFormatter(lambda value, _: power(value)))
    axis.set_minor_formatter(NullFormatter())


def linear(axes: Axes, which: str, bins: int = 4) -> None:
    """Few plain ticks on a linear axis."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_locator(MaxNLocator(bins))
    axis.set_major_formatter(
        FuncFormatter(lambda value, _: f"{0.0 if abs(value) < 1e-12 else value:.6g}".replace("-", "−"))
    )


def short(name: str, most: int = 22) -> str:
    """A name that fits beside a panel."""
    return name if len(name) <= most else f"{name[: most - 1]}…"


def parted(names: Sequence[str], most: int = 22) -> tuple[list[str], str]:
    """Names without what all of them have behind a comma, and that; `residual, quick` and `ema, quick` have `quick`.

    What is still long is in two lines, and cut off behind these.
    """
    tails = [name.split(", ")[1:] for name in names]
    shared = ""
    if len(names) > 1 and tails[0] and all(tail == tails[0] for tail in tails):
        shared = ", ".join(tails[0])
        names = [name.split(", ")[0] for name in names]
    return ["\n".join(textwrap.wrap(name, most, max_lines=2, placeholder="…")) for name in names], shared


def pitch(names: Sequence[str], usual: float) -> float:
    """Inches from row to row that names beside a panel need."""
    return max(usual, 0.24) if any("\n" in name for name in names) else usual


def margin(names: Sequence[str]) -> float:
    """Inches that names beside a panel take."""
    return 0.062 * max((len(line) for name in names for line in name.split("\n")), default=1) + 0.15


def plain(values: Iterable[float | None]) -> list[float]:
    """Those of the values that are numbers and finite."""
    return [v for v in values if v is not None and math.isfinite(v)]


def note(figure: Figure, text: str, size: float = 6.0) -> None:
    """A line or more below all panels: what the numbers are."""
    columns = max(30, int(figure.get_figwidth() * 21))
    figure.supxlabel("\n".join(textwrap.wrap(text, columns)), fontsize=size, x=0.01, ha="left")
