"""The trials of a search, batch after batch: proposed by the study, run by an engine, told to study and trackers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from moonbed.component import SpecError
from moonbed.experiments.engines import Engine, Failure, Progress, Task
from moonbed.experiments.plugins import files_of
from moonbed.experiments.results import Result
from moonbed.experiments.spaces import Search, words
from moonbed.experiments.spec import Experiment
from moonbed.experiments.storage.store import Store
from moonbed.experiments.trackers import Told
from moonbed.experiments.trials import Pruned, Rung, run_trials

if TYPE_CHECKING:
    from moonbed.experiments._study import Study

__all__ = ["Batches", "Trial", "seeds_of"]


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


class Batches:
    """Batch after batch of a search's trials."""

    def __init__(self, study: Study, what: Search, store: Store, device: str, engine: Engine, centre: float) -> None:
        self.study, self.what, self.store, self.engine = study, what, store, engine
        self.device, self.centre = device, centre
        self.names: dict[str, str] = {}
        self.tell: Told = lambda group, event: None

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
                ready[trial.number] = seeds_of(self.what, experiment)
                self._name(trial.number, ready[trial.number], self.what.changes(trial.params))
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
            if isinstance(found, Progress | Result):
                at = min(len(outcome[number].results), len(ready[number]) - 1)  # its seeds come one after another
                self.tell([ready[number][at]], found)
            outcome[number].take(found)
            if isinstance(found, Progress):
                yield f"trial {number}", found
        for number, came in outcome.items():
            self.study.tell(number, *came.told(self.what, self.centre, len(ready[number])))
        self.study.save()

    def _name(self, number: int, group: Sequence[Experiment], changes: Mapping[str, Any]) -> None:
        """What trackers call the experiments of a trial."""
        for e in group:
            seed = f", seed {e.training.seed}" if len(group) > 1 else ""
            self.names[e.id] = f"{number}: {words(changes)}{seed}"

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


def seeds_of(what: Search, experiment: Experiment) -> list[Experiment]:
    """The experiments of a trial, by seed."""
    return [experiment.shifted(k) for k in range(what.seeds)]
