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
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from moonbed._lazy import lazy_import
from moonbed.live.tape import BATCH, Builder, Untraceable

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor
else:
    np = lazy_import("numpy")
    torch = lazy_import("torch")

__all__ = ["Lowering", "Value", "decompositions"]

_MOST = 1 << 20  # entries of a matrix that stands for an operation on columns
_KEPT = [
    "silu",
    "addmm",
    "native_layer_norm",
    "relu",
    "gelu",
    "elu",
    "leaky_relu",
    "softplus",
    "sigmoid",
    "rsqrt",
    "reciprocal",
    "var",
    "var_mean",
]
_SAME = [
    "clone",
    "detach",
    "alias",
    "lift_fresh_copy",
    "contiguous",
    "_to_copy",
    "to",
    "lift",
    "dropout",
    "native_dropout",
]
_AFFINE = [
    "view",
    "_unsafe_view",
    "reshape",
    "permute",
    "transpose",
    "t",
    "expand",
    "unsqueeze",
    "squeeze",
    "select",
    "slice",
    "sum",
    "mean",
    "mm",
    "bmm",
    "addmm",
    "addmv",
    "mv",
    "convolution",
    "cumsum",
    "flip",
    "index_select",
    "gather",
    "repeat",
    "constant_pad_nd",
    "roll",
    "split",
    "split_with_sizes",
    "chunk",
    "diagonal",
    "tril",
    "triu",
    "unfold",
    "index",
    "embedding",
    "matmul",
    "linear",
    "dot",
    "view_copy",
    "expand_copy",
    "permute_copy",
    "slice_copy",
    "select_copy",
    "transpose_copy",
    "t_copy",
    "unsqueeze_copy",
    "squeeze_copy",
    "as_strided",
    "movedim",
    "swapaxes",
    "flatten",
    "unbind",
    "select_scatter",
    "slice_scatter",
    "slice_backward",
    "select_backward",
    "avg_pool1d",
    "_adaptive_avg_pool2d",
    "upsample_nearest1d",
    "diag_embed",
]
_JOINT = ["cat", "stack"]
_LIKE = [
    "ones_like",
    "zeros_like",
    "full_like",
    "empty_like",
    "new_zeros",
    "new_ones",
    "new_full",
    "new_empty",
    "rand_like",
    "randn_like",
    "new_empty_strided",
]
_UNARY = {
    name: name
    for name in [
        "neg",
        "exp",
        "log",
        "sin",
        "cos",
        "tanh",
        "sigmoid",
        "silu",
        "relu",
        "erf",
        "sqrt",
        "rsqrt",
        "reciprocal",
        "abs",
    ]
} | {
    "selu": "selu",
    "square": "square",
    "atan": "atan",
    "arctan": "atan",
}
_BINARY = {"add": "add", "sub": "sub", "mul": "mul", "div": "div", "maximum": "maximum", "minimum": "minimum"}


@cache
def decompositions() -> dict[Any, Any]:
    """torch's own, of what is not to be kept whole."""
    from torch._decomp import core_aten_decompositions, get_decompositions

    aten = torch.ops.aten
    more = get_decompositions(
        [
            aten.silu_backward, aten.gelu_backward, aten.native_layer_norm_backward, aten.tanh_backward,
            aten.sigmoid_backward, aten.threshold_backward, aten.elu_backward, aten.leaky_relu_backward,
            aten.softplus_backward, aten._softmax, aten._log_softmax, aten._softmax_backward_data, aten.mish,
            aten.hardtanh, aten.hardswish, aten.hardsigmoid, aten.native_group_norm, aten.native_batch_norm,
            aten._native_batch_norm_legit_no_training, aten.linalg_vector_norm, aten.addcmul, aten.addcdiv,
            aten.logaddexp, aten.log_sigmoid_forward, aten.glu, aten.baddbmm, aten.lerp, aten.hypot, aten.logsumexp,
            aten._fused_rms_norm, aten.celu, aten.celu_, aten.hardtanh_, aten.hardswish_, aten.mish_, aten.sinc,
        ]
    )  # fmt: skip
    table = {**core_aten_decompositions(), **more}
    return {op: rule for op, rule in table.items() if op.name().split("::")[1].split(".")[0] not in _KEPT}


