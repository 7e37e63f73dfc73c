"""A vector space in the place of points, on which a sampler writes its plan.

The state is one row (1, size), and its columns are coefficients: the first noise is the basis vector e_0; each answer
of the network, or of the law, each draw, and each state that the sampler yields is a basis vector of its own, new at
that moment. A state that was yielded is overwritten by its basis vector, in place, so that all that is made of it from
then on is said in terms of it, and combinations stay short. Networks, laws and streams here are fakes that note what
they are asked; schedules, predictions, guidance and samplers are the real ones.

What a sampler does with the *numbers* of a state (a norm, a comparison) cannot be seen here. So each plan is run beside
its sampler on a few points, with a nonlinear function for the network, and refused where they part.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from moonbed._lazy import lazy_import
from moonbed.component import SpecError
from moonbed.diffusion import Denoiser, Sampler
from moonbed.diffusion.diffusers_bridge import Diffusers
from moonbed.live.plan import LAW, NETWORK, NOISE, START, STATE, Line, Plan, written
from moonbed.live.tape import Untraceable
from moonbed.rng import Rng, Stream

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor
else:
    np = lazy_import("numpy")
    torch = lazy_import("torch")

__all__ = ["Functions", "Make", "levels", "record"]

POINTS = 7
"""Points on which a plan is run beside its sampler."""
_CLOSE = 1e-5
_LONG = 6  # terms
_MOST_TERMS = 1 << 18


class Full(Exception):
    """The vector space is too small."""


class Functions:
    """What a denoiser is made of: `network(f)` and `law(f)`; here, what they are asked is given to `answer`."""

    def __init__(self, answer: Callable[[int, int, Tensor, tuple[float, ...]], Tensor], columns: int) -> None:
        self._answer, self._columns = answer, columns

    def network(self, f: int) -> Any:
        """A function (x, c_noise) with the number f."""

        def network(x: Tensor, c_noise: Tensor) -> Tensor:
            if c_noise.numel() != 1:
                raise Untraceable("it asks the network at several noise levels at once")
            rest = (*x[0, self._columns :].tolist(), float(c_noise))
            return self._answer(NETWORK, f, x[:, : self._columns], rest)

        return network

    def law(self, f: int) -> Any:
        """A law with the number f, of which the denoiser is asked."""
        return _Law(lambda x, alpha, sigma: self._answer(LAW, f, x, (float(alpha), float(sigma))))


class _Law:
    def __init__(self, denoise: Callable[[Tensor, float, float], Tensor]) -> None:
        self.denoise = denoise


Make = Callable[[Functions], Denoiser]
"""What makes a denoiser from the functions."""


class Tracker(Denoiser):
    """A denoiser that tells `asked` where it is asked: (x_t, t)."""

    def __init__(self, inner: Denoiser, asked: Callable[[Tensor, Tensor], None]) -> None:
        self.inner, self.schedule, self._asked = inner, inner.schedule, asked
        self.gaussian, self.posterior = inner.gaussian, inner.posterior

    def given(self, label: int | None) -> Tracker:
        return Tracker(self.inner.given(label), self._asked)

    def combine(self, x_t: Tensor, t: Tensor, w_x: Tensor | float, w_d: Tensor | float) -> Tensor:
        self._asked(x_t, t)
        return self.inner.combine(x_t, t, w_x, w_d)

    def jump(self, x_t: Tensor, t: float | Tensor, u: float | Tensor) -> Tensor:
        self._asked(x_t, torch.as_tensor(t, dtype=torch.float64))
        return self.inner.jump(x_t, t, u)


class _Draws(Stream):
    """A stream of which normal numbers are all that can be drawn."""

    def __init__(self, normal: Callable[[Sequence[int]], Tensor]) -> None:
        super().__init__(0)
        self._normal = normal

    def normal(self, shape: Sequence[int], dtype: torch.dtype | None = None) -> Tensor:
        return self._normal(shape)

    def uniform(self, shape: Sequence[int], dtype: torch.dtype | None = None) -> Tensor:
        raise Untraceable("it draws uniform numbers, which a plan has no line for")

    def integers(self, high: int, shape: Sequence[int]) -> Tensor:
        raise Untraceable("it draws integers, which a plan has no line for")

    def permutation(self, n: int) -> Tensor:
        raise Untraceable("it draws a permutation, which a plan has no line for")

    def numpy(self) -> np.random.Generator:
        raise Untraceable("it draws by NumPy, where nobody sees what")


class Recorder:
    """The vector space and its lines."""

    def __init__(self, size: int) -> None:
        self.size, self.lines = size, list[Line]()
        self.asked: list[tuple[int, Line, float]] = []
        """(how many lines there were, the combination, t) of each time that the denoiser was asked."""

    def vector(self, line: Line) -> Tensor:
        """The basis vector of a new line."""
        if len(self.lines) >= self.size:
            raise Full
        self.lines.append(line)
        x = torch.zeros(1, self.size, dtype=torch.float64)
        x[0, len(self.lines) - 1] = 1
        return x

    def terms(self, x: Tensor) -> tuple[tuple[int, float], ...]:
        """The combination that a row is."""
        row = x.detach().reshape(-1)
        if len(row) != self.size:
            raise Untraceable(f"it makes rows of {len(row)} numbers of rows of {self.size}")
        places = torch.nonzero(row).squeeze(1)
        if len(places) and int(places[-1]) >= len(self.lines):
            raise Untraceable("it adds to the state what is neither state, nor noise, nor an answer")
        found = tuple(zip(places.tolist(), row[places].double().tolist(), strict=True))
        largest = max((abs(c) for _, c in found), default=0.0)
        if not largest < float("inf"):
            raise Untraceable("its coefficients are not finite")
        return tuple((j, c) for j, c in found if abs(c) > 1e-14 * largest)

    def answer(self, kind: int, f: int, x: Tensor, rest: tuple[float, ...]) -> Tensor:
        """What the network or the law answers."""
        return self.vector(Line(kind, f, self.terms(x), rest))

    def note(self, x_t: Tensor, t: Tensor) -> None:
        """Where the denoiser is asked."""
        if t.numel() == 1:
            self.asked.append((len(self.lines), Line(STATE, terms=self.terms(x_t)), float(t)))


@contextmanager
def _drawing(sampler: Sampler, normal: Callable[[Sequence[int]], Tensor]) -> Iterator[None]:
    """diffusers' schedulers draw with a function of their module, which is replaced meanwhile."""
    if not isinstance(sampler, Diffusers):
        yield
        return
    module = sys.modules[sampler._class().__module__]

    def randn_tensor(shape: Sequence[int], *args: Any, dtype: torch.dtype | None = None, **kwargs: Any) -> Tensor:
        x = normal(shape)
        return x if dtype is None else x.to(dtype)

    if not hasattr(module, "randn_tensor"):
        yield
        return
    with patch.object(module, "randn_tensor", randn_tensor):
        yield


