"""What a notebook shows of an object, and a prompt: rows, comparisons, error budgets, configurations, laws.

HTML without a script and without a style sheet, since GitHub and nbviewer strip both: plain tables, in the colours of
the notebook that they stand in, and pictures as data URIs. All text from outside is escaped.
"""

from __future__ import annotations

import base64
import dataclasses
import io
import math
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from moonbed._lazy import lazy_import
from moonbed.component import Component, SpecError
from moonbed.report.tables import number, to_csv, to_latex, to_markdown, to_pandas, to_terminal
from moonbed.targets import Target

if TYPE_CHECKING:
    import numpy as np
    import torch

    from moonbed.experiments.anatomy import Anatomy, Part
    from moonbed.experiments.rows import Row
else:
    np = lazy_import("numpy")
    torch = lazy_import("torch")

__all__ = ["Frame", "Page", "html", "text", "to_csv", "to_latex", "to_markdown", "to_pandas"]

WIDTH = 130
"""Characters of a table at a prompt."""
LEVELS = (0.05, 0.3, 1.0)
"""Noise levels at which a law is drawn, in standardised units."""
REACH, SIDE = 3.0, 120
"""Half the width of the window of such a picture, and its pixels a side."""
BLUE = (0x00, 0x72, 0xB2)


def html(thing: Any) -> str:
    """The object as a piece of HTML."""
    from moonbed.experiments.anatomy import Anatomy
    from moonbed.experiments.compare import Comparison
    from moonbed.report.page import fragment

    if isinstance(thing, Target):
        return _configuration(thing) + _densities(thing)
    if isinstance(thing, Component):
        return _configuration(thing)
    if isinstance(thing, Anatomy):
        return _budget(thing)
    if isinstance(thing, Comparison):
        return fragment(thing.rows, thing)
    found = _rows(thing)
    return fragment(found) if found else "<p>no rows</p>"


def text(thing: Any) -> str:
    """The object as plain text."""
    from moonbed.experiments.anatomy import Anatomy
    from moonbed.experiments.compare import Comparison
    from moonbed.report.terminal import text_of
    from moonbed.report.verdicts import anatomy_table, comparison_table

    if isinstance(thing, Component):
        return str(thing)
    if isinstance(thing, Anatomy):
        table = anatomy_table(thing)
    elif isinstance(thing, Comparison):
        table = comparison_table(thing)
    elif found := _rows(thing):
        table = to_terminal(found, list(found[0].cells))
    else:
        return "no rows"
    return "\n".join(line.rstrip() for line in text_of(table, WIDTH).strip("\n").splitlines())


def _rows(thing: Any) -> Sequence[Row]:
    return thing if isinstance(thing, list) else [thing]


def _image(data: bytes, kind: str, about: str, width: int) -> str:
    source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return f'<img src="{source}" alt="{escape(about)}" width="{width}">'


# A page


@dataclasses.dataclass(frozen=True, repr=False)
class Page:
    """A page that was written; a path to it, and in a notebook a link."""

    path: Path
    size: int

    def __fspath__(self) -> str:
        return str(self.path)

    def __repr__(self) -> str:
        return f"{self.path}, {self.size / 1e6:.2f} MB; it opens in any browser, without a network"

    def _repr_html_(self) -> str:
        name = escape(self.path.name)
        link = f'<a href="{escape(quote(self.path.as_posix()))}" target="_blank">{name}</a>'
        return f"{link}, {self.size / 1e6:.2f} MB; it opens in any browser, without a network"

    def frame(self, height: int = 800) -> Frame:
        """The page itself, to be displayed in a notebook, which then holds all of it once more."""
        return Frame(self.path.read_text(encoding="utf-8"), height)


@dataclasses.dataclass(frozen=True)
class Frame:
    """A page inside a notebook: its scripts run in a frame of their own, apart from the notebook."""

    page: str = dataclasses.field(repr=False)
    height: int

    def _repr_html_(self) -> str:
        style = f"width:100%;height:{self.height}px;border:0"
        return f'<iframe srcdoc="{escape(self.page)}" sandbox="allow-scripts allow-popups" style="{style}"></iframe>'