class Value(NamedTuple):
    """A register and how torch sees it: `shape`, which axis is that of the rows, if any, times `fold`."""

    register: int
    shape: tuple[int, ...]
    axis: int | None
    fold: int = 1

    @property
    def columns(self) -> int:
        return math.prod(self.shape) // (1 if self.axis is None else BATCH)

    @property
    def place(self) -> tuple[int, int] | None:
        """The axis of the rows, counted from the last, and its fold."""
        return None if self.axis is None else (len(self.shape) - self.axis, self.fold)


def _spread(value: Value, rows: Tensor) -> Tensor:
    """Rows (BATCH or 1, columns) as the tensor that torch sees."""
    if value.axis is None:
        return rows.reshape(value.shape)
    rest = [n for k, n in enumerate(value.shape) if k != value.axis]
    whole = rows.expand(BATCH, -1).reshape(BATCH * value.fold, *rest)
    return whole.movedim(0, value.axis)


def _gather(tensor: Tensor, axis: int | None, fold: int) -> Tensor:
    """The inverse of `_spread`."""
    if axis is None:
        return tensor.reshape(1, -1)
    return tensor.movedim(axis, 0).reshape(BATCH, -1)


class Lowering:
    """Walks a graph of ATen operations and emits those of a tape."""

    def __init__(self, builder: Builder) -> None:
        self.builder = builder

    def run(self, graph: torch.fx.GraphModule, x: int, c_noise: int) -> int:
        """The register (rows, dim) of what the graph puts out."""
        inputs = iter([Value(x, (BATCH, self.builder.columns[x]), 0), Value(c_noise, (1,), None)])
        known: dict[Any, Any] = {}
        needed = _needed(graph)
        for node in graph.graph.nodes:
            if node.op == "placeholder":
                known[node] = next(inputs)
            elif node not in needed:
                continue
            elif node.op == "get_attr":
                found: Any = graph
                for part in node.target.split("."):
                    found = getattr(found, part)
                known[node] = found.detach() if isinstance(found, torch.Tensor) else found
            elif _name(node.target) in _LIKE:
                args, kwargs = torch.fx.node.map_arg((node.args, node.kwargs), lambda n: torch.empty(_seen(n)))
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
        values = _values([*args, *kwargs.values()])
        if not values:
            with torch.no_grad():
                return target(*args, **kwargs)
        name = _name(target)
        from moonbed.live.rules import RULES

        if name in _SAME:
            same = args[0]
            if isinstance(kwargs.get("dtype"), torch.dtype) and not kwargs["dtype"].is_floating_point:
                raise Untraceable(f"it turns numbers into {kwargs['dtype']}")
            return (same, None) if name == "native_dropout" else same
        if name in RULES:
            return RULES[name](self, *args, **kwargs)
        if name in _UNARY:
            return self.unary(_UNARY[name], args[0])
        if name in _BINARY:
            scaled = args[1] if kwargs.get("alpha", 1) == 1 else self.binary("mul", args[1], kwargs["alpha"])
            if kwargs.get("rounding_mode"):
                raise Untraceable("it rounds")
            return self.binary(_BINARY[name], args[0], scaled)
        if (name in _AFFINE and len(values) == 1) or name in _JOINT:
            return self.affine(
                lambda *given: target(*_put(args, given), **_put(kwargs, given[len(_values(args)) :])), values
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
            if op == neutral and isinstance(b, Value) and _is(at, kept) and _covers(b, at):
                return b
        neutral_b = {"mul": 1, "div": 1, "add": 0, "sub": 0}.get(op, math.nan)
        if isinstance(a, Value) and _is(b, neutral_b) and _covers(a, b):
            return a
        shape = tuple(torch.broadcast_shapes(_shape(a), _shape(b)))
        if op == "mul" and (_is(a, 0) or _is(b, 0)):
            return torch.zeros(shape)
        places = {v.place for v in (a, b) if isinstance(v, Value)} - {None}
        if len(places) > 1:
            raise Untraceable("it puts rows of a batch and other things on one axis")
        place = next(iter(places), None)
        axis = None if place is None else len(shape) - place[0]
        out = Value(-1, shape, axis, 1 if place is None else place[1])
        registers = [self.operand(v, shape, place) for v in (a, b)]
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
        rows = _gather(tensor.expand(shape), out.axis, out.fold)
        if not torch.equal(rows, rows[:1].expand_as(rows)):
            raise Untraceable("it treats the rows of a batch differently")
        return self.builder.constant(rows[:1].numpy())

    # What is done to the columns

    def affine(self, function: Callable[..., Any], values: Sequence[Value], out: Value | None = None) -> Any:
        """The value of an operation that is affine in some values, found by asking it."""
        kinds = [torch.zeros(BATCH if v.axis is not None else 1, v.columns, dtype=torch.float64) for v in values]

        def ask(rows: Sequence[Tensor]) -> list[Tensor]:
            with torch.no_grad():
                found = function(*(_spread(v, r) for v, r in zip(values, rows, strict=True)))
            return [f.double() for f in (found if isinstance(found, list | tuple) else [found])]

        base = ask(kinds)
        outs = [out or self._place(ask, values, kinds, k, b) for k, b in enumerate(base)]
        answers = self._columns(ask, values, kinds, outs)
        made = [
            self._matrix(values, o, m, _gather(b, o.axis, o.fold)) for o, m, b in zip(outs, answers, base, strict=True)
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
        axis = next((a for a, n in enumerate(shape) if n == BATCH), None)
        return Value(-1, shape, axis)

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
                    got = _gather(found, o.axis, o.fold)
                    if value.axis is None and not torch.equal(got, got[:1].expand_as(got)):
                        raise Untraceable("it treats the rows of a batch differently")
                    part.append(got[:many])
        return [torch.cat(p) for p in parts]

    def _matrix(self, values: Sequence[Value], out: Value, answers: Tensor, base: Tensor) -> Any:
        if not torch.equal(base, base[:1].expand_as(base)):
            raise Untraceable("it treats the rows of a batch differently")
        matrix, bias = (answers - base[:1]).T, base[0]
        if not matrix.any():
            return torch.zeros(out.shape) + _spread(out, base).float()
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


def _values(items: Any) -> list[Value]:
    if isinstance(items, Value):
        return [items]
    if isinstance(items, dict):
        items = items.values()
    return (
        [v for item in items for v in _values(item)]
        if isinstance(items, Sequence | type({}.values())) and not isinstance(items, str)
        else []
    )


def _map(items: Any, f: Callable[[Value], Any]) -> Any:
    if isinstance(items, Value):
        return f(items)
    if isinstance(items, dict):
        return {k: _map(v, f) for k, v in items.items()}
    if isinstance(items, list | tuple):
        return [_map(v, f) for v in items]
    return items.double() if isinstance(items, torch.Tensor) and items.is_floating_point() else items


def _put(items: Any, given: Sequence[Tensor]) -> Any:
    """The arguments with tensors in the places of their values, and all else in float64."""
    rest = iter(given)
    return _map(items, lambda v: next(rest))


def _name(target: Any) -> str:
    name = target.overloadpacket.__name__ if hasattr(target, "overloadpacket") else str(target)
    return name[:-1] if name.endswith("_") and not name.endswith("__") else name


def _seen(node: Any) -> Any:
    """The shape of what a node gave when it was written down."""
    return node.meta["tensor_meta"].shape if "tensor_meta" in node.meta else node.meta["val"].shape


def _needed(graph: torch.fx.GraphModule) -> set[Any]:
    """The nodes whose numbers the output needs: those of which it needs but the shape are not among them."""
    needed: set[Any] = set()
    stack = [node for node in graph.graph.nodes if node.op == "output"]
    while stack:
        node = stack.pop()
        if node not in needed:
            needed.add(node)
            stack += [] if _name(node.target) in _LIKE else node.all_input_nodes
    return needed


def _shape(value: Any) -> tuple[int, ...]:
    return tuple(value.shape) if isinstance(value, Value | torch.Tensor) else ()


def _is(value: Any, number: float) -> bool:
    if isinstance(value, torch.Tensor):
        return bool((value == number).all())
    return not isinstance(value, Value) and value == number


def _covers(value: Value, other: Any) -> bool:
    return tuple(torch.broadcast_shapes(value.shape, _shape(other))) == tuple(value.shape)
