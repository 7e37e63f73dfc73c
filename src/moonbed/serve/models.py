"""What is made of a run's files when somebody looks: the live model of its last checkpoint, and its report.

A configuration is parsed here, and only here, since it takes its classes; the id of what was parsed must be the name of
its folder. A model that the browser cannot run is sampled by the server instead.
"""

from __future__ import annotations

import base64
import threading
from collections.abc import Callable, Mapping
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from moonbed._lazy import lazy_import
from moonbed.diffusion.density import Draw
from moonbed.diffusion.samplers import DDIM, Heun, Jump, Renoise
from moonbed.experiments.evaluate import Weights, denoiser_of, generate
from moonbed.experiments.spec import Experiment, Training
from moonbed.experiments.storage.folder import Folder, StoreError
from moonbed.experiments.storage.runs import load_checkpoint, load_spec
from moonbed.experiments.storage.store import Store
from moonbed.experiments.stored import name_of, questions, stored_rows
from moonbed.experiments.train import State
from moonbed.experiments.weights import trained
from moonbed.live import Document
from moonbed.live.menu import menu

if TYPE_CHECKING:
    import torch

    from moonbed.diffusion import Denoiser, Sampler
else:
    torch = lazy_import("torch")

__all__ = ["Models", "assets", "nothing", "weights_of"]

KEPT = 4
"""Answers that are kept for the next one who asks."""
COUNT = 1_000
"""Samples that the server draws where the browser cannot."""
MANY = 64
"""Steps up to which an experiment's own sampler is offered."""
QUICK = (
    DDIM(steps=32),
    DDIM(steps=8),
    Heun(steps=16),
    Jump(steps=4),
    Jump(steps=1),
    Renoise(steps=4),
    Renoise(steps=1),
)
"""What else is offered, where it is right for the model."""


def assets() -> dict[str, tuple[str, Callable[[], bytes | str]]]:
    """Name below `/static/` -> its type and what makes it."""
    from moonbed.report.page.bundle import ENGINE_FILES, bundle, kernel

    own, page = files("moonbed.serve"), files("moonbed.report.page")
    found: dict[str, tuple[str, Callable[[], bytes | str]]] = {
        "engine.js": ("text/javascript", lambda: bundle(ENGINE_FILES)),
        "kernel.wasm": ("application/wasm", kernel),
    }
    shared = (page / "css" / "base.css", page / "js" / "theme.js")
    for path in (*(own / "js").iterdir(), *(own / "css").iterdir(), *shared):
        found[path.name] = ("text/javascript" if path.name.endswith(".js") else "text/css", path.read_bytes)
    return found