# A configuration


def _configuration(component: Component) -> str:
    """A table of dotted names, as `replace` and the command line take them; what is not the default is bold."""
    lines = "".join(
        f'<tr><td style="text-align:left"><code>{escape(name)}</code></td>'
        f'<td style="text-align:left">{"<b>" * new}<code>{escape(value)}</code>{"</b>" * new}</td></tr>'
        for name, value, new in _fields(component)
    )
    head = f"<b>{escape(type(component).__name__)}</b> <code>{component.id[:8]}</code>"
    return f"<div>{head}</div><table><tbody>{lines}</tbody></table>" if lines else f"<div>{head}</div>"


def _fields(component: Component, place: str = "") -> Iterator[tuple[str, str, bool]]:
    """Dotted name, value, and whether it is not the default; a component that is long has a line for each field."""
    try:
        usual: Component | None = type(component)()
    except SpecError:
        usual = None
    for field in dataclasses.fields(component):
        value, name = getattr(component, field.name), place + field.name
        if isinstance(value, Component) and "\n" in str(value):
            yield name, type(value).__name__, usual is None or type(getattr(usual, field.name)) is not type(value)
            yield from _fields(value, f"{name}.")
        else:
            written = str(value) if isinstance(value, Component) else repr(value)
            yield name, written, usual is None or getattr(usual, field.name) != value


# A law


def _densities(target: Target) -> str:
    """The exact density of x_0 + sigma eps at a few noise levels; nothing for a law that is not in the plane."""
    try:
        if target.dim != 2:
            return ""
        pictures = [_image(_density(target, s), "png", f"density at sigma = {s:g}", 150) for s in LEVELS]
    except SpecError as error:  # of a law whose file is not there any more
        return f"<small>not drawn: {escape(str(error))}</small>"
    cells = "".join(
        f'<td style="text-align:center">{picture}<br>σ = {sigma:g}</td>'
        for picture, sigma in zip(pictures, LEVELS, strict=True)
    )
    about = f"exact density of x₀ + σ ε, both coordinates from {-REACH:g} to {REACH:g}; the more opaque, the denser"
    return f"<table><tr>{cells}</tr></table><small>{about}</small>"


def _density(target: Target, sigma: float) -> bytes:
    """A picture (PNG): blue, as opaque as the law is dense."""
    from PIL import Image

    ticks = (torch.arange(SIDE, dtype=torch.float64) + 0.5) / SIDE * 2 * REACH - REACH
    x = torch.cartesian_prod(-ticks, ticks).flip(1)  # rows from the top
    log_p = target.log_prob(x, 1.0, sigma).reshape(SIDE, SIDE)
    pixels = np.empty((SIDE, SIDE, 4), dtype=np.uint8)
    pixels[..., :3] = BLUE
    pixels[..., 3] = (255 * torch.exp(log_p - log_p.max()).sqrt()).round().numpy()
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG", optimize=True)
    return out.getvalue()


# An error budget


def _budget(found: Anatomy) -> str:
    """The picture, and its numbers as a table."""
    from moonbed.report.figures import budget, svg
    from moonbed.report.verdicts import anatomy_about

    causes = list(next(iter(found.parts.values()), ()))
    head = "".join(f"<th>{escape(title)}</th>" for title in ("metric", *causes))
    lines = "".join(
        f'<tr><th style="text-align:left">{escape(label)}</th>'
        + "".join(f"<td>{_part(part)}</td>" for part in parts.values())
        + "</tr>"
        for label, parts in found.parts.items()
    )
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table>"
    width = 340 * min(2, len(found.parts))
    figure = budget(found)
    figure.supxlabel("")  # what the numbers are stands below the table
    picture = svg(figure, "What each cause adds above the floor", f"budget-{found.experiment.id[:8]}")
    about = f"<small>{escape(anatomy_about(found))}</small>"
    return f'<div style="max-width:{width}px">{picture}</div>{table}{about}'


def _part(part: Part) -> str:
    low, high = part.interval
    doubt = f"<br><small>{number(low)} .. {number(high)}</small>" if math.isfinite(high - low) else ""
    return f"{number(part.value)}{doubt}"
