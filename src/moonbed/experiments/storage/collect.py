"""What nothing in a store needs, and its removal.

By itself only what no command would ever read: files of writers that were killed, checkpoints of trainings that are
done, answers about samples that are gone, damaged floors and exact values (both are computed again), empty folders.
Results go only where they are asked for. Of a run the record goes first, so that whatever is killed halfway leaves it
whole or unfinished. A training that another process holds is left alone.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import PurePosixPath
from typing import Any

from moonbed.component import SpecError
from moonbed.experiments.storage.files import Stored
from moonbed.experiments.storage.folder import StoreError, addressed
from moonbed.experiments.storage.inspection import Inspection, needed_by
from moonbed.experiments.storage.layout import DATA, Name, is_folder, is_lock, is_temporary, is_token, read_name
from moonbed.experiments.storage.locks import lives
from moonbed.experiments.storage.places import Found, remote
from moonbed.experiments.storage.store import Store

__all__ = ["Garbage", "Wanted", "collect", "remove_run"]

HOUR = 3600.0
WEEK = 7 * 24 * HOUR
"""Longer than a command runs on a cluster."""
HELD = "another process holds it"


@dataclass(frozen=True)
class Garbage:
    """A file that is not needed, or an empty folder, whose name ends in `/`; `kept` says why it is there still."""

    name: str
    size: int
    why: str
    kept: str = ""


@dataclass(frozen=True)
class Wanted:
    """What is to go beside that which nothing needs, and how old everything has to be, in days.

    `runs` are ids, or beginnings of them: all that is in these folders. `trainings` are those without an experiment
    that are no teacher and no guide.
    """

    runs: Sequence[str] = ()
    diverged: bool = False
    unfinished: bool = False
    trainings: bool = False
    older_than: float = 0.0


def collect(store: Store, wanted: Wanted = Wanted(), dry_run: bool = False) -> Iterator[Garbage]:
    """Remove what is not needed, and yield it file by file; with `dry_run` it stays.

    Raises `SpecError` for an id that is not there, and for a run that others were made with.
    """
    rules = _Rules.over(store, wanted)
    every = Stored(store).every()
    for home, group in groupby(every, key=lambda name: name.partition("/")[0] if "/" in name else ""):
        found = rules.of(home, {name: every[name] for name in group})
        if not found:
            continue
        if dry_run:
            held = HELD if rules.is_training(home) and store.folder(home).held() else ""
            yield from (replace(garbage, kept=held) for garbage in found)
        elif not rules.is_training(home):
            yield from _remove(store, found)
        else:
            try:
                with store.lock(home, wait=False):
                    gone = _remove(store, rules.of(home, Stored(store).every(home)))
                    yield from (garbage for garbage in gone if garbage.name in every)  # the lock may be our own
            except StoreError as error:
                if "held by" not in str(error):
                    raise
                yield from (replace(garbage, kept=HELD) for garbage in found)


def remove_run(store: Store, run: str, with_experiments: bool = True) -> None:
    """Remove the run in a folder, its record first; a training goes with its experiments, unless they are to stay."""
    names = [name for name in Stored(store).every(run) if not is_lock(name.rpartition("/")[2])]
    if not with_experiments:
        names = [name for name in names if name.count("/") == 1]
    for name in sorted(names, key=_first):
        _unlink(store, name)


def _first(name: str) -> tuple[int, str]:
    """Records go first, then what points to files, then the files, then what they were; locks last."""
    ranks = {"record.json": 0, "checkpoint.json": 1, "experiment.json": 3, "training.json": 4}
    last = name.rpartition("/")[2]
    return 5 if is_lock(last) else ranks.get(last, 2), name


def _remove(store: Store, found: Sequence[Garbage]) -> Iterator[Garbage]:
    for garbage in found:
        _unlink(store, garbage.name)
        yield garbage


def _unlink(store: Store, name: str) -> None:
    """Remove a file, or an empty folder, and the folders above it that are empty then."""
    path = store.root / name
    if not name.endswith("/"):
        store.folder().remove(name)
    if remote(store.root):
        return
    for folder in [path, *path.parents[: name.rstrip("/").count("/")]]:
        with suppress(OSError):  # somebody put a file there
            folder.rmdir()


@dataclass
class _Rules:
    """Which files of a folder nothing needs."""

    store: Store
    wanted: Wanted
    chosen: frozenset[str]
    needed: frozenset[str]
    now: float = field(default_factory=time.time)
    _times: Mapping[str, Found | None] = field(default_factory=dict)

    @classmethod
    def over(cls, store: Store, wanted: Wanted) -> _Rules:
        chosen = frozenset(_find(store, text) for text in wanted.runs)
        needed: frozenset[str] = frozenset()
        if chosen or wanted.trainings:
            users = _users(store, chosen)
            needed = frozenset(id for uses in users.values() for id in uses)
            for home in sorted(chosen):
                others = [user for user in users if home in users[user] and not user.startswith(home)]
                if others and not any(user in chosen or user.partition("/")[0] in chosen for user in others):
                    raise SpecError(
                        [(home, f"is a teacher or guide of {', '.join(others)}: they would be lost with it")]
                    )
        return cls(store, wanted, chosen, needed)

    def is_training(self, home: str) -> bool:
        return read_name(f"{home}/training.json") is not None

    def of(self, home: str, files: Mapping[str, Found | None]) -> list[Garbage]:
        """What may go of the files of one folder of the store, in the order in which it goes."""
        self._times = files
        why: dict[str, str] = {}
        for name in files:
            if self._is_left(name):
                why[name] = "left by a writer that was killed"
            elif is_token(name) and self._age(name) > WEEK:
                why[name] = "left by a command that was killed"
            elif is_folder(name) and self._age(name) > HOUR:
                why[name] = "empty folder"
        names = [known for file in files if (known := read_name(file)) is not None]
        if self.is_training(home):
            why |= self._of_run(home, names)
        elif home in ("floors", "exact"):
            why |= self._damaged(names)
        limit = self.wanted.older_than * 24 * HOUR
        why = {name: reason for name, reason in why.items() if self._age(name) >= limit}
        why |= self._asked(home, files) if self.is_training(home) else {}
        found = sorted(why, key=_first)
        locks = [name for name in files if is_lock(name.rpartition("/")[2])]
        if set(files) == {*found, *locks} and (found or all(self._age(name) > max(HOUR, limit) for name in locks)):
            found += locks
            why |= dict.fromkeys(locks, "lock of an empty folder")
        return [Garbage(name, self._size(name), why[name]) for name in found]

    def _of_run(self, home: str, names: Sequence[Name]) -> dict[str, str]:
        done = {name.folder for name in names if name.kind in ("record", "sampled")}
        pointer = self._json(f"{home}/checkpoint.json") or {}
        out: dict[str, str] = {}
        for name in names:
            if name.kind in ("state", "checkpoint") and home in done:
                out[name.name] = "checkpoint of a finished training"
            elif name.kind == "state" and name.inner != pointer.get("file") and self._is_quiet(name.name):
                out[name.name] = "checkpoint that no checkpoint.json names"
            elif name.kind in DATA and name.name != name.plain and name.folder in done and self._is_quiet(name.name):
                listed, plain = (
                    (self._json(f"{name.folder}/record.json") or {}).get("files", {}),
                    PurePosixPath(name.plain).name,
                )
                if name.inner != addressed(plain, listed.get(plain, name.inner)):
                    out[name.name] = "left by a process that another was faster than"
            elif name.kind in ("metric", "anatomy") and name.folder not in done:
                out[name.name] = "answer about samples that are gone"
        return out

    def _asked(self, home: str, files: Collection[str]) -> dict[str, str]:
        inner = {name.partition("/")[2].partition("/")[0] for name in files if name.endswith("/record.json")}
        record, own = self._json(f"{home}/record.json"), [name for name in files if name.count("/") == 1]
        experiments = inner - {"record.json"}
        out: dict[str, str] = {}
        for name in files:
            if home in self.chosen or "/".join(name.split("/")[:2]) in self.chosen:
                out[name] = "asked for"
        if self.wanted.unfinished:
            out |= dict.fromkeys(
                (n for n in files if n.count("/") > 1 and n.split("/")[1] not in experiments), "unfinished"
            )
            if "record.json" not in inner:
                out |= dict.fromkeys(own, "unfinished")
        if self.wanted.diverged and record is not None and record.get("status") == "diverged":
            out |= dict.fromkeys(own, "diverged")
        if (
            self.wanted.trainings
            and record
            and record["status"] == "done"
            and not experiments
            and home not in self.needed
        ):
            out |= dict.fromkeys(own, "training without an experiment")
        return self._old_runs(home, {name: why for name, why in out.items() if not is_lock(name.rpartition("/")[2])})

    def _old_runs(self, home: str, found: Mapping[str, str]) -> dict[str, str]:
        """Those of runs whose newest file is old enough: a run goes whole or stays."""
        limit, youngest = self.wanted.older_than * 24 * HOUR, dict[str, float]()

        def run_of(name: str) -> str:
            return home if home in self.chosen or name.count("/") == 1 else "/".join(name.split("/")[:2])

        for name in found:
            youngest[run_of(name)] = min(youngest.get(run_of(name), math.inf), self._age(name))
        alone = self.store.folder().alone  # else only its age says that nobody trains it
        return {
            name: why
            for name, why in found.items()
            if youngest[run_of(name)] >= (limit if alone or why != "unfinished" else max(limit, HOUR))
        }

    def _damaged(self, names: Sequence[Name]) -> dict[str, str]:
        looks = Inspection(Stored(self.store)).findings(names)
        return {
            name.name: "damaged; it is computed again"
            for name, found in looks
            if any(f.what == "damaged" for f in found)
        }

    def _is_quiet(self, name: str) -> bool:
        """Whether nobody can be about to make use of a new file: with a lock, or an hour later."""
        return self.store.folder().alone or self._age(name) > HOUR

    def _is_left(self, name: str) -> bool:
        process = is_temporary(name.rpartition("/")[2])
        return process is not None and self._age(name) > HOUR and not lives(process)

    def _json(self, name: str) -> dict[str, Any] | None:
        """A file's JSON, None where it is not there or damaged."""
        try:
            folder, _, last = name.rpartition("/")
            return self.store.folder(*folder.split("/")).read_json(last)
        except StoreError:
            return None

    def _age(self, name: str) -> float:
        """Seconds since a file was written, 0 where that is not known."""
        found = self._times.get(name)
        if found is not None:
            return self.now - found.time
        try:
            return self.now - (self.store.root / name).stat().st_mtime
        except OSError:
            return 0.0

    def _size(self, name: str) -> int:
        try:
            return 0 if name.endswith("/") else (self.store.root / name).stat().st_size
        except OSError:
            return 0


def _find(store: Store, text: str) -> str:
    """`<training>` or `<training>/<experiment>`, by the beginning of an id."""
    hits = store.find(text) if len(text) >= 4 and text.isalnum() else []
    if len(hits) != 1:
        ids = ", ".join(folder.path.name for _, folder in hits)
        raise SpecError([("--runs", f"{text!r} is {f'the beginning of {ids}' if hits else f'no run in {store.root}'}")])
    kind, folder = hits[0]
    return folder.path.name if kind == "Training" else f"{folder.path.parent.name}/{folder.path.name}"


def _users(store: Store, chosen: frozenset[str]) -> Mapping[str, Sequence[str]]:
    """Folder of a run -> the trainings that it was made with, but for itself. `StoreError` where one cannot be read."""
    out: dict[str, Sequence[str]] = {}
    for name in Stored(store).names():
        if name.kind in ("training", "experiment"):
            try:
                data = store.folder(*name.folder.split("/")).read_json(name.inner) or {}
            except StoreError:
                if chosen & {name.folder, name.training}:  # damaged, and on its way out
                    continue
                raise
            out[name.folder] = [id for id in needed_by(data["spec"]) if id != name.folder]
    return out
