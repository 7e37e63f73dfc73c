"""What goes through which process, and what is trained before what: each training once, together where that pays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from moonbed.component import SpecError
from moonbed.experiments.engines import HERE, Engine
from moonbed.experiments.spec import Experiment, Training
from moonbed.experiments.storage.store import Store
from moonbed.experiments.together import pays, shape

__all__ = ["bundled", "first_of", "fitting", "shared", "teachers"]


def teachers(training: Training) -> list[Training]:
    """The teachers of a training, each before the one that it teaches."""
    return [] if training.teacher is None else [*teachers(training.teacher), training.teacher]


def first_of(experiment: Experiment) -> list[Training]:
    """What has to be trained before the experiment's own training: its teachers, and a guide with its own."""
    found = [t for training in experiment.needs for t in (*teachers(training), training)]
    return [t for t in found if t != experiment.training]


def fitting(engine: Engine, store: Store) -> Engine:
    """The engine, or this process alone for a store that lies in its memory. `SpecError` if the engine is distant."""
    if store.processes(2) == 2:
        return engine
    if engine.distant:
        raise SpecError([("store", f"{store.root} lies in the memory of this process: other machines do not see it")])
    return HERE


def bundled(groups: Sequence[list[Experiment]], device: str, jobs: int) -> list[list[int]]:
    """Which groups go through one process: each alone, or together where that pays, as evenly as there are jobs."""
    alike: dict[Any, list[int]] = {}
    for k, group in enumerate(groups):
        training = group[0].training
        alike.setdefault(shape(training) if pays(training, device) else k, []).append(k)
    return [part for same in alike.values() for part in (same[i::jobs] for i in range(min(jobs, len(same))))]


def shared(bundles: Sequence[list[list[Experiment]]], store: Store) -> list[dict[Training, list[Experiment]]]:
    """What several bundles need and the store lacks: the trainings, each with experiments that wait for it.

    A list of levels, teachers before whom they teach.
    """
    needed: dict[Training, list[list[Experiment]]] = {}
    for bundle in bundles:
        mine = {t: group for group in bundle for e in group for t in (*first_of(e), *[e.training] * (not e.exact))}
        for training, group in mine.items():
            needed.setdefault(training, []).append(group)
    levels: dict[int, dict[Training, list[Experiment]]] = {}
    for training, groups in needed.items():
        if len(groups) > 1 and store.training(training).record() is None:
            levels.setdefault(len(teachers(training)), {})[training] = groups[0]
    return [levels[depth] for depth in sorted(levels)]
