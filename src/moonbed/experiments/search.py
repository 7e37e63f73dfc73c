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
import os
import shlex
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from moonbed._shown import Shown
from moonbed.component import SpecError
from moonbed.experiments.batches import Batches, Trial, seeds_of
from moonbed.experiments.device import device_on
from moonbed.experiments.engines import HERE, Engine, Failure, Progress
from moonbed.experiments.floors import draw_floors
from moonbed.experiments.named import find_experiment
from moonbed.experiments.planning import fitting
from moonbed.experiments.plugins import load_file
from moonbed.experiments.results import Result
from moonbed.experiments.rows import DRAWS, Rows, floor_of, follow, rows
from moonbed.experiments.spaces import Search, Space, base_name, word
from moonbed.experiments.spec import Experiment
from moonbed.experiments.storage.folder import Folder, StoreError
from moonbed.experiments.storage.runs import save_spec
from moonbed.experiments.storage.store import Store
from moonbed.experiments.trackers import Tracker, telling

if TYPE_CHECKING:
    from moonbed.experiments._study import Study

__all__ = ["FRESH", "Searched", "Trial", "find_search", "search"]

FRESH = 1_000
"""Distance from the seeds of trials to those of the confirmation."""
BEST = 10
"""Trials that a table shows."""


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
    track: Sequence[Tracker] = (),
) -> Iterator[tuple[str, Progress | Failure | Searched]]:
    """Yield (what it is about, event) while trials run, and what was found at the end.

    `trials` counts those of earlier calls: a search that was cut off goes on, one that was longer is only shown. After
    `minutes` no batch is begun. `name` is how the command line names the base. `track` are trackers, told of every
    trial by its number; of one that was given up they hear no end. Raises `SpecError` for a search that
    cannot be, `StoreError` where another process is at it.
    """
    if trials < 1 or confirm < 0:
        raise SpecError([("trials" if trials < 1 else "confirm", "should not be negative, and trials at least 1")])
    where = Store.at(store)
    place = _place(what, name, where)
    inside = Store(place.path / "runs")
    engine = fitting(engine, inside)
    with _alone(place):
        if place.read_json("search.json") is None:
            save_spec(place, what)
        study, end = _study(place, what), math.inf if minutes is None else time.monotonic() + 60 * minutes
        for event in draw_floors(what.base.law, [what.metric], what.base.n, draws, inside, engine):
            yield "floor", event
        floor = floor_of(inside, what.base.law, what.metric, what.base.n)
        run = Batches(study, what, inside, device_on(engine, device), engine, floor.mean if floor else 0.0)
        with telling(track, inside, [what.metric], draws, run.names) as run.tell:
            while (told := run.told()) < trials and time.monotonic() < end:
                yield from run.batch(min(trials, (told // what.together + 1) * what.together))
                yield "search", Progress("trials", run.told(), trials)
        best = sorted((t for t in run.trials() if t.status == "done" and t.value is not None), key=_value)

        def look(wanted: Mapping[str, Sequence[Experiment]]) -> Iterator[tuple[str, Progress | Result | Failure]]:
            return follow(wanted, [what.metric], draws, inside, device, engine, track)

        shown, again = yield from _confirmed(what, inside, best, confirm, look)
        command = _command(what, name, best, where)
        shares = study.importance()
        yield "found", Searched(what, str(place.path), run.trials(), shown, again, shares, command)


def _confirmed(
    what: Search,
    inside: Store,
    best: Sequence[Trial],
    confirm: int,
    look: Callable[[Mapping[str, Sequence[Experiment]]], Iterator[tuple[str, Progress | Result | Failure]]],
) -> Generator[tuple[str, Progress | Failure], None, list[Rows]]:
    """Rows of the best trials with their doubt, and of the very best and the base with fresh seeds."""
    tables = []
    shown = {t.name: seeds_of(what, what.base.replace(**t.changes)) for t in best[:BEST]}
    first = what.base.replace(**best[0].changes) if best else what.base
    fresh = {"base": what.base, best[0].name: first} if best and first != what.base else {"base": what.base}
    again = {key: [e.shifted(FRESH + k) for k in range(confirm)] for key, e in fresh.items() if best}
    for wanted in (shown, again if confirm else {}):
        results: dict[str, Result] = {}
        for about, event in look(wanted) if wanted else ():
            if isinstance(event, Result):
                results[event.experiment.id] = event
            else:
                yield about, event
        found = {key: [results[e.id] for e in group if e.id in results] for key, group in wanted.items()}
        tables.append(rows({k: g for k, g in found.items() if g}, [what.metric], inside, changes={}))
    return tables


def _command(what: Search, name: str, best: Sequence[Trial], store: Store) -> str:
    """What compares the best with the base, with seeds that the search has not seen; "" where it is the base."""
    called = name or base_name(what.base)
    if not (called and best) or what.base.replace(**best[0].changes) == what.base:
        return ""
    arm = " ".join([called, *(word(p, v) for p, v in best[0].changes.items())])
    words = ["moonbed", "compare", called, arm, f"training.seed={what.base.training.seed + FRESH}", "--seeds", "5"]
    if (root := str(store.root)) != os.environ.get("MOONBED_STORE", "runs"):
        words += ["--store", root]
    return shlex.join(words)


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
