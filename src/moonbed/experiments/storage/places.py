"""Where files lie: in folders of this machine, or under a URL that fsspec opens (s3://, gs://, memory://, ...).

Both are paths here: a `pathlib.Path`, or the `upath.UPath` of a URL (extra `moonbed[remote]`). Few things are asked of
them: read a file, write it whole or not at all, create it where none is there, list, remove. In a folder a file is
written beside its place, flushed to the disk and renamed, and then the folder is flushed, which has the new name; an
object store shows an object when all of it has arrived, so one put is enough.

fsspec keeps listings for a while; they are thrown away before each look, since other machines write as well.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Callable
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple, cast
from urllib.parse import unquote, urlsplit

from moonbed.component import SpecError

__all__ = ["Found", "beginning", "create", "find", "located", "put", "read", "remote", "remove"]

_OBJECTS = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oss", "r2", "memory"})
"""Protocols of stores without folders."""
TRIES = 3
"""How often a file is written whose half another process takes away."""


class Found(NamedTuple):
    """A file of a listing: what changes whenever its content does, and its time in seconds since 1970."""

    stamp: str
    time: float


def located(root: Any) -> Path:
    """The path of a folder or a URL; `file://` is a folder.

    Raises `SpecError` for a URL without the extra that opens it, and for one that fsspec does not know.
    """
    if not isinstance(root, str):
        return cast(Path, root if hasattr(type(root), "fs") else Path(root))
    if "://" not in root:
        return Path(root)
    if root.startswith("file://"):
        return Path(unquote(urlsplit(root).path) or "/")
    try:
        from upath import UPath
    except ImportError:
        raise SpecError([("", f"the store {root} needs fsspec: pip install 'moonbed[remote]'")]) from None
    try:
        found = UPath(root.rstrip("/") if not root.endswith("://") else root)
        found.fs  # noqa: B018 (its package is imported here)
        return cast(Path, found)
    except Exception as error:  # an unknown protocol, or its package is not installed; each raises what it likes
        raise SpecError([("", f"the store {root} cannot be opened: {error}")]) from None


def remote(path: Path) -> bool:
    """Whether a path is that of a URL."""
    return hasattr(type(path), "fs")


def read(path: Path) -> bytes:
    """The bytes of a file. Raises OSError."""
    if not remote(path):
        if not stat.S_ISREG(mode := path.stat().st_mode) and not stat.S_ISDIR(mode):
            raise OSError(errno.EINVAL, "is a device or a pipe")
        return path.read_bytes()
    with _Errors(path) as fs:
        return bytes(fs.cat_file(path.path))  # type: ignore[attr-defined]


def put(path: Path, data: bytes) -> None:
    """Write a file, whole or not at all, in place of what was there. Raises OSError."""
    if remote(path):
        with _Errors(path) as fs:
            _folder(fs, path)
            fs.pipe_file(path.path, data)  # type: ignore[attr-defined]
        return
    _placed(path, data, Path.replace)
    _flush(path.parent)


def create(path: Path, data: bytes) -> bool:
    """Write a file, whole or not at all, where none is there; whether it was this one. Raises OSError.

    Of several at once one wins. A file system under a URL that cannot say so (it knows no exclusive creation) is asked
    first whether something is there, which two at the same moment may both pass: the later one then stays, whole.
    """
    if remote(path):
        return _create_there(path, data)
    try:
        temporary = _placed(path, data, os.link)  # unlike a rename, this fails where something is
        temporary.unlink(missing_ok=True)
        _flush(path.parent)
    except FileExistsError:
        return False
    except OSError:  # a file system without links
        if path.exists():
            return False
        _placed(path, data, Path.replace)
    return True


def _create_there(path: Path, data: bytes) -> bool:
    name = path.path  # type: ignore[attr-defined]
    with _Errors(path) as fs:
        if fs.exists(name):
            return False
        _folder(fs, path)
        try:
            fs.pipe_file(name, data, mode="create")
        except Exception:  # each has its own way to say that somebody was faster, or that it knows no such mode
            fs.invalidate_cache()
            if fs.exists(name):
                return False
            fs.pipe_file(name, data)
    return True


def remove(path: Path) -> None:
    """Remove a file if it is there. Raises OSError."""
    if not remote(path):
        path.unlink(missing_ok=True)
        return
    with suppress(FileNotFoundError), _Errors(path) as fs:
        fs.rm_file(path.path)  # type: ignore[attr-defined]


def find(path: Path, *patterns: str) -> dict[str, Found]:
    """Name below `path` -> what is said of it, of the files whose parts match one of the patterns; sorted.

    Each `*` stands within one part: `*/record.json`. A URL is listed once, however deep. Raises OSError.
    """
    if not remote(path):
        found = {p.relative_to(path).as_posix(): p for pattern in patterns for p in path.glob(pattern) if p.is_file()}
        return {name: seen for name, file in sorted(found.items()) if (seen := _stat(file)) is not None}
    base = path.path.rstrip("/")  # type: ignore[attr-defined]
    try:
        with _Errors(path) as fs:
            base = fs._strip_protocol(base).rstrip("/")
            listed = fs.find(base, detail=True)
    except FileNotFoundError:
        return {}
    wanted = [pattern.split("/") for pattern in patterns]
    names = {key[len(base) + 1 :]: info for key, info in listed.items() if key.startswith(f"{base}/")}
    return {name: _info(names[name]) for name in sorted(names) if _matches(name.split("/"), wanted)}


def beginning(root: Path, prefix: str) -> list[tuple[str, ...]]:
    """The names in a folder, and those in its folders as (folder, name), that begin so; the former first."""
    first, second = [], []
    with suppress(OSError), os.scandir(root) as entries:
        for entry in entries:
            if entry.name.startswith(prefix):
                first.append((entry.name,))
            with suppress(OSError):
                if entry.is_dir() and entry.name[:1] != ".":
                    with os.scandir(entry.path) as inner:
                        second += [(entry.name, e.name) for e in inner if e.name.startswith(prefix)]
    return [*sorted(first), *sorted(second)]


def _matches(parts: list[str], wanted: list[list[str]]) -> bool:
    return any(len(w) == len(parts) and all(map(fnmatchcase, parts, w)) for w in wanted)


def _stat(path: Path) -> Found | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return Found(f"{found.st_mtime_ns} {found.st_size} {found.st_ino}", found.st_mtime)


def _info(info: dict[str, Any]) -> Found:
    """Object stores name a version by an ETag; others have a time, under one of several names."""
    times = (info.get(key) for key in ("LastModified", "last_modified", "mtime", "modified", "updated", "created"))
    time = next((t for t in times if t is not None), 0.0)
    if hasattr(time, "timestamp"):
        time = time.timestamp()
    elif isinstance(time, str):
        from datetime import datetime

        with suppress(ValueError):
            time = datetime.fromisoformat(time).timestamp()
    seconds = float(time) if isinstance(time, int | float) else 0.0
    return Found(f"{info.get('ETag') or info.get('etag') or ''} {seconds!r} {info.get('size')}", seconds)


def _placed(path: Path, data: bytes, how: Callable[[Path, Path], object]) -> Path:
    """Give data its name; the path beside it where it was written first.

    Another process may take that file for a dead one's, where a clock jumped or this process slept for an hour, and an
    emptied folder may go meanwhile: then it is written again.
    """
    for left in reversed(range(TRIES)):
        temporary = _beside(path, data)
        try:
            how(temporary, path)
            break
        except FileNotFoundError:
            temporary.unlink(missing_ok=True)
            if not left:
                raise
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    return temporary


def _beside(path: Path, data: bytes) -> Path:
    """The data in a file of its own beside a path, on the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def _flush(path: Path) -> None:
    """Make the names in a folder as lasting as its files; nothing where folders cannot be opened, as on Windows."""
    if hasattr(os, "O_DIRECTORY"):
        number = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def _folder(fs: Any, path: Path) -> None:
    """Make the folders above a file, where they are needed; a bucket that is not there is not made."""
    protocols = {fs.protocol} if isinstance(fs.protocol, str) else {*fs.protocol}
    if not protocols & _OBJECTS:
        with suppress(Exception):  # then the write says what is wrong
            fs.makedirs(path.parent.path, exist_ok=True)  # type: ignore[attr-defined]


class _Errors:
    """The file system of a path, with what its libraries raise as OSError that names the path."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> Any:
        try:
            fs: Any = self.path.fs  # type: ignore[attr-defined]
            fs.invalidate_cache()
        except Exception as error:
            raise SpecError([("", f"the store {self.path} cannot be opened: {error}")]) from None
        return fs

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, Exception) and not isinstance(error, OSError):
            raise OSError(f"{type(error).__name__}: {error}") from None
