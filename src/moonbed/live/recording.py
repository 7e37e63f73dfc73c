"""A vector space in the place of points, on which a sampler writes its plan.

The state is one row (1, size), and its columns are coefficients: the first noise is the basis vector e_0; each answer
of the network, or of the law, each draw, and each state that the sampler yields is a basis vector of its own, new at
that moment. A state that was yielded is overwritten by its basis vector, in place, so that all that is made of it from
then on is said in terms of it, and combinations stay short. Networks, laws and streams here are fakes that note what
they are asked; schedules, predictions, guidance and samplers are the real ones.

What a sampler does with the *numbers* of a state (a norm, a comparison) cannot be seen here: see `beside`.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from moonbed._lazy import lazy_import
from moonbed.component import SpecError
from moonbed.diffusion import Denoiser, Sampler
from moonbed.diffusion.diffusers_bridge import Diffusers
from moonbed.diffusion.diffusers_bridge.table import TABLE
from moonbed.live.fakes import Functions, Make, Tracker, states
from moonbed.live.plan import NOISE, START, STATE, SUM, Line, Plan, written
from moonbed.live.tape import Untraceable

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor
else:
    np = lazy_import("numpy")
    torch = lazy_import("torch")

__all__ = ["levels", "record"]

_LONG = 6  # terms
_MOST_TERMS = 1 << 18


class Full(Exception):
    """The vector space is too small."""


class Recorder:
    """The vector space and its lines. With `sums`, what the denoiser is asked for is a vector of its own."""

    def __init__(self, size: int, sums: bool = False) -> None:
        self.size, self.sums, self.lines, self.count = size, sums, list[Line](), 0
        self.asked: list[tuple[int, Line, float]] = []
        """(how many lines there were, the combination, t) of each time that the denoiser was asked."""

    def vector(self, line: Line) -> Tensor:
        """The basis vector of a new line."""
        if len(self.lines) >= self.size:
            raise Full
        self.lines.append(line)
        self.count += len(line.terms)
        if self.count > _MOST_TERMS:
            raise Untraceable("its steps look back farther than a page should")
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

    def after(self, line: int) -> int:
        """The number of the first time that the denoiser was asked after a line was written."""
        return bisect_right(self.asked, line, key=lambda asked: asked[0])

    def note(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Where the denoiser is asked."""
        line = Line(SUM, terms=self.terms(x_t))
        if t.numel() == 1:
            self.asked.append((len(self.lines), line, float(t)))
        return self.vector(line) if self.sums and len(line.terms) > 1 else x_t


def record(
    sampler: Sampler,
    make: Make,
    weight: Callable[[float], Make] | None = None,
    hold: bool = True,
    sums: bool = False,
) -> Plan:
    """The plan of a sampler on the denoiser that `make` makes. Raises `Untraceable`.

    `weight` makes the maker for a guidance scale, where there is guidance; `sums` where that is between denoisers of
    different predictions or schedules: then the factor of x_t depends on the scale too, and only from evaluation to
    evaluation is a plan affine in it. Without `hold` the plan is not run beside
    the sampler: for one that was, in other steps.
    """
    from moonbed.live.beside import hold_beside

    if sampler.adaptive:
        raise Untraceable(f"{type(sampler).__name__} chooses its steps by what it finds, so there is no plan to follow")
    if isinstance(sampler, Diffusers) and (sampler.options or sampler.scheduler not in TABLE):
        sampler.make(make(Functions(_silent, 1)).schedule)  # its rehearsal, which draws, comes before the fakes
    try:
        recorded, found = _recorded(sampler, make if weight is None else weight(2.0), sums)
        code, numbers = written(recorded)
        slope = None
        if weight is not None:
            more, _ = _recorded(sampler, weight(3.0), sums)
            other, further = written(more)
            if not np.array_equal(code, other):
                raise Untraceable("guidance of another scale would take other steps")
            slope = further - numbers
        plan = Plan(code, numbers, slope, found)
        if hold:
            numbers = numbers if slope is None else numbers - slope / 2
            hold_beside(plan, sampler, make if weight is None else weight(1.5), numbers)
    except (Untraceable, SpecError):
        raise
    except Exception as error:
        raise Untraceable(f"{type(sampler).__name__} cannot be written down: {error}") from error
    return plan


