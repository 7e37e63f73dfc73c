"""Which files of a store are the results of some runs, and what is to be said of a store's files as they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from moonbed.component import SpecError, digest
from moonbed.experiments.anatomy import about_exact
from moonbed.experiments.engines import Progress
from moonbed.experiments.lossfloor import floor_file
from moonbed.experiments.named import find_experiment
from moonbed.experiments.spec import Experiment, Training
from moonbed.experiments.storage.files import Stored
from moonbed.experiments.storage.folder import StoreError, addressed
from moonbed.experiments.storage.inspection import Finding, Inspection, needed_by
from moonbed.experiments.storage.layout import (
    Name,
    in_order,
    is_beside,
    is_folder,
    is_lock,
    is_search,
    is_temporary,
    read_name,
)
from moonbed.experiments.storage.seals import unseal
from moonbed.experiments.storage.store import Store
from moonbed.experiments.stored import groups_of

__all__ = ["Selection", "remedy", "select", "verify"]


@dataclass
class Selection:
    """Files of a store that go along, with the ids of the runs that they are of, and what is left out and why."""

    names: list[Name] = field(default_factory=list)
    experiments: list[str] = field(default_factory=list)
    trainings: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def select(store: Store, what: Sequence[str] = (), unfinished: bool = False) -> Iterator[Progress | Selection]:
    """Look at the files of runs, yielding progress, then give the `Selection`: nothing named is all that is finished.

    A run is named by an id or the beginning of one, a preset, a `file.py` or `file.py:name`; a training's id is the
    training with all of its experiments. With `unfinished`, trainings that stand at a checkpoint are selected too.
    Raises `SpecError` for what is not there, `StoreError` for what is damaged.
    """
    held = _Held(store)
    wanted = {folder for text in what for folder in held.named(text, unfinished)} if what else set(held.folders)
    for folder in wanted & set(held.specs):
        wanted |= set(needed_by(held.specs[folder]))
    names = [name for folder in wanted for name in held.files(folder, unfinished)]
    if what:
        about = {name for folder in wanted for name in held.spoken_of(folder)}
        names += [name for name in held.every if name.name in about]
    found, left_out = set(names), list[str]()
    looked = Inspection(held.source)
    for k, (name, findings) in enumerate(looked.findings(names), 1):
        for finding in findings:
            if finding.what == "damaged" or (finding.what == "unreadable" and what):
                raise StoreError(
                    f"{store.root / finding.name} {finding.message}; `moonbed verify` lists all that is damaged"
                )
            if finding.what == "unreadable":
                left_out.append(f"{finding.name} {finding.message}")
                found -= {n for n in names if n == name or (name.training and n.folder.startswith(name.folder))}
        yield Progress("look", k, len(names))
    there = {n.folder for n in found}
    for folder in sorted(f for f in there if f in held.specs):
        if lacking := [id for id in needed_by(held.specs[folder]) if id not in there]:
            left_out.append(f"{folder} was made with the training {lacking[0]}, which is not finished in {store.root}")
            found -= {n for n in names if n.folder == folder}
    runs = sorted({n.folder for n in found if n.training})
    yield Selection(
        in_order(found),
        [folder.partition("/")[2] for folder in runs if "/" in folder],
        [folder for folder in runs if "/" not in folder],
        left_out,
    )


class _Held:
    """What a store holds, by folder."""

    def __init__(self, store: Store) -> None:
        self.store, self.source = store, Stored(store)
        self.every = self.source.names()
        self.folders: dict[str, list[Name]] = {}
        for name in self.every:
            self.folders.setdefault(name.folder, []).append(name)
        self.specs: dict[str, dict[str, Any]] = {
            name.folder: self._json(name)["spec"] for name in self.every if name.kind in ("training", "experiment")
        }

    def _json(self, name: Name) -> dict[str, Any]:
        try:
            return unseal(self.source.read(name), name.place)
        except ValueError as error:
            raise StoreError(
                f"{self.store.root / name.name} {error}; `moonbed verify` lists all that is damaged"
            ) from None

    def has(self, folder: str, inner: str) -> bool:
        return any(name.inner == inner for name in self.folders.get(folder, ()))

    def named(self, text: str, unfinished: bool) -> list[str]:
        """The folders of the runs that a text names."""
        words = text.split()
        if len(words) == 1 and len(text) >= 4 and not set(text) - set("0123456789abcdef"):
            hits = [f for f in self.specs if f.rpartition("/")[2].startswith(text)]
            if len(hits) > 1:
                ids = ", ".join(f.rpartition("/")[2] for f in hits)
                raise SpecError([("", f"{text!r} is the beginning of {len(hits)} ids: {ids}")])
            if hits:
                inner = [f for f in self.specs if f.startswith(f"{hits[0]}/") and self.has(f, "record.json")]
                kept = self.has(hits[0], "record.json") or (unfinished and self.has(hits[0], "checkpoint.json"))
                if not kept and not inner:
                    how = "; --unfinished takes its checkpoint" if self.has(hits[0], "checkpoint.json") else ""
                    raise SpecError([(text, f"is not finished in the store {self.store.root}{how}")])
                return [hits[0], *inner]
        if len(words) > 1:
            name, experiment = find_experiment(text, self.store)
            found = [experiment] if self.store.experiment(experiment).record() is not None else []
            if not found:
                raise SpecError([(name, f"is not in the store {self.store.root}; `moonbed run {text}` makes it")])
        else:
            found = [e for group in groups_of([text], self.store)[0].values() for e in group]
        return [f"{e.training.id}/{e.id}" for e in found]

    def files(self, folder: str, unfinished: bool) -> list[Name]:
        """The files of a folder that are results; none of one that is not finished, or those of its checkpoint."""
        names = self.folders.get(folder, [])
        by_kind = {name.kind: name for name in names}
        if folder in ("floors", "exact"):
            return names
        if record := by_kind.get("record") or by_kind.get("sampled"):
            listed = self._json(record)["files"]
            best = {file: addressed(file, sha256) for file, sha256 in listed.items()}
            there, kept = {n.inner for n in names}, ("training", "record", "experiment", "sampled", "metric", "anatomy")
            data = {best[file] if best[file] in there else file for file in listed}
            return [n for n in names if n.kind in kept or n.inner in data]
        if unfinished and (pointer := by_kind.get("checkpoint")) is not None:
            state = self._json(pointer)["file"]
            return [n for n in names if n.kind in ("training", "checkpoint") or n.inner == state]
        return []

    def spoken_of(self, folder: str) -> Iterator[str]:
        """Names of the floors and exact values that belong to a run."""
        if folder not in self.specs:
            return
        kind: type[Experiment] | type[Training] = Experiment if "/" in folder else Training
        spec = self.specs[folder]
        try:
            made = kind.parse(spec)
        except SpecError:  # of a class that is not loaded
            made = None
        if isinstance(made, Training):
            yield f"exact/{floor_file(made)}"
        if "/" not in folder:
            return
        law = made.law.spec() if isinstance(made, Experiment) else spec["training"]["target"]
        for name in self.folders[folder]:
            if name.kind == "metric":
                yield f"floors/{digest([law, self._json(name)['metric'], spec['n']])}.json"
            elif name.kind == "anatomy" and isinstance(made, Experiment):
                found = self._json(name)
                for k in range(max(found["repeats"], found["seeds"])):
                    moved = {"training.seed": made.training.seed + k} if found["seeds"] > 1 else {"seed": made.seed + k}
                    yield f"exact/{digest(about_exact(made.replace(**moved)))}.json"


def verify(store: Store, what: Sequence[str] = ()) -> Iterator[Progress | Finding]:
    """Hold all files of a store, or of some runs, against what they should be; yields progress and what is found.

    Beside the findings of `inspection.py` there are `unknown`, a file that is not ours and was not looked at, `left`
    by a writer that was killed, and `missing`, a training that an experiment was made with. Raises `SpecError` for a
    run that is not there.
    """
    source = Stored(store)
    every = source.every()
    names = [name for text in every if (name := read_name(text)) is not None]
    if what:
        folders = {folder.path.relative_to(store.root).as_posix() for text in what for _, folder in _hits(text, store)}
        names = [n for n in names if any(f"{n.folder}/".startswith(f"{folder}/") for folder in folders)]
    looked = Inspection(source)
    for k, (_, findings) in enumerate(looked.findings(names), 1):
        yield from findings
        yield Progress("verify", k, len(names))
    trained = {name.folder for text in every if (name := read_name(text)) is not None and name.kind == "record"}
    for folder in sorted(looked.records):
        for id in needed_by(looked.specs[folder]):
            if id not in trained:
                yield Finding(folder, "missing", f"was made with the training {id}, which is not finished here")
    for text in every if not what else ():
        if is_search(text):
            continue
        last = text.rpartition("/")[2]
        if read_name(text) is None and not is_folder(text) and not is_lock(last) and not is_beside(text):
            left = is_temporary(last) is not None
            yield Finding(
                text, *(("left", "by a writer that was killed") if left else ("unknown", "is no file of a store"))
            )


def remedy(finding: Finding) -> str:
    """What to do about a file that is damaged."""
    name = read_name(finding.name)
    if name is None or finding.what != "damaged":
        return ""
    if name.kind in ("metric", "anatomy", "floor", "exact"):
        return f"remove {name.name}; the command that asked for it computes it again"
    if name.kind in ("checkpoint", "state"):
        return f"remove {name.folder}/checkpoint.json; the training begins anew"
    return f"`moonbed gc --runs {name.experiment or name.training}` removes the run, `moonbed run` makes it again"


def _hits(text: str, store: Store) -> list[tuple[str, Any]]:
    hits = store.find(text) if len(text) >= 4 and text.isalnum() else []
    if len(hits) == 1:
        return hits
    _, experiment = find_experiment(text, store)
    folder = store.experiment(experiment)
    if not folder.path.is_dir():
        raise SpecError([(text, f"is not in the store {store.root}")])
    return [("Training", store.training(experiment.training)), ("Experiment", folder)]
