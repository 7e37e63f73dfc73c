"""What a store holds, read again and again while others write into it.

A training is *training* while a process holds its lock and no record is there; *interrupted* if nobody does, with the
step of its last checkpoint; *sampling* or *evaluating* while somebody goes on with it; *done* or *diverged* as its
record says; *damaged* where a file does not match its seal. How far a training is, and its losses, stand in its
checkpoint, which is written about once a second.

Nothing is written. A folder is read again only when the time of one of its files has changed: a thousand finished runs
cost a few thousand calls of `stat`.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moonbed.experiments import formats
from moonbed.experiments.store import Folder, Store, StoreError
from moonbed.serve.naming import brief, described

__all__ = ["Index", "losses", "patiently"]

APART = frozenset({"floors", "exact"})
"""Folders of a store that are no trainings."""
SPARK = 40
"""Points of the small curve in the list."""
SETTLED = 0.1
"""Seconds after which the time of a file tells two of its versions apart."""
FRESH = 60.0
"""Seconds for which a checkpoint counts as being worked on, where the system cannot say whether somebody does."""
AGAIN = 0.25
"""Seconds between two looks at the store, however many ask."""


@dataclass(frozen=True)
class _Seen:
    stamp: tuple[Any, ...] | None
    inner: tuple[str, ...]
    run: dict[str, Any]


class Index:
    """The runs of a store, as plain JSON values; what is no folder in it, no id can name."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._lock = threading.Lock()
        self._seen: dict[str, _Seen] = {}
        self._runs: dict[str, dict[str, Any]] = {}
        self._folders: dict[str, str] = {}
        self._looked = -1e9

    def runs(self) -> list[dict[str, Any]]:
        """All of them, the last begun first. Raises `StoreError` where the store itself cannot be read."""
        return sorted(self._look().values(), key=lambda run: (-run["started"], run["id"]))

    def folder(self, key: str) -> Folder | None:
        """The folder of a run by its id, None for what the list does not hold."""
        return Folder(self.store.root / self._folders[key], readonly=True) if key in self._look() else None

    def run(self, key: str) -> dict[str, Any] | None:
        """One of them."""
        return self._look().get(key)

    def _look(self) -> dict[str, dict[str, Any]]:
        with self._lock:
            if time.monotonic() - self._looked > AGAIN:
                self._seen = {name: self._read(name) for name in self._names()}
                found = [(name, seen.run) for name, seen in self._seen.items() if seen.run]
                self._folders = {run["id"]: name for name, run in found}
                self._runs = {run["id"]: run for _, run in found}
                self._looked = time.monotonic()
            return self._runs

    def _names(self) -> list[str]:
        root = self.store.root
        try:
            with os.scandir(root) as entries:
                return [e.name for e in entries if e.name not in APART and e.name[:1] != "." and e.is_dir()]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StoreError(f"cannot read {root}: {error.strerror or error}") from None

    def _read(self, name: str) -> _Seen:
        path, old = str(self.store.root / name), self._seen.get(name)
        held = Folder(Path(path)).held()
        if old is not None and old.stamp is not None and old.stamp == _stamp(path, old.inner, held):
            return old
        inner = _experiments(path)
        stamp = _stamp(path, inner, held)
        try:
            run = patiently(lambda: _summary(Path(path), inner, held, stamp))
        except Exception as error:  # whatever a folder holds, the other runs are shown
            run = _damaged(name, error, stamp)
        settled = max(stamp[1], default=0) < (time.time() - SETTLED) * 1e9
        return _Seen(stamp if settled else None, inner, run)


def patiently(read: Callable[[], Any], tries: int = 3) -> Any:
    """What `read` returns; it may find that what it read of was replaced meanwhile, so it gets another try."""
    for _ in range(tries - 1):
        try:
            return read()
        except (StoreError, OSError):
            time.sleep(0.02)
    return read()


def _experiments(path: str) -> tuple[str, ...]:
    try:
        with os.scandir(path) as entries:
            return tuple(sorted(e.name for e in entries if e.is_dir() and _when(f"{e.path}/experiment.json")))
    except OSError:
        return ()


def _stamp(path: str, inner: Sequence[str], held: bool | None) -> tuple[Any, ...]:
    """What changes whenever something in the folder that the list shows does."""
    names = ["", "/training.json", "/record.json", "/checkpoint.json"]
    for name in inner:
        names += [f"/{name}", f"/{name}/experiment.json", f"/{name}/record.json", f"/{name}/metrics"]
    return held, tuple(map(_when, (path + name for name in names)))


