"""Every kind with its laws, and one way to hold a member of any kind against them.

What a member does wrong is a verdict, never an error of the one who asks: code that raises has broken the law that it
was being held against, and the verdict names the exception and the line of the member's own file.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import torch

from moonbed.component import Component, SpecError
from moonbed.diffusion import Exact, Sampler, Schedule
from moonbed.diffusion.density import Draw
from moonbed.diffusion.schedules import VE, Cosine, Linear
from moonbed.laws.base import Broken, Law, Verdict, hold, in_words
from moonbed.laws.metrics import METRIC_LAWS
from moonbed.laws.networks import DENSITY_LAWS, EMBEDDING_LAWS, NETWORK_LAWS
from moonbed.laws.predictions import PREDICTION_LAWS, prediction_is_learnable, prediction_is_textbook
from moonbed.laws.samplers import (
    convergence_order,
    final,
    sampler_has_its_order,
    sampler_has_the_law,
    sampler_needs_what_it_says,
    sampler_yields_every_step,
)
from moonbed.laws.schedules import SCHEDULE_LAWS
from moonbed.laws.targets import TARGET_LAWS
from moonbed.laws.training import AVERAGING_LAWS, OPTIMIZER_LAWS, RATE_LAWS, SPACING_LAWS, TIMES_LAWS, WEIGHT_LAWS
from moonbed.rng import Rng
from moonbed.targets.curves import TwoMoons

SMOOTH, MOONS = TwoMoons(noise=0.5), TwoMoons(noise=0.2)
ENOUGH = 256
"""Steps with which every one of our samplers has the law of `MOONS`."""


def _ends(sampler: Sampler, most: int = 10_000) -> None:
    """A generator without an end would never be judged."""
    if not sampler.adaptive:
        with contextlib.suppress(SpecError):  # one that has its own number
            sampler = sampler.replace(steps=2)
    most += sampler.steps
    states = sampler.trajectory(Exact(SMOOTH, Cosine()), torch.zeros(1, 2), Rng(7).stream("s"))
    hold(sum(1 for _ in islice(states, most)) < most, f"{sampler.steps} steps yield {most:,} states and more")


def sampler_steps(sampler: Sampler) -> None:
    """Each step yields a finite state of the noise's shape and type; one noise and one stream give one sample."""
    _ends(sampler)
    for schedule in (Cosine(), VE()):
        with _under(schedule):
            sampler_yields_every_step(sampler, schedule, SMOOTH)


def sampler_ends_at_the_target(sampler: Sampler) -> None:
    """With the exact denoiser and steps enough (256, or more if it has them) the samples have the law of the target."""
    _ends(sampler)
    few = sampler.steps <= ENOUGH
    sampler, n = (sampler.replace(steps=ENOUGH), 600) if few else (sampler, 500)
    schedules: tuple[Schedule, ...] = (Cosine(), VE()) if few else (Cosine(),)
    for schedule in schedules:
        try:
            with _under(schedule):
                sampler_has_the_law(sampler, schedule, MOONS, n=n)
        except Broken as broken:
            x = final(sampler, Exact(MOONS, schedule), Rng(8).stream("noise").normal((n, 2), torch.float64))
            mean, sd = (", ".join(f"{v:.3f}" for v in part.tolist()) for part in (x.mean(0), x.std(0)))
            truth = "the truth has mean 0 and standard deviation 1"
            raise Broken(f"{broken}; mean ({mean}), standard deviation ({sd}), {truth}") from None


def sampler_converges(sampler: Sampler) -> None:
    """With its steps halved it converges at the order that it declares, or at the first if it draws no noise.

    With noise the order is that of its law, for Gaussian data.
    """
    if sampler.adaptive:
        return
    _ends(sampler)
    try:
        if sampler.order is not None:
            sampler_has_its_order(sampler, Cosine(), SMOOTH)
        elif _draws_nothing(sampler):
            order = convergence_order(sampler, Cosine(), SMOOTH)
            hold(order > 0.7, f"from 48 steps on, errors shrink with the order {order:.2f}, not 1 or more")
    except (ZeroDivisionError, ValueError):  # the logarithm of 0, or of nothing by nothing
        raise Broken("more steps make no difference at all") from None


