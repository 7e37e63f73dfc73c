"""From one store to another: which files a run needs to be read elsewhere, and how they come in.

A run is its folder, those of the trainings that it was made with (teachers and guides with theirs), the floors of its
metrics and the exact values of its error budget. Everything is looked at before the first byte is written
(`inspection.py`). Then a training's record follows its files, and an experiment follows its trainings and its record
its samples: whatever is killed halfway is unfinished, and importing again goes on. What is there stays. Results under
one id may differ in their last bits between machines; so nothing is taken that was made with other weights than the
store has: an experiment and its weights come together or not at all.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from moonbed.experiments.engines import Progress
from moonbed.experiments.storage.collect import remove_run
from moonbed.experiments.storage.folder import Folder, StoreError, addressed
from moonbed.experiments.storage.inspection import Finding, Inspection, Source, needed_by
from moonbed.experiments.storage.layout import DATA, Name, in_order
from moonbed.experiments.storage.runs import drop_checkpoint
from moonbed.experiments.storage.seals import unseal
from moonbed.experiments.storage.store import Store

__all__ = ["Arrival", "receive"]

MANY = 8
"""Findings that a refusal lists."""


@dataclass(frozen=True)
class Arrival:
    """What came of a run, a floor or a file of exact values. `what` is

    new        it was not there
    there      it was there, the same
    more       it was there, and has more metrics, or draws, now
    kept       it was there with other results, which stay
    replaced   it was there with other results, which are gone
    refused    it cannot be taken as it is
    """

    kind: str
    id: str
    what: str
    message: str = ""


def receive(
    source: Source, store: Store, *, replace: bool = False, dry_run: bool = False
) -> Iterator[Progress | Arrival]:
    """Look at every file of a source, then take what the store lacks; yields progress, then what came of each run.

    Raises `StoreError` before anything is written where a file is not what it should be, and says which.
    """
    names = source.names()
    looked = Inspection(source, wary=True)
    problems, foreign = list[Finding](), dict[str, str]()
    for k, (name, findings) in enumerate(looked.findings(names), 1):
        problems += [f for f in findings if f.what in ("damaged", "unreadable", "left") and len(problems) < MANY]
        for finding in findings:
            if finding.what == "foreign":
                foreign.setdefault(name.folder, finding.message)
        yield Progress("look", k, len(names))
    if problems:
        raise StoreError("nothing was taken: " + "; ".join(f"{f.name} {f.message}" for f in problems))
    _check_whole(looked, names)
    into = _Into(source, store, looked, replace, dry_run)
    runs, times = in_order(name for name in names if name.training), source.finished()
    depth = {folder: 0 if "/" in folder else len(needed_by(spec)) for folder, spec in looked.specs.items()}
    # Trainings before experiments, teachers before students
    runs.sort(key=lambda n: (bool(n.experiment), depth[n.folder], times.get(n.folder, 0), n.folder))
    groups = [(folder, list(group)) for folder, group in groupby(runs, key=lambda n: n.folder)]
    groups += [(name.name, [name]) for name in names if not name.training]
    for k, (folder, group) in enumerate(groups, 1):
        yield into.take(group, foreign.get(folder, ""))
        yield Progress("write", k, len(groups))


def _check_whole(looked: Inspection, names: Sequence[Name]) -> None:
    """`StoreError` for a run without its configuration, its record or what it was made with."""
    for folder in dict.fromkeys(name.folder for name in names if name.training):
        spec, unfinished = looked.specs[folder], folder not in looked.records
        if unfinished and ("/" in folder or not any(n.folder == folder and n.kind == "checkpoint" for n in names)):
            raise StoreError(f"nothing was taken: {folder} has neither a record nor a checkpoint")
        for training in needed_by(spec):
            if training != folder and training not in looked.records:
                raise StoreError(
                    f"nothing was taken: {folder} was made with the training {training}, which is not there"
                )


class _Into:
    """A store that takes runs in, one after the other."""

    def __init__(self, source: Source, store: Store, looked: Inspection, replace: bool, dry_run: bool) -> None:
        self._source, self._store, self._looked = source, store, looked
        self._replace, self._dry = replace, dry_run
        self._barred: dict[str, str] = {}
        self._times = source.finished()

    def take(self, names: Sequence[Name], note: str) -> Arrival:
        """One run, floor or file of exact values."""
        first = names[0]
        if not first.training:
            return self._take_file(first)
        kind, id = ("experiment", first.experiment) if first.experiment else ("training", first.training)
        with suppress(StoreError):  # of what is there, damaged: found below
            if not first.experiment or not self._there(first.folder):
                for needed in needed_by(self._looked.specs[first.folder]):
                    if needed in self._barred and needed != id:
                        self._barred[id] = self._barred[needed]
                        return Arrival(kind, id, "refused", self._barred[needed])
        try:
            lock = nullcontext() if self._dry else self._store.lock(first.training, wait=False)
            with lock:
                what, message = self._take_run(names)
        except StoreError as error:
            if "is held by" not in str(error):
                raise
            what, message = "refused", str(error)
        if kind == "training" and what in ("kept", "refused"):
            self._barred[id] = f"the training {id} is there with other weights; --replace takes the imported ones"
        return Arrival(kind, id, what, "; ".join(filter(None, (message, note))))

    def _there(self, folder: str) -> dict[str, Any] | None:
        return self._store.folder(*folder.split("/")).record()

    def _take_run(self, names: Sequence[Name]) -> tuple[str, str]:
        first, theirs = names[0], self._looked.records.get(names[0].folder)
        folder = self._store.folder(*first.folder.split("/"))
        try:
            mine, damage = folder.record(), ""
        except StoreError as error:
            mine, damage = {}, str(error)
        answers = [name for name in names if name.kind in ("metric", "anatomy")]
        if mine is None:
            if theirs is None:
                return self._take_unfinished(folder, names)
            if not self._dry:
                self._forget_answers(folder)
                self._write(folder, names)
                drop_checkpoint(folder)
            return "new", ""
        if theirs is None or (not damage and (mine["files"], mine["status"]) == (theirs["files"], theirs["status"])):
            return self._take_answers(folder, answers)
        if not self._replace:
            return "kept", damage or "it is there with other bytes"
        gone = [] if first.experiment else self._experiments_of(first.training)
        if not self._dry:
            for inner in gone:
                remove_run(self._store, f"{first.training}/{inner}")
            remove_run(self._store, first.folder, with_experiments=False)
            self._write(folder, names)
        return "replaced", f"with it went {', '.join(gone)}, sampled from the other weights" if gone else ""

    def _write(self, folder: Folder, names: Iterable[Name]) -> None:
        for name in in_order(names):
            data, inner = self._source.read(name), name.inner
            if name.kind in DATA and not folder.alone:  # where others may write too, no name is used twice
                inner = addressed(inner, hashlib.sha256(data).hexdigest())
            folder.write(inner, data)
            if name.kind == "sampled" and (finished := self._times.get(name.folder)):
                folder.set_time(inner, finished / 1e6)

    def _take_unfinished(self, folder: Folder, names: Sequence[Name]) -> tuple[str, str]:
        pointer = next(name for name in names if name.kind == "checkpoint")
        theirs = unseal(self._source.read(pointer), pointer.place)
        mine = folder.read_json(pointer.inner)
        if mine is not None and (mine["step"] >= theirs["step"] or not self._replace):
            return ("there" if mine["sha256"] == theirs["sha256"] else "kept"), f"it stands at step {mine['step']:,}"
        if not self._dry:
            self._write(folder, names)
        return ("new" if mine is None else "replaced"), f"unfinished, at step {theirs['step']:,}"

    def _take_answers(self, folder: Folder, names: Sequence[Name]) -> tuple[str, str]:
        """Metrics and error budget of samples that are there already."""
        new, other = 0, 0
        for name in names:
            there, data = bool(folder.names(name.inner)), self._source.read(name)
            if there and folder.read(name.inner) == data:
                continue
            new, other = new + (not there), other + there
            if not self._dry and (not there or self._replace):
                folder.write(name.inner, data)
        stay = "are replaced" if self._replace else "stay"
        said = [f"{new} more metrics"] * (new > 0) + [f"{other} other answers {stay}"] * (other > 0)
        return ("more" if new else "replaced" if other and self._replace else "there"), ", ".join(said)

    def _forget_answers(self, folder: Folder) -> None:
        """What was said of samples that are there no more."""
        for name in folder.names("metrics/*.json", "anatomy.json"):
            folder.remove(name)

    def _experiments_of(self, training: str) -> list[str]:
        return [name.partition("/")[0] for name in self._store.folder(training).names("*/record.json")]

    def _take_file(self, name: Name) -> Arrival:
        """Floors and exact values: of two the one that goes on from the other, or both together."""
        folder, theirs = self._store.folder(name.folder), self._source.read(name)
        what, data = "new", theirs
        if folder.names(name.inner):
            what, data = self._joined(name, folder.read(name.inner), theirs)
        if not self._dry and what not in ("there", "kept"):
            folder.write(name.inner, data)
        return Arrival(name.kind, name.id, what)

    def _joined(self, name: Name, there: bytes, theirs: bytes) -> tuple[str, bytes]:
        if there == theirs:
            return "there", there
        try:
            mine = unseal(there, name.place)
        except ValueError:
            return "replaced", theirs
        come = unseal(theirs, name.place)
        old, new = (data.get("draws", data.get("values")) for data in (mine, come))
        if isinstance(old, list) and isinstance(new, list):
            if old == new[: len(old)]:
                return "more", theirs
            if new == old[: len(new)]:
                return "there", there
        elif isinstance(old, dict) and isinstance(new, dict) and not any(old[k] != new[k] for k in old.keys() & new):
            return ("there", there) if old.keys() >= new.keys() else ("more", theirs)
        return ("replaced", theirs) if self._replace else ("kept", there)
