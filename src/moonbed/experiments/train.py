"""Training as a generator: the caller saves, logs and stops.

Every step draws from streams named by its number, so a state holds no generator, and a resumed training walks through
the same numbers as an uninterrupted one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from moonbed._lazy import lazy_import
from moonbed.diffusion import Learned
from moonbed.experiments.spec import Training

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
else:
    torch = lazy_import("torch")

__all__ = ["BLOCK", "Diverged", "State", "train"]

BLOCK = 100
"""Steps between two states that `train` yields, and between two lines of the training log."""


class Diverged(RuntimeError):
    """The loss or a weight stopped being finite. `step` says at which optimiser step."""

    def __init__(self, step: int, loss: float) -> None:
        self.step, self.loss = step, loss
        super().__init__(f"training diverged at step {step:,} (loss {loss})")


class State:
    """Where a training stands: weights, their average, optimiser, step, log. Made new from its configuration."""

    def __init__(self, training: Training, device: str = "cpu") -> None:
        self.network: nn.Module = training.build().to(device)
        self.weights: list[nn.Parameter] = list(self.network.parameters())
        self.average = [w.detach().clone() for w in self.weights] if training.averaging else None
        self.optimizer = training.optimizer.build(self.weights)
        self.step = 0
        self.log: list[dict[str, float]] = []
        self.device = device

    def tensors(self) -> dict[str, Tensor]:
        """All tensors of the state by name: `network.*`, `average.*`, `optimizer.<index>.*`."""
        out = {f"network.{k}": v for k, v in self.network.state_dict().items()}
        names = [name for name, _ in self.network.named_parameters()]
        if self.average is not None:
            out |= {f"average.{name}": a for name, a in zip(names, self.average, strict=True)}
        for k, slots in self.optimizer.state_dict()["state"].items():
            out |= {f"optimizer.{k}.{slot}": v for slot, v in slots.items() if isinstance(v, torch.Tensor)}
        return {k: v.detach().cpu() for k, v in out.items()}

    def snapshot(self) -> tuple[dict[str, Tensor], int, list[dict[str, float]]]:
        """Copies of tensors, step and log: what `load` takes, whatever becomes of the state meanwhile."""
        return {k: v.clone() for k, v in self.tensors().items()}, self.step, list(self.log)

    def load(self, tensors: dict[str, Tensor], step: int, log: list[dict[str, float]]) -> None:
        """Become the state whose `tensors`, step and log these are."""
        self.network.load_state_dict({k[8:]: v for k, v in tensors.items() if k.startswith("network.")})
        if self.average is not None:
            names = [name for name, _ in self.network.named_parameters()]
            for name, average in zip(names, self.average, strict=True):
                average.copy_(tensors[f"average.{name}"])
        slots: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            if key.startswith("optimizer."):
                _, k, slot = key.split(".", 2)
                slots.setdefault(int(k), {})[slot] = value
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": slots})
        self.step, self.log = step, list(log)

    def weights_for_sampling(self) -> dict[str, Tensor]:
        """The network's state dict as it is used for sampling: with averaged weights if there is an average."""
        out = {k: v.detach().cpu() for k, v in self.network.state_dict().items()}
        if self.average is not None:
            names = [name for name, _ in self.network.named_parameters()]
            out |= {name: a.detach().cpu() for name, a in zip(names, self.average, strict=True)}
        return out


def train(training: Training, state: State) -> Iterator[State]:
    """Go on from `state` to the last step; yields it after every `BLOCK` steps and at the end.

    Raises `Diverged` as soon as a block holds a loss, or leaves a weight, that is not finite; `state` is then that
    of the last good block. Any other exception, an interrupt among them, leaves it in the middle of a block.
    """
    rng = training.rng
    data = training.target.dataset(training.points, rng.stream("data")).to(state.device, torch.float32)
    denoiser = Learned(state.network, training.prediction, training.schedule)
    per_epoch = training.points // training.batch
    order, epoch = None, -1
    good = state.snapshot()
    state.network.train()
    while state.step < training.steps:
        block = min(BLOCK, training.steps - state.step)
        losses = torch.empty(block)
        for k in range(block):
            step = state.step + k
            if epoch != step // per_epoch:
                epoch = step // per_epoch
                order = rng.stream("epoch", epoch).permutation(training.points).to(state.device)
            place = step % per_epoch * training.batch
            x0 = data[order[place : place + training.batch]]  # type: ignore[index]
            with rng.stream("network", step).as_global():
                loss = training.objective.loss(denoiser, x0, rng.stream("step", step), training.target).mean()
            _update(training, state, loss, step)
            losses[k] = loss.detach()
        bad = ~torch.isfinite(losses)
        if bad.any() or not all(torch.isfinite(w).all() for w in state.weights):
            k = int(bad.int().argmax()) if bad.any() else block - 1
            diverged = Diverged(state.step + k + 1, float(losses[k]))
            state.load(*good)
            raise diverged
        state.step += block
        state.log.append({"step": state.step, "loss": math.fsum(losses.tolist()) / block})
        good = state.snapshot()
        yield state


def _update(training: Training, state: State, loss: Tensor, step: int) -> None:
    state.optimizer.zero_grad()
    loss.backward()
    if training.clip is not None:
        torch.nn.utils.clip_grad_norm_(state.weights, training.clip, foreach=True)
    state.optimizer.step()
    if state.average is not None and training.averaging is not None:
        with torch.no_grad():
            training.averaging.update(state.average, [*state.weights], step + 1)