def _silent(kind: int, f: int, x: Tensor, rest: tuple[float, ...]) -> Tensor:
    return x


def _recorded(sampler: Sampler, make: Make, sums: bool) -> tuple[list[Line], Any]:
    size = 4 * sampler.steps + 64
    while True:
        try:
            return _run(sampler, make, Recorder(size, sums))
        except Full:
            if size > 1 << 16:
                raise Untraceable("it takes more steps than a page should") from None
            size *= 2


def _run(sampler: Sampler, make: Make, space: Recorder) -> tuple[list[Line], Any]:
    denoiser = Tracker(make(Functions(space.answer, space.size)), space.note)
    start = space.vector(Line(START))
    first = space.vector(Line(STATE, terms=((0, 1.0),)))  # its scale is known when the denoiser is first asked
    yielded = [1]

    def normal(shape: Sequence[int]) -> Tensor:
        if tuple(shape) != (1, space.size):
            raise Untraceable(f"it draws {tuple(shape)} normal numbers for {(1, space.size)} of the state")
        return space.vector(Line(NOISE))

    del first
    for x in states(sampler, denoiser, start, normal):
        vector = space.vector(Line(STATE, terms=space.terms(x)))
        yielded.append(len(space.lines) - 1)
        x.copy_(vector)
    if len(yielded) < 2:
        raise Untraceable("it yields no state")
    return _finished(space, denoiser, yielded)


def _finished(space: Recorder, denoiser: Denoiser, yielded: list[int]) -> tuple[list[Line], Any]:
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
        if len(now) <= _LONG or not past.keys() & now.keys():
            continue
        oldest = min(past.keys() & now.keys())
        ratio = now[oldest] / past[oldest]
        rest = {j: now.get(j, 0.0) - ratio * past.get(j, 0.0) for j in past.keys() | now.keys()}
        largest = max(abs(c) for c in now.values())
        short = {j: c for j, c in rest.items() if abs(c) > 1e-11 * largest and j != oldest}
        if len(short) + 1 < len(now):
            short[before] = short.get(before, 0.0) + ratio
            shortened[state] = tuple(sorted(short.items()))
    for state, terms in shortened.items():
        made[state] = Line(STATE, terms=terms)


def _levels(space: Recorder, denoiser: Denoiser, yielded: list[int]) -> Any:
    """(states, 3): t, alpha and sigma of each state x = alpha x_0 + sigma eps; the last one is a sample.

    Next after the state the denoiser was asked at t for c x and fresh noise of size z: then alpha(t) = c alpha and
    sigma(t)² = (c sigma)² + z². Where it was asked for anything else, the level of the state before stands.
    """
    times = torch.tensor([t for _, _, t in space.asked], dtype=torch.float64)
    alphas, sigmas = (f(times).tolist() for f in (denoiser.schedule.alpha, denoiser.schedule.sigma))
    out: list[tuple[float, float, float]] = []
    for k, (state, end) in enumerate(pairwise(yielded)):
        found = space.after(state)
        if found == len(times) or space.asked[found][0] > end:
            out.append(out[-1] if out else (1.0, alphas[0], sigmas[0]))
            continue
        a, s = alphas[found], sigmas[found]
        terms = dict(space.asked[found][1].terms)
        c = 1.0 if k == 0 else terms.pop(state, 0.0)
        noisy = 0.0 if k == 0 else sum(z**2 for z in terms.values())
        if not c or (k and any(space.lines[j].kind != NOISE for j in terms)):
            out.append(out[-1])
        else:
            left = s**2 - noisy
            out.append((float(times[found]), a / c, math.sqrt(left) / c if left > 1e-12 * s**2 else 0.0))
    rows = np.array([*out, (0.0, 1.0, 0.0)])
    noisy_rows = (rows[:, 2] != 0) & (rows[:, 1] > 0)
    logsnr = 2 * np.log(rows[noisy_rows, 1] / rows[noisy_rows, 2])
    rows[noisy_rows, 0] = denoiser.schedule.time(torch.from_numpy(logsnr)).numpy()
    rows[rows[:, 2] == 0, 0] = 0
    return rows


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
