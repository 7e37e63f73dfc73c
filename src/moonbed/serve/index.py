"""What a store holds, read again and again while others write into it.

A training is *training* while a process holds its lock and no record is there; *interrupted* if nobody does, with the
step of its last checkpoint; *sampling* or *evaluating* while somebody goes on with it; *done* or *diverged* as its
record says; *damaged* where a file does not match its seal. How far a training is, and its losses, stand in its
checkpoint, which is written about once a second.

Nothing is written. What experiments say comes from the store's own index; a training is read again only when the time
of one of its files has changed: a thousand finished runs cost a few thousand calls of `stat`.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from moonbed.experiments.storage import formats
from moonbed.experiments.storage.folder import Folder, StoreError
from moonbed.experiments.storage.index import APART, Run
from moonbed.experiments.storage.places import remote
from moonbed.experiments.storage.store import Store
from moonbed.serve.naming import brief, described

__all__ = ["Index", "losses", "patiently"]

SPARK = 40
"""Points of the small curve in the list."""
SETTLED = 0.1
"""Seconds after which the time of a file tells two of its versions apart."""
FRESH = 60.0
"""Seconds for which a checkpoint counts as being worked on, where the system cannot say whether somebody does."""
AGAIN = 0.25
"""Seconds between two looks at the store, however many ask."""
FAR = 5.0
"""The same where the store is a URL."""


@dataclass(frozen=True)
class _Seen:
    stamp: tuple[Any, ...] | None
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
            if time.monotonic() - self._looked > (FAR if remote(self.store.root) else AGAIN):
                inner: dict[str, list[Run]] = {}
                for run in self.store.index().look():
                    inner.setdefault(run.training, []).append(run)
                times = _times(self.store, inner)
                self._seen = {name: self._read(name, found, inner.get(name, [])) for name, found in times.items()}
                found = [(name, seen.run) for name, seen in self._seen.items() if seen.run]
                self._folders = {run["id"]: name for name, run in found}
                self._runs = {run["id"]: run for _, run in found}
                self._looked = time.monotonic()
            return self._runs

    def _read(self, name: str, times: tuple[float, ...], inner: list[Run]) -> _Seen:
        folder, old = Folder(self.store.root / name, readonly=True), self._seen.get(name)
        held = folder.held()
        inner = sorted(inner, key=lambda run: run.id)
        stamp = held, times, tuple(inner)
        if old is not None and old.stamp == stamp:
            return old
        when = (times[1] or times[0], max([*times[1:], *(run.changed for run in inner)]))
        try:
            run = patiently(lambda: self._summary(folder, inner, held, times[3]))
        except Exception as error:  # whatever a folder holds, the other runs are shown
            run = _damaged(name, error)
        if run:
            run |= {"started": when[0], "updated": when[1]}
        return _Seen(stamp if when[1] < time.time() - SETTLED else None, run)

    def _summary(self, folder: Folder, inner: Sequence[Run], held: bool | None, checkpoint: float) -> dict[str, Any]:
        found, record, now = folder.read_json("training.json"), folder.record(), folder.read_json("checkpoint.json")
        for run in inner:
            if run.status == "damaged":
                raise StoreError(run.message)
        exact = found is None and bool(inner)
        if found is None and not exact:
            return {}
        index = self.store.index()
        spec = found["spec"] if found else index.spec(inner[0])["training"]
        if found and found["id"] != folder.path.name:
            path = folder.path / "training.json"
            raise StoreError(f"{path} is not what its folder is named for: its id is {found['id']}")
        name, differs = described(spec)
        log = [] if exact else losses(folder, record, now)
        step = (record or now or {}).get("step", 0)
        experiments = [{**_told(index.configuration_text(run)), **_experiment(run, held)} for run in inner]
        return {
            "id": folder.path.name,
            "status": _status(record, exact, held, checkpoint, experiments),
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
            "experiments": experiments,
        }


def _times(store: Store, inner: Mapping[str, Any]) -> dict[str, tuple[float, ...]]:
    """Folder of a training -> times of the folder, its configuration, its record and its checkpoint; 0 for none."""
    names = ("training.json", "record.json", "checkpoint.json")
    if remote(store.root):
        found = store.folder().names(*(f"*/{name}" for name in names))
        folders = {name.split("/")[0] for name in found} | {*inner}
        times = {f: [found[f"{f}/{name}"].time if f"{f}/{name}" in found else 0.0 for name in names] for f in folders}
        return {f: (max([*t, *(run.time for run in inner.get(f, []))]), *t) for f, t in times.items()}
    root = store.root
    try:
        with os.scandir(root) as entries:
            kept = [e.path for e in entries if e.name not in APART and e.name[:1] != "." and e.is_dir()]
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise StoreError(f"cannot read {root}: {error.strerror or error}") from None
    return {os.path.basename(p): tuple(map(_when, (p, *(f"{p}/{name}" for name in names)))) for p in kept}  # noqa: PTH119


def patiently(read: Callable[[], Any], tries: int = 3) -> Any:
    """What `read` returns; it may find that what it read of was replaced meanwhile, so it gets another try."""
    for _ in range(tries - 1):
        try:
            return read()
        except (StoreError, OSError):
            time.sleep(0.02)
    return read()


def _when(path: str) -> float:
    try:
        return os.stat(path).st_mtime_ns / 1e9  # noqa: PTH116 (thousands a second)
    except OSError:
        return 0.0


def _experiment(run: Run, held: bool | None) -> dict[str, Any]:
    status = ("sampling" if held else "unfinished") if run.status == "unfinished" else run.status
    done = run.status != "unfinished"
    return {"id": run.id, "status": status, "exploded": run.exploded if done else None, "metrics": run.asked}


@cache
def _told(configuration: str) -> dict[str, Any]:
    """What is said of how an experiment samples, by the JSON of its configuration."""
    spec = json.loads(configuration)
    told = {key: brief(value) for key, value in spec.items() if key in _TOLD and value not in (None, False)}
    return {"sampler": brief(spec["sampler"]), "n": spec["n"], "told": told}


_TOLD = ("schedule", "label", "guidance", "exact", "sigma_rel")


def _status(
    record: Mapping[str, Any] | None,
    exact: bool,
    held: bool | None,
    checkpoint: float,
    experiments: Sequence[Mapping[str, Any]],
) -> str:
    if record is None and not exact:
        fresh = held is None and checkpoint > time.time() - FRESH
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


def _damaged(name: str, error: Exception) -> dict[str, Any]:
    message = str(error) if isinstance(error, StoreError) else f"cannot be read ({type(error).__name__}: {error})"
    blank: dict[str, Any] = {"name": "", "differs": [], "seed": None, "steps": 0, "step": 0, "loss": None, "spark": []}
    more: dict[str, Any] = {"seconds": 0.0, "parameters": None, "device": "", "experiments": []}
    key = name.encode("utf-8", "replace").decode()  # a name in no encoding is shown with question marks
    return {"id": key, "status": "damaged", "message": message, **blank, **more}
