"""A network as a tape: a list of operations on arrays with two axes, with its weights, and nothing of torch.

The trained module is run once, on `BATCH` rows that share one noise level, while torch writes down its ATen operations
(`make_fx`); `lowering` turns them into the few that a tape has. Registers are (rows, columns), rows 1 or all: what is
the same for all rows, as the features of the noise level are, is computed once for all of them, in the head; the body
is computed for the rows. Equal operations are done once, and what nobody asks for is left out.

A tape is held against the module before it is handed over. `Untraceable` says, in words, what has no counterpart.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from moonbed._lazy import lazy_import
from moonbed.rng import Rng

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import nn
else:
    np = lazy_import("numpy")
    torch = lazy_import("torch")

__all__ = ["Builder", "Instruction", "Tape", "Untraceable", "trace"]

TILE = 64
BATCH = 1009
"""Rows while a network is written down: a prime that is the width of no layer, so that the axis of rows is known."""
_CLOSE = 1e-4


class Untraceable(Exception):
    """A network or a sampler that does something for which the page has no counterpart; the message says what."""


class Instruction(NamedTuple):
    """`out` becomes `op` of the registers `inputs` (-1: absent)."""

    op: str
    out: int
    inputs: tuple[int, ...]
    attributes: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True)
class Tape:
    """F(x, c_noise): registers are (rows, columns) with `TILE` rows or one; constants are float32 arrays."""

    columns: int
    dim: int
    parameters: int
    registers: list[tuple[int, int]]
    constants: dict[int, Any]
    x: int
    c_noise: int
    out: int
    head: list[Instruction]
    body: list[Instruction]


@dataclass
class Builder:
    """A tape in the making: registers with their columns and whether they differ from row to row."""

    columns: list[int] = field(default_factory=list)
    by_row: list[bool] = field(default_factory=list)
    constants: dict[int, Any] = field(default_factory=dict)
    made: dict[int, Instruction] = field(default_factory=dict)
    _known: dict[Any, int] = field(default_factory=dict)

    def register(self, columns: int, by_row: bool) -> int:
        """A new register."""
        self.columns.append(columns)
        self.by_row.append(by_row)
        return len(self.columns) - 1

    def constant(self, values: Any) -> int:
        """The register of a constant (rows, columns), the same one for equal numbers."""
        data = np.ascontiguousarray(values, dtype=np.float32)
        key = (data.shape, data.tobytes())
        if key not in self._known:
            self._known[key] = self.register(data.shape[1], False)
            self.constants[self._known[key]] = data
        return self._known[key]

    def emit(self, op: str, inputs: Sequence[int], columns: int, **attributes: Any) -> int:
        """The register of an operation's result, the same one for equal operations."""
        key = (op, tuple(inputs), columns, tuple(sorted(attributes.items())))
        if key not in self._known:
            out = self.register(columns, any(self.by_row[k] for k in inputs if k >= 0))
            self._known[key] = out
            self.made[out] = Instruction(op, out, tuple(inputs), key[3])
        return self._known[key]

    def linear(self, x: int, weight: Any, bias: int = -1) -> int:
        """x W' + b. Of columns that were put beside one another, those that all rows share are done in the head."""
        parts = self.made[x].inputs if x in self.made and self.made[x].op == "cat" else ()
        shared = [not self.by_row[k] for k in parts]
        if not any(shared) or all(shared):
            return self.emit("linear", (x, self.constant(weight), bias), len(weight))
        at = np.cumsum([0, *(self.columns[k] for k in parts)])
        for part in sorted(range(len(parts)), key=lambda k: not shared[k]):
            piece = self.constant(weight[:, at[part] : at[part + 1]])
            bias = self._with(self.emit("linear", (parts[part], piece, self._one_row(bias)), len(weight)), bias)
        return bias

    def _one_row(self, register: int) -> int:
        return register if register < 0 or not self.by_row[register] else -1

    def _with(self, done: int, bias: int) -> int:
        return done if self._one_row(bias) == bias else self.emit("add", (done, bias), self.columns[done])

    def finish(self, x: int, c_noise: int, out: int, parameters: int) -> Tape:
        """The tape of all that `out` needs."""
        if not self.by_row[out]:
            given, out = out, self.register(self.columns[out], True)
            self.made[out] = Instruction("copy", out, (given,))
        needed, stack = set(), [out]
        while stack:
            k = stack.pop()
            if k not in needed and k >= 0:
                needed.add(k)
                stack += self.made[k].inputs if k in self.made else ()
        order = sorted(needed | {x, c_noise})
        number = {k: i for i, k in enumerate(order)} | {-1: -1}
        done = [
            Instruction(op, number[k], tuple(number[j] for j in inputs), attributes)
            for k in order
            if k in self.made
            for op, _, inputs, attributes in [self.made[k]]
        ]
        registers = [
            self.constants[k].shape if k in self.constants else (TILE if self.by_row[k] else 1, self.columns[k])
            for k in order
        ]
        return Tape(
            columns=self.columns[x],
            dim=self.columns[out],
            parameters=parameters,
            registers=registers,
            constants={number[k]: self.constants[k] for k in order if k in self.constants},
            x=number[x],
            c_noise=number[c_noise],
            out=number[out],
            head=[i for i in done if registers[i.out][0] == 1],
            body=[i for i in done if registers[i.out][0] == TILE],
        )


