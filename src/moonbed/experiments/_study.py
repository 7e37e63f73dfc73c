"""Optuna's part of a search: what is tried next, by what came of the trials before (Akiba et al., 2019).

A study lies in `journal.log`, Optuna's own journal, a JSON object a line: no pickle is written or read. It is held in
memory and put in place whole, after trials were proposed and after they were told, so that a kill at any moment leaves
the one or the other. One process has it at a time (`moonbed.experiments.search` holds its lock).

Each proposal comes from a sampler of its own, seeded by the number of the trial: what trial 17 tries depends on the
seed and on what came before, and not on whether the search was interrupted.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend
from optuna.trial import FrozenTrial, TrialState

from moonbed.experiments.spaces import Choice, Float, Int, Search, Space
from moonbed.experiments.storage.folder import Folder, StoreError
from moonbed.rng import Rng

JOURNAL = "journal.log"
STARTUP = 10
"""Trials before the method looks at what came of them."""
ENOUGH = 10
"""Finished trials from which importances are told."""


class _Journal(BaseJournalBackend):
    """Optuna's journal in memory."""

    def __init__(self, lines: list[dict[str, Any]]) -> None:
        self.lines = lines

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        yield from self.lines[log_number_from:]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        self.lines.extend(json.loads(json.dumps(logs)))


class Study:
    """The trials of a search, kept in a folder."""

    def __init__(self, folder: Folder, search: Search) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.folder, self.search = folder, search
        self.journal = _Journal(_lines(folder))
        self.distributions = {place: _distribution(space) for place, space in search.places.items()}
        fresh = not self.journal.lines
        self.study = optuna.create_study(
            storage=JournalStorage(self.journal), study_name=folder.path.name, load_if_exists=True
        )
        if fresh and (drawn := search.drawn_of_base()) is not None:
            self.study.enqueue_trial(drawn)  # so that trial 0 is the base

    @property
    def trials(self) -> list[FrozenTrial]:
        """All trials by their number, without those that are only planned."""
        return [t for t in self.study.get_trials() if t.state != TrialState.WAITING]

    def ask(self, upto: int) -> list[FrozenTrial]:
        """Propose trials up to a number of them all; those that nothing is known of yet, also from before."""
        while (number := len(self.trials)) < upto:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                self.study.sampler = self._sampler(number)
                self.study.ask(self.distributions)
        self.save()
        return [t for t in self.trials if t.state == TrialState.RUNNING]

    def tell(self, number: int, status: str, value: float | None, rungs: Mapping[int, float], message: str) -> None:
        """What came of a trial: `done` with a value, or `pruned`, `diverged`, `invalid`, `failed`."""
        self.study.sampler = optuna.samplers.RandomSampler(seed=0)  # of which nothing is drawn
        trial = optuna.trial.Trial(self.study, self.trials[number]._trial_id)
        for rung, found in rungs.items():
            trial.report(found, rung)
        trial.set_user_attr("status", status)
        trial.set_user_attr("message", message)
        if status == "done":
            self.study.tell(number, value)
        else:
            self.study.tell(number, state=TrialState.FAIL if status == "failed" else TrialState.PRUNED)

    def reached(self, rung: int) -> list[float]:
        """What all trials that are told had at a rung."""
        told = [t for t in self.trials if t.state.is_finished()]
        return [t.intermediate_values[rung] for t in told if rung in t.intermediate_values]

    def importance(self) -> dict[str, float]:
        """Place -> its share in the variance of the values (fANOVA, Hutter et al., 2014); empty for too few trials."""
        told = [t for t in self.trials if t.state == TrialState.COMPLETE and t.value is not None]
        told = [t for t in told if t.value is not None and math.isfinite(t.value)]
        if len(told) < ENOUGH or len(self.distributions) < 2 or len({t.value for t in told}) < 2:
            return {}
        finite = optuna.create_study()
        finite.add_trials(told)
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
        return optuna.importance.get_param_importances(finite, evaluator=evaluator)

    def save(self) -> None:
        """Put the journal in place, whole."""
        text = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in self.journal.lines)
        self.folder.write(JOURNAL, text.encode())

    def _sampler(self, number: int) -> optuna.samplers.BaseSampler:
        seed = Rng(self.search.seed).child("search").stream("trial", number).seed % 2**32
        if self.search.method == "Random":
            return optuna.samplers.RandomSampler(seed=seed)
        return optuna.samplers.TPESampler(seed=seed, multivariate=True, constant_liar=True, n_startup_trials=STARTUP)


def _distribution(space: Space) -> BaseDistribution:
    if isinstance(space, Choice):
        return CategoricalDistribution(space.keys())
    if isinstance(space, Int):
        return IntDistribution(space.low, space.high, log=space.log)
    if isinstance(space, Float):
        return FloatDistribution(space.low, space.high, log=space.log)
    raise TypeError(f"no distribution for {space}")


def _lines(folder: Folder) -> list[dict[str, Any]]:
    if JOURNAL not in folder.names(JOURNAL):
        return []
    text: Iterable[bytes] = folder.read(JOURNAL).splitlines()
    try:
        return [json.loads(line) for line in text]
    except ValueError:
        raise StoreError(f"{folder.path / JOURNAL} is damaged: a line is no JSON; remove it to begin anew") from None
