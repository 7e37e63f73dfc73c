"""What came of an experiment: by what the records and answers of the store say, without computing anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from moonbed.experiments.evaluate import Answer, answer_name, read_answer
from moonbed.experiments.spec import Experiment
from moonbed.experiments.storage.folder import StoreError
from moonbed.experiments.storage.runs import verify_run
from moonbed.experiments.storage.store import Store
from moonbed.metrics import Metric

__all__ = ["Result", "all_held", "outcome"]


@dataclass(frozen=True)
class Result:
    """What came of one experiment. `answers` is keyed by the metric's id, without those that could not be asked."""

    experiment: Experiment
    status: str
    message: str = ""
    answers: Mapping[str, Answer] = field(default_factory=dict)
    exploded: int = 0
    parameters: int = 0
    training_seconds: float = 0.0
    sampling_seconds: float = 0.0
    folder: str = ""

    @property
    def values(self) -> dict[str, float]:
        """Id of the metric -> its value."""
        return {key: answer.value for key, answer in self.answers.items()}

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "experiment": self.experiment.spec()}  # plug-ins have other modules in other processes

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, experiment=Experiment.parse(state["experiment"]))

    @property
    def sentence(self) -> str:
        """The diagnosis in words, where a metric gives one."""
        return next((a.details["sentence"] for a in self.answers.values() if "sentence" in a.details), "")


def outcome(store: Store, experiment: Experiment) -> Result:
    """What the records say of an experiment, without its answers; "missing" where one of them is not there."""
    records = [store.training(training).record() for training in experiment.needs]
    first, folder = (records[0] if records else None) or {}, store.experiment(experiment)
    found = Result(
        experiment,
        "missing",
        parameters=first.get("parameters", 0),
        training_seconds=first.get("seconds", 0.0),
        folder=str(folder.path),
    )
    for training, record in zip(experiment.needs, records, strict=True):
        if record is not None and record["status"] != "done":
            whose = "" if training == experiment.training else f"its guide {training.id}: "
            return replace(found, status="diverged", message=whose + record.get("message", "diverged"))
    sampled = folder.record()
    if sampled is None or None in records:
        return found
    return replace(
        found, status="done", exploded=sampled.get("exploded", 0), sampling_seconds=sampled.get("seconds", 0.0)
    )


def all_held(
    experiments: Sequence[Experiment], metrics: Sequence[Metric], store: Store, doubt: bool
) -> list[Result] | None:
    """The results of experiments of which the store holds all that is asked, undamaged; None where it does not."""
    out = []
    try:
        for experiment in experiments:
            found, folder, answers = outcome(store, experiment), store.experiment(experiment), {}
            for training in experiment.needs:
                verify_run(store.training(training))
            if found.status == "missing":
                return None
            for metric in metrics if found.status == "done" else ():
                stored = folder.read_json(answer_name(metric))
                if stored is None or (doubt and "interval" not in stored):
                    return None
                answers[metric.id] = read_answer(stored)
            if found.status == "done":
                verify_run(folder)
            out.append(replace(found, answers=answers))
    except StoreError:  # said by whoever computes it
        return None
    return out
