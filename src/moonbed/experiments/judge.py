"""Anyone's samples held against an exact law: no training, no sampler, any framework."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from moonbed._lazy import lazy_import
from moonbed.component import SpecError, nearest
from moonbed.experiments.engines import HERE, Engine, Failure, Progress
from moonbed.experiments.engines.base import one_thread
from moonbed.experiments.evaluate import answer, askable
from moonbed.experiments.floors import draw_floors
from moonbed.experiments.rows import DRAWS, Cell, floor_of
from moonbed.experiments.storage.store import Store
from moonbed.metrics import Evaluation, Metric
from moonbed.rng import Rng
from moonbed.targets import Target

if TYPE_CHECKING:
    import numpy as np
    import torch
else:
    np = lazy_import("numpy")
    torch = lazy_import("torch")

__all__ = ["COORDINATES", "Judgement", "judge", "standardised"]

COORDINATES = ("auto", "own", "standardised")
LEAST = 10
"""Points without which no metric says anything."""
_BLUR, _CLEAR = 0.3, 0.1  # noise under which two readings are weighed, and the nats a point that decide


@dataclass(frozen=True)
class Judgement:
    """Samples of a target with every number's doubt; `cells` by the metric's label, `lacks` says what was not asked."""

    target: Target
    n: int
    coordinates: str
    cells: Mapping[str, Cell]
    sentence: str
    lacks: Mapping[str, str]


def judge(
    points: Any,
    target: Target,
    metrics: Sequence[Metric],
    *,
    coordinates: str = "auto",
    train: Any = None,
    draws: int = DRAWS,
    store: Store | str = "runs",
    engine: Engine = HERE,
) -> Iterator[Progress | Failure | Judgement]:
    """Yield progress while floors are drawn and metrics asked of points (n, dim), then the `Judgement`.

    `coordinates` says whether points are as the target is described ("own") or divided by its scale after its mean was
    taken off ("standardised"); "auto" takes the reading under which they are clearly likelier. `train` (k, dim) are the
    training points, in the same coordinates. Raises `SpecError` for points that do not fit the target.
    """
    x, read = standardised(points, target, coordinates)
    trained = None if train is None else standardised(train, target, read)[0]
    where, n = Store.at(store), len(x)
    where.check_writable()
    lacking = askable(target, metrics, model=False, train=trained is not None)
    asked = [metric for metric in metrics if metric.id not in lacking]
    yield from draw_floors(target, asked, n, draws, where, engine)
    rng = Rng(0).child("judge", target.id)
    with one_thread():
        reference = target.dataset(n, rng.stream("reference")).numpy()
    evaluation = Evaluation(x, reference, rng.child("metrics"), law=target, train=trained)
    cells: dict[str, Cell] = {}
    sentence = ""
    for k, metric in enumerate(asked, 1):
        with one_thread():
            found = answer(metric, evaluation, doubt=True)
        label = f"{metric.label} ({metric.id[:6]})" if metric.label in cells else metric.label
        floor = floor_of(where, target, metric, n)
        cells[label] = Cell(metric, (found.value,), floor, drawn=found.interval, details=found.details)
        sentence = sentence or found.details.get("sentence", "")
        yield Progress("evaluate", k, len(asked))
    lacks = {metric.label: lacking[metric.id] for metric in metrics if metric.id in lacking}
    yield Judgement(target, n, read, cells, sentence, lacks)


def standardised(points: Any, target: Target, coordinates: str = "auto") -> tuple[Any, str]:
    """The points (n, dim) in standardised coordinates as float64 array, and the coordinates that they were read in.

    Raises `SpecError` for a wrong shape, too few points, NaN, and where "auto" cannot tell.
    """
    if coordinates not in COORDINATES:
        raise SpecError([("coordinates", f"no such name {coordinates!r}; {nearest(coordinates, COORDINATES)}")])
    x = np.asarray(points, dtype=np.float64)
    name = type(target).__name__
    if x.ndim != 2 or x.shape[1] != target.dim:
        raise SpecError([("", f"{name} has points (n, {target.dim}), given the shape {x.shape}")])
    if len(x) < LEAST:
        raise SpecError([("", f"too few points: {len(x)}, at least {LEAST} are needed")])
    if np.isnan(x).any():
        raise SpecError([("", f"point {int(np.argwhere(np.isnan(x))[0][0]) + 1} is NaN")])
    mean, scale = target.mean.numpy(), target.scale.numpy()
    if coordinates == "auto":
        coordinates = _guess(x, target, mean, scale)
    return ((x - mean) / scale if coordinates == "own" else x), coordinates


def _guess(x: Any, target: Target, mean: Any, scale: Any) -> str:
    if np.allclose(mean, 0) and np.allclose(scale, 1):
        return "standardised"
    some = x[(np.abs(x) < 1e6).all(1)][:2000]
    if len(some) >= LEAST:
        plain = np.median(target.log_prob(torch.from_numpy(some), 1.0, _BLUR).numpy())
        shrunk = np.ascontiguousarray((some - mean) / scale)
        own = np.median(target.log_prob(torch.from_numpy(shrunk), 1.0, _BLUR).numpy()) - np.log(scale).sum()
        if abs(own - plain) > _CLEAR:
            return "own" if own > plain else "standardised"
    raise SpecError([("coordinates", "cannot tell which they are; say own or standardised")])
