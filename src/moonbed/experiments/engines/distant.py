"""A task on its way to a process that may be on another machine, and what is asked there before it runs.

Equal bits need equal programs: another version of Moonbed or of torch is an error there, and so is a store that is not
the one of the command, which a token file tells. Plug-in files travel by content. A component's id holds a digest of
the file that defines it, so it is the same from a copy of that file, wherever it lies.
"""

from __future__ import annotations

import atexit
import hashlib
import importlib
import secrets
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import moonbed
from moonbed.component import SpecError
from moonbed.experiments.engines.base import Task, events, failure
from moonbed.experiments.storage.folder import StoreError
from moonbed.experiments.storage.store import Store

__all__ = ["Parcel", "parcels"]

PATIENCE = 10.0
"""Seconds that a token may take to be seen on another machine."""


@dataclass(frozen=True)
class Parcel:
    """A task with what another machine needs for it: texts of plug-in files, versions, the token in its store."""

    task: Task
    sources: Mapping[str, bytes]
    versions: Mapping[str, str]
    token: str

    def open(self) -> Iterator[Any]:
        """The events of the task, in this process; a `Failure` where this machine cannot do it as the other would."""
        try:
            self._check()
            task = replace(self.task, files=_unpacked(self.task.files, self.sources))
        except Exception as error:
            yield failure(error)
            return
        yield from events(task)

    def _check(self) -> None:
        here = versions()
        differing = {name: (version, here[name]) for name, version in self.versions.items() if version != here[name]}
        if differing:
            words = "; ".join(f"{name} {mine} there and {other} here" for name, (other, mine) in differing.items())
            raise StoreError(f"{socket.gethostname()} would not give the same bits: {words}; install the same versions")
        deadline = time.monotonic() + PATIENCE
        while self.token and not _seen(self.task.store, self.token):
            if time.monotonic() > deadline:
                raise StoreError(
                    f"{socket.gethostname()} does not see the store {self.task.store} of this command: put it on a "
                    "file system that all machines share, at one path, or at a URL such as s3://bucket/runs"
                )
            time.sleep(0.5)


@contextmanager
def parcels(tasks: Sequence[Task]) -> Iterator[list[Parcel]]:
    """The tasks as parcels; their stores hold a token until the end."""
    tokens: dict[str, str] = {}
    try:
        for root in dict.fromkeys(task.store for task in tasks if task.store):
            tokens[root] = f".seen.engine.{secrets.token_hex(4)}"
            Store(root).folder().write(tokens[root], b"here")
        yield [Parcel(task, _sources(task.files), versions(), tokens.get(task.store, "")) for task in tasks]
    finally:
        for root, token in tokens.items():
            with suppress(StoreError):
                Store(root).folder().remove(token)


def import_extra(module: str, extra: str, name: str) -> Any:
    """A module that an extra of Moonbed installs. Raises `SpecError` where it is not there."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise SpecError([("engine", f"{name} is not installed: pip install 'moonbed[{extra}]'")]) from None


def versions() -> dict[str, str]:
    """Versions on which the bits of a result depend; of torch without the name of its build."""
    import torch

    return {"moonbed": moonbed.__version__, "torch": torch.__version__.partition("+")[0]}


def _seen(root: str, token: str) -> bool:
    try:
        return Store(root).folder().read(token) == b"here"
    except StoreError:
        return False


def _sources(files: Sequence[str]) -> dict[str, bytes]:
    """Path -> content of plug-in files, and of the modules beside them that are imported here: they may need those."""
    own = [Path(file).resolve() for file in files]
    loaded = [Path(file).resolve() for m in list(sys.modules.values()) if (file := getattr(m, "__file__", None))]
    beside = [path for path in loaded if path.suffix == ".py" and path.parent in {p.parent for p in own}]
    try:
        return {str(path): path.read_bytes() for path in dict.fromkeys([*own, *beside])}
    except OSError as error:
        raise SpecError(
            [(str(error.filename), f"cannot be read ({error.strerror}), and other machines need it")]
        ) from None


def _unpacked(files: Sequence[str], sources: Mapping[str, bytes]) -> list[str]:
    """Paths of plug-in files on this machine: where they were, or copies that import one another by their names."""
    if all(Path(path).is_file() and Path(path).read_bytes() == text for path, text in sources.items()):
        return list(files)
    name = f"moonbed-{hashlib.sha256(repr(sorted(sources.items())).encode()).hexdigest()[:16]}-"
    known = next((path for path in sys.path if Path(path).name.startswith(name)), None)
    if known is None:
        known = tempfile.mkdtemp(prefix=name)  # for its owner alone
        atexit.register(shutil.rmtree, known, ignore_errors=True)
        for path, text in sources.items():
            (Path(known) / Path(path).name).write_bytes(text)
        sys.path.append(known)
    out = [Path(known) / Path(file).name for file in files]
    for name in [copy.stem for copy in out]:
        if name not in sys.modules and name.isidentifier():
            with suppress(Exception):  # as its neighbours would, so that it is one module and not two
                importlib.import_module(name)
    return [str(path) for path in out]
