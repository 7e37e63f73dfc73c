"""Train, sample and evaluate what the store does not hold yet. The device has its one door here."""

from __future__ import annotations

import io
import platform
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import moonbed
from moonbed._lazy import lazy_import
from moonbed.component import SpecError, nearest
from moonbed.diffusion import Denoiser
from moonbed.diffusion.diffusers_bridge import Diffusers
from moonbed.experiments.averaging import PowerEMA, post_hoc
from moonbed.experiments.engines import HERE, Engine, Failure, Progress, Task, engine_of
from moonbed.experiments.evaluate import (
    Answer,
    answer_name,
    askable_of,
    denoiser_of,
    evaluate,
    exact_of,
    exploded,
    generate,
    network_of,
    read_answer,
    reference,
)
from moonbed.experiments.floors import FloorPlan
from moonbed.experiments.plugins import files_of
from moonbed.experiments.spec import Experiment, Training, grouped
from moonbed.experiments.storage.places import remote
from moonbed.experiments.storage.store import Folder, Store, StoreError, save_spec, suiting, verify_done
from moonbed.experiments.together import advance, pays, shape
from moonbed.experiments.train import Diverged, State
from moonbed.metrics import Metric
from moonbed.metrics.suites import SUITES

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

    from moonbed.experiments.trackers import Tracker
else:
    np = lazy_import("numpy")
    torch = lazy_import("torch")

__all__ = ["Failure", "Progress", "Result", "choose_device", "execute", "run"]

DEVICES = ("auto", "cpu", "cuda", "mps")
FAR = 0.2
"""Relative distance of a profile that is not reconstructed any more."""
CHECKPOINT_SECONDS = 1.0
"""A training under way is saved about this often, and when it is interrupted: that is what whoever watches it sees."""
CHECKPOINT_SHARE = 0.02
"""Largest share of the time that goes into saving: what takes long to save is saved less often."""


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

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "experiment": self.experiment.spec()}  # plug-ins have other modules in other processes

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, experiment=Experiment.parse(state["experiment"]))

    @property
    def sentence(self) -> str:
        """The diagnosis in words, where a metric gives one."""
        return next((a.details["sentence"] for a in self.answers.values() if "sentence" in a.details), "")


