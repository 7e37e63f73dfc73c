"""What the store holds, read without computing anything: finished experiments, their seeds, their names, their rows.

A stored run has no name, only an id. It is called after the preset that it differs least from, with the changes where
they are few: `residual, published data, quick`, `ema training.steps=2000`. Runs that are equal up to the seeds of their
trainings (those of teachers and guides move along) are one row.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

import moonbed
from moonbed.component import SpecError, digest
from moonbed.diffusion.regressions import ExactMean
from moonbed.experiments.differences import changes, short
from moonbed.experiments.evaluate import answer_name, read_answer
from moonbed.experiments.named import find_experiment
from moonbed.experiments.plugins import experiments_in
from moonbed.experiments.presets import BUDGETS, CHANGES, PRESETS, published
from moonbed.experiments.results import Result, outcome
from moonbed.experiments.rows import Rows, rows
from moonbed.experiments.spec import Experiment, Training
from moonbed.experiments.storage.folder import Folder, StoreError
from moonbed.experiments.storage.index import Index, Run, moved
from moonbed.experiments.storage.runs import load_spec
from moonbed.experiments.storage.store import Store
from moonbed.metrics import Metric
from moonbed.metrics.suites import SUITES

__all__ = [
    "by_seed",
    "finished",
    "groups_of",
    "held",
    "name_of",
    "names_of",
    "parsed",
    "questions",
    "seedless",
    "stored_result",
    "stored_rows",
]

FEW = 2
"""Changes that a name still lists; what differs in more from every preset is called by its id."""


def finished(store: Store) -> tuple[list[Experiment], list[str]]:
    """The finished experiments, newest first, and why others cannot be read: one a plug-in defines, for instance."""
    return parsed(store, _finished(store.index()))


def parsed(store: Store, runs: Iterable[Run]) -> tuple[list[Experiment], list[str]]:
    """The experiments of some runs, read from their folders, and why others cannot be read."""
    found, left_out = [], []
    for run in runs:
        try:
            found.append(Experiment.parse(load_spec(store.folder(run.training, run.id), Experiment)))
        except StoreError as error:
            left_out.append(str(error))
    return found, left_out


def _finished(index: Index) -> list[Run]:
    return [run for run in reversed(index.look()) if run.status not in ("unfinished", "damaged")]


def seedless(experiment: Experiment) -> str:
    """A digest that experiments share which are equal up to the seeds of their trainings."""
    return digest(moved(experiment.spec(), -experiment.training.seed))


def by_seed(experiments: Iterable[Experiment]) -> list[list[Experiment]]:
    """Experiments that are equal up to their seeds together, by seed; the groups in the order they first appear in."""
    groups: dict[str, dict[str, Experiment]] = {}
    for experiment in experiments:
        groups.setdefault(seedless(experiment), {})[experiment.id] = experiment
    return [sorted(group.values(), key=lambda e: e.training.seed) for group in groups.values()]


# What a run is called


@cache
def _known() -> Mapping[str, Experiment]:
    """Presets as they are, on the published data, and both under every budget."""
    out = {}
    for name, experiment in PRESETS.items():
        for data, found in (("", experiment), (", published data", published(experiment))):
            out[name + data] = found
            out |= {f"{name}{data}, {budget}": found.replace(**b.changes) for budget, b in BUDGETS.items()}
    return out


@cache
def _by_digest() -> Mapping[str, str]:
    return {seedless(experiment): name for name, experiment in reversed([*_known().items()])}


@cache
def _specs() -> Mapping[str, dict[str, Any]]:
    return {name: experiment.spec() for name, experiment in _known().items()}


def name_of(experiment: Experiment) -> str:
    """What a run is called that came without a name."""
    return _name(moved(experiment.spec(), -experiment.training.seed)) or experiment.id[:8]


def _name(spec: dict[str, Any]) -> str:
    """What a configuration is called, by its spec with the seed 0; empty where it is far from every preset."""
    exact = _by_digest().get(digest(spec))
    if exact is not None:
        return exact
    found: tuple[str, dict[str, Any]] | None = None
    for name, known in _specs().items():
        least = FEW if found is None else len(found[1]) - 1
        unlike = changes(spec, known, least)
        if unlike is not None:
            found = name, unlike
    if found is None:
        return ""
    return f"{found[0]} " + " ".join(f"{place}={short(value)}" for place, value in found[1].items())


def names_of(index: Index, runs: Iterable[Run]) -> dict[str, str]:
    """Configuration -> what runs of it are called; empty for those that are called by their ids."""
    version = digest([moonbed.__version__, *(e.id for e in PRESETS.values())])
    return index.names(runs, version, _name)


# What is asked for


def groups_of(
    what: Sequence[str], store: Store, most: int | None = None
) -> tuple[dict[str, list[Experiment]], list[str]]:
    """Name -> stored experiments by seed, of presets, `file.py`, `file.py:name` and ids; and what is to be said of it.

    Nothing named is every finished run but the links of error budgets, the newest `most` of them. A preset that the
    store holds only under a budget or on the published data is these. Raises `SpecError` for what is not there; its
    message says which command makes it.
    """
    for text in what:
        if (path := _file(text)) is not None:
            experiments_in(path)  # its classes are known from here on
    index = store.index()
    groups = _grouped(_finished(index))
    if not what:
        return _newest(store, index, groups, most)
    chosen: list[tuple[str, Experiment]] = []
    for text in what:
        chosen += _chosen(text, store, groups)
    names: dict[str, str] = {}
    for name, experiment in chosen:
        names.setdefault(seedless(experiment), name)
    return _distinct([(names[seedless(g[0])], g) for g in by_seed(e for _, e in chosen)]), []


def _grouped(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """Configuration -> its runs, in the order in which they come."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.configuration, []).append(run)
    return groups


