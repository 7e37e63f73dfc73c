"""A store looked at file by file: is each what its name, its checksum and its configuration say it is?

The same questions are asked of one's own store (`moonbed verify`) and of files that strangers made (`moonbed import`).
Nothing that a file says is believed before it is held against something: JSON against its seal, a folder's name against
the digest of its configuration, data against the record's checksums, weights against the shapes of the network that the
configuration builds, samples against n and the dimension. No file that a configuration names is opened, no network is
given memory, nothing is unpickled. What cannot be told from the files: whether the numbers are those that the
computation gives.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from moonbed.component import Component, SpecError, digest
from moonbed.experiments.lossfloor import floor_file
from moonbed.experiments.spec import Experiment, Training
from moonbed.experiments.storage import formats
from moonbed.experiments.storage.contents import (
    Fault,
    check_answer,
    check_log,
    check_pointer,
    check_record,
    check_samples,
    in_a_line,
    obeyed,
)
from moonbed.experiments.storage.folder import addressed
from moonbed.experiments.storage.layout import Name
from moonbed.experiments.storage.seals import unseal
from moonbed.experiments.storage.shapes import check_checkpoint, check_snapshots, check_weights
from moonbed.metrics import Metric
from moonbed.targets import Target

__all__ = ["Finding", "Inspection", "Source", "needed_by"]


class Source(Protocol):
    """Files of a store, wherever they are."""

    def names(self) -> Sequence[Name]:
        """Every file that has a name of the layout."""

    def read(self, name: Name) -> bytes:
        """The bytes of a file; `StoreError` where there are none."""

    def finished(self) -> Mapping[str, int]:
        """`<training>/<experiment>` -> microseconds since 1970, of the records of experiments."""


@dataclass(frozen=True)
class Finding:
    """Something to say of a file. `what` is

    damaged      it is not what it should be
    unreadable   a configuration that this version of Moonbed cannot read
    foreign      a configuration with a class of somebody's file, which is not loaded: only its digest can be held
    unfinished   a training, or samples, without a record
    left         a file that no record and no checkpoint.json names any more
    """

    name: str
    what: str
    message: str


_FIRST = {"training": 0, "experiment": 0, "record": 1, "sampled": 1, "checkpoint": 1}
_KIND: dict[str, type[Component]] = {"training": Training, "experiment": Experiment}


class Inspection:
    """Findings about files of a source, one call of `findings` after the other; trainings before their experiments.

    `specs` has the configuration of every folder that was seen, as JSON, and `records` its record. With `wary`, for
    files of strangers, no text may hold what a terminal obeys.
    """

    def __init__(self, source: Source, wary: bool = False) -> None:
        self._source, self._wary = source, wary
        self.specs: dict[str, dict[str, Any]] = {}
        self.records: dict[str, dict[str, Any]] = {}
        self._made: dict[str, Component] = {}
        self._pointers: dict[str, dict[str, Any]] = {}

    def findings(self, names: Iterable[Name]) -> Iterator[tuple[Name, list[Finding]]]:
        """Yield each file with what is to be said of it, which mostly is nothing."""
        names = sorted(names, key=lambda n: (n.kind in ("floor", "exact"), n.folder, _FIRST.get(n.kind, 2), n.name))
        there: dict[str, set[str]] = {}
        for name in names:
            there.setdefault(name.folder, set()).add(Name(name.plain, name.kind, name.training, name.experiment).inner)
        for name in names:
            yield name, [*self._file(name, there[name.folder])]

    def _file(self, name: Name, there: Collection[str]) -> Iterator[Finding]:
        try:
            data = self._source.read(name)
            yield from getattr(self, f"_look_at_{name.kind}")(name, data, there)
        except (KeyError, TypeError, AttributeError, OverflowError, RecursionError, MemoryError) as error:
            yield Finding(name.name, "damaged", f"is not of the form that such a file has ({type(error).__name__})")
        except (RuntimeError, ValueError) as error:
            yield Finding(name.name, "damaged", in_a_line(str(error)) or type(error).__name__)

    def _json(self, name: Name, data: bytes) -> dict[str, Any]:
        content = unseal(data, name.place)
        folder, _, inner = name.place.partition("/")
        formats.check(folder, inner, content)
        if self._wary and (text := obeyed(content)) is not None:
            raise Fault(f"has characters that a terminal obeys: {ascii(text)[:60]}")
        return content

    # Configurations

    def _look_at_training(self, name: Name, data: bytes, there: Collection[str]) -> Iterator[Finding]:
        content = self._json(name, data)
        spec, own = content.get("spec"), name.experiment or name.training
        if content.get("id") != own or not isinstance(spec, dict) or digest(spec) != own:
            raise Fault("is not the configuration that its folder is named for")
        if name.experiment and (
            not isinstance(spec.get("training"), dict) or digest(spec["training"]) != name.training
        ):
            raise Fault("is in the folder of another training")
        needed_by(spec)  # whatever class it is of
        self.specs[name.folder] = spec
        yield from self._parse(name, spec, _KIND[name.kind])
        if "record.json" not in there:
            yield Finding(name.name, "unfinished", f"{name.folder} is not finished")

    _look_at_experiment = _look_at_training

    def _parse(self, name: Name, spec: dict[str, Any], kind: type[Component]) -> Iterator[Finding]:
        closed = _without_files(spec)
        try:
            made = kind.parse(closed)
            if made.spec() != closed:
                raise SpecError([("", "it is written otherwise than this version writes it")])
        except SpecError as error:
            if classes := [*_plugins(spec)]:
                who = ", ".join(dict.fromkeys(classes))
                yield Finding(name.name, "foreign", f"needs the file that defines {who}; it is not loaded")
            else:
                yield Finding(name.name, "unreadable", f"cannot be read by this version: {error}")
        else:
            self._made[name.folder] = made

    def _spec(self, name: Name) -> dict[str, Any]:
        if name.folder not in self.specs:
            kind = "experiment" if name.experiment else "training"
            raise Fault(f"has no configuration beside it that can be believed: {kind}.json")
        return self.specs[name.folder]

    # Records

    def _look_at_record(self, name: Name, data: bytes, there: Collection[str]) -> Iterator[Finding]:
        record = self._json(name, data)
        check_record(record, self._spec(name), name.training, name.experiment)
        listed = record["files"]
        self.records[name.folder] = record
        for missing in sorted(set(listed) - set(there)):
            yield Finding(f"{name.folder}/{missing}", "damaged", "is in the record, and is not there")

    _look_at_sampled = _look_at_record

    # Data

    def _look_at_weights(self, name: Name, data: bytes, there: Collection[str]) -> Iterator[Finding]:
        spec, record = self._spec(name), self.records.get(name.folder)
        if record is None:
            if "record.json" in there:
                raise Fault("cannot be held against its record")
            yield Finding(name.name, "unfinished", "belongs to no record yet")
            return
        inner = name.plain.rpartition("/")[2]
        if name.name != name.plain and name.inner != addressed(inner, record["files"].get(inner, "")):
            yield Finding(name.name, "left", "by a process that another was faster than")
            return
        if hashlib.sha256(data).hexdigest() != record["files"].get(inner):
            raise Fault("its checksum differs from the record" if inner in record["files"] else "is in no record")
        if name.kind == "log":
            check_log(data, spec)
        elif name.kind == "samples":
            check_samples(data, spec["n"], _dim(self._made.get(name.folder)))
        elif isinstance(training := self._made.get(name.folder), Training):
            (check_weights if name.kind == "weights" else check_snapshots)(data, training)
        else:
            check_weights(data, None)

    _look_at_snapshots = _look_at_log = _look_at_samples = _look_at_weights

    def _look_at_checkpoint(self, name: Name, data: bytes, there: Collection[str]) -> Iterator[Finding]:
        pointer, spec = self._json(name, data), self._spec(name)
        check_pointer(pointer, spec)
        self._pointers[name.folder] = pointer
        if "record.json" in there:
            yield Finding(name.name, "left", "by a training that is finished")
            return
        if pointer["file"] not in there:
            yield Finding(
                f"{name.folder}/{pointer['file']}", "damaged", "is what checkpoint.json names, and is not there"
            )

    def _look_at_state(self, name: Name, data: bytes, there: Collection[str]) -> Iterator[Finding]:
        pointer, made = self._pointers.get(name.folder), self._made.get(name.folder)
        if pointer is None or pointer["file"] != name.inner or "record.json" in there:
            yield Finding(name.name, "left", "is needed no more, or named by no checkpoint.json")
            return
        if hashlib.sha256(data).hexdigest() != pointer["sha256"]:
            raise Fault("its checksum differs from checkpoint.json")
        check_checkpoint(data, made if isinstance(made, Training) else None)

    # Answers

    def _look_at_metric(self, name: Name, data: bytes, there: Collection[str]) -> Iterator[Finding]:
        answer, spec = self._json(name, data), self._spec(name)
        metric = answer.get("metric")
        if not isinstance(metric, dict) or digest(metric) != name.id:
            raise Fault("is not the answer that it is named for")
        check_answer(answer, spec["n"])
        yield from self._parse(Name(name.name, name.kind), metric, Metric)

    def _look_at_anatomy(self, name: Name, data: bytes, there: Collection[str]) -> Iterator[Finding]:
        self._json(name, data)
        self._spec(name)
        yield from ()

    def _look_at_floor(self, name: Name, data: bytes, there: Collection[str]) -> Iterator[Finding]:
        found = self._json(name, data)
        parts = [found.get(k) for k in ("target", "metric", "n")]
        if digest(parts) != name.id or type(parts[2]) is not int:
            raise Fault("is not the floor that it is named for")
        for part, kind in zip(parts, (Target, Metric), strict=False):
            if not isinstance(part, dict):
                raise Fault("is of no target and metric")
            yield from self._parse(Name(name.name, name.kind), part, kind)

    def _look_at_exact(self, name: Name, data: bytes, there: Collection[str]) -> Iterator[Finding]:
        found = self._json(name, data)
        if "about" in found:
            if digest(found["about"]) != name.id:
                raise Fault("is not what it is named for")
            good = "values" in found
        else:
            good = {"value", "error", "rows"} <= set(found)
            made = self._made.get(str(found.get("loss floor of")))
            good = good and (not isinstance(made, Training) or floor_file(made, found["rows"]) == name.inner)
        if not good:
            raise Fault("holds no values of the exact denoiser")
        yield from ()


def needed_by(spec: dict[str, Any]) -> list[str]:
    """Ids of the trainings that a run, given as JSON, was made with, itself among them: teachers and guides too."""
    if "training" not in spec:
        teacher = spec.get("teacher")
        return [digest(spec), *(needed_by(teacher) if teacher else [])]
    if spec.get("exact"):
        return []
    parts = [spec["training"], *([spec["guide"]] if spec.get("guide") else [])]
    return list(dict.fromkeys(id for part in parts for id in needed_by(part)))


def _without_files(data: Any) -> Any:
    """The same configuration with the paths of data left out: a stranger's must not have files of ours opened."""
    if isinstance(data, dict):
        out = {key: _without_files(value) for key, value in data.items()}
        return out | {"file": ""} if data.get("type") == "Points" else out
    return [_without_files(value) for value in data] if isinstance(data, list) else data


def _plugins(data: Any) -> Iterator[str]:
    """The classes in a configuration that came from somebody's file."""
    if isinstance(data, dict) and "source" in data:
        yield str(data.get("type"))
    for value in data.values() if isinstance(data, dict) else data if isinstance(data, list) else ():
        yield from _plugins(value)


def _dim(experiment: Component | None) -> int | None:
    try:
        return experiment.training.target.dim if isinstance(experiment, Experiment) else None
    except SpecError:  # data that are elsewhere
        return None