def choose_device(name: str = "auto") -> str:
    """The torch device for `auto`, `cpu`, `cuda` or `mps`. Raises `SpecError` for other names and missing devices."""
    found = ["cpu"]
    if name not in DEVICES:
        raise SpecError([("device", f"no device is called {name!r}; {nearest(name, DEVICES)}")])
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
    jobs: int | None = None,
    engine: Engine | str | None = None,
    doubt: bool = True,
    track: Sequence[Tracker] = (),
) -> list[Result]:
    """Train, sample and evaluate experiments; what the store holds already is not computed again.

    Results come in the order of the experiments. With `doubt` every value gets its interval over evaluation draws. A
    training that diverges is a result with the status "diverged". `track` are trackers that hear of it meanwhile.
    `engine` says where: processes of this machine, `jobs` at once, unless it is "ray", "slurm" or an `Engine`. With
    several `jobs`, a script needs the guard `if __name__ == "__main__":` that multiprocessing asks for.
    Raises `SpecError` for a bad configuration and `StoreError` for a store that cannot be written or is damaged.
    """
    if isinstance(experiments, Experiment):
        experiments = [experiments]
    wanted = list(experiments.values() if isinstance(experiments, Mapping) else experiments)
    asked, where = suite(metrics), Store.at(store)
    events = execute(wanted, asked, where, device, engine_of(engine, jobs), doubt)
    if track:
        from moonbed.experiments.trackers import tracked

        named = experiments.items() if isinstance(experiments, Mapping) else ()
        events = tracked(events, track, where, asked, names={e.id: name for name, e in named})
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
    engine: Engine = HERE,
    doubt: bool = True,
    draws: int = 0,
) -> Iterator[tuple[list[Experiment], Progress | Result | Failure]]:
    """Yield (the experiments of one training, event); each experiment gets a `Result`, or its training a `Failure`.

    Events without experiments are those of the floors, which get up to `draws` exact draws at the same time. Metrics
    that cannot be asked of a target are left out.
    """
    engine = fitting(engine, store)
    plans = [
        FloorPlan(store, target, metrics, n, draws) for target, n in dict.fromkeys((e.law, e.n) for e in experiments)
    ]
    if device in DEVICES and not any(plan.missing for plan in plans):
        held = _held(experiments, metrics, store, doubt)
        if held is not None:  # nothing is started, and torch is not even imported
            yield from (([result.experiment], result) for result in held)
            return
    device = device_on(engine, device)
    engine.warm_up()
    for sampler, schedule in dict.fromkeys((e.sampler, e.schedule or e.training.schedule) for e in experiments):
        if isinstance(sampler, Diffusers):  # only diffusers knows its schedulers; better asked now than after training
            sampler.make(schedule)
    store.check_writable()
    groups, workers = list(grouped(experiments).values()), engine.workers
    if workers > 1:  # the longest first, so that no process is left alone with it at the end
        groups.sort(key=lambda group: -group[0].training.parameters() * group[0].training.steps)
    bundles = _bundles(groups, device, workers)
    questions, files = [metric.spec() for metric in metrics], files_of([*experiments, *metrics])
    drawing = [(plan, task) for plan in plans for task in plan.tasks(workers)]
    ahead = engine.spare(len(bundles) + (len(drawing) if workers > 1 else 0))
    root = store.address if engine.distant else str(store.root)
    if workers > 1 and (engine.distant or remote(store.root)):  # locks may not reach from one to the other
        yield from _prepared([[groups[k] for k in bundle] for bundle in bundles], engine, root, device, ahead)
    tasks = []
    for bundle in bundles:
        specs = [[e.spec() for e in groups[k]] for k in bundle]
        tasks.append(Task(complete, (specs, questions, root, device, doubt, ahead), files, root))
    drawn, total = 0, sum(len(plan.missing) for plan in plans)
    for index, event in engine.run([*tasks, *(task for _, task in drawing)]):
        if index >= len(bundles):
            if not isinstance(event, Failure):
                drawing[index - len(bundles)][0].take(event)
                drawn += 1
                event = Progress("floor", drawn, total)
            yield [], event
        elif isinstance(event, Failure):
            for k in bundles[index]:
                yield groups[k], event
        else:
            k, event = event
            yield groups[bundles[index][k]], event


def _held(
    experiments: Sequence[Experiment], metrics: Sequence[Metric], store: Store, doubt: bool
) -> list[Result] | None:
    """The results of experiments of which the store holds all that is asked, undamaged; None where it does not."""
    out = []
    try:
        for experiment in experiments:
            found, folder, answers = outcome(store, experiment), store.experiment(experiment), {}
            for training in experiment.needs:
                store.training(training).verify()
            if found.status == "missing":
                return None
            for metric in metrics if found.status == "done" else ():
                stored = folder.read_json(answer_name(metric))
                if stored is None or (doubt and "interval" not in stored):
                    return None
                answers[metric.id] = read_answer(stored)
            if found.status == "done":
                folder.verify()
            out.append(replace(found, answers=answers))
    except StoreError:  # said by whoever computes it
        return None
    return out


def fitting(engine: Engine, store: Store) -> Engine:
    """The engine, or this process alone for a store that lies in its memory. `SpecError` if the engine is distant."""
    if store.processes(2) == 2:
        return engine
    if engine.distant:
        raise SpecError([("store", f"{store.root} lies in the memory of this process: other machines do not see it")])
    return HERE


