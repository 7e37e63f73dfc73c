"""Figures as files and as SVG text.

The same figure gives the same bytes: no date, no random names. An SVG for a page has no size of its own, draws its ink
in `currentColor` on nothing, so that it follows light and dark, leaves text as text, and carries names that no other
figure of the document has.
"""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape, quoteattr

from moonbed._shown import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["FORMATS", "save", "svg"]

FORMATS = ("png", "svg", "pdf")
DPI = 200
VARIABLES = {"#0072b2": "target", "#d55e00": "generated"}
"""Colours that a page has in two versions, for light and dark; elsewhere they are what they are here."""


def save(figure: Figure, path: Path) -> None:
    """Write a figure in the format of the path's suffix, whole or not at all."""
    from moonbed.experiments.storage.folder import Folder

    kind = path.suffix.lstrip(".")
    Folder(path.parent).write(path.name, _bytes(figure, kind, path.stem))


def _bytes(figure: Figure, kind: str, salt: str) -> bytes:
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    from moonbed.report.figures.style import STYLE

    FigureCanvasAgg(figure)
    data = io.BytesIO()
    metadata = {"svg": {"Date": None, "Creator": None}, "pdf": {"CreationDate": None}, "png": {"Software": None}}[kind]
    face = "none" if kind == "svg" else "white"
    with matplotlib.rc_context():
        matplotlib.rcParams.update(STYLE | {"svg.hashsalt": salt})  # type: ignore[arg-type]
        figure.savefig(data, format=kind, dpi=DPI, metadata=metadata, facecolor=face)
    return data.getvalue()


def svg(figure: Figure, title: str, prefix: str) -> str:
    """A figure as one `<svg>` element for an HTML document; `prefix` begins all of its ids."""
    text = _bytes(figure, "svg", prefix).decode()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(
        r"<defs>\s*<style.*?</style>\s*</defs>\s*", "", text, flags=re.DOTALL
    )  # it would style the whole page
    view = re.search(r'viewBox="([^"]*)"', text)
    opening = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{view.group(1) if view else ""}" role="img" '
        f'aria-label={quoteattr(printable(title))} fill="currentColor" stroke-linejoin="round" stroke-linecap="butt" '
        'font-family="sans-serif">'
        f"<title>{escape(printable(title))}</title>"
    )
    text = opening + text[text.index(">") + 1 :]
    text = text.replace("#000000", "currentColor").replace("xlink:href", "href")
    for colour, name in VARIABLES.items():
        text = text.replace(colour, f"var(--{name}, {colour})")
    text = re.sub(r"(font: [^;\"]*?[\d.]+px)[^;\"]*", r"\1 sans-serif", text)
    text = re.sub(r"font-family: [^;\"]*(; )?", "", text)
    used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', text))
    text = re.sub(r'\sid="([^"]*)"', lambda m: f' id="{prefix}-{m[1]}"' if m[1] in used else "", text)
    text = re.sub(r'(url\(#|href="#)', rf"\g<1>{prefix}-", text)
    text = re.sub(r"<!--.*?-->\s*", "", text, flags=re.DOTALL)
    return re.sub(r"\n\s*", "\n", text).strip()
