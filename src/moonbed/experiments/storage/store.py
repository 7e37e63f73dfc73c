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

import errno
import hashlib
import os
import re
import secrets
import time as clock
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from moonbed.component import Component, SpecError
from moonbed.experiments.spec import Experiment, Training
from moonbed.experiments.storage import formats, places
from moonbed.experiments.storage.seals import sealed, unseal

if TYPE_CHECKING:
    from torch import Tensor

    from moonbed.experiments.storage.index import Index

__all__ = ["Folder", "Store", "StoreError"]

T = TypeVar("T")

LEFT_SECONDS = 3600.0
"""A half written file that is as old belongs to a process that was killed."""


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
        return self._loaded(name, self.file(name))

    def _loaded(self, name: str, data: bytes) -> dict[str, Tensor]:
        from safetensors.torch import load

        try:
            return load(data)
        except Exception as error:  # its own errors have no public base, and its types may be none of torch's
            raise StoreError(f"{self.path / name} is no safetensors file: {error}") from None

    def verify(self) -> None:
        """Hold the JSON files against their seals, and the files of record and checkpoint against their checksums.

        Raises `StoreError`, which names the first that differs, or the configuration that a finished folder lacks.
        """
        found = self.names("*.json", "metrics/*.json")
        for name in found:
            self.read_json(name)
        record = self.record()
        if record is None:
            self._verify_checkpoint()
            return
        for name, sha256 in record["files"].items():
            self.listed(name, sha256)
        if "id" in record and not {"training.json", "experiment.json"} & set(found):
            spec = self.path / ("experiment.json" if "training" in record else "training.json")
            raise StoreError(f"{spec} is missing; the command that made it writes it again")

    def sweep(self) -> None:
        """Remove what a killed process left half written. Only for whoever holds the lock; without one nothing is."""
        if not self.alone:
            return
        for path in self.path.rglob(".*.*.????????"):
            path.unlink(missing_ok=True)

    def held(self) -> bool | None:
        """Whether a process works on this training; None where the system cannot say it, as under a URL.

        It asks for a shared lock and lets it go at once, on a file opened for reading: nothing is written, and whoever
        wants to train meanwhile tries again a twentieth of a second later.
        """
        if not self.alone:
            return None
        try:
            import fcntl
        except ImportError:
            return None
        try:
            with (self.path / ".lock").open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except FileNotFoundError:
            return False
        except OSError:
            return None
        return False

    # The state of a training under way: the pointer is written after the file that it points to.

    def save_checkpoint(
        self,
        tensors: dict[str, Tensor],
        step: int,
        log: list[dict[str, float]],
        seconds: float,
        resumed: Sequence[int] = (),
    ) -> None:
        """Keep the state of a training, and drop the one kept before; `resumed` as `Folder.resumed` says it."""
        from safetensors.torch import save

        name, data = f"checkpoint-{step}.safetensors", save({k: v.contiguous() for k, v in tensors.items()})
        name = name if self.alone else addressed(name, hashlib.sha256(data).hexdigest())
        pointer = {"file": name, "sha256": self.write(name, data), "step": step, "log": log, "seconds": seconds}
        self.write_json("checkpoint.json", pointer | {"resumed": list(resumed)})
        self._drop(keep=name)

    def load_checkpoint(self) -> tuple[dict[str, Tensor], int, list[dict[str, float]], float] | None:
        """(tensors, step, log, seconds) of the last checkpoint, None where there is none."""
        pointer = self.read_json("checkpoint.json")
        if pointer is None:
            return None
        try:
            tensors = self._loaded(pointer["file"], self.read(pointer["file"], pointer["sha256"]))
        except StoreError:
            if self.alone:
                raise
            return None  # another, who trains the same, has dropped it: then from the beginning
        return tensors, pointer["step"], pointer["log"], pointer["seconds"]

    def _verify_checkpoint(self) -> None:
        """Read the state of a training as it is now: a process at work may replace it meanwhile."""
        while (pointer := self.read_json("checkpoint.json")) is not None:
            try:
                self.read(pointer["file"], pointer["sha256"])
                return
            except StoreError:
                if self.read_json("checkpoint.json") == pointer:
                    raise

    def resumed(self) -> list[int]:
        """The steps at which a process went on with the training from a checkpoint, those of a finished one too."""
        held = self.record() or self.read_json("checkpoint.json") or {}
        return [int(step) for step in held.get("resumed", [])]

    def log(self) -> list[tuple[int, float]]:
        """(step, mean loss) of a training: by its log where it is done, by its last checkpoint while it is not."""
        if self.record() is None:
            return formats.points((self.read_json("checkpoint.json") or {"log": []})["log"])
        try:
            return formats.log_lines(self.file("log.jsonl"))
        except ValueError as error:
            raise StoreError(f"{self.path / 'log.jsonl'} {error}") from None

    def drop_checkpoint(self) -> None:
        """Forget the state of a training that is done."""
        self.remove("checkpoint.json")
        self._drop(keep=None)

    def _drop(self, keep: str | None) -> None:
        for name in self.names("checkpoint-*.safetensors"):
            if name != keep:
                self.remove(name)


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
                if found.time < clock.time() - LEFT_SECONDS and re.fullmatch(r"\..+\.\d+\.[0-9a-f]{8}", left):
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
            self._locks = _can_lock(folder / ".lock")
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


def addressed(name: str, sha256: str) -> str:
    """The name of a file where several may write it: with the beginning of its checksum before its ending."""
    stem, dot, ending = name.rpartition(".")
    return f"{stem}.{sha256[:16]}{dot}{ending}" if dot else f"{name}.{sha256[:16]}"


def _can_lock(path: Path) -> bool:
    """Whether the file system knows locks: not all that clusters share do. Raises OSError where nothing is written."""
    try:
        import fcntl
    except ImportError:
        return True  # Windows locks in another way
    with path.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError as error:
            return error.errno not in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP)
    return True


@contextmanager
def suiting(what: str) -> Iterator[None]:
    """Whatever arrays from a file raise where they are put into what they were made for, as a `StoreError`."""
    try:
        yield
    except (SpecError, StoreError, MemoryError):
        raise
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise StoreError(f"{what} is damaged: {' '.join(str(error).split())[:300]}") from None


def save_spec(folder: Folder, component: Component) -> None:
    """Write the configuration of a training or an experiment into its folder."""
    folder.write_json(f"{type(component).__name__.lower()}.json", {"id": component.id, "spec": component.spec()})


def verify_done(folder: Folder, component: Component) -> None:
    """Hold a finished folder against its checksums; a configuration that it lacks is written again."""
    if not folder.readonly and f"{type(component).__name__.lower()}.json" not in folder.names("*.json"):
        save_spec(folder, component)
    folder.verify()


def load_spec(folder: Folder, kind: type[Component]) -> Component:
    """The configuration in a folder. Raises `StoreError` where its id is not the folder's name."""
    name = f"{kind.__name__.lower()}.json"
    data = folder.read_json(name)
    if data is None:
        raise StoreError(f"{folder.path / name} is missing")
    try:
        component = kind.parse(data["spec"])
    except SpecError as error:
        raise StoreError(f"{folder.path / name} cannot be read by this version: {error}") from None
    if component.id != folder.path.name:
        raise StoreError(f"{folder.path / name} is not what its folder is named for: its id is now {component.id}")
    return component