def _newest(
    store: Store, index: Index, groups: Mapping[str, Sequence[Run]], most: int | None
) -> tuple[dict[str, list[Experiment]], list[str]]:
    """The newest groups but links, and what is to be said of others."""
    wanted = [group for group in groups.values() if not _is_link(index.configuration(group[0]))]
    found: list[list[Experiment]] = []
    said = [f"left out: {run.message}" for run in index.known() if run.status == "damaged"]
    for group in wanted:
        if most is not None and len(found) == most:
            said.append(f"the newest {most} of {len(wanted)} rows; name others by their ids")
            break
        experiments, left_out = parsed(store, group)
        said += [f"left out: {why}" for why in left_out]
        found += by_seed(experiments)
    if not found:
        raise SpecError([("", f"no finished run in {store.root}; `moonbed run` makes one")])
    return _distinct([(name_of(group[0]), group) for group in found]), said


def _file(text: str) -> str | None:
    """The Python file that a text names, None where it names none."""
    head = text.split()[0] if text.split() else ""
    path = head.rpartition(":")[0] if ".py:" in head else head
    return path if path.endswith(".py") else None


def _is_link(spec: Mapping[str, Any]) -> bool:
    """Whether it was made to take an error apart: another draw from the same weights, or the exact regression."""
    regression = spec["training"]["objective"].get("regression") or {}
    return bool(spec["seed"] != 0 or regression.get("type") == ExactMean.__name__)


def _distinct(named: Sequence[tuple[str, list[Experiment]]]) -> dict[str, list[Experiment]]:
    out: dict[str, list[Experiment]] = {}
    for name, group in named:
        out[name if name not in out else f"{name} ({group[0].id[:8]})"] = group
    return out


def _chosen(text: str, store: Store, groups: Mapping[str, Sequence[Run]]) -> list[tuple[str, Experiment]]:
    """Name and experiment of all that one text names, every seed."""
    words = text.split()
    if words and words[0] not in PRESETS and len(words[0]) >= 4 and words[0].isalnum():
        hits = store.find(words[0])
        if hits:
            return [(name_of(e), e) for e in _by_id(words, hits, store, groups)]
    whole_file = text.endswith(".py") and len(words) == 1
    wanted = experiments_in(text) if whole_file else dict([find_experiment(text, store)])
    if text in PRESETS and seedless(wanted[text]) not in groups:
        variants = {name: e for name, e in _known().items() if name.startswith(f"{text},") and seedless(e) in groups}
        wanted = variants or wanted
    missing = [name for name, experiment in wanted.items() if seedless(experiment) not in groups]
    if missing:
        command = f"moonbed run {_file(text) or text}"
        raise SpecError([(name, f"is not in the store {store.root}; `{command}` makes it") for name in missing])
    return [(name, e) for name, experiment in wanted.items() for e in _all_of(store, groups[seedless(experiment)])]


