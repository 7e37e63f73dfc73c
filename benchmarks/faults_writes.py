"""Every write of the store, stopped before each call that it makes of the system, and each of these calls failing.

A profile function sees every call of a C function before it is made, so the k-th call of `posix` or `_io` is a place
to die or to fail at: all of them, not a sample. What happens within a call, a data file half written, is the kernel's
part: a limit on the size of files ends the process after so many bytes of it.
"""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from faults_kills import stage_folder
from faults_subject import Child, Count, asked, damage, spoken, subject

from moonbed.experiments import Store, StoreError
from moonbed.experiments.floors import load_floor, save_floor
from moonbed.experiments.storage.folder import Folder
from moonbed.experiments.storage.runs import drop_checkpoint, load_checkpoint, save_checkpoint, save_spec
from moonbed.writing import write_page

ERRORS = (errno.ENOSPC, errno.EIO, errno.EDQUOT)
FAILING = frozenset({"open", "write", "flush", "fsync", "replace", "rename", "mkdir", "link", "unlink", "remove"})
OLD, NEW = b"old" * 1000, b"new!" * 2000


@dataclass(frozen=True)
class Writer:
    """Something that the store writes: what was there before, the write, and what a reader then finds."""

    name: str
    before: Callable[[Path], object]
    write: Callable[[Path], object]
    read: Callable[[Path], Any]


def _tensors(value: float) -> dict[str, Any]:
    import torch

    return {"w": torch.full((500,), value)}


def _checkpoint(value: int) -> Callable[[Path], None]:
    return lambda root: save_checkpoint(Folder(root / "a"), _tensors(value), value, [{"step": value, "loss": 1.0}], 1.0)


def _step(root: Path) -> Any:
    found = load_checkpoint(Folder(root / "a"))
    return found and (found[1], found[0]["w"].tolist())


def _floor(count: int) -> Callable[[Path], None]:
    draws = [k / 7 for k in range(count)]
    return lambda root: save_floor(Store(root), subject().law, asked()[0], 60, draws)


def _finish(value: bytes) -> Callable[[Path], None]:
    return lambda root: Folder(root / "a").finish({"status": "done"}, {"x.bin": value, "y.bin": value[::-1]})


def _finished(root: Path) -> Any:
    folder = Folder(root / "a")
    return folder.record() and (folder.file("x.bin"), folder.file("y.bin"))


def _bytes(root: Path) -> bytes | None:
    path = root / "a" / "x.bin"
    return path.read_bytes() if path.exists() else None


def _nothing(root: Path) -> None:
    pass


def _create(root: Path) -> None:
    from moonbed.experiments.storage import places

    try:
        places.create(root / "a" / "x.bin", NEW)
    except OSError as error:
        raise StoreError(f"cannot write: {error.strerror}") from None


def _page(text: str) -> Callable[[Path], None]:
    def write(root: Path) -> None:
        with patch("moonbed.writing.html_of", return_value=text * 1000):
            write_page(root / "a" / "page.html", [], Store(root))

    return write


def _page_text(root: Path) -> str:
    return (root / "a" / "page.html").read_text()


def _indexed(*seeds: int) -> Callable[[Path], None]:
    """Experiments without a record, and the index brought up to date with them."""

    def write(root: Path) -> None:
        for seed in seeds:
            save_spec(Store(root).experiment(subject(seed)), subject(seed))
        Store(root).index().look()

    return write


def _listed(root: Path) -> list[str]:
    index = Store(root).index()
    return sorted(f"{run.id} {index.spec(run)}" for run in index.look())


WRITERS = (
    Writer(
        "a file",
        lambda root: Folder(root / "a").write("x.bin", OLD),
        lambda root: Folder(root / "a").write("x.bin", NEW),
        _bytes,
    ),
    Writer("a file in a new folder", _nothing, lambda root: Folder(root / "a").write("x.bin", NEW), _bytes),
    Writer("a file that none may replace", _nothing, _create, _bytes),
    Writer(
        "sealed JSON",
        lambda root: Folder(root / "a").write_json("m.json", {"v": 1}),
        lambda root: Folder(root / "a").write_json("m.json", {"v": 2}),
        lambda root: Folder(root / "a").read_json("m.json"),
    ),
    Writer("files and their record", _nothing, _finish(NEW), _finished),
    Writer("the first checkpoint", _nothing, _checkpoint(100), _step),
    Writer("a later checkpoint", _checkpoint(100), _checkpoint(200), _step),
    Writer("the end of checkpoints", _checkpoint(100), lambda root: drop_checkpoint(Folder(root / "a")), _step),
    Writer("a page in place of another", _page("old"), _page("new!"), _page_text),
    Writer("an index with one run more", _indexed(0), _indexed(1), _listed),
    Writer(
        "more draws of a floor",
        _floor(3),
        _floor(5),
        lambda root: load_floor(Store(root), subject().law, asked()[0], 60),
    ),
)


