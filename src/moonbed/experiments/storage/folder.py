"""A folder of the store: files that appear whole or not at all, and are read against their checksums.

`places.py` says how a file appears, `seals.py` how a JSON file carries its checksum and its place, `formats.py` what
it must hold. A record lists the other files of its folder with their checksums; once it is there, the folder is done.
"""

from __future__ import annotations

import hashlib
import os
import time as clock
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from moonbed.component import SpecError
from moonbed.experiments.storage import formats, locks, places
from moonbed.experiments.storage.seals import sealed, unseal

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Folder", "StoreError", "addressed", "suiting"]

T = TypeVar("T")


class StoreError(RuntimeError):
    """A folder that cannot be written, or a file that is damaged or missing; the message names it."""


class Folder:
    """A folder of files that are written atomically and read against their checksums; `readonly` writes none.

    `path` is a `pathlib.Path`, or the `upath.UPath` of a URL. `alone` says whether a lock keeps others from writing.
    """

    def __init__(self, path: Path, readonly: bool = False, alone: bool = True) -> None:
        self.path, self.readonly, self.alone = path, readonly, alone and not places.remote(path)

    def inner(self, name: str) -> Folder:
        """A folder in this one."""
        return Folder(self.path / name, self.readonly, self.alone)

    def write(self, name: str, data: bytes) -> str:
        """Put `data` under `name`, whole or not at all, and return its SHA-256."""
        self._written(name, data, places.put)
        return hashlib.sha256(data).hexdigest()

    def _written(self, name: str, data: bytes, how: Callable[[Path, bytes], T]) -> T:
        target = self.path / name
        if self.readonly:
            raise StoreError(f"cannot write {target}: the store is open for reading")
        try:
            return how(target, data)
        except OSError as error:
            raise StoreError(f"cannot write {target}: {error.strerror or error}") from None

    def read(self, name: str, sha256: str | None = None) -> bytes:
        """The bytes under `name`; `StoreError` if they are not there or not those of the checksum."""
        path = self.path / name
        try:
            data = places.read(path)
        except OSError as error:
            raise StoreError(f"cannot read {path}: {error.strerror or error}") from None
        if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256:
            raise StoreError(f"{path} is damaged: its checksum differs from the record; remove {self.path} to redo it")
        return data

    def set_time(self, name: str, time: float) -> None:
        """Give a file the time, in seconds since 1970, at which it was written elsewhere; none under a URL."""
        if not places.remote(self.path):
            microseconds = min(round(1e6 * time), clock.time_ns() // 1000)
            self._written(name, b"", lambda path, _: os.utime(path, ns=(1000 * microseconds,) * 2))

    def remove(self, name: str) -> None:
        """Remove a file if it is there."""
        self._written(name, b"", lambda target, _: places.remove(target))

    def names(self, *patterns: str) -> dict[str, places.Found]:
        """Name -> stamp and time, of the files below that match a pattern such as `*/record.json`; sorted by name."""
        try:
            return places.find(self.path, *patterns)
        except OSError as error:
            raise StoreError(f"cannot read {self.path}: {error.strerror or error}") from None

    def write_json(self, name: str, data: dict[str, Any]) -> None:
        """Put a JSON object under `name`, sealed with a checksum of its own and of its place."""
        self.write(name, sealed(data, f"{self.path.name}/{name}"))

    def read_json(self, name: str) -> dict[str, Any] | None:
        """The JSON object under `name`, None where there is none; `StoreError` if it is damaged or of another place."""
        path = self.path / name
        try:
            text = places.read(path)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None
        except OSError as error:
            raise StoreError(f"cannot read {path}: {error.strerror or error}") from None
        try:
            data = unseal(text, f"{self.path.name}/{name}")
            formats.check(self.path.name, name, data)
        except ValueError as error:
            raise StoreError(f"{path} {error}; remove it to redo it") from None
        return data

    def record(self) -> dict[str, Any] | None:
        """The record of what is done here, None where it is not done."""
        return self.read_json("record.json")

    def finish(self, record: dict[str, Any], files: dict[str, bytes]) -> None:
        """Write the files, then the record with their checksums: from then on the folder is done.

        Where others may be at it too, the first record stays, and the files of a later one are removed again.
        """
        if self.alone:
            sums = {name: self.write(name, data) for name, data in files.items()}
            self.write_json("record.json", {**record, "files": sums})
            return
        sums = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
        for name, data in files.items():
            self.write(addressed(name, sums[name]), data)
        text = sealed({**record, "files": sums}, f"{self.path.name}/record.json")
        if not self._written("record.json", text, places.create):
            kept = (self.record() or {"files": sums})["files"]
            for name in (name for name, sha256 in sums.items() if kept.get(name) != sha256):
                self.remove(addressed(name, sums[name]))

    def file(self, name: str) -> bytes:
        """The bytes of a file that the record lists, held against its checksum."""
        record = self.record()
        if record is None or name not in record["files"]:
            raise StoreError(f"{self.path / name} is not there: {self.path} is not finished")
        return self.listed(name, record["files"][name])

    def listed(self, name: str, sha256: str) -> bytes:
        """The bytes of a file by what a record says of it: under its name, or the one that has the checksum in it.

        Which one does not depend on where the folder is, so that a store may be copied from a URL and to one.
        """
        names = (name, addressed(name, sha256))
        first, second = names if self.alone else names[::-1]
        try:
            return self.read(first, sha256)
        except StoreError as error:
            try:
                return self.read(second, sha256)
            except StoreError:
                raise error from None

    def tensors(self, name: str) -> dict[str, Tensor]:
        """The tensors by name of a safetensors file that the record lists."""
        return self.loaded(name, self.file(name))

    def loaded(self, name: str, data: bytes) -> dict[str, Tensor]:
        """The tensors by name in the bytes of a file."""
        from safetensors.torch import load

        try:
            return load(data)
        except Exception as error:  # its own errors have no public base, and its types may be none of torch's
            raise StoreError(f"{self.path / name} is no safetensors file: {error}") from None

    def sweep(self) -> None:
        """Remove what a killed process left half written. Only for whoever holds the lock; without one nothing is."""
        if not self.alone:
            return
        for path in self.path.rglob(".*.*.????????"):
            path.unlink(missing_ok=True)

    def held(self) -> bool | None:
        """Whether a process works on this training; None where the system cannot say it, as under a URL."""
        return locks.held(self.path / ".lock") if self.alone else None


def addressed(name: str, sha256: str) -> str:
    """The name of a file where several may write it: with the beginning of its checksum before its ending."""
    stem, dot, ending = name.rpartition(".")
    return f"{stem}.{sha256[:16]}{dot}{ending}" if dot else f"{name}.{sha256[:16]}"


@contextmanager
def suiting(what: str) -> Iterator[None]:
    """Whatever arrays from a file raise where they are put into what they were made for, as a `StoreError`."""
    try:
        yield
    except (SpecError, StoreError, MemoryError):
        raise
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise StoreError(f"{what} is damaged: {' '.join(str(error).split())[:300]}") from None