def trace(module: nn.Module, columns: int) -> Tape:
    """The tape of a module that takes x (n, columns) and c_noise (1,). Raises `Untraceable`."""
    from moonbed.live.lowering import Lowering

    was = module.training
    try:
        module.eval()
        builder = Builder()
        x, c_noise = builder.register(columns, True), builder.register(1, False)
        out = Lowering(builder).run(_graph(module, columns), x, c_noise)
        parameters = sum(p.numel() for p in module.parameters() if p.requires_grad)
        tape = builder.finish(x, c_noise, out, parameters)
        _hold(tape, module)
    finally:
        module.train(was)
    return tape


def _graph(module: nn.Module, columns: int) -> torch.fx.GraphModule:
    from torch.fx.experimental.proxy_tensor import make_fx

    from moonbed.live.aten import decompositions

    x = Rng(0).stream("tape", "x").normal((BATCH, columns))
    c_noise = torch.tensor([0.4])

    def plain(x: Any, c_noise: Any) -> Any:
        return module(x, c_noise)

    problem: Exception | None = None
    mutating: Callable[..., Any] = torch.func.functionalize(plain, remove="mutations")
    for function in (mutating, plain):
        try:
            with torch.no_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                graph = make_fx(function, decompositions(), tracing_mode="real")(x, c_noise)
            graph.graph.eliminate_dead_code()
            return graph
        except Exception as error:
            problem = error
    said = str(problem).strip().split("\n")[0][:200]
    raise Untraceable(f"torch cannot write down what the network does: {said}") from problem


def _hold(tape: Tape, module: nn.Module) -> None:
    """Raises `Untraceable` where the tape gives other numbers than the module."""
    from moonbed.live.replay import run_tape

    rng = Rng(0).child("tape", "check")
    for k, level in enumerate((0.05, 0.6, 0.97, -0.8)):
        x = 2 * rng.stream(k).normal((TILE, tape.columns))
        with torch.no_grad():
            wanted = module(x, torch.tensor([level])).double().numpy()
        got = run_tape(tape, x.numpy(), level)
        if got.shape != wanted.shape:
            raise Untraceable(f"the network puts out {wanted.shape[1:]} numbers for a row, its tape {got.shape[1:]}")
        apart = np.abs(got - wanted).max() / (1 + np.abs(wanted).max())
        if not apart < _CLOSE:
            raise Untraceable(f"its tape gives other numbers (by {apart:.2g}): does it draw, or mix rows of a batch?")


def describe(tape: Tape, add: Callable[[Any, str], Mapping[str, Any]]) -> dict[str, Any]:
    """The tape as JSON; `add` stores an array and says where."""

    def line(i: Instruction) -> list[Any]:
        return [i.op, i.out, list(i.inputs), dict(i.attributes)]

    return {
        "tile": TILE,
        "columns": tape.columns,
        "dim": tape.dim,
        "parameters": tape.parameters,
        "registers": [list(shape) for shape in tape.registers],
        "x": tape.x,
        "c_noise": tape.c_noise,
        "out": tape.out,
        "constants": [[k, add(values, "f4")] for k, values in tape.constants.items()],
        "head": [line(i) for i in tape.head],
        "body": [line(i) for i in tape.body],
    }
