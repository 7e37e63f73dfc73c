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

A file appears whole or not at all: it is written beside its place, flushed to the disk and renamed, and so is the
name: the folder is flushed after it. What is read is held against its checksum first; a file that does not match is
named in a `StoreError` and never used, and so is one that was moved here from another run. A lock that the system drops
when its process dies keeps two processes from the same training.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from moonbed.component import Component, SpecError, digest
from moonbed.experiments.spec import Experiment, Training

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Folder", "Store", "StoreError"]

PLACE = "place"
"""Field of every JSON file of the store: its folder's name and its own, so that one of another run is not taken."""


class StoreError(RuntimeError):
    """A folder that cannot be written, or a file that is damaged or missing; the message names it."""


class Folder:
    """A folder of files that are written atomically and read against their checksums; `readonly` writes none."""

    def __init__(self, path: Path, readonly: bool = False) -> None:
        self.path, self.readonly = path, readonly

    def write(self, name: str, data: bytes) -> str:
        """Put `data` under `name`, whole or not at all, and return its SHA-256."""
        target = self.path / name
        if self.readonly:
            raise StoreError(f"cannot write {target}: the store is open for reading")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary = target.with_name(f".{target.name}.{os.getpid()}.{secrets.token_hex(4)}")
            try:
                with temporary.open("xb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                temporary.replace(target)
                _flush(target.parent)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
        except OSError as error:
            raise StoreError(f"cannot write {target}: {error.strerror or error}") from None
        return hashlib.sha256(data).hexdigest()

    def read(self, name: str, sha256: str | None = None) -> bytes:
        """The bytes under `name`; `StoreError` if they are not there or not those of the checksum."""
        path = self.path / name
        try:
            data = path.read_bytes()
        except OSError as error:
            raise StoreError(f"cannot read {path}: {error.strerror or error}") from None
        if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256:
            raise StoreError(f"{path} is damaged: its checksum differs from the record; remove {self.path} to redo it")
        return data

    def write_json(self, name: str, data: dict[str, Any]) -> None:
        """Put a JSON object under `name`, sealed with a checksum of its own that says where it belongs."""
        self.write(name, _sealed(_finite({**data, PLACE: f"{self.path.name}/{name}"})))

    def read_json(self, name: str) -> dict[str, Any] | None:
        """The JSON object under `name`, None where there is none; `StoreError` if it is damaged or of another place."""
        if not (self.path / name).is_file():
            return None
        return unseal(self.read(name), self.path, name)

    def record(self) -> dict[str, Any] | None:
        """The record of what is done here, None where it is not done."""
        return self.read_json("record.json")

    def finish(self, record: dict[str, Any], files: dict[str, bytes]) -> None:
        """Write the files, then the record with their checksums: from then on the folder is done."""
        sums = {name: self.write(name, data) for name, data in files.items()}
        self.write_json("record.json", {**record, "files": sums})

    def file(self, name: str) -> bytes:
        """The bytes of a file that the record lists, held against its checksum."""
        record = self.record()
        if record is None or name not in record["files"]:
            raise StoreError(f"{self.path / name} is not there: {self.path} is not finished")
        return self.read(name, record["files"][name])

    def verify(self) -> None:
        """Hold the JSON files against their seals, and the files of record and checkpoint against their checksums.

        Raises `StoreError`, which names the first that differs, or the configuration that a finished folder lacks.
        """
        for pattern in ("*.json", "metrics/*.json"):
            for path in sorted(self.path.glob(pattern)):
                self.read_json(path.relative_to(self.path).as_posix())
        record = self.record()
        if record is None:
            self._verify_checkpoint()
            return
        for name in record["files"]:
            self.file(name)
        specs = [self.path / f"{kind.__name__.lower()}.json" for kind in (Training, Experiment)]
        if "id" in record and not any(path.is_file() for path in specs):
            spec = specs["training" in record]
            raise StoreError(f"{spec} is missing; the command that made {self.path} writes it again")

    def sweep(self) -> None:
        """Remove what a killed process left half written. Only for whoever holds the lock."""
        for path in self.path.rglob(".*.*.????????"):
            path.unlink(missing_ok=True)

    def held(self) -> bool | None:
        """Whether a process works on this training; None where the system cannot say it without a lock of its own.

        It asks for a shared lock and lets it go at once, on a file opened for reading: nothing is written, and whoever
        wants to train meanwhile tries again a twentieth of a second later.
        """
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

        name = f"checkpoint-{step}.safetensors"
        sha256 = self.write(name, save({k: v.contiguous() for k, v in tensors.items()}))
        pointer = {"file": name, "sha256": sha256, "step": step, "log": log, "seconds": seconds}
        self.write_json("checkpoint.json", pointer | {"resumed": list(resumed)})
        self._drop(keep=name)

    def load_checkpoint(self) -> tuple[dict[str, Tensor], int, list[dict[str, float]], float] | None:
        """(tensors, step, log, seconds) of the last checkpoint, None where there is none."""
        from safetensors.torch import load

        pointer = self.read_json("checkpoint.json")
        if pointer is None:
            return None
        tensors = load(self.read(pointer["file"], pointer["sha256"]))
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
        if self.record() is not None:
            lines = [json.loads(line) for line in self.file("log.jsonl").splitlines()]
        else:
            lines = (self.read_json("checkpoint.json") or {"log": []})["log"]
        return [(int(line["step"]), float(line["loss"])) for line in lines]

    def drop_checkpoint(self) -> None:
        """Forget the state of a training that is done."""
        (self.path / "checkpoint.json").unlink(missing_ok=True)
        self._drop(keep=None)

    def _drop(self, keep: str | None) -> None:
        for path in self.path.glob("checkpoint-*.safetensors"):
            if path.name != keep:
                path.unlink(missing_ok=True)


class Store:
    """All runs under one root folder, `runs` unless said; a `readonly` one is looked at and never written."""

    def __init__(self, root: str | Path = "runs", readonly: bool = False) -> None:
        self.root, self.readonly = Path(root), readonly

    @classmethod
    def at(cls, store: Store | str | Path) -> Store:
        """A store as it is, or that of a path."""
        return store if isinstance(store, Store) else cls(store)

    def training(self, training: Training) -> Folder:
        """The folder of a training."""
        return Folder(self.root / training.id, self.readonly)

    def experiment(self, experiment: Experiment) -> Folder:
        """The folder of an experiment, inside that of its training."""
        return Folder(self.root / experiment.training.id / experiment.id, self.readonly)

    def floors(self) -> Folder:
        """The folder of the null draws."""
        return Folder(self.root / "floors", self.readonly)

    def exact(self) -> Folder:
        """The folder of values of the exact denoiser under a sampler."""
        return Folder(self.root / "exact", self.readonly)

    def check_writable(self) -> None:
        """Raises `StoreError` now rather than after an hour of training."""
        probe = Folder(self.root, self.readonly)
        probe.write(".probe", b"")
        (self.root / ".probe").unlink(missing_ok=True)

    @contextmanager
    def lock(self, training: Training) -> Iterator[None]:
        """Hold the training alone; a second process waits here, and finds the work done when it is let in."""
        from filelock import FileLock

        folder = self.root / training.id
        if self.readonly:
            raise StoreError(f"cannot write {folder}: the store is open for reading")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(folder / ".lock")
            lock.acquire()
        except OSError as error:
            raise StoreError(f"cannot write {folder}: {error.strerror or error}") from None
        try:
            yield
        finally:
            lock.release()

    def find(self, prefix: str) -> list[tuple[str, Folder]]:
        """(kind, folder) of the trainings and experiments whose id begins with `prefix`; kind is the class's name."""
        hits = []
        for path in [*self.root.glob(f"{prefix}*"), *self.root.glob(f"*/{prefix}*")]:
            kinds = [k.__name__ for k in (Training, Experiment) if (path / f"{k.__name__.lower()}.json").is_file()]
            hits += [(kind, Folder(path, self.readonly)) for kind in kinds]
        return hits

    def runs(self) -> list[tuple[Folder, dict[str, Any]]]:
        """(folder, record) of all finished experiments, by the time of their record."""
        paths = sorted(self.root.glob("*/*/record.json"), key=lambda p: p.stat().st_mtime)
        folders = (Folder(p.parent, self.readonly) for p in paths)
        return [(folder, record) for folder in folders if (record := folder.record())]


def save_spec(folder: Folder, component: Component) -> None:
    """Write the configuration of a training or an experiment into its folder."""
    folder.write_json(f"{type(component).__name__.lower()}.json", {"id": component.id, "spec": component.spec()})


def verify_done(folder: Folder, component: Component) -> None:
    """Hold a finished folder against its checksums; a configuration that it lacks is written again."""
    if not folder.readonly and not (folder.path / f"{type(component).__name__.lower()}.json").is_file():
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


def unseal(text: bytes, folder: PurePath, name: str) -> dict[str, Any]:
    """The JSON object that is `name` of a folder; `StoreError` if the text is damaged, or that of another place."""
    try:
        data = json.loads(text)
        del data["seal"]
        intact = text == _sealed(data)
    except (ValueError, KeyError, TypeError, RecursionError):
        intact = False
    if not intact:
        raise StoreError(f"{folder / name} is damaged: its content does not match its seal; remove it to redo it")
    place = data.pop(PLACE, None)
    if place not in (None, f"{folder.name}/{name}") or (place is None and not _at_home(data, folder, name)):
        raise StoreError(f"{folder / name} is not of this place but {_origin(data, place)}; remove it to redo it")
    return dict(data)


def _flush(path: Path) -> None:
    """Make the names in a folder as lasting as the files; nothing where folders cannot be opened, as on Windows."""
    if hasattr(os, "O_DIRECTORY"):
        number = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def _at_home(data: dict[str, Any], folder: PurePath, name: str) -> bool:
    """Whether a file without a place, of an older version, can be of this one: by an id or a digest that it holds."""
    if "id" in data:
        return bool(data["id"] == folder.name)
    if name.startswith("metrics/") and "metric" in data:
        return digest(data["metric"]) == Path(name).stem
    if folder.name == "floors" and "target" in data:
        return digest([data["target"], data["metric"], data["n"]]) == Path(name).stem
    if folder.name == "exact" and "about" in data:
        return digest(data["about"]) == Path(name).stem
    return True


def _origin(data: dict[str, Any], place: str | None) -> str:
    return f"that of {place}" if place else f"that of {data['id']}" if "id" in data else "one of another name"


def _sealed(data: dict[str, Any]) -> bytes:
    """The one text of a JSON object and its checksum: any other byte is damage."""
    return (json.dumps({**data, "seal": digest(data)}, indent=2) + "\n").encode()


def _finite(data: Any) -> Any:
    """JSON has no infinity: a float that is not finite becomes the text that `float` makes it from."""
    if isinstance(data, dict):
        return {k: _finite(v) for k, v in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(v) for v in data]
    return str(data) if isinstance(data, float) and not math.isfinite(data) else data
