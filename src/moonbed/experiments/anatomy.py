"""Where the error of a model comes from: floor, sampler, capacity, estimation.

The exact denoiser has the same interface as a learned one, so a chain of models leads from the truth to the model, each
with one more cause of error:

    floor        exact samples
    sampler      exact denoiser, the experiment's sampler and steps
    capacity     the same network trained on the exact regression target E[x_0 | x_t] instead of the drawn x_0
    estimation   the network as it was trained, from noisy targets
    total        all of it, above the floor

A metric's value at each link minus that at the link before is what the cause costs, in the metric's units; the four
make up the value of the whole. All links have the same seeds, so the noise they start from is common to them. A part
may be negative: errors can cancel. Intervals are Student's t over repeated draws of noise and reference with the
weights as they are, or over trainings from several seeds.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from moonbed._lazy import lazy_import
from moonbed._shown import Shown
from moonbed.component import SpecError, digest
from moonbed.diffusion.objectives import Denoising
from moonbed.diffusion.regressions import ExactMean
from moonbed.experiments.engines import HERE, Engine, Failure, Progress, Task
from moonbed.experiments.evaluate import answer, askable, exact_of, generate, model_of, reference, trained_on
from moonbed.experiments.floors import draw_floors, load_floor
from moonbed.experiments.planning import fitting
from moonbed.experiments.plugins import files_of
from moonbed.experiments.results import Result
from moonbed.experiments.rows import DRAWS
from moonbed.experiments.run import execute
from moonbed.experiments.spec import Experiment
from moonbed.experiments.storage.folder import suiting
from moonbed.experiments.storage.store import Store
from moonbed.metrics import Evaluation, Metric
from moonbed.metrics.significance import interval, spread

if TYPE_CHECKING:
    import torch
else:
    torch = lazy_import("torch")

__all__ = ["PARTS", "Anatomy", "Part", "about_exact", "anatomy", "load_anatomy", "save_anatomy"]

PARTS = ("floor", "sampler", "capacity", "estimation", "total")


@dataclass(frozen=True)
class Part:
    """What a cause adds to a metric: mean over repeats, and its 95 % interval."""

    value: float
    interval: tuple[float, float]


@dataclass(frozen=True, repr=False)
class Anatomy(Shown):
    """The error budget of an experiment: by the label of a metric, its parts, and the values of each link by repeat.

    `score_error` has the curves of the links of which a metric gives one: columns sigma, mean, error.
    """

    experiment: Experiment
    repeats: int
    seeds: int
    parts: Mapping[str, Mapping[str, Part]]
    values: Mapping[str, Mapping[str, Sequence[float]]]
    score_error: Mapping[str, Mapping[str, Sequence[float]]]


Event: TypeAlias = "tuple[str, Progress | Failure]"


def anatomy(
    experiment: Experiment,
    metrics: Sequence[Metric],
    *,
    repeats: int = 5,
    seeds: int = 1,
    draws: int = DRAWS,
    store: Store | str = "runs",
    device: str = "auto",
    engine: Engine = HERE,
) -> Iterator[tuple[str, Progress | Failure | Anatomy]]:
    """Yield (what it is about, event) while the links are computed, then the `Anatomy`.

    One seed: `repeats` draws of samples from the trained weights. Several: so many trainings, one draw each.
    Raises `SpecError` for fewer than two repeats, and for an experiment that is on the exact target already.
    """
    if max(repeats, seeds) < 2 or min(repeats, seeds) < 1:
        raise SpecError([("--repeats", f"should be at least 2, given {repeats}")])
    objective = experiment.training.objective
    if not isinstance(objective, Denoising):
        raise SpecError([("training.objective", f"{type(objective).__name__} has no exact target to regress on")])
    if isinstance(objective.regression, ExactMean):
        raise SpecError(
            [("training.objective.regression", "is ExactMean already: there is no estimation to take apart")]
        )
    exact_of(experiment)
    where, target = Store.at(store), experiment.law
    lacking = askable(target, metrics)
    asked = [metric for metric in metrics if metric.id not in lacking]
    learned = [
        experiment.replace(
            **{"training.seed": experiment.training.seed + k} if seeds > 1 else {"seed": experiment.seed + k}
        )
        for k in range(seeds if seeds > 1 else repeats)
    ]
    capable = [e.replace(**{"training.objective.regression": ExactMean()}) for e in learned]
    results = yield from _trained(learned, capable, asked, where, device, engine)
    exact = (yield from _exactly(learned, asked, where, engine)) if results else None
    if results is None or exact is None:
        return
    for event in draw_floors(target, asked, experiment.n, draws, where, engine):
        yield "floor", event
    values = {
        m.label: {
            "floor": load_floor(where, target, m, experiment.n)[:draws],
            "sampler": [exact[k][m.id] for k in range(len(learned))],
            "capacity": [results[e.id].values[m.id] for e in capable],
            "estimation": [results[e.id].values[m.id] for e in learned],
        }
        for m in asked
    }
    curves = {
        link: answer.details["score_error"]
        for link, first in (("capacity", capable[0]), ("estimation", learned[0]))
        for answer in results[first.id].answers.values()
        if "score_error" in answer.details
    }
    parts = {label: _parts(links) for label, links in values.items()}
    found = Anatomy(experiment, len(learned), seeds, parts, values, curves)
    save_anatomy(where, found)
    yield "anatomy", found


KEPT = "anatomy.json"


def save_anatomy(store: Store, found: Anatomy) -> Path:
    """Keep an error budget in the folder of its experiment, in place of an earlier one; the file, or its URL."""
    folder = store.experiment(found.experiment)
    data = {"repeats": found.repeats, "seeds": found.seeds, "values": found.values, "score_error": found.score_error}
    folder.write_json(KEPT, data)
    return folder.path / KEPT


def load_anatomy(store: Store, experiment: Experiment) -> Anatomy | None:
    """The error budget that the store holds of an experiment, None where none was taken."""
    folder = store.experiment(experiment)
    data = folder.read_json(KEPT)
    if data is None:
        return None
    values = {
        label: {link: [float(v) for v in links[link]] for link in PARTS[:-1]} for label, links in data["values"].items()
    }
    curves = {
        link: {name: [float(v) for v in column] for name, column in curve.items()}
        for link, curve in data["score_error"].items()
    }
    with suiting(f"{folder.path / KEPT}"):
        parts = {label: _parts(links) for label, links in values.items()}
    return Anatomy(experiment, int(data["repeats"]), int(data["seeds"]), parts, values, curves)


def _trained(
    learned: Sequence[Experiment],
    capable: Sequence[Experiment],
    metrics: Sequence[Metric],
    store: Store,
    device: str,
    engine: Engine,
) -> Generator[Event, None, dict[str, Result] | None]:
    """Run what has a network; results by the id of the experiment, None after a failure, which was yielded."""
    results: dict[str, Result] = {}
    for group, event in execute([*learned, *capable], metrics, store, device, engine, doubt=False):
        about = "capacity" if group[0] in capable else "model"
        if not isinstance(event, Result):
            yield about, event
        elif event.status == "done":
            results[event.experiment.id] = event
        else:
            yield about, Failure(f"{event.experiment.training.id}: {event.message}")
    return results if len(results) == len({e.id for e in [*learned, *capable]}) else None


def _exactly(
    experiments: Sequence[Experiment], metrics: Sequence[Metric], store: Store, engine: Engine
) -> Generator[Event, None, list[Mapping[str, float]] | None]:
    """Values of the exact denoiser in the place of each network; None after a failure, which was yielded."""
    files = files_of([*experiments, *metrics])
    questions = [metric.spec() for metric in metrics]
    tasks = [Task(_exact, (e.spec(), questions, store.address), files, store.address) for e in experiments]
    found: dict[int, Mapping[str, float]] = {}
    for index, event in fitting(engine, store).run(tasks):
        if isinstance(event, Progress | Failure):
            yield f"exact denoiser, repeat {index + 1}", event
        else:
            found[index] = event
    return [found[k] for k in range(len(tasks))] if len(found) == len(tasks) else None


def _parts(values: Mapping[str, Sequence[float]]) -> dict[str, Part]:
    floor, sampler, capacity, estimation = (values[name] for name in PARTS[:-1])
    return {
        "floor": _part(floor),
        "sampler": _above(sampler, floor),
        "capacity": _part([b - a for a, b in zip(sampler, capacity, strict=True)]),
        "estimation": _part([b - a for a, b in zip(capacity, estimation, strict=True)]),
        "total": _above(estimation, floor),
    }


def _part(values: Sequence[float]) -> Part:
    return Part(spread(values).mean, interval(values) or (-math.inf, math.inf))


def _above(values: Sequence[float], floor: Sequence[float]) -> Part:
    """Difference of two independent means, Student's t with the degrees of freedom of Welch (1947)."""
    (mean, sd), (base, base_sd) = spread(values), spread(floor)
    sd, base_sd = sd or 0.0, base_sd or 0.0
    a, b = sd * sd / len(values), base_sd * base_sd / len(floor)  # a power would raise where this is infinite
    if not math.isfinite(a + b) or a + b == 0:
        return Part(mean - base, (mean - base, mean - base) if a + b == 0 else (-math.inf, math.inf))
    from scipy.special import stdtrit

    u, v = a / (a + b), b / (a + b)
    freedom = 1 / (u * u / max(1, len(values) - 1) + v * v / max(1, len(floor) - 1))
    half = float(stdtrit(freedom, 0.975)) * math.sqrt(a + b)
    return Part(mean - base, (mean - base - half, mean - base + half))


