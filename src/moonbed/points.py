"""A table of points from anyone's file: one point a row, one coordinate a column, float64.

What a file's suffix says is how it is read, and nothing in it is ever run: `.npy`, `.npz` and `.pt` may hold pickles,
which are programs, so only plain arrays and tensors are taken. Numbers of any real type are taken as they are; what is
no table of real numbers is an error that says so in one line. Infinite values are results (samples explode) and pass,
NaN does not.
"""

from __future__ import annotations

import io
import math
import os
import re
import stat
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moonbed._lazy import lazy_import
from moonbed.component import nearest

if TYPE_CHECKING:
    import numpy as np
    import torch
else:
    np = lazy_import("numpy")
    torch = lazy_import("torch")

__all__ = ["CONTAINERS", "SUFFIXES", "PointsError", "as_points", "content_of", "parse_points", "read_points"]


MOST = 1 << 32
"""Bytes that an array may be in a compressed file: a small file could say that it holds any number of them."""


class PointsError(ValueError):
    """A file or array that is no table of points: one line that says what was given and what is allowed."""


def read_points(path: str | os.PathLike[str], key: str | None = None, *, finite: bool = False) -> np.ndarray:
    """(n, columns) float64: the points in a file of `SUFFIXES`, of one's own to change.

    `key` names the array in a file that holds several by name (`CONTAINERS`); the only one needs no name. Infinite
    values pass unless `finite`. Raises `PointsError`, which begins with the path.
    """
    path = Path(os.path.expanduser(path))  # noqa: PTH111 (pathlib raises where there is no such user)
    try:
        return parse_points(content_of(path), path.suffix, key, finite=finite)
    except OSError as error:
        raise PointsError(f"cannot read {path}: {error.strerror or error}") from None
    except PointsError as error:
        raise PointsError(f"{path}: {error}") from None
    except ValueError as error:  # a name that no file can have
        raise PointsError(f"cannot read {str(path)!r}: {error}") from None


def content_of(path: Path) -> bytes:
    """The bytes of a file that may be read whole: no device, no pipe, and of a known suffix.

    Raises `PointsError`, without the path, and OSError.
    """
    _known(path.suffix)
    if not (stat.S_ISREG(mode := path.stat().st_mode) or stat.S_ISDIR(mode)):
        raise PointsError("is a device or a pipe; give a file")
    return path.read_bytes()


def _known(suffix: str) -> None:
    if suffix.lower() not in _READERS:
        raise PointsError(f"should be one of {', '.join(SUFFIXES)}, given {suffix or 'no suffix'}")


def parse_points(content: bytes, suffix: str, key: str | None = None, *, finite: bool = False) -> np.ndarray:
    """The points of `read_points` from the content of a file with that suffix."""
    _known(suffix)
    suffix = suffix.lower()
    if key is not None and suffix not in CONTAINERS:
        raise PointsError(f"key={key!r} names an array in {', '.join(CONTAINERS)}; a {suffix} file holds one, unnamed")
    return as_points(_READERS[suffix](content, key), finite=finite)


def as_points(array: Any, *, finite: bool = False) -> np.ndarray:
    """(n, columns) float64 copy of an array or a tensor of real numbers, wherever it lies. Raises `PointsError`."""
    try:
        table = np.asarray(_from_tensor(array) if _is_tensor(array) else array)
    except PointsError:
        raise
    except Exception as error:  # rows of unequal length, or whatever an object's own conversion raises
        raise PointsError(f"is no array of numbers ({_line(error)})") from None
    if table.dtype.kind not in "iuf":
        what = "Python objects" if table.dtype.hasobject else f"type {table.dtype}"
        raise PointsError(f"should hold real numbers, has {what}")
    if table.ndim != 2:
        raise PointsError(f"should have the shape (points, coordinates), has {table.shape}")
    if not table.shape[1]:
        raise PointsError(f"holds no columns: its shape is {table.shape}")
    if not len(table):
        raise PointsError(f"holds no points: its shape is {table.shape}")
    table = np.array(table, dtype=np.float64, order="C")
    bad = ~np.isfinite(table) if finite else np.isnan(table)
    if bad.any():
        row, column = np.argwhere(bad)[0]
        what = f"is not finite ({table[row, column]})" if finite else "is NaN; infinite values would be allowed"
        raise PointsError(f"point {row + 1}, column {column + 1} {what}")
    return table


# Arrays


def _npy(content: bytes, key: str | None = None) -> np.ndarray:
    try:
        return np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
    except Exception as error:  # whatever a broken header may raise
        if content.startswith(b"\x80") or "allow_pickle" in str(error):
            raise PointsError(_pickled("np.save(path, np.asarray(x, dtype=float))", ".npy")) from None
        raise PointsError(f"is no .npy file of numbers ({_line(error)})") from None


def _npz(content: bytes, key: str | None) -> np.ndarray:
    import zipfile

    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = {name.removesuffix(".npy"): name for name in archive.namelist() if name.endswith(".npy")}
            name = _choose(key, members)
            if (size := archive.getinfo(members[name]).file_size) > MOST:
                raise PointsError(f"would be {size:,} bytes when unpacked, more than {MOST:,}")
            return _npy(archive.read(members[name]))
    except PointsError:
        raise
    except Exception as error:  # whatever a broken archive may raise
        if content.startswith(b"\x80"):
            raise PointsError(_pickled("np.savez(path, x=x)", ".npz")) from None
        raise PointsError(f"is no .npz file of numbers ({_line(error)})") from None


