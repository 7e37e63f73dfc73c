"""Floors: what exact samples get under the same protocol, drawn into the store and read from it.

A draw is its number's alone: exact samples, reference and training points all come from streams of that name. So draws
can be made in any order, by any process, and a floor that wants more of them goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from moonbed.component import digest
from moonbed.experiments.engines import HERE, Engine, Failure, Progress, Task
from moonbed.experiments.evaluate import askable
from moonbed.experiments.plugins import files_of
from moonbed.experiments.storage.store import Store
from moonbed.metrics import Evaluation, Metric
from moonbed.rng import Rng
from moonbed.targets import Target

__all__ = ["FloorPlan", "draw_floors", "load_floor", "null_draw", "save_floor"]

KNOWN = 999
"""Draws that a null without variance stands for."""


class FloorPlan:
    """What the store lacks of the null draws of some metrics, as tasks; and what takes in their events."""

    def __init__(self, store: Store, target: Target, metrics: Sequence[Metric], n: int, draws: int) -> None:
        metrics = [metric for metric in metrics if metric.null is None]
        short = [metric for metric in metrics if len(load_floor(store, target, metric, n)) < draws]
        lacking = askable(target, short)
        metrics = [metric for metric in short if metric.id not in lacking]
        self._store, self._target, self._metrics, self._n = store, target, metrics, n
        self._held = {metric.id: load_floor(store, target, metric, n) for metric in metrics}
        missing = [(k, [m for m in metrics if len(self._held[m.id]) <= k]) for k in range(draws)]
        self.missing = [(k, who) for k, who in missing if who]
        self._fresh: dict[tuple[str, int], float] = {}

    def tasks(self, workers: int) -> list[Task]:
        """Several draws a task: what a metric knows of a law is made once a process."""
        files = files_of([self._target, *self._metrics])
        pieces = 1 if workers == 1 else 4 * workers
        size = max(1, -(-len(self.missing) // pieces))
        return [
            Task(_nulls, (self._target.spec(), [(k, [m.spec() for m in who]) for k, who in part], self._n), files)
            for part in (self.missing[i : i + size] for i in range(0, len(self.missing), size))
        ]

    def take(self, event: tuple[int, dict[str, float]]) -> None:
        """Keep the values of a draw, as soon as there is no gap before it."""
        k, values = event
        self._fresh |= {(key, k): value for key, value in values.items()}
        for metric in self._metrics:
            if metric.id in values:
                self._extend(metric, self._held[metric.id])

    def _extend(self, metric: Metric, values: list[float]) -> None:
        before = len(values)
        while (metric.id, len(values)) in self._fresh:
            values.append(self._fresh[metric.id, len(values)])
        if len(values) == before:
            return
        with self._store.lock("floors"):  # another process may have drawn meanwhile
            if len(values) > len(load_floor(self._store, self._target, metric, self._n)):
                save_floor(self._store, self._target, metric, self._n, values)


def draw_floors(
    target: Target, metrics: Sequence[Metric], n: int, draws: int, store: Store, engine: Engine = HERE
) -> Iterator[Progress | Failure]:
    """Bring the null draws of the metrics up to a number in the store."""
    plan, done = FloorPlan(store, target, metrics, n, draws), 0
    for _, event in engine.run(plan.tasks(engine.workers)):
        if isinstance(event, Failure):
            yield event
            continue
        plan.take(event)
        done += 1
        yield Progress("floor", done, len(plan.missing))


def _nulls(
    target: dict[str, Any], questions: list[tuple[int, list[dict[str, Any]]]], n: int
) -> Iterator[tuple[int, dict[str, float]]]:
    law = Target.parse(target)
    for k, specs in questions:
        metrics = [Metric.parse(spec) for spec in specs]
        values = null_draw(law, metrics, n, k)
        yield k, {metric.id: value for metric, value in zip(metrics, values, strict=True)}


def floor_name(target: Target, metric: Metric, n: int) -> str:
    """File name of the null draws of a metric, by target, metric and n."""
    return f"{digest([target.spec(), metric.spec(), n])}.json"


def load_floor(store: Store, target: Target, metric: Metric, n: int) -> list[float]:
    """The null draws that the store holds, in order of their number; of a null that does not vary, `KNOWN` of them."""
    if metric.null is not None:
        return [metric.null] * KNOWN
    stored = store.floors().read_json(floor_name(target, metric, n))
    return [float(value) for value in stored["draws"]] if stored else []


def save_floor(store: Store, target: Target, metric: Metric, n: int, draws: Sequence[float]) -> None:
    """Keep null draws 0, 1, 2, ... of a metric."""
    data = {"target": target.spec(), "metric": metric.spec(), "n": n, "draws": list(draws)}
    store.floors().write_json(floor_name(target, metric, n), data)


def null_draw(target: Target, metrics: Sequence[Metric], n: int, number: int) -> list[float]:
    """Values of the metrics on n exact samples of the target, held against its data set; draw `number` of many."""
    rng = Rng(0).child("floor", target.id, n, number)
    samples = target.sample(n, rng.stream("samples")).numpy()
    reference, train = (target.dataset(n, rng.stream(name)).numpy() for name in ("reference", "train"))
    evaluation = Evaluation(samples, reference, rng.child("metrics"), law=target, train=train)
    return [float(metric(evaluation)) for metric in metrics]