def about_exact(experiment: Experiment) -> list[Any]:
    """All that samples of the exact denoiser depend on; their values are kept under its digest, below `exact`."""
    training = experiment.training
    schedule, sampling = experiment.schedule or training.schedule, [experiment.sampler.spec(), experiment.n]
    about = [training.target.spec(), schedule.spec(), *sampling, experiment.label]
    about += [experiment.guidance.spec() if experiment.guidance else None]
    return [*about, training.seed, experiment.seed, training.points]


def _exact(spec: dict[str, Any], questions: Sequence[dict[str, Any]], root: str) -> Iterator[Any]:
    """Values of the metrics for the exact denoiser under the experiment's sampler, kept like null draws."""
    experiment, folder = Experiment.parse(spec), Store(root).exact()
    metrics = [Metric.parse(question) for question in questions]
    about = about_exact(experiment)
    name = f"{digest(about)}.json"
    kept = (folder.read_json(name) or {}).get("values", {})
    if missing := [metric for metric in metrics if metric.id not in kept]:
        denoiser = exact_of(experiment)
        x = torch.empty(0)
        for step, state in enumerate(generate(experiment, denoiser, "cpu"), 1):
            x = state
            if step % 25 == 0:
                yield Progress("sample", step, experiment.sampler.steps)
        model = model_of(experiment, denoiser, "cpu")
        points, train = reference(experiment), trained_on(experiment)
        rng = experiment.rng.child("metrics")
        evaluation = Evaluation(x.numpy(), points, rng, law=experiment.law, train=train, model=model)
        for k, metric in enumerate(missing, 1):
            kept[metric.id] = answer(metric, evaluation, doubt=False).value
            folder.write_json(name, {"about": about, "values": kept})
            yield Progress("evaluate", k, len(missing))
    yield {metric.id: float(kept[metric.id]) for metric in metrics}