class Models:
    """What runs become in the browser; one is made at a time, and the last few are kept."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._lock = threading.Lock()
        self._made: dict[tuple[str, ...], Any] = {}

    def live(self, folder: Folder) -> dict[str, Any]:
        """The model of a training as it stands: `step`, `document` and `blob`, or `samples`, or the `reason` for none.

        Raises `StoreError` and `SpecError` for what is damaged or not known here.
        """
        with self._lock:
            torch.set_num_threads(1)  # the training that is looked at needs the others
            training = Training.parse(load_spec(folder, Training))
            record, pointer = folder.record(), folder.read_json("checkpoint.json")
            if record is None and pointer is None:
                return nothing("No checkpoint yet: the first comes after about a second.")
            seal = record["files"].get("weights.safetensors", "") if record else (pointer or {})["sha256"]
            if not seal:
                return nothing("It left no weights.")
            return self._once((folder.path.name, "live", seal), lambda: self._live(folder, training, record))

    def report(self, folder: Folder) -> str:
        """The page of a finished run with all its experiments."""
        from moonbed.writing import html_of

        with self._lock:
            torch.set_num_threads(1)
            experiments = _experiments(folder)
            if not experiments:
                raise StoreError(f"{folder.path} holds no finished samples")
            seal = [(e.id, folder.inner(e.id).names("metrics/*.json")) for e in experiments]

            def make() -> str:
                names = [name_of(e) for e in experiments]
                names = [
                    n if names.count(n) == 1 else f"{n}, {e.id[:8]}" for n, e in zip(names, experiments, strict=True)
                ]
                groups = {name: [e] for name, e in zip(names, experiments, strict=True)}
                table = stored_rows(groups, questions(self.store, experiments), self.store)
                return html_of(table, self.store, title=names[0] if len(names) == 1 else f"Run {folder.path.name}")

            return self._once((folder.path.name, "report", str(seal)), make)

    def _once(self, key: tuple[str, ...], make: Callable[[], Any]) -> Any:
        if key not in self._made:
            self._made[key] = make()
            for old in list(self._made)[:-KEPT]:
                del self._made[old]
        return self._made[key]

    def _live(self, folder: Folder, training: Training, record: Mapping[str, Any] | None) -> dict[str, Any]:
        weights, step = weights_of(folder, training, record)
        experiment, needed = self._asked(folder, training, weights, record)
        denoiser = denoiser_of(experiment, needed[0], "cpu", *needed[1:])
        samplers = _menu(experiment, denoiser)
        experiment = experiment.replace(sampler=samplers[0])
        made = Document()
        made.add(training.id, None, experiment, needed, samplers=samplers)
        data = made.data()
        (model,) = data["models"]
        answer = {**nothing(model["reason"]), "step": step}
        if model["kind"] == "recorded" or data["laws"][model["law"]]["kind"] == "none":
            answer["target"] = _points(experiment.law.sample(COUNT, experiment.rng.stream("shown")))
        if model["kind"] == "recorded":
            *_, x = generate(experiment, denoiser, "cpu", n=COUNT)
            return answer | {"samples": {**_points(x), "sampler": type(experiment.sampler).__name__}}
        return answer | {"document": data, "blob": base64.b64encode(made.blob.bytes()).decode()}

    def _asked(
        self, folder: Folder, training: Training, weights: Weights, record: Mapping[str, Any] | None
    ) -> tuple[Experiment, list[Weights]]:
        """What to ask of it, and the weights for that: as its first finished experiment does, else unguided."""
        for experiment in _experiments(folder) if record else []:
            guide = None if experiment.guide is None else trained(self.store, experiment.guide)
            if experiment.exact or (experiment.guide is not None and guide is None):
                continue
            if experiment.sigma_rel is not None:
                weights = trained(self.store, training, experiment.sigma_rel) or weights
            return experiment, [weights] if guide is None else [weights, guide]
        label = 0 if training.label_dropout == 0 else None
        sampler: Sampler = Draw() if training.objective.density else QUICK[0]
        return Experiment(training=training, sampler=sampler, label=label), [weights]


def _menu(experiment: Experiment, denoiser: Denoiser) -> list[Sampler]:
    """Quick samplers that are right for it, its own first where that is one of them."""
    own, right = experiment.sampler, list(menu(experiment, denoiser))
    fitting = own.steps <= MANY and (denoiser.posterior or own.flow_map or isinstance(own, Renoise))
    return [own] * fitting + [s for s in QUICK if s in right and s != own] or [own]


def _experiments(folder: Folder) -> list[Experiment]:
    """The finished experiments of a run whose classes are known here."""
    found = []
    for name in folder.names("*/record.json"):
        inner = folder.inner(name.split("/")[0])
        if inner.record():
            found.append(Experiment.parse(load_spec(inner, Experiment)))
    return found


def weights_of(folder: Folder, training: Training, record: Mapping[str, Any] | None) -> tuple[Weights, int]:
    """The weights to sample with and their step, of a finished training or of the last checkpoint of another."""
    if record is not None:
        return folder.tensors("weights.safetensors"), record.get("step", training.steps)
    kept = load_checkpoint(folder)
    if kept is None:
        raise StoreError(f"{folder.path} has no checkpoint any more")
    tensors, step, log, _ = kept
    state = State(training)
    state.load(tensors, step, log)
    return state.weights_for_sampling(), step


def nothing(reason: str) -> dict[str, Any]:
    """The answer where there is no model, with the reason for that."""
    return {"step": 0, "document": None, "blob": "", "samples": None, "target": None, "reason": reason}


def _points(x: Any) -> dict[str, Any]:
    """Finite rows of a table, flat and rounded."""
    kept = x[torch.isfinite(x).all(1)]
    return {"points": [round(v, 4) for v in kept.double().flatten().tolist()], "dim": x.shape[1]}
