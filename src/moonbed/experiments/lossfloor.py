"""The loss floor: what a training's loss would be with the exact denoiser in the place of the network.

A denoising loss does not go to zero. With D* = E[x_0 | x_t], what is regressed on, R, and the estimate D of a network

    E w |D - R|²/(c_out² dim) = E w |D - D*|²/(c_out² dim) + E w |D* - R|²/(c_out² dim)

since R has the conditional mean D*. The second term is the floor: no network gets below it, and the distance of a
training curve from it is the weighted error of the network alone. It depends on times, weight, regression and data, and
not on the network. It is taken by Monte Carlo with the training's own: two tables of examples are drawn from one random
stream, one with the training's regression and one with the exact mean in its place; all but what is regressed on is
the same in both. A density that is trained by maximum likelihood has the entropy of the law as its floor.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from moonbed._lazy import lazy_import
from moonbed.component import digest
from moonbed.diffusion.data import Data, Rows
from moonbed.diffusion.density import MaximumLikelihood
from moonbed.diffusion.objectives import Denoising
from moonbed.diffusion.regressions import ExactMean
from moonbed.experiments.spec import Training
from moonbed.experiments.storage.folder import StoreError
from moonbed.experiments.storage.store import Store
from moonbed.experiments.train import data_of
from moonbed.rng import Stream

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = lazy_import("torch")

__all__ = ["LossFloor", "floor_file", "loss_floor"]

ROWS = 51_200
"""Examples of a floor: as many as stand behind a point of the training curve, 100 steps of 512."""


@dataclass(frozen=True)
class LossFloor:
    """The floor of a training's loss, its standard error and the number of examples; or why there is none."""

    value: float | None
    error: float = 0.0
    rows: int = 0
    reason: str = ""


def loss_floor(training: Training, store: Store | None = None, rows: int = ROWS) -> LossFloor:
    """The loss of the exact denoiser in a training's own objective, from the store where it holds it.

    Trainings that differ in the network, the optimiser or the number of steps have the same one.
    """
    reason = _none(training)
    if reason:
        return LossFloor(None, reason=reason)
    name = floor_file(training, rows)
    kept = store.exact().read_json(name) if store is not None else None
    if kept is not None and kept.keys() >= {"value", "error", "rows"}:
        return LossFloor(float(kept["value"]), float(kept["error"]), int(kept["rows"]))
    losses = torch.cat(list(_losses(training, rows))).double()
    found = LossFloor(float(losses.mean()), float(losses.std() / len(losses) ** 0.5), len(losses))
    if store is not None:
        about = {"loss floor of": training.id, "value": found.value, "error": found.error, "rows": found.rows}
        with suppress(StoreError):  # a store that can only be read has figures too
            store.exact().write_json(name, about)
    return found


def floor_file(training: Training, rows: int = ROWS) -> str:
    """Name of the file of a training's loss floor, below `exact`."""
    parts = [training.target, training.schedule, training.prediction, training.objective]
    rest = [training.label_dropout, training.points, training.seed, rows]
    return f"{digest(['loss floor', *(part.spec() for part in parts), *rest])}.json"


def _none(training: Training) -> str:
    """Why the loss of a training has no floor that is known; empty where it has."""
    objective, name = training.objective, type(training.objective).__name__
    if isinstance(objective, MaximumLikelihood):
        return ""
    if not isinstance(objective, Denoising):
        return f"no floor: {name} is not regressed on data, so the exact denoiser is not where its loss ends"
    if not objective.coupling.independent or training.prior is not None:
        return "no floor: with this coupling or prior the law of x_0 given x_t is not known exactly"
    if objective.head:
        return f"no floor: {type(objective.weight).__name__} is learned with the network and is part of the loss"
    return ""


def _losses(training: Training, rows: int) -> Iterator[Tensor]:
    """Losses of the exact denoiser, a tensor for each law that it knows: that of all data, and that of a label told."""
    data, every = data_of(training)
    stream = training.rng.stream("loss floor")
    places = stream.permutation(len(every.x0))[:rows]
    while len(places) < rows:
        places = torch.cat([places, stream.permutation(len(every.x0))])[:rows]
    x0 = every.x0[places]
    if isinstance(training.objective, MaximumLikelihood):
        yield -training.target.log_prob(x0.double())
        return
    if every.labels is None:
        yield _excess(training, data, Rows(x0), stream)
        return
    labels = every.labels[places]
    told = stream.uniform((rows,)) >= data.dropout
    groups = [(data.law, ~told)]
    groups += [(training.target.given(k), told & (labels == k)) for k in range(data.classes)]
    for law, chosen in groups:
        if chosen.any():
            yield _excess(training, replace(data, law=law, classes=0), Rows(x0[chosen]), stream)


def _excess(training: Training, data: Data, rows: Rows, stream: Stream) -> Tensor:
    """(n,): the loss of E[x_0 | x_t] under the law of the data, at each of `rows`."""
    objective = training.objective
    assert isinstance(objective, Denoising)
    number = int(stream.integers(2**31, (1,)))
    drawn, exact = (
        found.examples(training.prediction, training.schedule, rows, data, training.rng.stream("floor", number))
        for found in (objective, objective.replace(regression=ExactMean()))
    )
    return objective.loss(lambda x, c_noise: exact.target, drawn)