def _draws_nothing(sampler: Sampler) -> bool:
    noise = Rng(9).stream("noise").normal((4, 2), torch.float64)
    a, b = (final(sampler, Exact(SMOOTH, Cosine()), noise, Rng(k).stream("s")) for k in (0, 1))
    return torch.equal(a, b)


def sampler_says_that_it_draws(sampler: Sampler) -> None:
    """One that draws noise says `needs_score`, so that it can be refused where the noise is not Gaussian."""
    _ends(sampler)
    sampler_needs_what_it_says(sampler, Cosine())


SAMPLER_LAWS: list[Law] = [
    sampler_steps,
    sampler_says_that_it_draws,
    sampler_converges,
    sampler_ends_at_the_target,
]


class _under:
    """Says of a law that is broken within, under which schedule."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if isinstance(error, Broken):
            raise Broken(f"under {self.schedule}: {error}") from None


def _under_each(law: Callable[[Any, Schedule], None], *schedules: Schedule) -> Law:
    @functools.wraps(law)
    def held(member: Any) -> None:
        for schedule in schedules:
            with _under(schedule):
                law(member, schedule)

    return held


def _prediction_laws() -> list[Law]:
    ours = [_under_each(law, Cosine(), Linear(), VE()) for law in PREDICTION_LAWS if law is not prediction_is_textbook]
    return [*ours, _under_each(prediction_is_learnable, Cosine(), Linear())]


LAWS: Mapping[str, Sequence[Law]] = {
    "Target": TARGET_LAWS,
    "Schedule": SCHEDULE_LAWS,
    "Prediction": _prediction_laws(),
    "Weight": WEIGHT_LAWS,
    "Times": TIMES_LAWS,
    "Network": NETWORK_LAWS,
    "Embedding": EMBEDDING_LAWS,
    "Spacing": SPACING_LAWS,
    "Sampler": SAMPLER_LAWS,
    "Metric": METRIC_LAWS,
    "Optimizer": OPTIMIZER_LAWS,
    "LearningRate": RATE_LAWS,
    "Averaging": AVERAGING_LAWS,
}
"""Name of a kind -> its laws; a kind that is not here has none."""


def laws_of(member: Component) -> Sequence[Law]:
    """The laws of the member's kind; those of densities and of what draws from them are their own."""
    if isinstance(member, Draw):
        return ()
    if (
        isinstance(member, Sampler) and member.flow_map
    ):  # an exact denoiser is no flow map, so its samples have another law
        return SAMPLER_LAWS[:2]
    if getattr(member, "density", False) and member.kind().__name__ == "Network":
        return DENSITY_LAWS
    return LAWS.get(member.kind().__name__, ())


def check(member: Component) -> Iterator[Verdict]:
    """Hold a member against the laws of its kind, one after the other."""
    for law in laws_of(member):
        yield verdict(law, member)


def verdict(law: Law, member: Component) -> Verdict:
    """What comes of holding a member against a law."""
    try:
        law(member)
    except Broken as broken:
        return Verdict(in_words(law), False, str(broken))
    except (Exception, SystemExit) as error:
        return Verdict(in_words(law), False, _raised(error, member))
    return Verdict(in_words(law), True)


def _raised(error: BaseException, member: Component) -> str:
    """Type and message of an exception, and the last line of the member's own file that led to it."""
    file = getattr(sys.modules.get(type(member).__module__), "__file__", None)
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame for frame in frames if frame.filename == file]
    place = f" at {lines[-1].filename}:{lines[-1].lineno}" if lines else ""
    text = str(error) if isinstance(error, SpecError) else f"{type(error).__name__}: {error}"
    return f"{' '.join(text.split())}{place}"
