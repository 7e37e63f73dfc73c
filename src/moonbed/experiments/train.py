"""Training as a generator: the caller saves, logs and stops.

A block is `BLOCK` steps. What its steps need that does not depend on the weights, their examples, is drawn at once from
streams named by the number of the block, so a state holds no generator, and a resumed training walks through the same
numbers as an uninterrupted one. What is left of a step is one regression: gradient, optimiser, average. All weights lie
in one vector, so that clipping, averaging and most optimisers are one operation each.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from moonbed._lazy import lazy_import
from moonbed.diffusion import Denoiser, Objective
from moonbed.diffusion.data import Data, Rows
from moonbed.experiments.gradients import gradient
from moonbed.experiments.spec import Training
from moonbed.experiments.storage.folder import suiting

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
else:
    torch = lazy_import("torch")

__all__ = ["BLOCK", "Diverged", "State", "blocks", "train"]

BLOCK = 100
"""Steps that are prepared at once, between two states that `train` yields and two lines of the training log."""


class Diverged(RuntimeError):
    """The loss or a weight stopped being finite. `step` says at which optimiser step."""

    def __init__(self, step: int, loss: float) -> None:
        self.step, self.loss = step, loss
        super().__init__(f"training diverged at step {step:,} (loss {loss})")


class State:
    """Where a training stands: weights, their average, optimiser, step, log. Made new from its configuration.

    `vector` holds all weights, `gradient` their gradient; the parameters of the network are views of the two.
    """

    def __init__(self, training: Training, device: str = "cpu", teacher: Denoiser | None = None) -> None:
        self.network: nn.Module = training.build().to(device)
        self.weights: list[nn.Parameter] = [w for w in self.network.parameters() if w.requires_grad]
        self._names = [name for name, w in self.network.named_parameters() if w.requires_grad]
        self.vector = torch.nn.Parameter(torch.cat([w.detach().reshape(-1) for w in self.weights]))
        self.gradient = torch.zeros_like(self.vector.detach())
        self.vector.grad = self.gradient
        for w, data, grad in zip(self.weights, self.parts(self.vector.data), self.parts(self.gradient), strict=True):
            w.data, w.grad = data, grad
        self.averages = None
        if training.averaging:
            self.averages = self.vector.detach().expand(training.averaging.count, -1).clone()
        self.snapshots: dict[int, Tensor] = {}
        optimizer = training.optimizer
        self.optimizer = optimizer.build([self.vector] if optimizer.elementwise else self.weights)
        self.peak = [group["lr"] for group in self.optimizer.param_groups]
        self.step = 0
        self.log: list[dict[str, float]] = []
        self.device, self.teacher = device, teacher

    def parts(self, vector: Tensor) -> list[Tensor]:
        """Views of a vector as long as that of the weights, in their shapes."""
        pieces = vector.split([w.numel() for w in self.weights])
        return [piece.view(w.shape) for piece, w in zip(pieces, self.weights, strict=True)]

    def tensors(self) -> dict[str, Tensor]:
        """All tensors of the state by name: `network.*`, `averages`, `snapshot.<step>`, `optimizer.<index>.*`."""
        out = {f"network.{k}": v for k, v in self.network.state_dict().items()}
        if self.averages is not None:
            out["averages"] = self.averages
        out |= {f"snapshot.{step}": v for step, v in self.snapshots.items()}
        for k, slots in self.optimizer.state_dict()["state"].items():
            out |= {f"optimizer.{k}.{slot}": v for slot, v in slots.items() if isinstance(v, torch.Tensor)}
        return {k: v.detach().cpu() for k, v in out.items()}

    def snapshot(self) -> tuple[dict[str, Tensor], int, list[dict[str, float]]]:
        """Copies of tensors, step and log: what `load` takes, whatever becomes of the state meanwhile."""
        return {k: v.clone() for k, v in self.tensors().items()}, self.step, list(self.log)

    def load(self, tensors: dict[str, Tensor], step: int, log: list[dict[str, float]]) -> None:
        """Become the state whose `tensors`, step and log these are. Raises `StoreError` where they are of another."""
        with suiting("the checkpoint"):
            self._put(tensors)
        self.step, self.log = step, list(log)

    def _put(self, tensors: dict[str, Tensor]) -> None:
        self.network.load_state_dict({k[8:]: v for k, v in tensors.items() if k.startswith("network.")})
        if self.averages is not None:
            self.averages.copy_(tensors["averages"])
        self.snapshots = {int(k[9:]): v for k, v in tensors.items() if k.startswith("snapshot.")}
        slots: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            if key.startswith("optimizer."):
                _, k, slot = key.split(".", 2)
                slots.setdefault(int(k), {})[slot] = value
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": slots})

    def weights_for_sampling(self) -> dict[str, Tensor]:
        """The network's state dict as it is used for sampling: with averaged weights if there is an average."""
        out = dict(self.network.state_dict())
        if self.averages is not None:
            out |= self.named(self.averages[0])
        return {k: v.detach().cpu() for k, v in out.items()}

    def named(self, vector: Tensor) -> dict[str, Tensor]:
        """The parts of a vector of weights by the name of their parameter."""
        return dict(zip(self._names, self.parts(vector), strict=True))