def _choose(key: str | None, names: Iterable[str]) -> str:
    """The array that `key` names, or the only one there is."""
    known = list(names)
    if key is None and len(known) == 1:
        return known[0]
    if not known:
        raise PointsError("holds no arrays")
    if key is None:
        more = f" and {len(known) - 12} more" * (len(known) > 12)
        raise PointsError(f"holds {len(known)} arrays, say which with key: {', '.join(known[:12])}{more}")
    if key not in known:
        raise PointsError(f"holds no array called {key!r}; {nearest(key, known)}")
    return key


# Tensors


def _safetensors(content: bytes, key: str | None) -> Any:
    from safetensors.torch import load

    try:
        tensors = load(content)
    except Exception as error:  # its own error has no public base
        raise PointsError(f"is no .safetensors file ({_line(error)})") from None
    return tensors[_choose(key, tensors)]


def _pt(content: bytes, key: str | None) -> Any:
    found = _unpickled(content)
    if isinstance(found, dict):
        if key in found and not _is_tensor(found[key]):
            raise PointsError(f"{key!r} is no tensor but of type {type(found[key]).__name__}")
        return found[_choose(key, (str(name) for name, value in found.items() if _is_tensor(value)))]
    if not _is_tensor(found):
        raise PointsError(f"should hold a tensor or a dict of tensors, holds {type(found).__name__}")
    if key is not None:
        raise PointsError(f"holds one tensor without a name, key={key!r} is not in it; leave key out")
    return found


def _unpickled(content: bytes) -> Any:
    """What torch's own unpickler of tensors and plain containers makes of it; it calls nothing that the file names."""
    import pickle
    import zipfile

    try:
        if content.startswith(b"PK"):
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                if (bad := archive.testzip()) is not None:  # torch does not look at the checksums that it writes
                    raise PointsError(f"is damaged: the checksum of {bad} does not fit")
        elif not content.startswith(b"\x80"):
            raise PointsError("is no file of torch.save")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except PointsError:
        raise
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        raise PointsError(_pickled("torch.save(x, path) of a tensor", ".pt", named[1] if named else "")) from None
    except Exception as error:
        raise PointsError(f"is no file of torch.save that can be read ({_line(error)})") from None


def _is_tensor(value: Any) -> bool:
    return type(value).__module__.partition(".")[0] == "torch" and isinstance(value, torch.Tensor)


def _from_tensor(tensor: torch.Tensor) -> np.ndarray:
    kind = tensor.dtype
    if kind.is_complex or kind == torch.bool or tensor.is_quantized:
        raise PointsError(f"should hold real numbers, has type {kind}")
    if tensor.layout != torch.strided or tensor.is_meta:
        what = "no data (meta)" if tensor.is_meta else f"the layout {tensor.layout}"
        raise PointsError(f"should be a dense tensor, has {what}")
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise PointsError("has more elements than its file has numbers: they lie over one another")
    return tensor.detach().cpu().to(torch.float64).numpy()


# Text


def _text(content: bytes, key: str | None = None) -> np.ndarray:
    """Numbers between commas, semicolons, tabs or blanks; # begins a comment; leading lines without one are headers."""
    try:
        lines = content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise PointsError("is no UTF-8 text") from None
    rows: list[list[float]] = []
    for number, line in enumerate(lines, 1):
        line = line.split("#", 1)[0].strip()
        if not line:
            continue
        mark = next((m for m in ",;\t" if m in line), None)
        cells = [cell.strip().strip("\"'") for cell in line.split(mark)]
        values = [_number(cell) for cell in cells]
        if not rows and all(value is None for value in values):
            continue
        if None in values:
            raise PointsError(f"line {number}: {cells[values.index(None)]!r} is no number")
        if rows and len(values) != len(rows[0]):
            raise PointsError(f"line {number} has {len(values)} columns, the lines before it {len(rows[0])}")
        rows.append(values)  # type: ignore[arg-type]
    if not rows:
        raise PointsError("holds no points")
    return np.array(rows, dtype=np.float64)


def _number(cell: str) -> float | None:
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if not math.isnan(value) or cell.lower().lstrip("+-") == "nan" else None


# Words


def _pickled(instead: str, suffix: str, name: str = "") -> str:
    what = f"pickled Python objects ({name})" if name else "pickled Python objects"
    return f"is no {suffix} file of plain numbers: it holds {what}, which may run code when read; save with {instead}"


def _line(error: Exception) -> str:
    """The first sentence of an error, on one line."""
    return (" ".join(str(error).split()) or type(error).__name__).split(". ")[0][:200]


_READERS: dict[str, Callable[[bytes, str | None], Any]] = {
    ".csv": _text,
    ".npy": _npy,
    ".npz": _npz,
    ".pt": _pt,
    ".pth": _pt,
    ".safetensors": _safetensors,
    ".tsv": _text,
    ".txt": _text,
}
SUFFIXES = tuple(_READERS)
"""What can be read."""
CONTAINERS = (".npz", ".pt", ".pth", ".safetensors")
"""Files that may hold several arrays by name."""
