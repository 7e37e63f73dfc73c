"""Train, sample and evaluate what the store does not hold yet. The device has its one door here."""

from __future__ import annotations

import io
import platform
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import moonbed
from moonbed._lazy import lazy_import
from moonbed.component import SpecError, nearest
from moonbed.diffusion.diffusers_bridge import Diffusers
from moonbed.experiments.evaluate import (
    Answer,
    askable,
    denoiser_of,
    evaluate,
    exploded,
    generate,
    load_floor,
    null_draw,
    reference,
    save_floor,
)
from moonbed.experiments.plugins import files_of
from moonbed.experiments.spec import Experiment, Training, grouped
from moonbed.experiments.store import Store, StoreError, save_spec
from moonbed.experiments.train import Diverged, State, train
from moonbed.experiments.workers import Failure, Task, run_tasks, warm_up
from moonbed.metrics import Metric
from moonbed.metrics.suites import SUITES
from moonbed.targets import Target

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor
else:
    np = lazy_import("numpy")
    torch = lazy_import("torch")

__all__ = ["Failure", "Progress", "Result", "choose_device", "draw_floors", "execute", "run"]

CHECKPOINT_SECONDS = 5.0
"""A training under way is saved about this often, and when it is interrupted."""


@dataclass(frozen=True)
class Progress:
    """How far a run is: `done` of `total` steps of a stage."""

    stage: str
    done: int
    total: int
    note: str = ""


@dataclass(frozen=True)
class Result:
    """What came of one experiment. `answers` is keyed by the metric's id, without those that could not be asked."""

    experiment: Experiment
    status: str
    message: str = ""
    answers: Mapping[str, Answer] = field(default_factory=dict)
    exploded: int = 0
    parameters: int = 0
    training_seconds: float = 0.0
    sampling_seconds: float = 0.0
    folder: str = ""

    @property
    def values(self) -> dict[str, float]:
        """Id of the metric -> its value."""
        return {key: answer.value for key, answer in self.answers.items()}

    @property
    def sentence(self) -> str:
        """The diagnosis in words, where a metric gives one."""
        return next((a.details["sentence"] for a in self.answers.values() if "sentence" in a.details), "")


def choose_device(name: str = "auto") -> str:
    """The torch device for `auto`, `cpu`, `cuda` or `mps`. Raises `SpecError` for other names and missing devices."""
    found = ["cpu"]
    if name not in ("cpu", "auto", "cuda", "mps"):
        raise SpecError([("device", f"no device is called {name!r}; {nearest(name, ['auto', 'cpu', 'cuda', 'mps'])}")])
    if name != "cpu":
        found += ["cuda"] * torch.cuda.is_available() + ["mps"] * torch.backends.mps.is_available()
    if name == "auto":
        return found[-1]
    if name not in found:
        raise SpecError([("device", f"{name!r} was asked for, but this machine has only: {', '.join(found)}")])
    return name


def run(
    experiments: Mapping[str, Experiment] | Sequence[Experiment] | Experiment,
    *,
    metrics: Sequence[Metric] | str = "default",
    store: Store | str | Path = "runs",
    device: str = "auto",
    jobs: int = 1,
    doubt: bool = True,
) -> list[Result]:
    """Train, sample and evaluate experiments; what the store holds already is not computed again.

    Results come in the order of the experiments. With `doubt` every value gets its interval over evaluation draws. A
    training that diverges is a result with the status "diverged".
    With several `jobs`, a script needs the guard `if __name__ == "__main__":` that multiprocessing asks for.
    Raises `SpecError` for a bad configuration and `StoreError` for a store that cannot be written or is damaged.
    """
    if isinstance(experiments, Experiment):
        experiments = [experiments]
    wanted = list(experiments.values() if isinstance(experiments, Mapping) else experiments)
    events = execute(wanted, suite(metrics), Store.at(store), device, jobs, doubt)
    results = {r.experiment.id: r for r in gather(events)}
    return [results[experiment.id] for experiment in wanted]


