"""A terminal that only this program moves: what names and messages hold besides characters is shown, and not sent.

rich sends an escape sequence that stands in a text as it is. A name from somebody else's file could so clear the
screen, change the title of the window, or write over the line above. Markup in such texts is the caller's to escape.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from moonbed._shown import printable

__all__ = ["Terminal"]


class Terminal(Console):
    """rich's console, of which every text is printable."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)


def text_of(thing: Any, width: int) -> str:
    """What a terminal without colours shows."""
    import io

    out = io.StringIO()
    Terminal(file=out, width=width, color_system=None, force_jupyter=False).print(thing)
    return out.getvalue()
