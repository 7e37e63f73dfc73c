"""Experiments that take a fraction of a second."""

from __future__ import annotations

import hashlib
import signal
from pathlib import Path
from typing import Any

import pytest

from moonbed.experiments import PRESETS, Experiment, Training
from moonbed.experiments.train import State, train
from moonbed.metrics.two_sample import SlicedW1
from moonbed.networks.mlp import MLP

METRICS = (SlicedW1(directions=16),)
TINY = {"training.steps": 200, "training.batch": 64, "training.points": 1000, "sampler.steps": 5, "n": 100}


def tiny(name: str = "ddpm", **changes: Any) -> Experiment:
    """A preset with a small network and few steps; `changes` are dotted, with `__` for the dot."""
    small = PRESETS[name].replace(**TINY, **{"training.network": MLP(hidden=(16,))})
    return small.replace(**{key.replace("__", "."): value for key, value in changes.items()})


def finished(training: Training, state: State | None = None) -> State:
    """A training at its end."""
    state = state or State(training)
    for _ in train(training, state):
        pass
    return state


def files(root: Path, ends: tuple[str, ...] = (".npy", ".safetensors")) -> dict[str, str]:
    """Path below `root` -> SHA-256, of the files that end so."""
    found = [p for p in root.rglob("*") if p.name.endswith(ends) and not p.name.startswith(".")]
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in found}


def names_in(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def usual_signals() -> None:
    """Of a child, before its program: what ends it may be ignored here, as below `nohup`, and would be in the child."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def only_here(*classes):
    """A fixture of a file whose plug-ins no other file should meet: they are members while its tests run."""
    from moonbed.component import _REGISTRY

    def forget():
        for cls in classes:
            _REGISTRY[cls.kind()].pop(cls.__name__, None)

    @pytest.fixture(scope="module", autouse=True)
    def known():
        for cls in classes:
            _REGISTRY[cls.kind()][cls.__name__] = cls
        yield
        forget()

    forget()
    return known
