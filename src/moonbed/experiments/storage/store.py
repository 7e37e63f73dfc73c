"""The store: one folder a training, named by its id, and in it one folder for each experiment made from it.

    runs/<training id>/training.json          the configuration
                       log.jsonl              step and mean loss, a line for every 100 steps
                       weights.safetensors    the weights used for sampling
                       snapshots.safetensors  averages by step, of an averaging that keeps them
                       record.json            written last: what is there, with checksums; no record, not done
                       checkpoint.json        only while it trains: the step, and which file holds the state
                       <experiment id>/experiment.json, samples.npy, record.json
                       <experiment id>/metrics/<metric id>.json
                       <experiment id>/anatomy.json    its error budget, where one was taken
         floors/<id>.json                     draws of a metric from an exact sampler
         exact/<id>.json                      values of the exact denoiser under a sampler, and in a training's loss

A file appears whole or not at all (`places.py` says how). What is read is held against its checksum first; a file that
does not match is named in a `StoreError` and never used, nor is one that was moved here from another run (`seals.py`).
A lock that the system drops when its process dies keeps two processes from the same training.

Where there are no locks, under a URL or on a file system that has none, two may compute the same, and their results may
differ in the last bits. So nothing that one has written is overwritten by another: a data file is called by its
checksum too, `weights.5bf198d9c0ffee00.safetensors`, and `record.json`, which says which files belong together, is
created and never replaced. Who finishes first stays, the other takes what is there.
"""

from __future__ import annotations

import os
import secrets
import time as clock
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moonbed.experiments.spec import Experiment, Training
from moonbed.experiments.storage import places
from moonbed.experiments.storage.folder import Folder, StoreError
from moonbed.experiments.storage.layout import is_temporary
from moonbed.experiments.storage.locks import can_lock, lives

if TYPE_CHECKING:
    from moonbed.experiments.storage.index import Index

__all__ = ["Store"]

LEFT_SECONDS = 3600.0
"""A half written file that is as old belongs to a process that was killed."""


class Store:
    """All runs under one root, a folder (`runs` unless said) or a URL; a `readonly` one is looked at, never written.

    `str(store.root)` makes the same store in another process. Raises `SpecError` for a URL that cannot be opened.
    """

    def __init__(self, root: str | Path = "runs", readonly: bool = False) -> None:
        self.root, self.readonly = places.located(root), readonly
        self._locks = not places.remote(self.root)
        self._index: Index | None = None

    @classmethod
    def at(cls, store: Store | str | Path) -> Store:
        """A store as it is, or that of a path or a URL."""
        return store if isinstance(store, Store) else cls(store)

    @property
    def address(self) -> str:
        """The root as a text that means the same in a process with another working directory."""
        return str(self.root.absolute())

    def folder(self, *parts: str) -> Folder:
        """A folder below the root."""
        return Folder(self.root.joinpath(*parts), self.readonly, self._locks)

    def training(self, training: Training) -> Folder:
        """The folder of a training."""
        return self.folder(training.id)

    def experiment(self, experiment: Experiment) -> Folder:
        """The folder of an experiment, inside that of its training."""
        return self.folder(experiment.training.id, experiment.id)

    def floors(self) -> Folder:
        """The folder of the null draws."""
        return self.folder("floors")

    def exact(self) -> Folder:
        """The folder of values of the exact denoiser under a sampler."""
        return self.folder("exact")

    def processes(self, jobs: int) -> int:
        """How many processes may work on it: `jobs`, or 1 where it lies in the memory of this one (`memory://`)."""
        return 1 if places.remote(self.root) and str(self.root).startswith("memory:") else jobs

    def check_writable(self) -> None:
        """Raises `StoreError` now rather than after an hour of training.

        What killed processes left half written outside of trainings is removed once it is too old to be under way.
        """
        probe, name = self.folder(), f".probe.{os.getpid()}.{os.getpid()}.{secrets.token_hex(4)}"
        probe.write(name, b"")
        probe.remove(name)
        for folder in (probe, self.floors(), self.exact()) if self._locks else ():
            for left, found in folder.names(".*.*.????????").items():
                process = is_temporary(left)
                if process is not None and found.time < clock.time() - LEFT_SECONDS and not lives(process):
                    folder.remove(left)

    @contextmanager
    def lock(self, training: Training | str, wait: bool = True) -> Iterator[None]:
        """Hold a training, or its id, alone; a second process waits here, and finds the work done when it is let in.

        Without `wait` it is a `StoreError` that another process holds it. Under a URL, and on a file system without
        locks, nobody waits: two may compute the same, and who finishes first stays (`Folder.finish`).
        """
        folder = self.root / (training if isinstance(training, str) else training.id)
        if self.readonly:
            raise StoreError(f"cannot write {folder}: the store is open for reading")
        if not self._locks:
            yield
            return
        from filelock import FileLock, Timeout

        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._locks = can_lock(folder / ".lock")
            lock: AbstractContextManager[Any] = (
                FileLock(folder / ".lock", blocking=wait) if self._locks else nullcontext()
            )
            lock.__enter__()
        except Timeout:
            raise StoreError(f"{folder} is held by another process") from None
        except OSError as error:
            raise StoreError(f"cannot write {folder}: {error.strerror or error}") from None
        try:
            yield
        finally:
            lock.__exit__(None, None, None)

    def index(self) -> Index:
        """What its runs say, without opening their folders: `index().look()`."""
        if self._index is None:
            from moonbed.experiments.storage.index import Index

            self._index = Index(self)
        return self._index

    def find(self, prefix: str) -> list[tuple[str, Folder]]:
        """(kind, folder) of the trainings and experiments whose id begins with `prefix`; kind is the class's name."""
        kinds = {"training.json": Training.__name__, "experiment.json": Experiment.__name__}
        if not (prefix.isascii() and prefix.isalnum()):  # no id, and no pattern either
            return []
        if places.remote(self.root):
            names = self.folder().names(*(f"{above}{prefix}*/{name}" for above in ("", "*/") for name in kinds))
            hits = [name.rsplit("/", 1) for name in sorted(names, key=lambda name: (name.count("/"), name))]
            return [(kinds[name], self.folder(*where.split("/"))) for where, name in hits]
        folders = [self.folder(*where) for where in places.beginning(self.root, prefix)]
        return [(kind, folder) for folder in folders for name, kind in kinds.items() if (folder.path / name).is_file()]

    def runs(self) -> list[tuple[Folder, dict[str, Any]]]:
        """(folder, record) of all finished experiments, by the time of their record; damaged ones are left out."""
        done = [run for run in self.index().look() if run.status not in ("unfinished", "damaged")]
        folders = (self.folder(run.training, run.id) for run in done)
        return [(folder, record) for folder in folders if (record := folder.record())]