def train(training: Training, state: State, ahead: bool = False) -> Iterator[State]:
    """Go on from `state` to the last step; yields it after every `BLOCK` steps and at the end.

    With `ahead`, a thread prepares the next block meanwhile; results do not depend on it.
    Raises `Diverged` as soon as a block holds a loss, or leaves a weight, that is not finite; `state` is then that
    of the last good block. Any other exception, an interrupt among them, leaves it in the middle of a block.
    """
    differentiate = gradient(training, state)
    good = state.snapshot()
    state.network.train()
    for examples in blocks(training, state, ahead):
        losses = torch.empty(len(examples[0]), device=state.device)
        with training.rng.stream("network", state.step // BLOCK).as_global():
            for k, batch in enumerate(zip(*examples, strict=True)):
                losses[k] = differentiate(batch)
                _update(training, state, state.step + k)
        bad = ~torch.isfinite(losses)
        if bad.any() or not torch.isfinite(state.vector).all():
            k = int(bad.int().argmax()) if bad.any() else len(losses) - 1
            diverged = Diverged(state.step + k + 1, float(losses[k]))
            state.load(*good)
            raise diverged
        state.step += len(losses)
        state.log.append({"step": state.step, "loss": math.fsum(losses.tolist()) / len(losses)})
        good = state.snapshot()
        yield state


def _update(training: Training, state: State, step: int) -> None:
    factor = training.learning_rate(step, training.steps)
    for group, lr in zip(state.optimizer.param_groups, state.peak, strict=True):
        group["lr"] = factor * lr
    state.optimizer.step()
    if state.averages is not None and training.averaging is not None:
        training.averaging.update(state.averages, state.vector.detach(), step + 1)
        if training.averaging.keeps(step + 1, training.steps):
            state.snapshots[step + 1] = state.averages.cpu().clone()


def data_of(training: Training, teacher: Denoiser | None = None) -> tuple[Data, Rows]:
    """What the objective may draw on, and the training set: points, and labels where the network is told them."""
    target, stream, labels = training.target, training.rng.stream("data"), None
    if training.classes:
        points, labels = target.sample_labelled(training.points, stream)
    else:
        points = target.dataset(training.points, stream)
    points = points.to(torch.float32)
    dropout = training.label_dropout or 0.0
    data = Data(target, points, training.prior, training.classes, dropout, teacher, training.rng.child("made"))
    return data, Rows(points, labels)


def blocks(training: Training, state: State, ahead: bool = False) -> Iterator[tuple[Tensor, ...]]:
    """The examples of the steps from the state's on, block by block: (steps, batch, ...) each.

    They are made on the CPU, the same for every device, and moved once a block.
    """
    data, every = data_of(training, state.teacher)
    starts = range(state.step, training.steps, BLOCK)

    def block(first: int) -> tuple[Tensor, ...]:
        count = min(BLOCK, training.steps - first)
        places = torch.cat(list(_batches(training, first, count)))
        labels = None if every.labels is None else every.labels[places]
        rows = Rows(every.x0[places], labels, first / training.steps)
        objective = _adapted(training, state, data, rows, first)
        stream = training.rng.stream("block", first // BLOCK)
        made = objective.examples(training.prediction, training.schedule, rows, data, stream)
        return tuple(part.reshape(count, training.batch, *part.shape[1:]).to(state.device) for part in made)

    if not ahead or training.objective.adaptive:
        yield from map(block, starts)
        return
    with ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(torch.get_num_threads(),)) as thread:
        coming = [thread.submit(block, first) for first in starts[:1]]
        for first in [*starts[1:], None]:
            done = coming.pop() if coming else None
            if first is not None:
                coming.append(thread.submit(block, first))
            if done is not None:
                yield done.result()


def _adapted(training: Training, state: State, data: Data, rows: Rows, first: int) -> Objective:
    """The objective as the network asks for it before step `first`."""
    objective = training.objective
    if not objective.adaptive:
        return objective
    if state.device != "cpu":
        raise NotImplementedError("times that adapt to the losses are for the CPU")
    stream = training.rng.stream("probe", first // BLOCK)
    with torch.no_grad():
        return objective.adapted(state.network, training.prediction, training.schedule, rows, data, stream)


def _batches(training: Training, first: int, count: int) -> Iterator[Tensor]:
    """The places (batch,) of `count` batches in the data: through all points without replacement, again and again."""
    per_epoch = training.points // training.batch
    order, epoch = torch.empty(0, dtype=torch.int64), -1
    for step in range(first, first + count):
        if epoch != step // per_epoch:
            epoch = step // per_epoch
            order = training.rng.stream("epoch", epoch).permutation(training.points)
        place = step % per_epoch * training.batch
        yield order[place : place + training.batch]