def device_on(engine: Engine, name: str) -> str:
    """The device of tasks under an engine: of this machine, or what a distant engine gives them."""
    if not engine.distant:
        return choose_device(name)
    if name == "auto":
        return "cuda" if engine.share else "cpu"
    if name not in ("cpu", "cuda"):
        known = nearest(name, ["auto", "cpu", "cuda"])
        raise SpecError([("device", f"no device of other machines is called {name!r}; {known}")])
    if name == "cuda" and not engine.share:
        raise SpecError([("device", f"'cuda' was asked for, but {engine} gives no task a part of a GPU: say its gpus")])
    return name


def _bundles(groups: Sequence[list[Experiment]], device: str, jobs: int) -> list[list[int]]:
    """Which groups go through one process: each alone, or together where that pays, as evenly as there are jobs."""
    alike: dict[Any, list[int]] = {}
    for k, group in enumerate(groups):
        training = group[0].training
        alike.setdefault(shape(training) if pays(training, device) else k, []).append(k)
    return [part for same in alike.values() for part in (same[i::jobs] for i in range(min(jobs, len(same))))]


def _prepared(
    bundles: Sequence[list[list[Experiment]]], engine: Engine, root: str, device: str, ahead: bool
) -> Iterator[tuple[list[Experiment], Progress]]:
    """Train what several bundles need, each once, teachers before whom they teach.

    Failures are not said here: whoever needs what failed meets them again.
    """
    needed: dict[Training, list[list[Experiment]]] = {}
    for bundle in bundles:
        mine = {t: group for group in bundle for e in group for t in (*first_of(e), *[e.training] * (not e.exact))}
        for training, group in mine.items():
            needed.setdefault(training, []).append(group)
    where = Store(root)
    several = {t: groups[0] for t, groups in needed.items() if len(groups) > 1}
    shared = {t: group for t, group in several.items() if where.training(t).record() is None}
    for depth in sorted({len(_teachers(t)) for t in shared}):
        level = [t for t in shared if len(_teachers(t)) == depth]
        tasks = [Task(_prepare, (t.spec(), root, device, ahead), files_of([t]), root) for t in level]
        for index, event in engine.run(tasks):
            if isinstance(event, Progress):
                yield shared[level[index]], event


def _prepare(spec: dict[str, Any], root: str, device: str, ahead: bool) -> Iterator[Progress]:
    """One training, after its teachers."""
    training, store = Training.parse(spec), Store(root)
    for each in (*_teachers(training), training):
        yield from _train_locked(store, each, device, ahead)


def _train_locked(store: Store, training: Training, device: str, ahead: bool) -> Iterator[Progress]:
    with store.lock(training):
        store.training(training).sweep()
        yield from (event for _, event in _train(store, [training], device, ahead))


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


def _teachers(training: Training) -> list[Training]:
    """The teachers of a training, each before the one that it teaches."""
    return [] if training.teacher is None else [*_teachers(training.teacher), training.teacher]


def first_of(experiment: Experiment) -> list[Training]:
    """What has to be trained before the experiment's own training: its teachers, and a guide with its own."""
    found = [t for training in experiment.needs for t in (*_teachers(training), training)]
    return [t for t in found if t != experiment.training]


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


def _train(store: Store, trainings: Sequence[Training], device: str, ahead: bool) -> Iterator[tuple[int, Progress]]:
    """Train what the store lacks; those that stand at one step go together."""
    by_step: dict[int, list[tuple[int, _Session]]] = {}
    for k, training in enumerate(trainings):
        folder = store.training(training)
        if folder.record() is not None:
            verify_done(folder, training)
            folder.drop_checkpoint()
        else:
            teacher = None
            if training.teacher is not None:
                weights = trained(store, training.teacher)
                if weights is None:
                    message = f"its teacher {training.teacher.id} diverged"
                    save_spec(folder, training)
                    lost = {"status": "diverged", "message": message, "id": training.id, "step": 0, "seconds": 0.0}
                    lost |= {"parameters": training.parameters(), "resumed": [], "device": device}
                    folder.finish(lost | {"versions": _versions()}, {})
                    continue
                teacher = network_of(training.teacher, weights)
            session = _Session(folder, training, device, teacher)
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