def _states(sampler: Sampler, denoiser: Denoiser, x: Tensor, normal: Callable[[Sequence[int]], Tensor]) -> Iterator[Tensor]:
    """The states that a sampler yields, with these draws."""
    with torch.no_grad(), _drawing(sampler, normal):
        yield from sampler.trajectory(denoiser, x, _Draws(normal))


def record(sampler: Sampler, make: Make, weight: Callable[[float], Make] | None = None) -> Plan:
    """The plan of a sampler on the denoiser that `make` makes. Raises `Untraceable`.

    `weight` makes the maker for a guidance scale, where there is guidance.
    """
    if sampler.adaptive:
        raise Untraceable(f"{type(sampler).__name__} chooses its steps by what it finds, so there is no plan to follow")
    if isinstance(sampler, Diffusers):
        sampler.make(make(Functions(_silent, 1)).schedule)
    try:
        recorded, states = _recorded(sampler, make if weight is None else weight(2.0))
        code, numbers = written(recorded)
        slope = None
        if weight is not None:
            more, _ = _recorded(sampler, weight(3.0))
            other, further = written(more)
            if not np.array_equal(code, other):
                raise Untraceable("guidance of another scale would take other steps")
            slope = further - numbers
        plan = Plan(code, numbers, slope, np.array(states))
        _hold(plan, sampler, make if weight is None else weight(1.5), plan.numbers if slope is None else numbers - slope / 2)
    except (Untraceable, SpecError):
        raise
    except Exception as error:
        raise Untraceable(f"{type(sampler).__name__} cannot be written down: {error}") from error
    return plan


def _silent(kind: int, f: int, x: Tensor, rest: tuple[float, ...]) -> Tensor:
    return x