def _when(path: str) -> int:
    try:
        return os.stat(path).st_mtime_ns  # noqa: PTH116 (thousands a second)
    except OSError:
        return 0


def _summary(path: Path, inner: Sequence[str], held: bool | None, stamp: tuple[Any, ...]) -> dict[str, Any]:
    folder, times = Folder(path), stamp[1]
    found, record, now = folder.read_json("training.json"), folder.record(), folder.read_json("checkpoint.json")
    experiments = [_experiment(Folder(path / name), held) for name in inner]
    exact = found is None and bool(experiments)
    if found is None and not exact:
        return {}
    spec = found["spec"] if found else (folder.read_json(f"{inner[0]}/experiment.json") or {})["spec"]["training"]
    if found and found["id"] != path.name:
        raise StoreError(f"{path / 'training.json'} is not what its folder is named for: its id is {found['id']}")
    name, differs = described(spec)
    log = [] if exact else losses(folder, record, now)
    step = (record or now or {}).get("step", 0)
    return {
        "id": path.name,
        "status": _status(record, exact, held, times[3], experiments),
        "message": (record or {}).get("message", ""),
        "name": name,
        "differs": [["exact", "true"], *differs] if exact else differs,
        "seed": spec["seed"],
        "steps": 0 if exact else spec["steps"],
        "step": step,
        "loss": log[-1][1] if log else None,
        "spark": [loss for _, loss in thinned(log, SPARK)],
        "seconds": (record or now or {}).get("seconds", 0.0),
        "parameters": (record or {}).get("parameters"),
        "device": (record or {}).get("device", ""),
        "started": (times[1] or times[4]) / 1e9,
        "updated": max(times[1:]) / 1e9,
        "experiments": experiments,
    }


def _experiment(folder: Folder, held: bool | None) -> dict[str, Any]:
    found = folder.read_json("experiment.json")
    if found is None:
        raise StoreError(f"cannot read {folder.path / 'experiment.json'}")
    spec, record = found["spec"], folder.record()
    status = record["status"] if record else ("sampling" if held else "unfinished")
    told = {key: brief(value) for key, value in spec.items() if key in _TOLD and value not in (None, False)}
    return {
        "id": folder.path.name,
        "status": status,
        "sampler": brief(spec["sampler"]),
        "n": spec["n"],
        "told": told,
        "exploded": (record or {}).get("exploded"),
        "metrics": len(list(folder.path.glob("metrics/*.json"))),
    }


_TOLD = ("schedule", "label", "guidance", "exact", "sigma_rel")


def _status(
    record: Mapping[str, Any] | None,
    exact: bool,
    held: bool | None,
    checkpoint: int,
    experiments: Sequence[Mapping[str, Any]],
) -> str:
    if record is None and not exact:
        fresh = held is None and checkpoint > (time.time() - FRESH) * 1e9
        return "training" if held or fresh else "interrupted"
    if record is not None and record["status"] != "done":
        return "diverged"
    if held:
        sampled = experiments and all(e["status"] == "done" for e in experiments)
        return "evaluating" if sampled else "sampling"
    return "done"


def losses(
    folder: Folder, record: Mapping[str, Any] | None, checkpoint: Mapping[str, Any] | None
) -> list[tuple[int, float]]:
    """(step, mean loss of the last 100 steps) from the log of a finished training, or from its last checkpoint."""
    if record is None:
        return formats.points((checkpoint or {"log": []})["log"])
    if "log.jsonl" not in record["files"]:
        return []
    return formats.log_lines(folder.listed("log.jsonl", record["files"]["log.jsonl"]))


def thinned(points: list[tuple[int, float]], most: int) -> list[tuple[int, float]]:
    """At most so many of the points, the last one among them."""
    every = -(-len(points) // most) or 1
    return points[(len(points) - 1) % every :: every]


def _damaged(name: str, error: Exception, stamp: tuple[Any, ...]) -> dict[str, Any]:
    message = str(error) if isinstance(error, StoreError) else f"cannot be read ({type(error).__name__}: {error})"
    blank: dict[str, Any] = {"name": "", "differs": [], "seed": None, "steps": 0, "step": 0, "loss": None, "spark": []}
    more: dict[str, Any] = {"seconds": 0.0, "parameters": None, "device": "", "experiments": []}
    when = {"started": stamp[1][1] / 1e9, "updated": max(stamp[1]) / 1e9}
    key = name.encode("utf-8", "replace").decode()  # a name in no encoding is shown with question marks
    return {"id": key, "status": "damaged", "message": message, **blank, **more, **when}
