"""Experiments as models that a page can run: one document, and one block of bytes.

    live, blob = document([(name, row, experiment), ...], store)

A model has functions (tapes of its networks, or exact laws), plans (its own sampler's and a menu of others) and levels
(its denoiser at 65 noise levels). What several models share is stored once. For each law and schedule there is the
model that is exact. A model for which the page has no counterpart is "recorded": its samples, and the reason in words.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from moonbed._lazy import lazy_import
from moonbed.component import SpecError
from moonbed.diffusion import Sampler, Schedule
from moonbed.diffusion.samplers import UniformLogSNR
from moonbed.experiments.evaluate import Weights, stored_samples
from moonbed.experiments.spec import Experiment, Training
from moonbed.experiments.storage.folder import StoreError
from moonbed.experiments.storage.store import Store
from moonbed.experiments.weights import trained
from moonbed.live import laws, plan, recording, tape
from moonbed.live.fakes import Make
from moonbed.live.makers import NOTHING, dependencies, exact, learned, once
from moonbed.live.menu import STEPS, menu, name_of, short, text_of
from moonbed.live.pack import Blob
from moonbed.live.plan import Plan
from moonbed.live.tape import Untraceable

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor
else:
    np = lazy_import("numpy")

__all__ = ["Document", "document"]

LEVELS = 65
SAMPLES = 1000
FAR = 6.0
"""In standard deviations of the data: recorded samples beyond are counted, not drawn."""

Entry: TypeAlias = "tuple[str, int | None, Experiment]"


def document(entries: Sequence[Entry], store: Store | str) -> tuple[dict[str, Any], bytes]:
    """The LIVE document of (name, row, experiment) and its bytes; weights and samples come from the store."""
    made, store = Document(), Store.at(store)
    for name, row, experiment in entries:
        made.add_stored(name, row, experiment, store)
    return made.data(), made.blob.bytes()


class Document:
    """Models, and what they share."""

    def __init__(self) -> None:
        self.blob = Blob()
        self._networks: dict[str, Any] = {}
        self._laws: dict[str, Any] = {}
        self._plans: dict[str, Any] = {}
        self._levels: dict[str, Any] = {}
        self._models: list[dict[str, Any]] = []
        self._exact: dict[Any, int] = {}

    def data(self) -> dict[str, Any]:
        """The document."""
        exact = [self._models[k] for k in self._exact.values() if self._models[k]["row"] is None]
        if len(exact) > 1:  # then they are told apart by their schedules
            for model, (_, schedule, *_) in zip(exact, (k for k in self._exact if k[-1] is None), strict=True):
                model["name"] = f"exact, {short(schedule)}"
        return {
            "version": 1,
            "networks": self._networks,
            "laws": self._laws,
            "levels": self._levels,
            "plans": self._plans,
            "models": self._models,
        }

    # Models

    def add_stored(self, name: str, row: int | None, experiment: Experiment, store: Store) -> int:
        """Add an experiment of a store, and the exact model of its law; its index among the models."""
        samples = _samples(store, experiment)
        if experiment.exact:
            return self.add_exact(name, row, experiment, samples)
        try:
            weights = [
                trained(store, training, experiment.sigma_rel if training == experiment.training else None)
                for training in experiment.needs
            ]
        except StoreError as error:
            return self._add(name, row, experiment, samples, reason=str(error))
        for training, found in zip(experiment.needs, weights, strict=True):
            if found is None:
                status = (store.training(training).record() or {}).get("status", "not done")
                return self._add(name, row, experiment, samples, reason=f"there are no weights: its training {status}")
        return self.add(name, row, experiment, [w for w in weights if w is not None], samples)

    def add(
        self,
        name: str,
        row: int | None,
        experiment: Experiment,
        weights: Sequence[Weights],
        samples: Any = None,
        samplers: Sequence[Sampler] = (),
    ) -> int:
        """Add an experiment with the weights of its training, and of its guide; its index among the models.

        `samplers` take the place of the menu; then there are neither levels nor the exact model beside it.
        """
        exact = None if samplers else self._add_exact_of(experiment)
        try:
            if experiment.training.objective.density:
                raise Untraceable("a density is drawn from in one go: it has no denoiser")
            functions = [self._network(t, w) for t, w in zip(experiment.needs, weights, strict=True)]
            make = learned(experiment)
            wanted = samplers or menu(experiment, make(NOTHING))
            more = self._sampled(experiment, wanted, "network", make, levels=not samplers)
        except Exception as error:  # a stranger's parts may fail in any way
            return self._add(name, row, experiment, samples, exact=exact, reason=_words(error))
        return self._add(name, row, experiment, samples, "learned", functions=functions, exact=exact, **more)

    def _add_exact_of(self, experiment: Experiment) -> int | None:
        """The index of the exact model beside an experiment, None where there is none that the page can run."""
        try:
            guidance = experiment.guidance if experiment.guide is None else None
            return self._exactly("exact", None, experiment.replace(exact=True, guide=None, guidance=guidance))
        except Exception:
            return None

    def add_exact(self, name: str, row: int | None, experiment: Experiment, samples: Any = None) -> int:
        """Add the exact denoiser of an experiment, once for each law and schedule; its index among the models."""
        try:
            return self._exactly(name, row, experiment, samples)
        except Exception as error:
            return self._add(name, row, experiment, samples, reason=_words(error))

    def _exactly(self, name: str, row: int | None, experiment: Experiment, samples: Any = None) -> int:
        target, label = experiment.training.target, experiment.label
        functions = [self._law(law) for law in ([target] if label is None else [target, target.given(label)])]
        problem = next((self._laws[f]["reason"] for f in functions if self._laws[f]["kind"] == "none"), "")
        if problem:
            raise Untraceable(problem)
        make = exact(experiment)
        more = self._sampled(experiment, menu(experiment, make(NOTHING)), "law", make)
        key = (tuple(functions), experiment.schedule or experiment.training.schedule, experiment.guidance, row)
        if key not in self._exact:
            self._exact[key] = self._add(name, row, experiment, samples, "exact", functions=functions, **more)
            return self._exact[key]
        model = self._models[self._exact[key]]
        model["plans"] += [p for p in more["plans"] if p not in model["plans"]]
        return self._exact[key]

    def _add(
        self,
        name: str,
        row: int | None,
        experiment: Experiment,
        samples: Any,
        kind: str = "recorded",
        reason: str = "",
        functions: Sequence[str] = (),
        exact: int | None = None,
        levels: str | None = None,
        plans: Sequence[str] = (),
        own: bool = True,
    ) -> int:
        training, guidance = experiment.training, experiment.guidance
        self._models.append(
            {
                "name": name,
                "kind": kind,
                "reason": reason,
                "row": row,
                "seed": training.seed,
                "dim": _dim(experiment, samples),
                "functions": list(functions),
                "prior": None if training.prior is None else self._law(training.prior),
                "law": self._law(experiment.law),
                "levels": levels,
                "plans": list(plans),
                "own": own and kind != "recorded",
                "guidance": guidance and {"type": type(guidance).__name__, "scale": guidance.scale},
                "exact": exact,
                "parameters": 0 if kind != "learned" else self._networks[functions[0]]["parameters"],
                "training_steps": 0 if experiment.exact else training.steps,
                "samples": None if samples is None else self._quantised(samples),
            }
        )
        return len(self._models) - 1

    # Parts

    def _network(self, training: Training, weights: Weights) -> str:
        key = _digest(
            training.network.spec(),
            training.target.dim,
            [(k, v.cpu().numpy().tobytes()) for k, v in sorted(weights.items())],
        )
        if key not in self._networks:
            module = training.build()
            module.load_state_dict(weights)
            columns = training.target.dim + training.classes + training.objective.columns
            self._networks[key] = tape.describe(tape.trace(module, columns), self.blob.add)
        return key

    def _law(self, target: Any) -> str:
        key = target.id
        if key not in self._laws:
            self._laws[key] = laws.describe(target, self.blob.add)
        return key

    def _sampled(
        self, experiment: Experiment, samplers: Any, kind: str, make: Make, levels: bool = True
    ) -> dict[str, Any]:
        guidance = experiment.guidance
        weight = None
        if guidance is not None:

            def weight(w: float) -> Make:
                guided = experiment.replace(guidance=guidance.replace(scale=w))
                return learned(guided) if kind == "network" else exact(guided)

        key = (kind, *dependencies(experiment, kind))
        plans = []
        reason = ""
        for k, sampler in enumerate(samplers):
            try:
                hold = k == 0 or sampler.steps == STEPS[-1]
                found = once(
                    (*key, sampler),
                    partial(recording.record, sampler, make, weight, hold, experiment.guide is not None),
                )
                plans.append(self._plan(sampler, found))
            except Untraceable as error:
                reason = str(error) if sampler == experiment.sampler else reason
        if not plans:
            raise Untraceable(reason or "there is no sampler for it")
        about = {"plans": plans, "reason": reason, "own": not reason}
        if not levels:
            return about
        schedule = experiment.schedule or experiment.training.schedule
        times = UniformLogSNR().times(schedule, LEVELS - 1)
        found = once((*key, "levels"), partial(recording.levels, times, make, weight))
        return about | {"levels": self._level_arrays(schedule, times, found)}

    def _plan(self, sampler: Sampler, found: Plan) -> str:
        head = {"sampler": name_of(sampler), "text": text_of(sampler), "steps": sampler.steps}
        return _named(self._plans, head | plan.describe(found, self.blob.add))

    def _level_arrays(self, schedule: Schedule, times: Tensor, found: Sequence[Plan]) -> str:
        da, ds = schedule.derivatives(times)
        code = np.concatenate([p.code for p in found])
        add = self.blob.add
        data = {
            "t": add(times, "f8"),
            "alpha": add(schedule.alpha(times), "f8"),
            "sigma": add(schedule.sigma(times), "f8"),
            "d_alpha": add(da, "f8"),
            "d_sigma": add(ds, "f8"),
            "code": add(code, plan.small(code)),
            "numbers": add(np.concatenate([p.numbers for p in found]), "f8"),
            "slope": None if found[0].slope is None else add(np.concatenate([p.slope for p in found]), "f8"),
            "code_at": add(np.cumsum([0, *(len(p.code) for p in found)]), "i4"),
            "numbers_at": add(np.cumsum([0, *(len(p.numbers) for p in found)]), "i4"),
        }
        return _named(self._levels, data)

    def _quantised(self, samples: Any) -> dict[str, Any]:
        points = np.asarray(samples, dtype=np.float64)[:SAMPLES, :2]
        inside = np.isfinite(points).all(1) & (np.abs(points) <= FAR).all(1)
        kept = points[inside] if inside.any() else np.zeros((0, points.shape[1]))
        low, high = (kept.min(0), kept.max(0)) if len(kept) else (np.zeros(points.shape[1]),) * 2
        scaled = np.round((kept - low) / np.maximum(high - low, 1e-12) * 65535)
        outside = int(len(points) - len(kept))
        return {"points": self.blob.add(scaled, "u2"), "low": low.tolist(), "high": high.tolist(), "outside": outside}


def _dim(experiment: Experiment, samples: Any) -> int:
    try:
        return experiment.training.target.dim
    except SpecError:  # data that are elsewhere
        return 2 if samples is None else samples.shape[1]


def _words(error: Exception) -> str:
    plain = isinstance(error, Untraceable | SpecError | StoreError)
    return str(error) if plain else f"{type(error).__name__}: {error}"


def _samples(store: Store, experiment: Experiment) -> Any:
    try:
        return stored_samples(store.experiment(experiment), experiment)
    except StoreError:
        return None


def _digest(*parts: Any) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]


def _named(known: dict[str, Any], data: Mapping[str, Any]) -> str:
    """The name of data among those known: equal data have one."""
    key = hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:8]
    known[key] = data
    return key