def suite(metrics: Sequence[Metric] | str) -> tuple[Metric, ...]:
    """The metrics of a suite by its name, or the metrics themselves. Raises `SpecError` for an unknown name."""
    if not isinstance(metrics, str):
        return tuple(metrics)
    if metrics not in SUITES:
        raise SpecError([("metrics", f"no suite is called {metrics!r}; {nearest(metrics, SUITES)}")])
    return SUITES[metrics]


def gather(events: Iterable[tuple[Any, Progress | Result | Failure]]) -> Iterator[Result]:
    """The results among events. Raises `StoreError` at a failure that its message explains, RuntimeError at another."""
    for _, event in events:
        if isinstance(event, Failure):
            raise StoreError(event.message) if not event.trace else RuntimeError(event.trace)
        if isinstance(event, Result):
            yield event


def execute(
    experiments: Sequence[Experiment],
    metrics: Sequence[Metric],
    store: Store,
    device: str = "auto",
    jobs: int = 1,
    doubt: bool = True,
) -> Iterator[tuple[list[Experiment], Progress | Result | Failure]]:
    """Yield (the experiments of one training, event); each experiment gets a `Result`, or its training a `Failure`.

    Metrics that cannot be asked of a target are left out.
    """
    device = choose_device(device)
    if jobs < 1:
        raise SpecError([("jobs", f"should be at least 1, given {jobs}")])
    if jobs > 1:
        warm_up()
    for sampler, schedule in dict.fromkeys((e.sampler, e.training.schedule) for e in experiments):
        if isinstance(sampler, Diffusers):  # only diffusers knows its schedulers; better asked now than after training
            sampler.make(schedule)
    store.check_writable()
    groups = list(grouped(experiments).values())
    if jobs > 1:  # the longest first, so that no process is left alone with it at the end
        groups.sort(key=lambda group: -group[0].training.parameters() * group[0].training.steps)
    questions = [metric.spec() for metric in metrics]
    files = files_of([*experiments, *metrics])
    tasks = [
        Task(_complete, ([e.spec() for e in group], questions, str(store.root), device, doubt), files)
        for group in groups
    ]
    for index, event in run_tasks(tasks, jobs):
        yield groups[index], event


def _complete(
    specs: list[dict[str, Any]], questions: list[dict[str, Any]], root: str, device: str, doubt: bool
) -> Iterator[Progress | Result]:
    """All experiments of one training, in a process that may be new."""
    group = [Experiment.parse(spec) for spec in specs]
    metrics = [Metric.parse(spec) for spec in questions]
    store, training = Store(root), group[0].training
    with store.lock(training):
        store.training(training).sweep()
        yield from _train(store, training, device)
        for experiment in group:
            yield from _sample(store, experiment, device)
            yield from _answer(store, experiment, metrics, device, doubt)


def _train(store: Store, training: Training, device: str) -> Iterator[Progress]:
    folder = store.training(training)
    if folder.record() is not None:
        folder.verify()
        folder.drop_checkpoint()
        return
    save_spec(folder, training)
    state, seconds = State(training, device), 0.0
    if (kept := folder.load_checkpoint()) is not None:
        tensors, step, log, seconds = kept
        state.load(tensors, step, log)
    good, clock = None, time.monotonic()
    saved_at = clock
    status: dict[str, Any] = {"status": "done"}
    try:
        for _ in train(training, state):
            good, now = state.snapshot(), time.monotonic()
            if now - saved_at > CHECKPOINT_SECONDS and state.step < training.steps:
                folder.save_checkpoint(*good, seconds + now - clock)
                saved_at = now
            yield Progress("train", state.step, training.steps, f"loss {state.log[-1]['loss']:.4f}")
    except Diverged as error:
        status = {"status": "diverged", "message": f"{error}; kept the weights of step {state.step:,}"}
    except (KeyboardInterrupt, GeneratorExit):
        if good is not None:  # not the state itself: an interrupt comes in the middle of a block
            folder.save_checkpoint(*good, seconds + time.monotonic() - clock)
        raise
    from safetensors.torch import save

    weights = save({k: v.contiguous() for k, v in state.weights_for_sampling().items()})
    lines = "".join(f'{{"step": {line["step"]}, "loss": {line["loss"]!r}}}\n' for line in state.log)
    record = {
        **status,
        "id": training.id,
        "step": state.step,
        "parameters": sum(w.numel() for w in state.weights),
        "seconds": seconds + time.monotonic() - clock,
        "device": device,
        "versions": _versions(),
    }
    folder.finish(record, {"weights.safetensors": weights, "log.jsonl": lines.encode()})
    folder.drop_checkpoint()


