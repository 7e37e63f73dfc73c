"""Sealed JSON: an object, where it belongs, and a checksum of both, as the one text that is not damage.

A seal says that a text is whole, not that it is in its place: a metric's answer copied from another run is as whole as
before. So the place, `<folder>/<name>`, is part of what is sealed. Files of older versions have none; they are held
against what they say of themselves, an id or what their name is a digest of.
"""

from __future__ import annotations

import json
import math
from json.encoder import encode_basestring_ascii
from typing import Any

from moonbed.component import digest

__all__ = ["sealed", "unseal"]

PLACE = "place"


def sealed(data: dict[str, Any], place: str = "") -> bytes:
    """The text of an object that belongs to `place`; a float that is not finite becomes what `float` makes it from."""
    data = _finite({**data, PLACE: place} if place else data)
    return _text(data)


def unseal(text: bytes, place: str = "") -> dict[str, Any]:
    """The object of a sealed text. Raises ValueError for any other text, and for one that belongs elsewhere."""
    try:
        data: dict[str, Any] = json.loads(text)
        del data["seal"]
        intact = text == _text(data)
    except (ValueError, KeyError, TypeError, RecursionError):
        intact = False
    if not intact:
        raise ValueError("is damaged: its content does not match its seal")
    found = data.pop(PLACE, None)
    folder, _, name = place.rpartition("/")
    if place and found is None and not _at_home(data, folder, name):
        raise ValueError("is not what it is named for")
    if place and found not in (None, place):
        raise ValueError(f"is not of this place but of {found}")
    return data


def _at_home(data: dict[str, Any], folder: str, name: str) -> bool:
    """Whether an object without a place can be what it is named for."""
    stem = name.partition(".")[0]
    if "id" in data:
        return bool(data["id"] == folder)
    if folder.endswith("/metrics") and "metric" in data:
        return digest(data["metric"]) == stem
    if folder == "floors" and data.keys() >= {"target", "metric", "n"}:
        return digest([data["target"], data["metric"], data["n"]]) == stem
    if folder == "exact" and "about" in data:
        return digest(data["about"]) == stem
    return True


def _text(data: dict[str, Any]) -> bytes:
    return (_indented({**data, "seal": digest(data)}) + "\n").encode()


def _indented(value: Any, line: str = "\n") -> str:
    """`json.dumps(value, indent=2)`, in a third of its time: a list of 10,000 runs is mostly this."""
    if isinstance(value, str):
        return encode_basestring_ascii(value)
    inner = line + "  "
    if isinstance(value, dict) and value:
        lines = [f"{encode_basestring_ascii(key)}: {_indented(found, inner)}" for key, found in value.items()]
        return f"{{{inner}{f',{inner}'.join(lines)}{line}}}"
    if isinstance(value, list) and value:
        return f"[{inner}{f',{inner}'.join([_indented(found, inner) for found in value])}{line}]"
    if isinstance(value, float) and math.isfinite(value):
        return float.__repr__(value)
    return "null" if value is None else json.dumps(value)


def _finite(data: Any) -> Any:
    """JSON has no infinity: a float that is not finite becomes the text that `float` makes it from."""
    if isinstance(data, dict):
        return {k: _finite(v) for k, v in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(v) for v in data]
    return str(data) if isinstance(data, float) and not math.isfinite(data) else data
