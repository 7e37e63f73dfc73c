"""What a finished training samples with: its weights in the store, a width of its average, the denoiser around them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moonbed.diffusion import Denoiser
from moonbed.experiments.averaging import PowerEMA, post_hoc
from moonbed.experiments.evaluate import denoiser_of, exact_of
from moonbed.experiments.spec import Experiment, Training
from moonbed.experiments.storage.folder import StoreError, suiting
from moonbed.experiments.storage.store import Store
from moonbed.experiments.train import State

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["denoiser_in", "trained"]

FAR = 0.2
"""Relative distance of a profile that is not reconstructed any more."""


def trained(store: Store, training: Training, sigma_rel: float | None = None) -> dict[str, Tensor] | None:
    """The weights to sample with, of an average that is reconstructed if `sigma_rel` says so; None if it diverged."""
    folder = store.training(training)
    record = folder.record()
    if record is None or record["status"] != "done":
        return None
    weights = folder.tensors("weights.safetensors")
    if sigma_rel is None or not isinstance(training.averaging, PowerEMA):
        return weights
    rows = folder.tensors("snapshots.safetensors")
    snapshots = {int(step): rows[step] for step in rows if step.isdecimal()}
    with suiting(f"{folder.path / 'snapshots.safetensors'}"):
        average, distance = post_hoc(snapshots, training.averaging.sigma_rels, sigma_rel)
    if distance > FAR:
        raise StoreError(
            f"sigma_rel {sigma_rel:g}: no combination of the {len(snapshots)} snapshots comes nearer to its profile "
            f"than {distance:.0%}; take a width nearer to {training.averaging.sigma_rels}, or more snapshots"
        )
    with suiting(f"{folder.path / 'snapshots.safetensors'}"):
        return weights | State(training).named(average)


def denoiser_in(store: Store, experiment: Experiment, device: str) -> Denoiser | None:
    """What an experiment samples with, from the store; None where one of its trainings diverged."""
    if experiment.exact:
        return exact_of(experiment)
    weights = trained(store, experiment.training, experiment.sigma_rel)
    guide = trained(store, experiment.guide) if experiment.guide else None
    if weights is None or (experiment.guide and guide is None):
        return None
    return denoiser_of(experiment, weights, device, guide)