def _sample(store: Store, experiment: Experiment, device: str) -> Iterator[Progress]:
    from safetensors.torch import load

    folder, trained = store.experiment(experiment), store.training(experiment.training)
    if folder.record() is not None:
        folder.verify()
        return
    record = trained.record()
    if record is None or record["status"] != "done":
        return
    save_spec(folder, experiment)
    start = time.monotonic()
    x = torch.empty(0)
    denoiser = denoiser_of(experiment, load(trained.file("weights.safetensors")), device)
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
        "versions": _versions(),
    }
    folder.finish(record, {"samples.npy": data.getvalue()})


def _answer(
    store: Store, experiment: Experiment, metrics: Sequence[Metric], device: str, doubt: bool
) -> Iterator[Progress | Result]:
    from safetensors.torch import load

    folder, kept = store.experiment(experiment), store.training(experiment.training)
    trained = kept.record() or {}
    common = {
        "experiment": experiment,
        "parameters": trained["parameters"],
        "training_seconds": trained["seconds"],
        "folder": str(folder.path),
    }
    if trained["status"] != "done":
        yield Result(**common, status="diverged", message=trained["message"])
        return
    lacking = askable(experiment.training.target, metrics)
    asked = [metric for metric in metrics if metric.id not in lacking]
    answers = {}

    def weights() -> Mapping[str, Tensor]:
        return load(kept.file("weights.safetensors"))

    for k, (metric, found) in enumerate(evaluate(experiment, folder, asked, weights, device, doubt)):
        answers[metric.id] = found
        yield Progress("evaluate", k + 1, len(asked))
    record = folder.record() or {}
    yield Result(
        **common, status="done", answers=answers, exploded=record["exploded"], sampling_seconds=record["seconds"]
    )


def draw_floors(
    target: Target,
    metrics: Sequence[Metric],
    n: int,
    draws: int,
    store: Store,
    jobs: int = 1,
) -> Iterator[Progress | Failure]:
    """Bring the null draws of the metrics, exact samples under the same protocol, up to a number in the store."""
    lacking = askable(target, metrics)
    metrics = [metric for metric in metrics if metric.id not in lacking and metric.null is None]
    held = {metric.id: load_floor(store, target, metric, n) for metric in metrics}
    missing = [(k, [m for m in metrics if len(held[m.id]) <= k]) for k in range(draws)]
    missing = [(k, who) for k, who in missing if who]
    files = files_of([target, *metrics])
    tasks = [Task(_null, (target.spec(), [m.spec() for m in who], n, k), files) for k, who in missing]
    fresh: dict[tuple[str, int], float] = {}
    for done, (index, event) in enumerate(run_tasks(tasks, jobs), 1):
        if isinstance(event, Failure):
            yield event
            continue
        k, who = missing[index]
        fresh |= {(metric.id, k): value for metric, value in zip(who, event, strict=True)}
        for metric in who:
            _extend(store, target, metric, n, held[metric.id], fresh)
        yield Progress("floor", done, len(tasks))


def _extend(
    store: Store, target: Target, metric: Metric, n: int, values: list[float], fresh: dict[tuple[str, int], float]
) -> None:
    """Append to values, and keep, the draws that follow on them without a gap."""
    before = len(values)
    while (metric.id, len(values)) in fresh:
        values.append(fresh[metric.id, len(values)])
    # Another process may have drawn meanwhile
    if len(values) > before and len(values) > len(load_floor(store, target, metric, n)):
        save_floor(store, target, metric, n, values)


def _null(target: dict[str, Any], questions: list[dict[str, Any]], n: int, k: int) -> Iterator[Any]:
    yield null_draw(Target.parse(target), [Metric.parse(q) for q in questions], n, k)


def _versions() -> dict[str, str]:
    return {"moonbed": moonbed.__version__, "torch": torch.__version__, "python": platform.python_version()}