def _recorded(sampler: Sampler, make: Make) -> tuple[list[Line], list[tuple[float, float, float]]]:
    size = 4 * sampler.steps + 64
    while True:
        try:
            return _run(sampler, make, Recorder(size))
        except Full:
            if size > 1 << 16:
                raise Untraceable("it takes more steps than a page should") from None
            size *= 2


def _run(sampler: Sampler, make: Make, space: Recorder) -> tuple[list[Line], list[tuple[float, float, float]]]:
    denoiser = Tracker(make(Functions(space.answer, space.size)), space.note)
    start = space.vector(Line(START))
    first = space.vector(Line(STATE, terms=((0, 1.0),)))  # its scale is known when the denoiser is first asked
    yielded = [1]

    def normal(shape: Sequence[int]) -> Tensor:
        if tuple(shape) != (1, space.size):
            raise Untraceable(f"it draws {tuple(shape)} normal numbers for {(1, space.size)} of the state")
        return space.vector(Line(NOISE))

    del first
    for x in _states(sampler, denoiser, start, normal):
        vector = space.vector(Line(STATE, terms=space.terms(x)))
        yielded.append(len(space.lines) - 1)
        x.copy_(vector)
        if sum(len(line.terms) for line in space.lines) > _MOST_TERMS:
            raise Untraceable("its steps look back farther than a page should")
    if len(yielded) < 2:
        raise Untraceable("it yields no state")
    return _finished(space, denoiser, yielded)


def _finished(space: Recorder, denoiser: Denoiser, yielded: list[int]) -> tuple[list[Line], list[tuple[float, float, float]]]:
    """The lines that are needed, in their order; and t, alpha, sigma of the states."""
    made = list(space.lines)
    scale = next((dict(line.terms).get(0) for _, line, _ in space.asked if len(line.terms) == 1), None)
    made[1] = Line(STATE, terms=((0, 1.0 if scale is None else scale),))
    levels = _levels(space, denoiser, yielded)
    _shorten(made, yielded)
    needed, stack = set(), [0, *yielded, *(k for k, line in enumerate(made) if line.kind == NOISE)]
    while stack:
        k = stack.pop()
        if k not in needed:
            needed.add(k)
            stack += [j for j, _ in made[k].terms]
    order = sorted(needed)
    number = {k: i for i, k in enumerate(order)}
    out = [
        Line(line.kind, line.function, tuple((number[j], c) for j, c in line.terms), line.rest)
        for line in (made[k] for k in order)
    ]
    return out, levels


def _shorten(made: list[Line], yielded: list[int]) -> None:
    """Say states in terms of the state before, where a sampler goes on from what it did not yield.

    Both then are long combinations of the same old vectors, in one ratio.
    """
    shortened: dict[int, tuple[tuple[int, float], ...]] = {}
    for before, state in pairwise(yielded):
        past, now = dict(made[before].terms), dict(made[state].terms)
        if len(now) <= _LONG or before in now or not past.keys() & now.keys():
            continue
        oldest = min(past.keys() & now.keys())
        ratio = now[oldest] / past[oldest]
        rest = {j: now.get(j, 0.0) - ratio * past.get(j, 0.0) for j in past.keys() | now.keys()}
        largest = max(abs(c) for c in now.values())
        short = {j: c for j, c in rest.items() if abs(c) > 1e-11 * largest and j != oldest}
        if len(short) + 1 < len(now):
            shortened[state] = tuple(sorted([*short.items(), (before, ratio)]))
    for state, terms in shortened.items():
        made[state] = Line(STATE, terms=terms)


def _levels(space: Recorder, denoiser: Denoiser, yielded: list[int]) -> list[tuple[float, float, float]]:
    """(t, alpha, sigma) of each state x = alpha x_0 + sigma eps.

    The denoiser was asked at t, next, for c x and fresh noise of size z: then alpha(t) = c alpha and sigma(t)² =
    (c sigma)² + z².
    """
    out: list[tuple[float, float, float]] = []
    asked = iter(space.asked)
    pending = next(asked, None)
    for place, state in enumerate(yielded):
        while pending is not None and pending[0] <= state and place:
            pending = next(asked, None)
        found = None if place == len(yielded) - 1 else _level(space, denoiser, 0 if place == 0 else state, pending)
        out.append(found or (out[-1] if out and place < len(yielded) - 1 else (0.0, 1.0, 0.0)))
    return out


