"""Train, sample and evaluate what the store does not hold yet: `run`, and the events behind it.

`planning.py` says what goes through which process, `process.py` what one process does; where, an engine says.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moonbed.component import SpecError, nearest
from moonbed.diffusion.diffusers_bridge import Diffusers
from moonbed.experiments.device import DEVICES, device_on
from moonbed.experiments.engines import HERE, Engine, Failure, Progress, Task, engine_of
from moonbed.experiments.floors import FloorPlan
from moonbed.experiments.planning import bundled, fitting, shared
from moonbed.experiments.plugins import files_of
from moonbed.experiments.process import complete, prepare
from moonbed.experiments.results import Result, all_held
from moonbed.experiments.spec import Experiment, Training, grouped
from moonbed.experiments.storage.folder import StoreError
from moonbed.experiments.storage.places import remote
from moonbed.experiments.storage.store import Store
from moonbed.metrics import Metric
from moonbed.metrics.suites import SUITES

if TYPE_CHECKING:
    from moonbed.experiments.trackers import Tracker

__all__ = ["execute", "gather", "run", "suite"]


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
        held = all_held(experiments, metrics, store, doubt)
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
    bundles = [[groups[k] for k in bundle] for bundle in bundled(groups, device, workers)]
    questions, files = [metric.spec() for metric in metrics], files_of([*experiments, *metrics])
    drawing = [(plan, task) for plan in plans for task in plan.tasks(workers)]
    ahead = engine.spare(len(bundles) + (len(drawing) if workers > 1 else 0))
    root = store.address if engine.distant else str(store.root)
    if workers > 1 and (engine.distant or remote(store.root)):  # locks may not reach from one to the other
        for level in shared(bundles, store):
            yield from _prepared(level, engine, root, device, ahead)
    tasks = []
    for bundle in bundles:
        specs = [[e.spec() for e in group] for group in bundle]
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
            yield from ((group, event) for group in bundles[index])
        else:
            k, event = event
            yield bundles[index][k], event


def _prepared(
    level: Mapping[Training, list[Experiment]], engine: Engine, root: str, device: str, ahead: bool
) -> Iterator[tuple[list[Experiment], Progress]]:
    """Train what several bundles need, each once.

    Failures are not said here: whoever needs what failed meets them again.
    """
    tasks = [Task(prepare, (t.spec(), root, device, ahead), files_of([t]), root) for t in level]
    waiting = list(level.values())
    for index, event in engine.run(tasks):
        if isinstance(event, Progress):
            yield waiting[index], event
