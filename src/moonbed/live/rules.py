"""Rules for ATen operations that are neither affine nor one operation of a tape.

Conditions are numbers, 1 where they hold and 0 elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from moonbed._lazy import lazy_import
from moonbed.live.aten import Value
from moonbed.live.lowering import Lowering
from moonbed.live.tape import Untraceable

if TYPE_CHECKING:
    import torch
else:
    torch = lazy_import("torch")

__all__ = ["RULES"]

_POWERS = {2: "square", 0.5: "sqrt", -0.5: "rsqrt", -1: "reciprocal"}
_MOST = 64  # of what a maximum is taken, one after another


def _addmm(to: Lowering, bias: Any, a: Any, b: Any, *, beta: float = 1, alpha: float = 1) -> Any:
    weight = isinstance(b, torch.Tensor) and isinstance(a, Value) and a.axis == 0 and a.fold == 1 and len(a.shape) == 2
    whole = weight and isinstance(bias, torch.Tensor) and bias.ndim == 1 and beta == alpha == 1
    if weight and (whole or bias is None):
        register = to.builder.constant(bias[None].numpy()) if whole else -1
        out = to.builder.linear(a.register, b.T.numpy(), register)
        return Value(out, (a.shape[0], b.shape[1]), 0)
    product = to.call(torch.ops.aten.mm.default, (a, b), {})
    scaled = product if alpha == 1 else to.binary("mul", product, alpha)
    return to.binary("add", scaled, bias if beta == 1 else to.binary("mul", bias, beta))


def _mm(to: Lowering, a: Any, b: Any) -> Any:
    if isinstance(b, torch.Tensor) and isinstance(a, Value) and a.axis == 0 and a.fold == 1:
        return _addmm(to, None, a, b)
    if isinstance(a, Value) and isinstance(b, Value):
        return to.product(a, b)
    value, other = (a, b) if isinstance(a, Value) else (b, a)
    other = other.double()
    return to.affine((lambda t: t @ other) if value is a else (lambda t: other @ t), [value])


def _pow(to: Lowering, x: Any, p: Any) -> Any:
    if not isinstance(p, Value) and not isinstance(x, Value):
        raise Untraceable("there is no such power in the page")
    if isinstance(x, Value) and not isinstance(p, Value | torch.Tensor):
        if p in _POWERS:
            return to.unary(_POWERS[p], x)
        if p == int(p) and 1 <= p <= 8:
            out = x
            for _ in range(int(p) - 1):
                out = to.binary("mul", out, x)
            return out
    return to.binary("pow", x, p)


def _gelu(to: Lowering, x: Value, *, approximate: str = "none") -> Value:
    return to.unary("gelu" if approximate == "none" else "gelu_tanh", x)


def _leaky_relu(to: Lowering, x: Value, negative_slope: float = 0.01) -> Value:
    return to.unary("leaky_relu", x, slope=float(negative_slope))


def _elu(to: Lowering, x: Value, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> Any:
    if (alpha, scale, input_scale) == (1, 1, 1):
        return to.unary("elu", x)
    below = to.unary("elu", to.binary("mul", to.binary("minimum", x, 0.0), input_scale))
    return to.binary("mul", to.binary("add", to.unary("relu", x), to.binary("mul", below, alpha)), scale)


def _softplus(to: Lowering, x: Value, beta: float = 1.0, threshold: float = 20.0) -> Any:
    return to.binary("div", to.unary("softplus", to.binary("mul", x, beta)), beta)


def _clamp(to: Lowering, x: Any, low: Any = None, high: Any = None, **names: Any) -> Any:
    low, high = names.get("min", low), names.get("max", high)
    x = x if low is None else to.binary("maximum", x, low)
    return x if high is None else to.binary("minimum", x, high)


def _above(to: Lowering, a: Any, b: Any) -> Any:
    return to.unary("step", to.binary("sub", a, b))


def _not(to: Lowering, a: Any) -> Any:
    return to.binary("sub", 1.0, a)


def _equal(to: Lowering, a: Any, b: Any) -> Any:
    return to.binary("mul", _not(to, _above(to, a, b)), _not(to, _above(to, b, a)))


def _where(to: Lowering, condition: Any, a: Any, b: Any) -> Any:
    return to.combined("where", condition, a, b)


def _trilinear(to: Lowering, a: Any, b: Any, c: Any, *rest: Any) -> Any:
    """The product of three, each with new axes, summed over some."""
    *expand, over = rest[:4]
    parts = []
    for x, dims in zip((a, b, c), expand, strict=True):

        def widen(t: Any, dims: Sequence[int] = dims) -> Any:
            for d in dims:
                t = t.unsqueeze(d)
            return t

        parts.append(to.affine(widen, [x]) if isinstance(x, Value) else widen(x))
    product = to.binary("mul", to.binary("mul", parts[0], parts[1]), parts[2])
    return to.affine(lambda t: t.sum(over), [product])


def _copy(to: Lowering, into: Any, x: Any, *rest: Any) -> Any:
    shape = tuple(into.shape)
    return to.affine(lambda t: t.expand(shape), [x]) if isinstance(x, Value) else x.expand(shape)


def _layer_norm(to: Lowering, x: Value, shape: list[int], weight: Any, bias: Any, eps: float) -> tuple[Any, Any, Any]:
    dims = list(range(-len(shape), 0))
    mean = to.affine(lambda t: t.mean(dims, keepdim=True), [x])
    centred = to.binary("sub", x, mean)
    variance = to.affine(lambda t: t.mean(dims, keepdim=True), [to.unary("square", centred)])
    rstd = to.unary("rsqrt", to.binary("add", variance, eps))
    whole = x.columns == math.prod(shape) and x.fold == 1
    if whole and not any(isinstance(v, Value) for v in (weight, bias)):
        registers = [-1 if v is None else to.builder.constant(v.reshape(1, -1).numpy()) for v in (weight, bias)]
        out: Any = x._replace(register=to.builder.emit("layer_norm", (x.register, *registers), x.columns, eps=eps))
    else:
        out = to.binary("mul", centred, rstd)
        out = out if weight is None else to.binary("mul", out, weight)
        out = out if bias is None else to.binary("add", out, bias)
    return out, mean, rstd


def _var(to: Lowering, x: Value, dim: Any = None, *, correction: Any = 1, keepdim: bool = False) -> Any:
    return _var_mean(to, x, dim, correction=correction, keepdim=keepdim)[0]


def _var_mean(
    to: Lowering, x: Value, dim: Any = None, *, correction: Any = 1, keepdim: bool = False
) -> tuple[Any, Any]:
    dims = [*range(len(x.shape))] if dim is None else [dim] if isinstance(dim, int) else list(dim)
    count = math.prod(x.shape[d] for d in dims)
    mean = to.affine(lambda t: t.mean(dims, keepdim=True), [x])
    squares = to.unary("square", to.binary("sub", x, mean))
    wide = to.affine(lambda t: t.sum(dims, keepdim=keepdim) / (count - correction), [squares])
    return wide, mean if keepdim else to.affine(lambda t: t.mean(dims), [x])


def _extreme(op: str) -> Callable[..., Any]:
    def rule(to: Lowering, x: Value, dim: Any = None, keepdim: bool = False) -> Any:
        dims = [*range(len(x.shape))] if dim is None or dim == [] else [dim] if isinstance(dim, int) else list(dim)
        for d in sorted((d % len(x.shape) for d in dims), reverse=True):
            if x.shape[d] > _MOST:
                raise Untraceable(f"it takes a {op} of {x.shape[d]} numbers; the page takes one of {_MOST} at most")
            parts = [to.affine(lambda t, d=d, k=k: t.narrow(d, k, 1), [x]) for k in range(x.shape[d])]
            x = parts[0]
            for part in parts[1:]:
                x = to.binary(op, x, part)
        return x if keepdim else to.affine(lambda t: t.squeeze([d % t.ndim for d in dims]), [x])

    return rule


def _log1p(to: Lowering, x: Value) -> Any:
    return to.unary("log", to.binary("add", x, 1.0))


def _expm1(to: Lowering, x: Value) -> Any:
    return to.binary("sub", to.unary("exp", x), 1.0)


def _hyperbolic(sign: float) -> Callable[..., Any]:
    def rule(to: Lowering, x: Value) -> Any:
        up, down = to.unary("exp", x), to.unary("exp", to.unary("neg", x))
        return to.binary("mul", to.binary("add" if sign > 0 else "sub", up, down), 0.5)

    return rule


def _sign(to: Lowering, x: Value) -> Any:
    return to.binary("sub", to.unary("step", x), to.unary("step", to.unary("neg", x)))


def _rsub(to: Lowering, x: Any, other: Any, alpha: float = 1) -> Any:
    return to.binary("sub", other, x if alpha == 1 else to.binary("mul", x, alpha))


def _tan(to: Lowering, x: Value) -> Any:
    return to.binary("div", to.unary("sin", x), to.unary("cos", x))


def _base(base: float) -> Callable[..., Any]:
    return lambda to, x: to.binary("mul", to.unary("log", x), 1 / math.log(base))


RULES: Mapping[str, Callable[..., Any]] = {
    "addmm": _addmm,
    "mm": _mm,
    "pow": _pow,
    "gelu": _gelu,
    "leaky_relu": _leaky_relu,
    "elu": _elu,
    "softplus": _softplus,
    "clamp": _clamp,
    "clamp_min": _clamp,
    "clamp_max": lambda to, x, high: _clamp(to, x, None, high),
    "gt": _above,
    "lt": lambda to, a, b: _above(to, b, a),
    "ge": lambda to, a, b: _not(to, _above(to, b, a)),
    "le": lambda to, a, b: _not(to, _above(to, a, b)),
    "eq": _equal,
    "ne": lambda to, a, b: _not(to, _equal(to, a, b)),
    "logical_not": _not,
    "bitwise_not": _not,
    "logical_and": lambda to, a, b: to.binary("mul", a, b),
    "bitwise_and": lambda to, a, b: to.binary("mul", a, b),
    "logical_or": lambda to, a, b: to.binary("maximum", a, b),
    "bitwise_or": lambda to, a, b: to.binary("maximum", a, b),
    "where": _where,
    "masked_fill": lambda to, x, mask, value: _where(to, mask, value, x),
    "native_layer_norm": _layer_norm,
    "copy": _copy,
    "_trilinear": _trilinear,
    "var": _var,
    "var_mean": _var_mean,
    "amax": _extreme("maximum"),
    "amin": _extreme("minimum"),
    "log1p": _log1p,
    "expm1": _expm1,
    "exp2": lambda to, x: to.unary("exp", to.binary("mul", x, math.log(2))),
    "log2": _base(2),
    "log10": _base(10),
    "sinh": _hyperbolic(-1),
    "cosh": _hyperbolic(1),
    "sign": _sign,
    "tan": _tan,
    "rsub": _rsub,
}
