"""A search over a space of experiments, by Optuna, kept apart from comparisons.

    runs/searches/<name>-<id>/search.json    what is searched
                              journal.log    Optuna's journal: what was proposed, and what came of it
                              runs/          a store of its own: its trials are in no list, table or board of the others

Trials come in batches. All of a batch are proposed with what is known of the batches before, and pruned by what these
had at the same rung. So a search gives the same trials with one process as with many, and after a kill as without.
Its unit of work is an experiment's id: what another trial has trained or evaluated is not done again.

The best of N trials is also the luckiest of N: its value is the least of N noisy ones, and would not be had again. So
the best is evaluated again, with seeds that the search has not seen, and the base with the same ones beside it.
"""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from moonbed._shown import Shown
from moonbed.component import SpecError
from moonbed.experiments.device import device_on
from moonbed.experiments.engines import HERE, Engine, Failure, Progress, Task
from moonbed.experiments.floors import draw_floors
from moonbed.experiments.named import find_experiment
from moonbed.experiments.planning import fitting
from moonbed.experiments.plugins import files_of, load_file
from moonbed.experiments.results import Result
from moonbed.experiments.rows import DRAWS, Rows, floor_of, follow, rows
from moonbed.experiments.spaces import Search, Space, base_name, word, words
from moonbed.experiments.spec import Experiment
from moonbed.experiments.storage.folder import Folder, StoreError
from moonbed.experiments.storage.runs import save_spec
from moonbed.experiments.storage.store import Store
from moonbed.experiments.trials import Pruned, Rung, run_trials

if TYPE_CHECKING:
    from moonbed.experiments._study import Study

__all__ = ["FRESH", "Searched", "Trial", "find_search", "search"]

FRESH = 1_000
"""Distance from the seeds of trials to those of the confirmation."""
BEST = 10
"""Trials that a table shows."""