def _at(number: int, act: Callable[[], None], only: frozenset[str] | None = None) -> Callable[[], list[str]]:
    """Act before the `number`-th call of the system from now on; a function that names those there were."""
    seen: list[str] = []

    def look(frame: Any, event: str, function: Any) -> None:
        if event != "c_call":
            return
        owner = getattr(function, "__self__", None)
        module = getattr(owner, "__name__", "") if type(owner).__name__ == "module" else type(owner).__module__
        if module not in ("posix", "_io", "io", "sqlite3") or (only is not None and function.__name__ not in only):
            return
        seen.append(function.__name__)
        if len(seen) == number:
            sys.setprofile(None)
            act()

    sys.setprofile(look)
    return lambda: seen


def _calls(writer: Writer, root: Path, only: frozenset[str] | None) -> list[str]:
    writer.before(root)
    seen = _at(0, lambda: None, only)
    try:
        writer.write(root)
    finally:
        sys.setprofile(None)
    return seen()


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _fail(number: int) -> Callable[[], None]:
    def fail() -> None:
        raise OSError(number, os.strerror(number))

    return fail


def _limited(size: int, default: bool) -> None:
    """Files get no larger than `size`: beyond it the system ends the process, or the write fails."""
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL if default else signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def writes(every: int = 1) -> list[Count]:
    """All faults of all writers; with `every` only each so-manieth place."""
    killed, short = Count("SIGKILL before each call of a write"), Count("killed within a write, after n bytes")
    failed = {number: Count(f"{errno.errorcode[number]} at each call of a write") for number in ERRORS}
    full = Count("EFBIG: a write that the system takes only a part of")
    with stage_folder() as where:
        for writer in WRITERS:
            old, new = (_value(writer, where / f"value{k}", k) for k in (0, 1))
            for k in range(1, len(_calls(writer, _fresh(where), None)) + 2, every):
                _try(killed, writer, where, (old, new), lambda k=k: _at(k, _die), (-signal.SIGKILL, 0))
            calls = _calls(writer, _fresh(where), FAILING)
            for k in range(1, len(calls) + 1, every):
                removal = calls[k - 1] in ("unlink", "remove")
                for number, count in failed.items():
                    _try(
                        count,
                        writer,
                        where,
                        (old, new),
                        lambda k=k, n=number: _at(k, _fail(n), FAILING),
                        (2, 0),
                        removal,
                    )
            for size in (0, 1, 500, 1000, 2000, 4000, 7999)[::every]:
                _try(short, writer, where, (old, new), lambda n=size: _limited(n, True), (-signal.SIGXFSZ, 0))
                _try(full, writer, where, (old, new), lambda n=size: _limited(n, False), (2, 0))
    return [killed, short, *failed.values(), full]


def _fresh(where: Path) -> Path:
    root = where / "runs"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    return root


def _value(writer: Writer, root: Path, written: int) -> Any:
    root = _fresh(root.parent)
    writer.before(root)
    if written:
        writer.write(root)
    return writer.read(root)


def _try(
    count: Count,
    writer: Writer,
    where: Path,
    values: tuple[Any, Any],
    fault: Callable[[], object],
    codes: tuple[int, int],
    removal: bool = False,
) -> None:
    """One fault: the old or the new must be there, whole, and the new where the write says that it is done.

    With the fault gone the same write must give the new. Half a file may stay of a process that was killed, or whose
    `removal` of it failed, until it is swept.
    """
    root, log = _fresh(where), where / "log"
    log.write_text("")
    writer.before(root)

    def do() -> None:
        fault()
        try:
            writer.write(root)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

    child, problems = Child(do, log), []
    if child.wait() not in codes:
        problems.append(f"status {child.code}")
    try:
        if writer.read(root) not in (values[1:] if child.code == 0 else values):
            problems.append("neither the old nor the new")
    except StoreError as error:
        problems.append(str(error))
    problems += damage(root) + spoken(log)
    left = list(root.rglob(".*.*.????????"))
    if left and not removal and (codes[0] == 2 or child.code == 0):
        problems.append("half written files of a process that was not killed")
    writer.write(root)
    for folder in root.glob("*"):
        Folder(folder).sweep()
    if writer.read(root) != values[1] or list(root.rglob(".*.*.????????")):
        problems.append("not the new after another try")
    count.take(writer.name, problems)
