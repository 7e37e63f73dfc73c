"""Objects that display themselves: in a notebook as HTML, at a prompt as text.

What is shown is drawn by `report`, which knows components and results; these must not know it. So they only inherit
`Shown`, and `moonbed/__init__.py`, the one place that knows where everything lives, says who draws: `face` is the
module `moonbed.report.notebook`, imported at its first use.

`_repr_html_` and `_repr_mimebundle_` are the protocol of IPython's rich display (ipython.readthedocs.io, Integrating
your objects with IPython), which Jupyter, VS Code, Colab and marimo follow.
"""

from __future__ import annotations

import re
from typing import Any

__all__ = ["Shown", "printable"]

face: Any = None


class Shown:
    """Base of what displays itself."""

    def __repr__(self) -> str:
        return str(face.text(self))

    def _repr_html_(self) -> str:
        return str(face.html(self))

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return {"text/plain": str(face.text(self)), "text/html": self._repr_html_()}


_MOVES = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff]")


def printable(text: str) -> str:
    r"""Text without what moves a cursor, turns its direction, or is no character: `\u001b` in the place of an escape.

    Line ends and tabs stay. What a terminal is sent of names and messages from elsewhere comes through here.
    """
    return _MOVES.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