class _Session:
    """A training under way and its folder."""

    def __init__(self, folder: Folder, training: Training, device: str, teacher: Denoiser | None) -> None:
        save_spec(folder, training)
        self.folder, self.training, self.device = folder, training, device
        self.state, self._before = State(training, device, teacher), 0.0
        self._resumed = folder.resumed()
        if (kept := folder.load_checkpoint()) is not None:
            tensors, step, log, self._before = kept
            self.state.load(tensors, step, log)
            self._resumed.append(step)
        self._good: tuple[dict[str, Tensor], int, list[dict[str, float]]] | None = None
        self._done = False
        self._clock = self._saved = time.monotonic()
        self._pause = CHECKPOINT_SECONDS

    @property
    def seconds(self) -> float:
        return self._before + time.monotonic() - self._clock

    def block(self) -> Progress:
        """Note that a block is done, and save it now and then."""
        self._good = self.state.snapshot()
        if time.monotonic() - self._saved > self._pause and self.state.step < self.training.steps:
            self.keep()
        loss = self.state.log[-1]["loss"]
        return Progress("train", self.state.step, self.training.steps, f"loss {loss:.4f}", {"loss": loss})

    def keep(self) -> None:
        """Save the last good block: not the state itself, since an interrupt comes in the middle of one."""
        if self._good is not None and not self._done:
            start = time.monotonic()
            self.folder.save_checkpoint(*self._good, self.seconds, self._resumed)
            self._saved = time.monotonic()
            self._pause = CHECKPOINT_SECONDS * max(1.0, (self._saved - start) / CHECKPOINT_SHARE)

    def finish(self, error: Diverged | None = None) -> None:
        """Write what came of it, once."""
        from safetensors.torch import save

        if self._done:
            return
        state = self.state
        status: dict[str, Any] = {"status": "done"}
        if error is not None:
            status = {"status": "diverged", "message": f"{error}; kept the weights of step {state.step:,}"}
        weights = save({k: v.contiguous() for k, v in state.weights_for_sampling().items()})
        lines = "".join(f'{{"step": {line["step"]}, "loss": {line["loss"]!r}}}\n' for line in state.log)
        record = {
            **status,
            "id": self.training.id,
            "step": state.step,
            "parameters": sum(w.numel() for w in state.weights),
            "seconds": self.seconds,
            "resumed": self._resumed,
            "device": self.device,
            "versions": _versions(),
        }
        files = {"weights.safetensors": weights, "log.jsonl": lines.encode()}
        if state.snapshots:
            files["snapshots.safetensors"] = save({str(step): rows for step, rows in state.snapshots.items()})
        self.folder.finish(record, files)
        self.folder.drop_checkpoint()
        self._done = True


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
        "versions": _versions(),
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


def outcome(store: Store, experiment: Experiment) -> Result:
    """What the records say of an experiment, without its answers; "missing" where one of them is not there."""
    records = [store.training(training).record() for training in experiment.needs]
    first, folder = (records[0] if records else None) or {}, store.experiment(experiment)
    found = Result(
        experiment,
        "missing",
        parameters=first.get("parameters", 0),
        training_seconds=first.get("seconds", 0.0),
        folder=str(folder.path),
    )
    for training, record in zip(experiment.needs, records, strict=True):
        if record is not None and record["status"] != "done":
            whose = "" if training == experiment.training else f"its guide {training.id}: "
            return replace(found, status="diverged", message=whose + record.get("message", "diverged"))
    sampled = folder.record()
    if sampled is None or None in records:
        return found
    return replace(
        found, status="done", exploded=sampled.get("exploded", 0), sampling_seconds=sampled.get("seconds", 0.0)
    )


def _versions() -> dict[str, str]:
    return {"moonbed": moonbed.__version__, "torch": torch.__version__, "python": platform.python_version()}
