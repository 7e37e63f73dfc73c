"""A sampler as a plan: the linear combinations that it forms of noise, of states and of what the denoiser answered.

All of our samplers, and diffusers' schedulers, are linear but for the network: their coefficients depend on the
schedule alone. So the sampler itself is run once on a vector space (`recording`) and what it does is written down, a
line for each vector; schedules, predictions, guidance, labels and jumps become numbers in it. With the vectors v_i,

    START     v_0, the noise that sampling starts from
    NOISE     v_i, a fresh draw
    NETWORK   v_i = F_f(sum_j c_j v_j and the columns, c_noise)
    LAW       v_i = E_f[x_0 | alpha x_0 + sigma eps = sum_j c_j v_j]
    STATE     v_i = sum_j c_j v_j, what the sampler yields; the first one is where it starts
    SUM       v_i = sum_j c_j v_j, nothing but that

`code` has, for each line, its kind, f, the number of its terms and of its columns, and how far back each term lies;
`numbers` the coefficients, then the columns and c_noise, or alpha and sigma. `states` has t, alpha and sigma of each
state, as far as the sampler says by asking its denoiser there.

Under guidance the numbers are affine in its scale w: numbers(w) = numbers + (w - 2) slope.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from moonbed._lazy import lazy_import

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy_import("numpy")

__all__ = ["LAW", "NETWORK", "NOISE", "START", "STATE", "SUM", "Line", "Plan", "lines", "written"]

START, NOISE, NETWORK, LAW, STATE, SUM = range(6)


@dataclass(frozen=True)
class Line:
    """One vector of a plan: `terms` are (index of a vector, coefficient), `rest` the numbers behind them."""

    kind: int
    function: int = 0
    terms: tuple[tuple[int, float], ...] = ()
    rest: tuple[float, ...] = ()


@dataclass(frozen=True)
class Plan:
    """See the module's docstring; arrays are integers and float64."""

    code: Any
    numbers: Any
    slope: Any | None
    states: Any

    @property
    def evaluations(self) -> int:
        """How often the network or the law is asked."""
        return sum(kind in (NETWORK, LAW) for kind, *_ in lines(self.code, self.numbers))

    @property
    def stochastic(self) -> bool:
        """Whether noise is drawn on the way."""
        return any(kind == NOISE for kind, *_ in lines(self.code, self.numbers))


def lines(code: Any, numbers: Any) -> Iterator[tuple[int, int, Any, Any]]:
    """(kind, f, how far back each term lies, numbers) of each line."""
    at, place, code = 0, 0, np.asarray(code).tolist()
    while at < len(code):
        kind, function, terms, columns = code[at : at + 4]
        at += 4
        count = terms + (columns + 1 if kind == NETWORK else 2 if kind == LAW else 0)
        yield kind, function, code[at : at + terms], numbers[place : place + count]
        at, place = at + terms, place + count


def written(recorded: list[Line]) -> tuple[Any, Any]:
    """Code and numbers of lines."""
    code: list[int] = []
    numbers: list[float] = []
    for i, line in enumerate(recorded):
        columns = len(line.rest) - 1 if line.kind == NETWORK else 0
        code += [line.kind, line.function, len(line.terms), columns, *(i - j for j, _ in line.terms)]
        numbers += [*(c for _, c in line.terms), *line.rest]
    return np.array(code, dtype=np.int64), np.array(numbers, dtype=np.float64)


def describe(plan: Plan, add: Callable[[Any, str], Mapping[str, Any]]) -> dict[str, Any]:
    """The arrays of a plan as JSON; `add` stores an array and says where."""
    return {
        "nfe": plan.evaluations,
        "stochastic": plan.stochastic,
        "code": add(plan.code, small(plan.code)),
        "numbers": add(plan.numbers, "f4"),
        "slope": None if plan.slope is None else add(plan.slope, "f4"),
        "states": add(plan.states, "f4"),
    }


def small(code: Any) -> str:
    """The type that holds a code."""
    return "u1" if code.max(initial=0) < 1 << 8 else "u2" if code.max() < 1 << 16 else "i4"
