"""Arrays as one block of bytes: little endian, each at a multiple of eight, equal contents stored once.

The weights of one training belong to several rows of a page, and the plans of one sampler to all models of a schedule:
what is equal byte for byte is kept once, whoever asks for it, and whatever shape it is read in.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from moonbed._lazy import lazy_import

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy_import("numpy")

__all__ = ["Blob", "array"]

_TYPES = {"f4": "<f4", "f8": "<f8", "i4": "<i4", "u2": "<u2", "u1": "|u1"}
_ALIGNED = 8


class Blob:
    """Bytes that grow; `add` says where an array lies in them."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._places: dict[bytes, int] = {}
        self._size = 0

    def add(self, values: Any, dtype: str) -> dict[str, Any]:
        """Store an array as "f4", "f8", "i4", "u2" or "u1": its dtype, shape and offset in bytes."""
        data = np.ascontiguousarray(values, dtype=_TYPES[dtype])
        content = data.tobytes()
        key = hashlib.sha256(content).digest()
        if key not in self._places:
            self._places[key] = self._size
            padded = content + bytes(-len(content) % _ALIGNED)
            self._parts.append(padded)
            self._size += len(padded)
        return {"dtype": dtype, "shape": list(data.shape), "offset": self._places[key]}

    def __len__(self) -> int:
        return self._size

    def bytes(self) -> bytes:
        """All that was stored."""
        return b"".join(self._parts)


def array(place: dict[str, Any], blob: bytes) -> Any:
    """The array (read-only) that lies at a place of a blob."""
    count = int(np.prod(place["shape"], dtype=np.int64))
    found = np.frombuffer(blob, dtype=_TYPES[place["dtype"]], count=count, offset=place["offset"])
    return found.reshape(place["shape"])