def _level(space: Recorder, denoiser: Denoiser, state: int, asked: Any) -> tuple[float, float, float] | None:
    if asked is None:
        return None
    _, line, t = asked
    time = torch.tensor(t, dtype=torch.float64)
    a, s = float(denoiser.schedule.alpha(time)), float(denoiser.schedule.sigma(time))
    terms = dict(line.terms)
    c = terms.pop(state, None)
    if state == 0:
        return (t, a, s)
    if c is None or c == 0 or any(space.lines[j].kind != NOISE for j in terms):
        return None
    if not terms:
        return t, a / c, s / c
    alpha, sigma = a / c, max(s**2 - sum(z**2 for z in terms.values()), 0.0) ** 0.5 / c
    if sigma < 1e-6 * alpha:
        return 0.0, alpha, 0.0
    own = denoiser.schedule.time(2 * torch.log(torch.tensor(alpha / sigma, dtype=torch.float64)))
    return float(own), alpha, sigma


# Levels


def levels(times: Tensor, make: Make, weight: Callable[[float], Make] | None = None) -> list[Plan]:
    """For each time the plan of D(x, t), whose line 0 is the x that is given and whose only state is D."""
    return [_level_plan(t, make, weight) for t in times]


def _level_plan(t: Tensor, make: Make, weight: Callable[[float], Make] | None) -> Plan:
    found = []
    for maker in [make] if weight is None else [weight(2.0), weight(3.0)]:
        space = Recorder(16)
        denoiser = maker(Functions(space.answer, space.size))
        x = space.vector(Line(START))
        with torch.no_grad():
            space.vector(Line(STATE, terms=space.terms(denoiser(x, t))))
        found.append(written(space.lines))
    (code, numbers), *other = found
    slope = None
    if other:
        if not np.array_equal(code, other[0][0]):
            raise Untraceable("guidance of another scale asks for other things")
        slope = other[0][1] - numbers
    return Plan(code, numbers, slope, np.zeros((1, 3)))


# Beside the sampler


def _stand_in(kind: int, f: int, x: Any, rest: Sequence[float]) -> Any:
    """A smooth nonlinear function of the rows in the place of a network or of a law, between -2 and 2."""
    turned = x[:, ::-1]
    if kind == LAW:
        a, s = rest
        x, turned, shift = x / (a + s), turned / (a + s), s / (a + s)
    else:
        shift = sum(np.sin(3 * c + k) for k, c in enumerate(rest))
    return 1.5 * np.tanh(0.7 * x + 0.4 * turned + 0.3 * shift + f) + 0.5 * np.sin(turned - shift)


def _hold(plan: Plan, sampler: Sampler, make: Make, numbers: Any) -> None:
    """Raises `Untraceable` where the plan and the sampler part."""
    from moonbed.live.replay import run_plan

    rng = Rng(0).child("plan", "check")
    start = rng.stream("start").normal((POINTS, 2), torch.float64)

    def noise(k: int) -> Tensor:
        return rng.stream("noise", k).normal((POINTS, 2), torch.float64)

    drawn = iter(range(1 << 30))
    functions = Functions(lambda kind, f, x, rest: torch.from_numpy(_stand_in(kind, f, x.double().numpy(), rest)), 2)
    wanted = [x.clone().double().numpy() for x in _states(sampler, make(functions), start.clone(), lambda _: noise(next(drawn)))]

    class Asked:
        def __getitem__(self, f: int) -> Callable[..., Any]:
            return lambda x, *rest: _stand_in(
                *((NETWORK, f, x, (*rest[0], rest[1])) if np.ndim(rest[0]) else (LAW, f, x, rest))
            )

    got = list(run_plan(plan, start.numpy(), Asked(), lambda k: noise(k).numpy(), numbers))[1:]  # type: ignore[arg-type]
    if len(got) != len(wanted):
        raise Untraceable(f"{type(sampler).__name__} took {len(wanted)} steps, and {len(got)} when it was written down")
    for a, b in zip(got, wanted, strict=True):
        if not np.abs(a - b).max() <= _CLOSE * (1 + np.abs(b).max()):
            raise Untraceable(
                f"{type(sampler).__name__} does more than form linear combinations: what it does depends on the state"
            )