@dataclass(frozen=True)
class Trial:
    """One trial: what was changed, and what came of it. `value` is the mean badness over its seeds.

    `status` is done, pruned, diverged, invalid or failed; `rungs` is thousandth of the steps -> badness there.
    """

    number: int
    changes: Mapping[str, Any]
    status: str
    value: float | None = None
    message: str = ""
    rungs: Mapping[int, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Number and changes."""
        return f"{self.number}: {words(self.changes)}"


@dataclass(frozen=True, repr=False)
class Searched(Shown):
    """What a search found. `best` are rows of the best trials, `confirmed` the base and the best with fresh seeds.

    `command` compares the best with the base, with seeds that the search has not seen; "" where the base is the best.
    """

    search: Search
    folder: str
    trials: Sequence[Trial]
    best: Rows
    confirmed: Rows
    importance: Mapping[str, float]
    command: str

    @property
    def sentence(self) -> str:
        """What the best value is worth."""
        counts = [(s, sum(t.status == s for t in self.trials)) for s in ("done", "pruned", "diverged", "failed")]
        told = ", ".join(f"{count} {status}" for status, count in counts if count)
        if not self.best:
            return f"no trial came to its end: {told}"
        text = f"{len(self.trials)} trials: {told}. The best of them is also the luckiest of them"
        seeds = len(self.confirmed[0].results) if self.confirmed else 0
        again = f"below, its values for {seeds} seeds that the search has not seen" if seeds else "confirm it"
        return f"{text}, so its value above is too good; {again}."


def find_search(text: str, over: Mapping[str, Space], store: Store, **fields: Any) -> tuple[str, Search]:
    """Name and search of `file.py`, `file.py:name`, or an experiment by its name with places in `over`.

    Fields that are not None take the place of what a file says. Raises `SpecError` for what is not there.
    """
    given = {name: value for name, value in fields.items() if value is not None}
    head = text.split()[0] if text.split() else ""
    path, _, key = head.rpartition(":") if ".py:" in head else (head, "", "")
    if path.endswith(".py"):
        found = {k: v for k, v in vars(load_file(path)).items() if isinstance(v, Search)}
        if key in found or (not key and len(found) == 1):
            name = key or next(iter(found))
            spec = {**found[name].spec(), **given}
            return f"{path}:{name}", Search.parse({**spec, "over": {**found[name].over, **over}})
        if not key and found:
            raise SpecError([("", f"{path} has {len(found)} searches; say which, as {path}:{next(iter(found))}")])
    name, experiment = find_experiment(text, store)
    return name, Search(base=experiment, over=dict(over), **given)


def search(
    what: Search,
    *,
    name: str = "",
    trials: int = 30,
    minutes: float | None = None,
    confirm: int = 3,
    draws: int = DRAWS,
    store: Store | str = "runs",
    device: str = "auto",
    engine: Engine = HERE,
) -> Iterator[tuple[str, Progress | Failure | Searched]]:
    """Yield (what it is about, event) while trials run, and what was found at the end.

    `trials` counts those of earlier calls: a search that was cut off goes on, one that was longer is only shown. After
    `minutes` no batch is begun. `name` is how the command line names the base. Raises `SpecError` for a search that
    cannot be, `StoreError` where another process is at it.
    """
    if trials < 1 or confirm < 0:
        raise SpecError([("trials" if trials < 1 else "confirm", "should not be negative, and trials at least 1")])
    place = _place(what, name, Store.at(store))
    inside = Store(place.path / "runs")
    engine = fitting(engine, inside)
    with _alone(place):
        if place.read_json("search.json") is None:
            save_spec(place, what)
        study, end = _study(place, what), math.inf if minutes is None else time.monotonic() + 60 * minutes
        for event in draw_floors(what.base.law, [what.metric], what.base.n, draws, inside, engine):
            yield "floor", event
        floor = floor_of(inside, what.base.law, what.metric, what.base.n)
        run = _Batches(study, what, inside, device_on(engine, device), engine, floor.mean if floor else 0.0)
        while (told := run.told()) < trials and time.monotonic() < end:
            yield from run.batch(min(trials, (told // what.together + 1) * what.together))
            yield "search", Progress("trials", run.told(), trials)
        best = sorted((t for t in run.trials() if t.status == "done" and t.value is not None), key=_value)
        yield from _found(study, what, name, place, inside, run.trials(), best, confirm, draws, device, engine)


def _found(
    study: Study,
    what: Search,
    name: str,
    place: Folder,
    inside: Store,
    trials: Sequence[Trial],
    best: Sequence[Trial],
    confirm: int,
    draws: int,
    device: str,
    engine: Engine,
) -> Iterator[tuple[str, Progress | Failure | Searched]]:
    """The best trials with their doubt, the very best and the base with fresh seeds, and all of it together."""
    shown = {t.name: _seeds(what, what.base.replace(**t.changes)) for t in best[:BEST]}
    first = what.base.replace(**best[0].changes) if best else what.base
    fresh = {"base": what.base, best[0].name: first} if best and first != what.base else {"base": what.base}
    again = {key: [e.shifted(FRESH + k) for k in range(confirm)] for key, e in fresh.items() if best}
    tables = []
    for wanted in (shown, again if confirm else {}):
        results: dict[str, Result] = {}
        for about, event in follow(wanted, [what.metric], draws, inside, device, engine) if wanted else ():
            if isinstance(event, Result):
                results[event.experiment.id] = event
            else:
                yield about, event
        found = {key: [results[e.id] for e in group if e.id in results] for key, group in wanted.items()}
        tables.append(rows({k: g for k, g in found.items() if g}, [what.metric], inside, changes={}))
    called = name or base_name(what.base)
    command = ""
    if called and best and first != what.base:
        arm = " ".join([called, *(word(p, v) for p, v in best[0].changes.items())])
        seeds = f"training.seed={what.base.training.seed + FRESH}"
        command = shlex.join(["moonbed", "compare", called, arm, seeds, "--seeds", "5"])
    yield "found", Searched(what, str(place.path), trials, tables[0], tables[1], study.importance(), command)


class _Batches:
    """Batch after batch of a search's trials."""

    def __init__(self, study: Study, what: Search, store: Store, device: str, engine: Engine, centre: float) -> None:
        self.study, self.what, self.store, self.engine = study, what, store, engine
        self.device, self.centre = device, centre

    def told(self) -> int:
        """Trials of which it is known what came."""
        return sum(t.status != "running" for t in self.trials())

    def trials(self) -> list[Trial]:
        """All trials so far."""
        out = []
        for t in self.study.trials:
            status, message = (t.user_attrs.get(key, "") for key in ("status", "message"))
            changes, value = self.what.changes(t.params), t.value if status == "done" else None
            out.append(Trial(t.number, changes, status or "running", value, message, t.intermediate_values))
        return out

    def batch(self, upto: int) -> Iterator[tuple[str, Progress | Failure]]:
        """Propose trials up to a number, run what is open, and tell what came of it."""
        tasks: dict[str, list[int]] = {}
        ready: dict[int, list[Experiment]] = {}
        for trial in self.study.ask(upto):
            try:
                experiment = self.what.experiment(trial.params)
                ready[trial.number] = _seeds(self.what, experiment)
                tasks.setdefault(experiment.training.id, []).append(trial.number)
            except SpecError as error:
                self.study.tell(trial.number, "invalid", None, {}, str(error))
        groups = list(tasks.values())
        outcome = {number: _Outcome() for number in ready}
        for index, event in self.engine.run([self._task([(k, ready[k]) for k in group]) for group in groups]):
            if isinstance(event, Failure):
                yield ", ".join(f"trial {k}" for k in groups[index]), event
                for number in groups[index]:
                    outcome[number].failed(event, len(ready[number]))
                continue
            number, found = event
            outcome[number].take(found)
            if isinstance(found, Progress):
                yield f"trial {number}", found
        for number, came in outcome.items():
            self.study.tell(number, *came.told(self.what, self.centre, len(ready[number])))
        self.study.save()

    def _task(self, trials: list[tuple[int, list[Experiment]]]) -> Task:
        what, prune = self.what, self.what.prune
        marks = [round(1000 * share) for share in prune.rungs] if prune else []
        rungs = [(mark, prune.limit(self.study.reached(mark)) if prune else None) for mark in marks]
        root = self.store.address if self.engine.distant else str(self.store.root)
        specs = [(number, [e.spec() for e in group]) for number, group in trials]
        ahead = self.engine.spare(what.together)
        args = (specs, what.metric.spec(), root, self.device, rungs, prune.n if prune else 0, self.centre, ahead)
        return Task(run_trials, args, files_of([what.metric, *(e for _, group in trials for e in group)]), root)


class _Outcome:
    """What is known of a trial by its events; a task that was started again tells them anew."""

    def __init__(self) -> None:
        self.results: dict[str, Result] = {}
        self.rungs: dict[int, float] = {}
        self.end: tuple[str, str] | None = None

    def take(self, event: Any) -> None:
        if isinstance(event, Result):
            self.results[event.experiment.id] = event
            if event.status != "done":
                self.end = "diverged", event.message
        elif isinstance(event, Rung):
            self.rungs[event.mark] = event.value
        elif isinstance(event, Pruned):
            self.end = "pruned", f"{event.value:.4g} after {event.mark / 10:g} % of its steps, above {event.limit:.4g}"

    def failed(self, event: Failure, seeds: int) -> None:
        if self.end is None and len(self.results) < seeds:
            self.end = "failed", event.message

    def told(self, what: Search, centre: float, seeds: int) -> tuple[str, float | None, Mapping[int, float], str]:
        """Status, value, rungs and message."""
        values = [r.values.get(what.metric.id, math.nan) for r in self.results.values()]
        bad = [what.metric.badness(value, centre) for value in values]
        if self.end is None and (len(bad) < seeds or any(math.isnan(b) for b in bad)):
            self.end = "failed", f"{what.metric.label} is no number" if bad else "it ended without a result"
        if self.end is not None:
            return self.end[0], None, self.rungs, self.end[1]
        return "done", math.fsum(bad) / len(bad), self.rungs, ""


def _seeds(what: Search, experiment: Experiment) -> list[Experiment]:
    return [experiment.shifted(k) for k in range(what.seeds)]


def _value(trial: Trial) -> tuple[float, int]:
    return (math.inf if trial.value is None else trial.value), trial.number


def _place(what: Search, name: str, store: Store) -> Folder:
    """The folder of a search: another base, space or method is another search."""
    stem = name.rpartition(":")[2] if ".py" in name else name.split()[0] if name.split() else ""
    stem = "".join(c if c.isalnum() or c in "-_" else "-" for c in stem) or "search"
    return store.folder("searches", f"{stem}-{what.id[:8]}")


@contextmanager
def _alone(place: Folder) -> Iterator[None]:
    """Hold the search, or raise `StoreError` at once where another process does."""
    from filelock import FileLock, Timeout

    from moonbed.experiments.storage.places import remote

    if remote(place.path):
        yield
        return
    try:
        place.path.mkdir(parents=True, exist_ok=True)
        with FileLock(place.path / ".lock", timeout=0):
            yield
    except Timeout:
        raise StoreError(f"another process is at this search: {place.path}") from None
    except OSError as error:
        raise StoreError(f"cannot write {place.path}: {error.strerror or error}") from None


def _study(place: Folder, what: Search) -> Study:
    try:
        from moonbed.experiments._study import Study
    except ModuleNotFoundError as error:
        if error.name != "optuna":
            raise
        raise SpecError([("", "a search needs Optuna: pip install 'moonbed[search]'")]) from None
    return Study(place, what)


def choices(texts: Mapping[str, str]) -> tuple[dict[str, Space], dict[str, str]]:
    """Places that vary, and those that are set to one value, of `name=value` words."""
    over: dict[str, Space] = {}
    one: dict[str, str] = {}
    for place, text in texts.items():
        try:
            over[place] = Space.parse(text)
        except SpecError as error:
            alone = [message for where, message in error.problems if where == "values"]
            if not alone:
                raise SpecError([(f"{place} {where}".strip(), m) for where, m in error.problems]) from None
            one[place] = text
    return over, one
