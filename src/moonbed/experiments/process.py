"""What one process does: train, sample and evaluate what the store does not hold yet, and say how far it is.

The functions here are tasks of engines: they are given plain JSON, and may run on another machine.
"""

from __future__ import annotations

import io
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from moonbed._lazy import lazy_import
from moonbed.diffusion import Denoiser
from moonbed.experiments.engines import Progress
from moonbed.experiments.evaluate import askable_of, evaluate, exploded, generate, network_of, reference
from moonbed.experiments.planning import first_of, teachers
from moonbed.experiments.results import Result, outcome
from moonbed.experiments.session import Session, versions
from moonbed.experiments.spec import Experiment, Training
from moonbed.experiments.storage.folder import StoreError
from moonbed.experiments.storage.runs import drop_checkpoint, save_spec, verify_done
from moonbed.experiments.storage.store import Store
from moonbed.experiments.together import advance
from moonbed.experiments.weights import denoiser_in, trained
from moonbed.metrics import Metric

if TYPE_CHECKING:
    import numpy as np
    import torch
else:
    np = lazy_import("numpy")
    torch = lazy_import("torch")

__all__ = ["complete", "prepare"]


def prepare(spec: dict[str, Any], root: str, device: str, ahead: bool) -> Iterator[Progress]:
    """One training, after its teachers."""
    training, store = Training.parse(spec), Store(root)
    for each in (*teachers(training), training):
        yield from _train_locked(store, each, device, ahead)


def complete(
    specs: list[list[dict[str, Any]]], questions: list[dict[str, Any]], root: str, device: str, doubt: bool, ahead: bool
) -> Iterator[tuple[int, Progress | Result]]:
    """All experiments of some trainings, in a process that may be new; yields (which training, event)."""
    groups = [[Experiment.parse(spec) for spec in group] for group in specs]
    metrics = [Metric.parse(spec) for spec in questions]
    store = Store(root)
    for k, group in enumerate(groups):  # teachers and guides, whoever else waits for them
        for training in dict.fromkeys(t for e in group for t in first_of(e)):
            yield from ((k, event) for event in _train_locked(store, training, device, ahead))
    with ExitStack() as locks:
        for training in sorted((group[0].training for group in groups), key=lambda t: t.id):
            locks.enter_context(store.lock(training))
            store.training(training).sweep()
        wanted = [(k, group[0].training) for k, group in enumerate(groups) if any(not e.exact for e in group)]
        for k, event in _train(store, [training for _, training in wanted], device, ahead):
            yield wanted[k][0], event
        for k, group in enumerate(groups):
            for experiment in group:
                yield from ((k, event) for event in _sample(store, experiment, device))
                yield from ((k, event) for event in _answer(store, experiment, metrics, device, doubt))


def _train_locked(store: Store, training: Training, device: str, ahead: bool) -> Iterator[Progress]:
    with store.lock(training):
        store.training(training).sweep()
        yield from (event for _, event in _train(store, [training], device, ahead))


def _train(store: Store, trainings: Sequence[Training], device: str, ahead: bool) -> Iterator[tuple[int, Progress]]:
    """Train what the store lacks; those that stand at one step go together."""
    by_step: dict[int, list[tuple[int, Session]]] = {}
    for k, training in enumerate(trainings):
        folder = store.training(training)
        if folder.record() is not None:
            verify_done(folder, training)
            drop_checkpoint(folder)
        else:
            teacher = None
            if training.teacher is not None:
                weights = trained(store, training.teacher)
                if weights is None:
                    message = f"its teacher {training.teacher.id} diverged"
                    save_spec(folder, training)
                    lost = {"status": "diverged", "message": message, "id": training.id, "step": 0, "seconds": 0.0}
                    lost |= {"parameters": training.parameters(), "resumed": [], "device": device}
                    folder.finish(lost | {"versions": versions()}, {})
                    continue
                teacher = network_of(training.teacher, weights)
            session = Session(folder, training, device, teacher)
            by_step.setdefault(session.state.step, []).append((k, session))
    for same in by_step.values():
        sessions = [session for _, session in same]
        try:
            for j, error in advance([s.training for s in sessions], [s.state for s in sessions], ahead):
                if error is None:
                    yield same[j][0], sessions[j].block()
                else:
                    sessions[j].finish(error)
        except (KeyboardInterrupt, GeneratorExit, SystemExit):
            for session in sessions:
                session.keep()
            raise
        for session in sessions:
            session.finish()


def _sample(store: Store, experiment: Experiment, device: str) -> Iterator[Progress]:
    folder = store.experiment(experiment)
    if folder.record() is not None:
        verify_done(folder, experiment)
        return
    denoiser = denoiser_in(store, experiment, device)
    if denoiser is None:
        return
    for name in folder.names("metrics/*.json", "anatomy.json"):
        folder.remove(name)  # of other samples
    save_spec(folder, experiment)
    start = time.monotonic()
    x = torch.empty(0)
    for step, state in enumerate(generate(experiment, denoiser, device), 1):
        x = state
        if step % 25 == 0:
            yield Progress("sample", step, experiment.sampler.steps)
    samples = x.cpu().numpy()
    data = io.BytesIO()
    np.save(data, samples)
    record = {
        "status": "done",
        "id": experiment.id,
        "training": experiment.training.id,
        "n": experiment.n,
        "exploded": exploded(samples, reference(experiment)),
        "seconds": time.monotonic() - start,
        "device": device,
        "versions": versions(),
    }
    folder.finish(record, {"samples.npy": data.getvalue()})


def _answer(
    store: Store, experiment: Experiment, metrics: Sequence[Metric], device: str, doubt: bool
) -> Iterator[Progress | Result]:
    folder, known = store.experiment(experiment), outcome(store, experiment)
    if known.status != "done":
        yield known
        return
    lacking = askable_of(experiment, metrics)
    asked = [metric for metric in metrics if metric.id not in lacking]
    answers = {}

    def denoiser() -> Denoiser:
        found = denoiser_in(store, experiment, device)
        if found is None:
            raise StoreError(f"{experiment.training.id}: no trained weights")
        return found

    for k, (metric, found) in enumerate(evaluate(experiment, folder, asked, denoiser, device, doubt)):
        answers[metric.id] = found
        yield Progress("evaluate", k + 1, len(asked))
    yield replace(known, answers=answers)
