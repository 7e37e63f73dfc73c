"""Samples on their way: the states of a stored run's own sampler, from the noise that it starts from to the data."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from moonbed._lazy import lazy_import
from moonbed.experiments.evaluate import generate
from moonbed.experiments.spec import Experiment
from moonbed.experiments.storage.folder import StoreError
from moonbed.experiments.storage.store import Store
from moonbed.experiments.weights import denoiser_in

if TYPE_CHECKING:
    import numpy as np
    import torch
else:
    torch = lazy_import("torch")

__all__ = ["states"]


def states(experiment: Experiment, store: Store, n: int) -> Iterator[np.ndarray]:
    """Yield the noise (n, dim) and then the state after each step. Raises `StoreError` without trained weights.

    The noise is drawn again from the stream that the sampler takes it from, at the size of the first noise level.
    """
    denoiser = denoiser_in(store, experiment, "cpu")
    if denoiser is None:
        raise StoreError(f"{experiment.training.id}: no trained weights")
    rng, training = experiment.rng.child("motion"), experiment.training
    stream = rng.stream("noise")
    noise = stream.normal((n, training.target.dim)) if training.prior is None else training.prior.sample(n, stream)
    start = torch.tensor(1.0, dtype=torch.float64)
    size = 1.0 if training.objective.density else float(denoiser.schedule.sigma(start))
    yield (size * noise).double().numpy()
    for state in generate(experiment, denoiser, "cpu", rng, n):
        yield state.double().cpu().numpy()
