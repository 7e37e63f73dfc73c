"""From a stored run to the files of a format, and from there to the disk, whole or not at all."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import moonbed
from moonbed._lazy import lazy_import
from moonbed.component import SpecError
from moonbed.experiments.evaluate import denoiser_of, generate, stored_samples
from moonbed.experiments.named import find_experiment
from moonbed.experiments.spec import Experiment
from moonbed.experiments.storage.folder import Folder
from moonbed.experiments.storage.runs import verify_run
from moonbed.experiments.storage.store import Store
from moonbed.experiments.weights import trained
from moonbed.rng import Rng, Stream

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor
else:
    np = lazy_import("numpy")
    torch = lazy_import("torch")

__all__ = ["FORMATS", "Run", "check_free", "export", "find_run", "samples_from", "write"]

FORMATS: Mapping[str, tuple[str, ...]] = {
    "diffusers": (),
    "torch": (".pt2",),
    "onnx": (".onnx",),
    "npy": (".npy", ".json"),
}
"""Name of a format -> the endings of its files, the main one first; a folder where there are none."""
_KNOWN = frozenset(
    {"training", "sampler", "n", "seed", "schedule", "label", "guidance", "guide", "sigma_rel"}
)  # fields that say nothing of a model but by its denoiser, sampler and weights


@dataclass(frozen=True)
class Run:
    """A finished training with an experiment on it, in a store."""

    experiment: Experiment
    store: Store

    @cached_property
    def weights(self) -> dict[str, Tensor]:
        """Those used for sampling. Raises `StoreError` where they are damaged."""
        return trained(self.store, self.experiment.training, self.experiment.sigma_rel) or {}

    @cached_property
    def guide(self) -> dict[str, Tensor] | None:
        """Those of the worse network, where there is one."""
        return trained(self.store, self.experiment.guide) if self.experiment.guide else None

    def about(self) -> dict[str, Any]:
        """What goes with every file: which run it is, and the way back to the target's own coordinates."""
        target = self.experiment.training.target
        return {
            "id": self.experiment.id,
            "training": self.experiment.training.id,
            "moonbed": moonbed.__version__,
            "dim": target.dim,
            "mean": target.mean.tolist(),
            "scale": target.scale.tolist(),
            "spec": self.experiment.spec(),
        }


def find_run(text: str, store: Store) -> Run:
    """The run of an id, or of anything else that names an experiment in the store.

    Raises `SpecError` for what is unknown, ambiguous, unfinished or diverged, `StoreError` for what is damaged.
    """
    name, experiment = find_experiment(text, store)
    for training in experiment.needs:
        folder, what = store.training(training), f"the training {training.id} of {name}"
        record = folder.record()
        if record is None:
            raise SpecError([("", f"{what} is not finished in {store.root}")])
        if record["status"] != "done":
            raise SpecError([("", f"{what} {record['status']}: there is nothing to export")])
        verify_run(folder)
    return Run(experiment, store)


class _One(Rng):
    """All streams are one: the numbers of a generator, in the order in which they are asked for."""

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__(generator.initial_seed())
        self._stream = Stream.over(generator)

    def child(self, *name: str | int) -> Rng:
        return self

    def stream(self, *name: str | int) -> Stream:
        return self._stream


def samples_from(
    experiment: Experiment,
    weights: Mapping[str, Tensor],
    n: int,
    generator: torch.Generator,
    device: str = "cpu",
    guide: Mapping[str, Tensor] | None = None,
) -> Tensor:
    """(n, dim): samples of an experiment whose random numbers come from a CPU generator.

    It gives the initial noise first and then what the sampler draws. An exported pipeline, called with a generator in
    the same state, returns the same bits on the same machine.
    """
    *_, x = generate(experiment, denoiser_of(experiment, weights, device, guide), device, _One(generator), n)
    return x


def export(run: Run, kind: str) -> dict[str, bytes]:
    """Name -> content of the files of a format: names in a folder, or endings.

    Raises `SpecError` for what cannot be exported, and for an extra that is not installed.
    """
    experiment = run.experiment
    odd = [f.name for f in dataclasses.fields(experiment) if f.name not in _KNOWN and _is_set(experiment, f)]
    if odd and kind != "npy":
        raise SpecError([(name, f"an experiment with {name} cannot be exported as {kind} yet") for name in odd])
    if kind == "npy":
        return _samples(run)
    if kind == "diffusers":
        from moonbed.export.folder import folder_of

        return folder_of(run)
    from moonbed.export._program import onnx_bytes, torch_bytes

    if experiment.training.objective.density:
        raise SpecError([("--format", f"a density is no denoiser: it cannot be exported as {kind}")])
    denoiser = denoiser_of(experiment, run.weights, "cpu", run.guide)
    make = torch_bytes if kind == "torch" else onnx_bytes
    return {FORMATS[kind][0]: make(denoiser, experiment.training.target.dim, json.dumps(run.about()))}


def _is_set(experiment: Experiment, field: dataclasses.Field[Any]) -> bool:
    return bool(getattr(experiment, field.name) != field.default)


def _samples(run: Run) -> dict[str, bytes]:
    """The stored samples, and beside them what they are."""
    folder = run.store.experiment(run.experiment)
    if folder.record() is None:
        raise SpecError([("", f"the experiment {run.experiment.id} has no samples in {run.store.root}")])
    data, n = folder.file("samples.npy"), len(stored_samples(folder, run.experiment))
    about = {**run.about(), "n": n, "coordinates": "standardised: mean + scale * x is the target's own"}
    return {".npy": data, ".json": (json.dumps(about, indent=2) + "\n").encode()}


def check_free(out: Path, kind: str, force: bool = False) -> None:
    """Raises `SpecError` where `out` cannot be written, or is there already and `force` is not given."""
    endings = FORMATS[kind]
    if out.is_dir() and endings:
        raise SpecError([("--out", f"{out} is a folder; name a file")])
    if out.exists() and not out.is_dir() and not endings:
        raise SpecError([("--out", f"{out} is a file; name a folder")])
    there = [path for path in _paths(out, endings) if path.exists()] if endings else sorted(out.glob("*"))
    if there and not force:
        raise SpecError([("--out", f"{there[0]} exists already; --force writes over it")])


def write(files: Mapping[str, bytes], kind: str, out: Path, force: bool = False) -> list[Path]:
    """Put the files of a format at `out`: a folder, or a file and its companions with other endings.

    Each file appears whole or not at all, and that which makes a folder a model comes last. Raises `SpecError` where
    something is there and `force` is not given, `StoreError` where nothing can be written.
    """
    check_free(out, kind, force)
    paths = _paths(out, FORMATS[kind]) if FORMATS[kind] else [out / name for name in files]
    for path, data in zip(paths, files.values(), strict=True):
        Folder(path.parent).write(path.name, data)
    return paths


def _paths(out: Path, endings: tuple[str, ...]) -> list[Path]:
    return [out, *(out.with_suffix(ending) for ending in endings[1:])]
