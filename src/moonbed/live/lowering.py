"""From ATen operations on tensors of any shape to the operations of a tape, on registers (rows, columns).

A tensor that depends on the input is a register and the shape that torch sees; one of its axes may be that of the rows,
or that of the rows times a `fold` (where rows and another axis were merged), and the others, in order, are the columns.
What an operation does to the columns, if it is affine, is found by asking it: zeros and the basis vectors go through
torch's own operation, and the matrix that comes back is nothing at all, a slice, a sum, or a linear layer. So views,
permutations, reductions and products with weights, in any number of axes, need no rule of their own; rules are for what
is done to each number. What does not depend on the input is computed here, by torch.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from moonbed._lazy import lazy_import
from moonbed.live.aten import (
    AFFINE,
    BINARY,
    JOINT,
    LIKE,
    SAME,
    UNARY,
    Value,
    covers,
    equals,
    gather,
    name_of,
    needed,
    put,
    seen,
    shape_of,
    spread,
    values_in,
)
from moonbed.live.tape import BATCH, Builder, Untraceable

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor
else:
    np = lazy_import("numpy")
    torch = lazy_import("torch")

__all__ = ["Lowering"]

_MOST = 1 << 20  # entries of a matrix that stands for an operation on columns


class Lowering:
    """Walks a graph of ATen operations and emits those of a tape."""

    def __init__(self, builder: Builder) -> None:
        self.builder = builder

    def run(self, graph: torch.fx.GraphModule, x: int, c_noise: int) -> int:
        """The register (rows, dim) of what the graph puts out."""
        inputs = iter([Value(x, (BATCH, self.builder.columns[x]), 0), Value(c_noise, (1,), None)])
        known: dict[Any, Any] = {}
        wanted = needed(graph)
        for node in graph.graph.nodes:
            if node.op == "placeholder":
                known[node] = next(inputs)
            elif node not in wanted:
                continue
            elif node.op == "get_attr":
                found: Any = graph
                for part in node.target.split("."):
                    found = getattr(found, part)
                known[node] = found.detach() if isinstance(found, torch.Tensor) else found
            elif name_of(node.target) in LIKE:
                args, kwargs = torch.fx.node.map_arg((node.args, node.kwargs), lambda n: torch.empty(seen(n)))
                known[node] = node.target(*args, **kwargs)
            elif node.op == "call_function":
                args, kwargs = torch.fx.node.map_arg((node.args, node.kwargs), lambda n: known[n])
                known[node] = self.call(node.target, args, kwargs)
            elif node.op == "output":
                (given,) = node.args
                out = known[given[0] if isinstance(given, list | tuple) else given]
                return self._answer(out)
        raise Untraceable("the network puts out nothing")

    def _answer(self, out: Any) -> int:
        shape = tuple(out.shape) if isinstance(out, Value | torch.Tensor) else ()
        if len(shape) != 2 or shape[0] != BATCH:
            raise Untraceable(
                f"for n rows the network puts out the shape {[*shape]}, not (n, dim)".replace("1009", "n")
            )
        return self.operand(out, shape, (2, 1))

    def call(self, target: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """The value of an operation: a tensor where it does not depend on the input."""
        if target is operator.getitem:
            return args[0][args[1]]
        values = values_in([*args, *kwargs.values()])
        if not values:
            with torch.no_grad():
                return target(*args, **kwargs)
        name = name_of(target)
        from moonbed.live.rules import RULES

        if name in SAME:
            same = args[0]
            if isinstance(kwargs.get("dtype"), torch.dtype) and not kwargs["dtype"].is_floating_point:
                raise Untraceable(f"it turns numbers into {kwargs['dtype']}")
            return (same, None) if name == "native_dropout" else same
        if name in RULES:
            return RULES[name](self, *args, **kwargs)
        if name in UNARY:
            return self.unary(UNARY[name], args[0])
        if name in BINARY:
            scaled = args[1] if kwargs.get("alpha", 1) == 1 else self.binary("mul", args[1], kwargs["alpha"])
            if kwargs.get("rounding_mode"):
                raise Untraceable("it rounds")
            return self.binary(BINARY[name], args[0], scaled)
        if (name in AFFINE and len(values) == 1) or name in JOINT:
            return self.affine(
                lambda *given: target(*put(args, given), **put(kwargs, given[len(values_in(args)) :])), values
            )
        if name in ("mm", "bmm", "matmul") and len(values) == 2:
            return self.product(*args)
        raise Untraceable(f"there is no operation {name} in the page")

    # What is done to each number

    def unary(self, op: str, x: Value, **attributes: Any) -> Value:
        """An operation on each number."""
        register = self.builder.emit(op, (x.register,), x.columns, **attributes)
        return x._replace(register=register)

    def binary(self, op: str, a: Any, b: Any) -> Any:
        """An operation on each pair of numbers, as torch broadcasts them."""
        for neutral, kept, at in (("mul", 1, a), ("add", 0, a)):
            if op == neutral and isinstance(b, Value) and equals(at, kept) and covers(b, at):
                return b
        neutral_b = {"mul": 1, "div": 1, "add": 0, "sub": 0}.get(op, math.nan)
        if isinstance(a, Value) and equals(b, neutral_b) and covers(a, b):
            return a
        shape = tuple(torch.broadcast_shapes(shape_of(a), shape_of(b)))
        if op == "mul" and (equals(a, 0) or equals(b, 0)):
            return torch.zeros(shape)
        return self.combined(op, a, b)

    def combined(self, op: str, *values: Any) -> Value:
        """An operation on numbers that torch broadcasts to one shape."""
        shape = tuple(torch.broadcast_shapes(*map(shape_of, values)))
        places = {v.place for v in values if isinstance(v, Value)} - {None}
        if len(places) > 1:
            raise Untraceable("it puts rows of a batch and other things on one axis")
        place = next(iter(places), None)
        axis = None if place is None else len(shape) - place[0]
        out = Value(-1, shape, axis, 1 if place is None else place[1])
        registers = [self.operand(v, shape, place) for v in values]
        return out._replace(register=self.builder.emit(op, registers, out.columns))

    def operand(self, value: Any, shape: tuple[int, ...], place: tuple[int, int] | None) -> int:
        """The register of a value that is broadcast to a shape: all of its columns, or one."""
        out = Value(-1, shape, None if place is None else len(shape) - place[0], 1 if place is None else place[1])
        if isinstance(value, Value):
            if value.columns in (1, out.columns) and value.place in (None, place):
                return value.register
            return self.affine(lambda t: t.expand(shape), [value], out).register
        tensor = torch.as_tensor(value, dtype=torch.float64)
        if tensor.numel() == 1:
            return self.builder.constant(tensor.reshape(1, 1).numpy())
        rows = gather(tensor.expand(shape), out.axis, out.fold)
        if not torch.equal(rows, rows[:1].expand_as(rows)):
            raise Untraceable("it treats the rows of a batch differently")
        return self.builder.constant(rows[:1].numpy())

    # What is done to the columns

    def affine(self, function: Callable[..., Any], values: Sequence[Value], out: Value | None = None) -> Any:
        """The value of an operation that is affine in some values, found by asking it."""
        kinds = [torch.zeros(BATCH if v.axis is not None else 1, v.columns, dtype=torch.float64) for v in values]

        def ask(rows: Sequence[Tensor]) -> list[Tensor]:
            with torch.no_grad():
                found = function(*(spread(v, r) for v, r in zip(values, rows, strict=True)))
            return [f.double() for f in (found if isinstance(found, list | tuple) else [found])]

        base = ask(kinds)
        outs = [out or self._place(ask, values, kinds, k, b) for k, b in enumerate(base)]
        answers = self._columns(ask, values, kinds, outs)
        made = [
            self._matrix(values, o, m, gather(b, o.axis, o.fold)) for o, m, b in zip(outs, answers, base, strict=True)
        ]
        return made if len(made) > 1 else made[0]

    def _place(
        self, ask: Callable[..., list[Tensor]], values: Sequence[Value], zero: list[Tensor], k: int, base: Tensor
    ) -> Value:
        """Where the rows are in an operation's result."""
        shape = tuple(base.shape)
        if any(v.axis is not None for v in values):
            row = 5
            probe = [z.clone() for z in zero]
            for z in probe:
                if len(z) == BATCH:
                    z[row] = torch.linspace(1, 2, z.shape[1], dtype=torch.float64)
            moved = (ask(probe)[k] != base).nonzero()
            for axis, n in enumerate(shape):
                fold = n // BATCH
                if n % BATCH == 0 and fold and bool((moved[:, axis] // fold == row).all()):
                    return Value(-1, shape, axis, fold)
            raise Untraceable("it mixes the rows of a batch")
        return Value(-1, shape, next((a for a, n in enumerate(shape) if n == BATCH), None))

    def _columns(
        self, ask: Callable[..., list[Tensor]], values: Sequence[Value], zero: list[Tensor], outs: list[Value]
    ) -> list[Any]:
        """For each result, what becomes of each column of the values: (all columns, columns of the result)."""
        parts: list[list[Tensor]] = [[] for _ in outs]
        if max(o.columns for o in outs) * sum(v.columns for v in values) > _MOST:
            raise Untraceable("it rearranges more numbers than the page should carry a matrix for")
        for j, value in enumerate(values):
            step = len(zero[j])
            for first in range(0, value.columns, step):
                many = min(step, value.columns - first)
                rows = [*zero]
                rows[j] = torch.zeros_like(zero[j])
                rows[j][range(many), range(first, first + many)] = 1
                for part, found, o in zip(parts, ask(rows), outs, strict=True):
                    got = gather(found, o.axis, o.fold)
                    if value.axis is None and not torch.equal(got, got[:1].expand_as(got)):
                        raise Untraceable("it treats the rows of a batch differently")
                    part.append(got[:many])
        return [torch.cat(p) for p in parts]

    def _matrix(self, values: Sequence[Value], out: Value, answers: Tensor, base: Tensor) -> Any:
        if not torch.equal(base, base[:1].expand_as(base)):
            raise Untraceable("it treats the rows of a batch differently")
        matrix, bias = (answers - base[:1]).T, base[0]
        if not matrix.any():
            return torch.zeros(out.shape) + spread(out, base).float()
        registers, columns = [v.register for v in values], answers.shape[0]
        x = registers[0] if len(values) == 1 else self.builder.emit("cat", registers, columns)
        return out._replace(register=self._apply(x, matrix.numpy(), bias.numpy()))

    def _apply(self, x: int, matrix: Any, bias: Any) -> int:
        """The register of matrix x + bias, by the plainest operation that does it."""
        rows, columns = matrix.shape
        plain = not bias.any()
        if plain and rows == columns and np.array_equal(matrix, np.eye(rows)):
            return x
        if plain and columns == 1 and (matrix == 1).all():
            return self.builder.emit("copy", (x,), rows)
        if plain and rows == 1 and columns > 1 and np.ptp(matrix) == 0 and matrix[0, 0] in (1, 1 / columns):
            return self.builder.emit("sum" if matrix[0, 0] == 1 else "mean", (x,), 1)
        first = int(matrix[0].argmax())
        if plain and rows < columns and np.array_equal(matrix, np.eye(rows, columns, first)):
            return self.builder.emit("slice", (x,), rows, start=first, stop=first + rows)
        return self.builder.linear(x, matrix, -1 if plain else self.builder.constant(bias[None]))

    def product(self, a: Value, b: Value) -> Any:
        """A matrix product of two values: all pairs, and their sums."""
        left = self.affine(lambda t: t.unsqueeze(-1), [a])
        right = self.affine(lambda t: t.unsqueeze(-3), [b])
        return self.affine(lambda t: t.sum(-2), [self.binary("mul", left, right)])
