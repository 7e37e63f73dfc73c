"""ATen operations by their names, what of them torch is to take apart, and tensors that depend on the input."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from moonbed._lazy import lazy_import
from moonbed.live.tape import BATCH

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = lazy_import("torch")


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


KEPT = _names(
    """
    silu addmm native_layer_norm relu gelu elu leaky_relu softplus sigmoid rsqrt reciprocal var var_mean
    """
)
"""Left whole by the decompositions."""
SAME = _names(
    """
    clone detach alias lift_fresh_copy contiguous _to_copy to lift dropout native_dropout
    """
)
"""They change no number."""
AFFINE = _names(
    """
    view _unsafe_view reshape permute transpose t expand unsqueeze squeeze select slice sum mean mm bmm addmm
    addmv mv convolution cumsum flip index_select gather repeat constant_pad_nd roll split split_with_sizes
    chunk diagonal tril triu unfold index embedding matmul linear dot view_copy expand_copy permute_copy
    slice_copy select_copy transpose_copy t_copy unsqueeze_copy squeeze_copy as_strided movedim swapaxes flatten
    unbind   slice_backward select_backward avg_pool1d _adaptive_avg_pool2d
    upsample_nearest1d diag_embed
    """
)
"""Affine in the one argument that depends on the input."""
JOINT = _names(
    """
    cat stack select_scatter slice_scatter
    """
)
"""Affine in all of their arguments together."""
LIKE = _names(
    """
    ones_like zeros_like full_like empty_like new_zeros new_ones new_full new_empty rand_like randn_like
    new_empty_strided
    """
)
"""Of their argument they need the shape alone."""
UNARY = {
    name: name
    for name in _names("neg exp log sin cos tanh sigmoid silu relu erf sqrt rsqrt reciprocal abs selu square atan")
} | {"arctan": "atan"}
BINARY = {name: name for name in _names("add sub mul div maximum minimum")}


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
            aten.celu, aten.celu_, aten.hardtanh_, aten.hardswish_, aten.mish_, aten.sinc,
            *([aten._fused_rms_norm] if hasattr(aten, "_fused_rms_norm") else []),  # since torch 2.9
        ]
    )  # fmt: skip
    table = {**core_aten_decompositions(), **more}
    return {op: rule for op, rule in table.items() if op.name().split("::")[1].split(".")[0] not in KEPT}


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


def spread(value: Value, rows: Tensor) -> Tensor:
    """Rows (BATCH or 1, columns) as the tensor that torch sees."""
    if value.axis is None:
        return rows.reshape(value.shape)
    rest = [n for k, n in enumerate(value.shape) if k != value.axis]
    whole = rows.expand(BATCH, -1).reshape(BATCH * value.fold, *rest)
    return whole.movedim(0, value.axis)


def gather(tensor: Tensor, axis: int | None, fold: int) -> Tensor:
    """The inverse of `spread`."""
    if axis is None:
        return tensor.reshape(1, -1)
    return tensor.movedim(axis, 0).reshape(BATCH, -1)


def values_in(items: Any) -> list[Value]:
    """All values among arguments, in their order."""
    if isinstance(items, Value):
        return [items]
    if isinstance(items, dict):
        items = [*items.values()]
    return [v for item in items for v in values_in(item)] if isinstance(items, list | tuple) else []


def mapped(items: Any, f: Callable[[Value], Any]) -> Any:
    """The arguments with f of each value in its place; numbers of tensors become float64."""
    if isinstance(items, Value):
        return f(items)
    if isinstance(items, dict):
        return {k: mapped(v, f) for k, v in items.items()}
    if isinstance(items, list | tuple):
        return [mapped(v, f) for v in items]
    return items.double() if isinstance(items, torch.Tensor) and items.is_floating_point() else items


def put(items: Any, given: Sequence[Tensor]) -> Any:
    """The arguments with tensors in the places of their values, and all else in float64."""
    rest = iter(given)
    return mapped(items, lambda v: next(rest))


def name_of(target: Any) -> str:
    """An operation's name, in place or not."""
    name = target.overloadpacket.__name__ if hasattr(target, "overloadpacket") else str(target)
    return name[:-1] if name.endswith("_") and not name.endswith("__") else name


def seen(node: Any) -> Any:
    """The shape of what a node gave when it was written down."""
    return node.meta["tensor_meta"].shape if "tensor_meta" in node.meta else node.meta["val"].shape


def needed(graph: torch.fx.GraphModule) -> set[Any]:
    """The nodes whose numbers the output needs: those of which it needs but the shape are not among them."""
    needed: set[Any] = set()
    stack = [node for node in graph.graph.nodes if node.op == "output"]
    while stack:
        node = stack.pop()
        if node not in needed:
            needed.add(node)
            stack += [] if name_of(node.target) in LIKE else node.all_input_nodes
    return needed


def shape_of(value: Any) -> tuple[int, ...]:
    """The shape of a value, a tensor or a number."""
    return tuple(value.shape) if isinstance(value, Value | torch.Tensor) else ()


def equals(value: Any, number: float) -> bool:
    """Whether something is a constant, and that number everywhere."""
    if isinstance(value, torch.Tensor):
        return bool((value == number).all())
    return not isinstance(value, Value) and value == number


def covers(value: Value, other: Any) -> bool:
    """Whether a value keeps its shape when the other is broadcast with it."""
    return tuple(torch.broadcast_shapes(value.shape, shape_of(other))) == tuple(value.shape)