def _all_of(store: Store, runs: Sequence[Run]) -> list[Experiment]:
    """The experiments of runs, all of which can be read."""
    found, left_out = parsed(store, runs)
    if left_out:
        raise SpecError([("", why) for why in left_out])
    return found


def _by_id(
    words: Sequence[str], hits: Sequence[tuple[str, Folder]], store: Store, groups: Mapping[str, Sequence[Run]]
) -> list[Experiment]:
    """All experiments of a training, or one experiment."""
    text = words[0]
    if words[1:]:
        raise SpecError([(" ".join(words), "a stored run is as it is: give its id alone")])
    if len(hits) > 1:
        ids = ", ".join(folder.path.name for _, folder in hits)
        raise SpecError([("", f"{text!r} is the beginning of {len(hits)} ids: {ids}")])
    kind, folder = hits[0]
    name = folder.path.name
    found = _all_of(store, [run for group in groups.values() for run in group if name in (run.id, run.training)])
    if not found:
        try:
            load_spec(folder, Experiment if kind == "Experiment" else Training)
        except StoreError as error:
            raise SpecError([("", str(error))]) from None
        raise SpecError([(text, f"is not finished in the store {store.root}; the command that began it goes on")])
    return found


# Rows


def held(store: Store, experiment: Experiment) -> list[Metric]:
    """The metrics that the store holds of an experiment, in the order of the suites."""
    folder, order = store.experiment(experiment), [m.id for suite in SUITES.values() for m in suite]
    found: dict[str, Metric] = {}
    for name in folder.names("metrics/*.json"):
        stored = folder.read_json(name)
        try:
            metric = Metric.parse(stored["metric"] if stored else {})
        except SpecError:  # of a plug-in that is not loaded
            continue
        found[metric.id] = metric
    return sorted(found.values(), key=lambda m: order.index(m.id) if m.id in order else len(order))


def questions(store: Store, experiments: Sequence[Experiment]) -> tuple[Metric, ...]:
    """The suite of which the store holds most for these, and what of a plug-in's metrics it holds beside; else all."""
    answered = [metric for experiment in experiments for metric in held(store, experiment)]
    ids = [metric.id for metric in answered]
    share = {name: sum(ids.count(m.id) for m in SUITES[name]) / len(SUITES[name]) for name in ("default", "published")}
    best = max(share, key=lambda name: share[name])
    native = {m.id for suite in SUITES.values() for m in suite}
    beside = {m.id: m for m in answered if m.id not in native}
    if len(experiments) > 0 and share[best] > len(experiments) / 2:
        return (*SUITES[best], *beside.values())
    return tuple({m.id: m for m in answered}.values())


def stored_result(store: Store, experiment: Experiment, metrics: Sequence[Metric]) -> Result:
    """The result as far as the store holds it."""
    folder, answers = store.experiment(experiment), {}
    for metric in metrics:
        stored = folder.read_json(answer_name(metric))
        if stored is not None:
            answers[metric.id] = read_answer(stored)
    return dataclasses.replace(outcome(store, experiment), answers=answers)


def stored_rows(groups: Mapping[str, Sequence[Experiment]], metrics: Sequence[Metric], store: Store) -> Rows:
    """A row for each name, as `moonbed.experiments.rows.rows` makes them; floors as the store holds them.

    A preset under a budget or on the published data has the preset's short name where no other row has it, and beside
    it the published values.
    """
    plain = [name.partition(",")[0] for name in groups]
    out = Rows()
    for (name, group), base in zip(groups.items(), plain, strict=True):
        results = [stored_result(store, experiment, metrics) for experiment in group]
        preset = base if base in PRESETS and (name in PRESETS or name in _known()) else name
        change = ", ".join(filter(None, (CHANGES.get(preset, ""), name.removeprefix(preset).lstrip(", "))))
        (row,) = rows({preset: results}, metrics, store, changes={})
        shown = base if plain.count(base) == 1 else name
        out.append(dataclasses.replace(row, name=shown, change=change if preset != name or name in PRESETS else ""))
    return out
