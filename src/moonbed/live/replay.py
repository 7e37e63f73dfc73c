"""Tapes and plans read in NumPy: what a page does with them, in a few lines, for checks and for tests.

Tapes compute in float32, plans in float64 with the input of a network rounded to float32, as the page does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from moonbed._lazy import lazy_import
from moonbed.live.plan import LAW, NETWORK, NOISE, START, STATE, Plan, lines
from moonbed.live.tape import Tape

if TYPE_CHECKING:
    import numpy as np
    import scipy.special as special
else:
    np = lazy_import("numpy")
    special = lazy_import("scipy.special")

__all__ = ["run_plan", "run_tape"]

SELU = (1.0507009873554805, 1.6732632423543772)


def _softplus(x: Any) -> Any:
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def _gelu_tanh(x: Any) -> Any:
    return x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def _elu(x: Any) -> Any:
    return np.where(x > 0, x, np.expm1(np.minimum(x, 0)))


UNARY: Mapping[str, Callable[[Any], Any]] = {
    "neg": lambda x: -x,
    "exp": lambda x: np.exp(x),
    "log": lambda x: np.log(x),
    "sin": lambda x: np.sin(x),
    "cos": lambda x: np.cos(x),
    "tanh": lambda x: np.tanh(x),
    "sigmoid": lambda x: special.expit(x),
    "silu": lambda x: x * special.expit(x),
    "gelu": lambda x: x / 2 * (1 + special.erf(x / np.sqrt(2))),
    "gelu_tanh": _gelu_tanh,
    "relu": lambda x: np.maximum(x, 0),
    "softplus": _softplus,
    "erf": lambda x: special.erf(x),
    "sqrt": lambda x: np.sqrt(x),
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "reciprocal": lambda x: 1 / x,
    "abs": lambda x: np.abs(x),
    "elu": _elu,
    "selu": lambda x: SELU[0] * np.where(x > 0, x, SELU[1] * np.expm1(np.minimum(x, 0))),
    "square": lambda x: x * x,
    "step": lambda x: x > 0,
    "atan": lambda x: np.arctan(x),
}
BINARY: Mapping[str, Callable[[Any, Any], Any]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "pow": lambda a, b: a**b,
    "maximum": lambda a, b: np.maximum(a, b),
    "minimum": lambda a, b: np.minimum(a, b),
}


def _layer_norm(x: Any, weight: Any, bias: Any, eps: float) -> Any:
    centred = x - x.mean(1, keepdims=True)
    out = centred / np.sqrt((centred**2).mean(1, keepdims=True) + eps)
    out = out if weight is None else out * weight
    return out if bias is None else out + bias


def _apply(op: str, inputs: Sequence[Any], attributes: Mapping[str, Any], shape: tuple[int, int]) -> Any:
    x = inputs[0]
    if op in UNARY:
        return UNARY[op](x)
    if op in BINARY:
        return BINARY[op](x, inputs[1])
    if op == "where":
        return np.where(x != 0, inputs[1], inputs[2])
    if op == "linear":
        return x @ inputs[1].T if inputs[2] is None else x @ inputs[1].T + inputs[2]
    if op == "leaky_relu":
        return np.where(x > 0, x, attributes["slope"] * x)
    if op == "layer_norm":
        return _layer_norm(x, inputs[1], inputs[2], attributes["eps"])
    if op == "cat":
        return np.concatenate([np.broadcast_to(part, (shape[0], part.shape[1])) for part in inputs], axis=1)
    if op == "slice":
        return x[:, attributes["start"] : attributes["stop"]]
    if op in ("sum", "mean"):
        return getattr(x, op)(axis=1, keepdims=True)
    if op == "copy":
        return np.broadcast_to(x, shape)
    raise ValueError(f"no operation of a tape is called {op!r}")


def run_tape(tape: Tape, x: Any, c_noise: float) -> Any:
    """(n, dim) float32: F(x, c_noise) for any number of rows x (n, columns)."""
    rows = len(x)
    kept: dict[int, Any] = dict(tape.constants)
    kept[tape.x], kept[tape.c_noise] = np.asarray(x, np.float32), np.full((1, 1), c_noise, np.float32)
    with np.errstate(all="ignore"):
        for op, out, inputs, attributes in [*tape.head, *tape.body]:
            height, width = tape.registers[out]
            shape = (1 if height == 1 else rows, width)
            given = [None if k < 0 else kept[k] for k in inputs]
            found = np.asarray(_apply(op, given, dict(attributes), shape), np.float32)
            kept[out] = np.broadcast_to(found, shape)
    return kept[tape.out]


def run_plan(
    plan: Plan,
    start: Any,
    functions: Sequence[Callable[..., Any]],
    noise: Callable[[int], Any],
    numbers: Any = None,
) -> Iterator[Any]:
    """Yield the states (n, dim) of a plan.

    `functions[f]` is called as F(x, columns, c_noise) for a network and as D(x, alpha, sigma) for a law; `noise(k)` is
    the k-th draw. `numbers` in place of those of the plan.
    """
    vectors: list[Any] = []
    drawn = 0
    for kind, f, terms, values in lines(plan.code, plan.numbers if numbers is None else numbers):
        if kind == START:
            vectors.append(start)
            continue
        if kind == NOISE:
            vectors.append(noise(drawn))
            drawn += 1
            continue
        x = sum(c * vectors[len(vectors) - back] for back, c in zip(terms, values, strict=False))
        rest = values[len(terms) :]
        if kind == NETWORK:
            x = functions[f](x, rest[:-1], rest[-1])
        elif kind == LAW:
            x = functions[f](x, *rest)
        elif kind == STATE:
            yield x
        vectors.append(x)
