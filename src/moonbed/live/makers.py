"""An experiment's denoiser around other functions than its own, and what its plans depend on.

Plans are kept while the process lives: rows of one schedule share them, and so does a training that goes on.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from moonbed.experiments.evaluate import assembled, exactly
from moonbed.experiments.spec import Experiment, Training
from moonbed.live.fakes import Functions, Make
from moonbed.live.tape import Untraceable

__all__ = ["NOTHING", "dependencies", "exact", "learned", "once"]

_KEPT = 4096
_RECORDED: OrderedDict[Any, Any] = OrderedDict()
"""Plans, and the reasons why there is none, by all that they depend on: those of a training that goes on stay."""


def once(key: Any, make: Callable[[], Any]) -> Any:
    """What `make` makes, or fails at, asked once."""
    if key not in _RECORDED:
        try:
            _RECORDED[key] = make()
        except Untraceable as error:
            _RECORDED[key] = error
        if len(_RECORDED) > _KEPT:
            _RECORDED.popitem(last=False)
    if isinstance(_RECORDED[key], Untraceable):
        raise Untraceable(str(_RECORDED[key]))
    return _RECORDED[key]


NOTHING = Functions(lambda kind, f, x, rest: x, 1)


def learned(experiment: Experiment) -> Make:
    """The denoiser of an experiment around other networks: number 0, and 1 for its guide."""

    def make(functions: Functions) -> Any:
        plain = experiment.training.denoiser(functions.network(0))
        worse = None if experiment.guide is None else experiment.guide.denoiser(functions.network(1))
        return assembled(experiment, plain, worse)

    return make


def exact(experiment: Experiment) -> Make:
    """The exact denoiser around other laws: number 0, and 1 for that of the label."""
    return lambda f: exactly(experiment, f.law(0), None if experiment.label is None else f.law(1))


def dependencies(experiment: Experiment, kind: str) -> tuple[Any, ...]:
    """All that a plan depends on but the sampler, and the scale of guidance, in which it is affine.

    `kind` is "network", or "law" for the exact denoiser.
    """

    def one(training: Training | None) -> Any:
        if training is None:
            return None
        objective = training.objective
        how = (
            type(objective).denoiser.__qualname__ if type(objective).__module__.startswith("moonbed.") else objective.id
        )
        return how, training.schedule, training.prediction, training.classes, training.gaussian, objective.posterior

    guidance = experiment.guidance and experiment.guidance.replace(scale=2.0)
    if kind == "law":
        return experiment.schedule or experiment.training.schedule, experiment.label is None, guidance
    return one(experiment.training), one(experiment.guide), experiment.schedule, experiment.label, guidance
