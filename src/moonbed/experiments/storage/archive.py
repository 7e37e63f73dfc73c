"""Results as one file: a zip of run folders as they are in a store, and a sealed manifest with each file's checksum.

Any tool can unpack it; it holds numbers and text, never code. The same content gives the same bytes: names sorted,
times fixed, nothing compressed (weights and samples do not compress, and zlib's bytes differ from version to version).

What is read may come from a stranger. So nothing is ever extracted: an entry is a stream of bytes under a name of the
store's grammar (`layout.py`), and any other name refuses the whole. Sizes are believed after they were counted.
Reference for what can be wrong with a zip: PKWARE's APPNOTE 6.3; D. Fifield, A better zip bomb, 2019.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import moonbed
from moonbed.experiments.storage.contents import in_a_line
from moonbed.experiments.storage.folder import StoreError
from moonbed.experiments.storage.inspection import Source
from moonbed.experiments.storage.layout import Name, in_order, read_name
from moonbed.experiments.storage.seals import sealed, unseal

__all__ = ["MANIFEST", "Archive", "write_archive"]

MANIFEST = "manifest.json"
FORMAT = 1
ENTRIES = 500_000
RATIO, FREE = 20, 1 << 20
"""Largest factor between what an entry of more than 1 MB holds and what it takes: numbers do not compress like that."""
TOTAL = 1 << 38
"""Most bytes in all, 256 GiB."""
_BROKEN = (
    *(zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, RuntimeError),
    *(OSError, ValueError, OverflowError, MemoryError, IndexError),
)


def write_archive(out: Path, source: Source) -> Iterator[tuple[int, int]]:
    """Write the files of a source into a zip at `out`, whole or not at all; yields (files done, files in all).

    Raises `StoreError` where a file cannot be read or `out` cannot be written.
    """
    names = sorted(source.names(), key=lambda n: n.plain)
    files: dict[str, dict[str, Any]] = {}
    with _whole(out) as file, zipfile.ZipFile(file, "w") as archive:
        for k, name in enumerate(names, 1):
            data = source.read(name)
            files[name.plain] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
            _add(archive, name.plain, data)
            yield k, len(names)
        about = {"format": FORMAT, "moonbed": moonbed.__version__, "finished": {**source.finished()}, "files": files}
        _add(archive, MANIFEST, sealed(about, MANIFEST))


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
    info.create_system, info.external_attr = 3, (stat.S_IFREG | 0o644) << 16
    archive.writestr(info, data)


@contextmanager
def _whole(out: Path) -> Iterator[Any]:
    """A file that has its name only after all of it is on the disk."""
    temporary = out.with_name(f".{out.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(out)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(f"cannot write {out}: {error.strerror or error}") from None


class Archive:
    """The files of an archive: an `inspection.Source`. Every name and size is looked at when it is opened.

    Raises `StoreError` for what is no archive of Moonbed, and for one that tries what none does.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            if not stat.S_ISREG(path.stat().st_mode):
                raise StoreError(f"{path} is no file")
            self._zip = zipfile.ZipFile(path)
        except _BROKEN as error:
            raise self._refusal(error) from None
        try:
            self._entries = self._checked_entries()
            self.version, self._finished, self._files = self._manifest()
            self._names = in_order(name for text in self._files if (name := read_name(text)) is not None)
        except BaseException:
            self._zip.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._zip.close()

    def names(self) -> Sequence[Name]:
        """Every file, run by run."""
        return self._names

    def finished(self) -> Mapping[str, int]:
        """`<training>/<experiment>` -> microseconds since 1970, of the records where the archive was written."""
        return self._finished

    def read(self, name: Name) -> bytes:
        """The bytes of a file, held against the manifest."""
        wanted = self._files[name.name]
        data = self._bytes(name.name)
        if len(data) != wanted["size"] or hashlib.sha256(data).hexdigest() != wanted["sha256"]:
            raise StoreError(f"{self.path}: {name.name} is not the file of which the manifest has the checksum")
        return data

    def _refusal(self, error: BaseException) -> StoreError:
        if isinstance(error, StoreError):
            return error
        if isinstance(error, OSError) and error.strerror:
            return StoreError(f"cannot read {self.path}: {error.strerror}")
        return StoreError(
            f"{self.path} is no archive, or a damaged one: {in_a_line(str(error)) or type(error).__name__}"
        )

    def _refuse(self, name: str, why: str) -> StoreError:
        return StoreError(f"{self.path} is refused: the entry {name[:100]!a} {why}")

    def _checked_entries(self) -> dict[str, zipfile.ZipInfo]:
        """Name -> entry, if all of them are plain files with names of a store."""
        infos, out, total = self._zip.infolist(), dict[str, zipfile.ZipInfo](), 0
        if len(infos) > ENTRIES:
            raise StoreError(f"{self.path} is refused: {len(infos):,} entries, more than {ENTRIES:,}")
        if infos and min(info.header_offset for info in infos) != 0:
            raise StoreError(f"{self.path} is refused: something else stands before the archive")
        for info in infos:
            name, mode = info.filename, info.external_attr >> 16
            known = read_name(name)
            if info.orig_filename != name or (name != MANIFEST and known is None):
                raise self._refuse(info.orig_filename, "has a name that no file of a store has")
            if known is not None and known.plain != name:
                raise self._refuse(name, "has its checksum in its name, which archives leave out")
            if name in out:
                raise self._refuse(name, "is there twice")
            if stat.S_IFMT(mode) not in (0, stat.S_IFREG) or info.is_dir():
                raise self._refuse(name, "is no plain file")
            if info.flag_bits & 0x1:
                raise self._refuse(name, "is encrypted")
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise self._refuse(name, "is compressed otherwise than by deflate")
            if info.compress_type == zipfile.ZIP_STORED and info.compress_size != info.file_size:
                raise self._refuse(name, "has two sizes")
            most = known.largest if known else 1 << 28
            if info.file_size > most or info.file_size > max(FREE, RATIO * info.compress_size):
                raise self._refuse(name, f"would be {info.file_size:,} bytes, from {info.compress_size:,}")
            total += info.file_size
            out[name] = info
        if sum(info.compress_size for info in infos) > self.path.stat().st_size:
            raise StoreError(f"{self.path} is refused: its entries lie over one another")
        if total > TOTAL:
            raise StoreError(f"{self.path} is refused: it would be {total:,} bytes")
        return out

    def _bytes(self, name: str) -> bytes:
        """All that an entry holds, and no more than it says."""
        info = self._entries[name]
        try:
            with self._zip.open(info) as file:
                data = file.read(info.file_size + 1)
        except _BROKEN as error:
            raise self._refusal(error) from None
        if len(data) != info.file_size:
            raise self._refuse(name, "is not as long as it says")
        return data

    def _manifest(self) -> tuple[str, Mapping[str, int], Mapping[str, Mapping[str, Any]]]:
        """Version of Moonbed that wrote the archive, when its experiments were finished, and its files."""
        if MANIFEST not in self._entries:
            raise StoreError(f"{self.path} is no archive of Moonbed: it has no {MANIFEST}")
        try:
            manifest = unseal(self._bytes(MANIFEST), MANIFEST)
            kind, version, times, files = (manifest[key] for key in ("format", "moonbed", "finished", "files"))
            if kind != FORMAT:
                raise StoreError(f"{self.path} has the format {json.dumps(kind)[:20]}; this version reads {FORMAT}")
            good = isinstance(version, str) and version.isascii() and version.isprintable() and len(version) < 50
            good = good and all(type(time) is int and 0 <= time < 1 << 53 for time in times.values())
            good = good and all(type(f["size"]) is int and isinstance(f["sha256"], str) for f in files.values())
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            good = False
        if not good:
            raise StoreError(f"{self.path} is damaged: its {MANIFEST} does not match its seal, or is of another form")
        if other := sorted(set(files) ^ (set(self._entries) - {MANIFEST})):
            raise self._refuse(other[0], f"is {'not there' if other[0] in files else 'not in the manifest'}")
        return version, times, files
