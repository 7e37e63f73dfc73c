"""One trial of a search, in a process that may be anywhere: train, look at the rungs, go on or give up.

A rung is an interruption: the training is stopped there as Ctrl-C would stop it, sampled from its checkpoint, and goes
on from it. So a trial leaves the same bits as a plain run of its experiment, and one that is given up can be taken up
later. What was found at a rung is kept beside the experiment, `rungs.json`, for a search that is killed and goes on.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from moonbed.experiments.engines.base import Progress
from moonbed.experiments.evaluate import denoiser_of, generate, model_of, reference, trained_on
from moonbed.experiments.planning import first_of
from moonbed.experiments.process import complete
from moonbed.experiments.results import Result
from moonbed.experiments.spec import Experiment
from moonbed.experiments.storage.folder import Folder
from moonbed.experiments.storage.runs import load_checkpoint, save_spec
from moonbed.experiments.storage.store import Store
from moonbed.experiments.train import BLOCK, State
from moonbed.experiments.weights import trained
from moonbed.metrics import Evaluation, Metric

__all__ = ["Pruned", "Rung", "run_trials"]


@dataclass(frozen=True)
class Rung:
    """What a training was worth at a share of its steps: badness, in thousandths of them."""

    mark: int
    value: float


@dataclass(frozen=True)
class Pruned:
    """A training was given up at a rung, since it was worth less than `limit`."""

    mark: int
    value: float
    limit: float


Event = Progress | Result | Rung | Pruned


def run_trials(
    trials: Sequence[tuple[int, list[dict[str, Any]]]],
    question: dict[str, Any],
    root: str,
    device: str,
    rungs: Sequence[tuple[int, float | None]],
    n: int,
    centre: float,
    ahead: bool,
) -> Iterator[tuple[int, Event]]:
    """Trials whose first training is the same, one after the other; yields (number of the trial, event).

    Each is its experiments by seed. `rungs` are (thousandths of the steps, worst badness that goes on), `n` the points
    that are sampled there, `centre` what perfect samples have.
    """
    metric, store = Metric.parse(question), Store(root)
    for number, specs in trials:
        experiments = [Experiment.parse(spec) for spec in specs]
        for k, experiment in enumerate(experiments):
            lost = False
            for event in _watched(store, experiment, metric, device, () if k else rungs, n, centre, ahead):
                yield number, event
                lost = lost or isinstance(event, Pruned) or (isinstance(event, Result) and event.status != "done")
            if lost:
                break


def _watched(
    store: Store,
    experiment: Experiment,
    metric: Metric,
    device: str,
    rungs: Sequence[tuple[int, float | None]],
    n: int,
    centre: float,
    ahead: bool,
) -> Iterator[Event]:
    folder, steps = store.training(experiment.training), experiment.training.steps
    known: Mapping[str, Any] = _kept(store.experiment(experiment), metric)
    for mark, limit in rungs if not experiment.exact else ():
        step = max(1, round(mark / 1000 * steps / BLOCK)) * BLOCK
        if str(mark) not in known:
            if step >= steps:
                break
            yield from _until(store, experiment, metric, device, step, ahead)
            if _at(folder) != step:  # done already, or further: another trial trained it
                continue
            found = metric.badness(_measured(store, experiment, metric, n, device), centre)
            known = {**known, str(mark): found if not math.isnan(found) else math.inf}
            _keep(store.experiment(experiment), experiment, metric, known)
        value = float(known[str(mark)])
        yield Rung(mark, value)
        if limit is not None and value > limit and folder.record() is None:
            yield Pruned(mark, value, limit)
            return
    yield from _whole(store, experiment, metric, device, ahead)


def _whole(store: Store, experiment: Experiment, metric: Metric, device: str, ahead: bool) -> Iterator[Event]:
    events = complete([[experiment.spec()]], [metric.spec()], str(store.root), device, False, ahead)
    try:
        yield from (event for _, event in events)
    finally:
        events.close()  # type: ignore[attr-defined]


def _until(
    store: Store, experiment: Experiment, metric: Metric, device: str, step: int, ahead: bool
) -> Iterator[Progress]:
    """Train to a step and no further, or to wherever another has brought it."""
    folder = store.training(experiment.training)
    while folder.record() is None and _at(folder) < step:
        events = _whole(store, experiment, metric, device, ahead)
        try:
            for event in events:
                if not isinstance(event, Progress):
                    break
                yield event
                own = all(store.training(t).record() is not None for t in first_of(experiment))
                if event.stage == "train" and event.done >= step and own:
                    break
        finally:
            events.close()  # type: ignore[attr-defined]


def _at(folder: Folder) -> int:
    """The step of the checkpoint, 0 without one."""
    return int((folder.read_json("checkpoint.json") or {"step": 0})["step"])


def _measured(store: Store, experiment: Experiment, metric: Metric, n: int, device: str) -> float:
    """The metric, of a few samples from the checkpoint as it stands."""
    kept, small = load_checkpoint(store.training(experiment.training)), experiment.replace(n=min(n, experiment.n))
    if kept is None:
        return math.nan
    state = State(experiment.training)
    state.load(*kept[:3])
    guide = trained(store, experiment.guide) if experiment.guide else None
    denoiser = denoiser_of(small, state.weights_for_sampling(), device, guide)
    *_, x = generate(small, denoiser, device)
    model, rng = model_of(small, denoiser, device), small.rng.child("metrics")
    points = x.cpu().numpy()
    return float(metric(Evaluation(points, reference(small), rng, law=small.law, train=trained_on(small), model=model)))


def _kept(folder: Folder, metric: Metric) -> Mapping[str, Any]:
    return (folder.read_json("rungs.json") or {}).get(metric.id) or {}


def _keep(folder: Folder, experiment: Experiment, metric: Metric, found: Mapping[str, float]) -> None:
    if folder.read_json("experiment.json") is None:
        save_spec(folder, experiment)
    folder.write_json("rungs.json", {**(folder.read_json("rungs.json") or {}), metric.id: dict(found)})
