"""Several trainings of one shape as one batched computation (`torch.func`: stacked weights, a mapped gradient).

Seeds, and configurations that differ in nothing but what makes their examples (target, schedule, prediction, weight,
times, regression), do the same operations on other numbers. Their weights become the rows of a matrix. Every member
sees its own examples, is clipped by its own norm and may diverge alone, so what comes out is what it would be alone,
within the rounding of a batched product.

It pays where a step is bound by the number of operations and not by their size: on a GPU. On one core it gains
an eighth for batches of 64 and loses a sixth for 512, and its last bits would depend on who else is in the stack;
there, several runs are several processes, whose bits do not depend on one another.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from moonbed._lazy import lazy_import
from moonbed.diffusion.data import Rows
from moonbed.experiments.engines import cores
from moonbed.experiments.gradients import PAYS, compiled, functional
from moonbed.experiments.spec import Training
from moonbed.experiments.train import Diverged, State, blocks, data_of, train

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = lazy_import("torch")

__all__ = ["advance", "pays", "shape"]


def shape(training: Training) -> Any:
    """What trainings must have in common to be stacked."""
    kept = ("network", "optimizer", "learning_rate", "averaging", "steps", "batch", "clip")
    spec = training.spec()
    return training.target.dim, spec["objective"]["type"], repr([spec[name] for name in kept])


def pays(training: Training, device: str) -> bool:
    """Whether trainings of this shape are faster together; an optimiser of matrices would take the stack for one."""
    return device != "cpu" and training.optimizer.elementwise


def advance(
    trainings: Sequence[Training], states: Sequence[State], ahead: bool = False
) -> Iterator[tuple[int, Diverged | None]]:
    """Train all to their last steps; yields (which, None) after each block of one, (which, error) where one diverged.

    Several trainings have one `shape` and stand at one step. They go one after the other where their network cannot be
    mapped, since it draws random numbers, for instance.
    """
    if len(trainings) == 1 or not (_alike(states) and _maps(trainings[0], states[0])):
        for k, (training, state) in enumerate(zip(trainings, states, strict=True)):
            try:
                for _ in train(training, state, ahead):
                    yield k, None
            except Diverged as diverged:
                yield k, diverged
        return
    members = list(range(len(trainings)))
    while members and states[members[0]].step < trainings[0].steps:
        lost: set[int] = set()
        for k, error in _go([trainings[m] for m in members], [states[m] for m in members], ahead):
            yield members[k], error
            if error is not None:
                lost.add(members[k])
        members = [m for m in members if m not in lost]


def _alike(states: Sequence[State]) -> bool:
    """Whether what the networks keep beside their weights is the same in all of them."""
    kept = [[buffer for _, buffer in sorted(state.network.named_buffers())] for state in states]
    return all(torch.equal(a, b) for other in kept[1:] for a, b in zip(kept[0], other, strict=True))


def _maps(training: Training, state: State) -> bool:
    """Whether torch can map the gradient over stacked weights."""
    if training.objective.adaptive:
        return False
    data, every = data_of(training, state.teacher)
    some = Rows(every.x0[:2], None if every.labels is None else every.labels[:2])
    stream = training.rng.stream("map")
    made = training.objective.examples(training.prediction, training.schedule, some, data, stream)
    two = [part.to(state.device).expand(2, *part.shape) for part in made]
    state.network.train()
    try:
        torch.func.vmap(functional(training, state))(state.vector.detach().expand(2, -1), *two)
    except Exception:
        return False
    return True


def _go(trainings: list[Training], states: list[State], ahead: bool) -> Iterator[tuple[int, Diverged | None]]:
    """As `advance`, until one of them diverges or all are done."""
    first, stack = trainings[0], _Stack(trainings, states)
    both = torch.func.vmap(functional(first, states[0]))
    if first.steps >= PAYS:
        both = compiled(both, states[0].device)
    for state in states:
        state.network.train()
    feeds = [blocks(t, s) for t, s in zip(trainings, states, strict=True)]
    for examples in _ahead(feeds) if ahead else zip(*feeds, strict=True):
        start, count = states[0].step, len(examples[0][0])
        parts = [torch.stack(part, dim=1) for part in zip(*examples, strict=True)]  # (steps, members, batch, ...)
        losses = torch.empty(count, len(states), device=states[0].device)
        for k, batch in enumerate(zip(*parts, strict=True)):
            grad, losses[k] = both(stack.vector.detach(), *batch)
            stack.update(first, grad, start + k)
            stack.keep(first, states, start + k)
        bad = (~torch.isfinite(losses)).cpu()
        lost = bad.any(0) | ~torch.isfinite(stack.vector).all(1).cpu()
        table = losses.tolist()
        for member, state in enumerate(states):
            if lost[member]:
                k = int(bad[:, member].int().argmax()) if bad[:, member].any() else count - 1
                yield member, Diverged(start + k + 1, table[k][member])
                continue
            stack.give(member, state)
            state.step = start + count
            state.log.append({"step": state.step, "loss": math.fsum(row[member] for row in table) / count})
            yield member, None
        if lost.any():
            return


def _ahead(feeds: list[Iterator[tuple[Tensor, ...]]]) -> Iterator[list[tuple[Tensor, ...]]]:
    """The next block of every feed, made by threads while the one before is in use."""
    threads = min(len(feeds), max(1, cores() - 1))
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        coming = [pool.submit(next, feed, None) for feed in feeds]
        while True:
            made = [block for block in (future.result() for future in coming) if block is not None]
            if not made:
                return
            coming = [pool.submit(next, feed, None) for feed in feeds]
            yield made


class _Stack:
    """The states' weights, averages and optimisers as rows."""

    def __init__(self, trainings: list[Training], states: list[State]) -> None:
        self.vector = torch.nn.Parameter(torch.stack([s.vector.detach() for s in states]))
        averages = [s.averages for s in states if s.averages is not None]
        self.averages = torch.stack(averages) if averages else None
        self.optimizer = trainings[0].optimizer.build([self.vector])
        self.peak = [group["lr"] for group in self.optimizer.param_groups]
        held = [s.optimizer.state.get(s.vector, {}) for s in states]
        for slot, value in held[0].items():
            rows = value.shape == states[0].vector.shape
            self.optimizer.state[self.vector][slot] = torch.stack([h[slot] for h in held]) if rows else value.clone()

    def update(self, training: Training, grad: Tensor, step: int) -> None:
        self.vector.grad = grad
        factor = training.learning_rate(step, training.steps)
        for group, lr in zip(self.optimizer.param_groups, self.peak, strict=True):
            group["lr"] = factor * lr
        self.optimizer.step()
        if self.averages is not None and training.averaging is not None:
            training.averaging.update(self.averages, self.vector.detach(), step + 1)

    def keep(self, training: Training, states: list[State], step: int) -> None:
        """Snapshots of the averages, where one is due."""
        if self.averages is not None and training.averaging and training.averaging.keeps(step + 1, training.steps):
            for state, averages in zip(states, self.averages.cpu(), strict=True):
                state.snapshots[step + 1] = averages.clone()

    def give(self, member: int, state: State) -> None:
        """Make a state what its row is."""
        state.vector.data.copy_(self.vector.detach()[member])
        if self.averages is not None and state.averages is not None:
            state.averages.copy_(self.averages[member])
        for slot, value in self.optimizer.state[self.vector].items():
            rows = value.shape == self.vector.shape
            state.optimizer.state[state.vector][slot] = (value[member] if rows else value).clone()
