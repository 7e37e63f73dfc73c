"""What a reader may sample a model with: the experiment's own sampler, and a menu of others in few to many steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from moonbed.component import Component, SpecError
from moonbed.diffusion import Denoiser, Sampler
from moonbed.diffusion.diffusers_bridge import Diffusers
from moonbed.diffusion.samplers import DDIM, DDPM, DPMSolver2M, Heun, Jump, Renoise
from moonbed.experiments.spec import Experiment

__all__ = ["STEPS", "menu", "name_of", "text_of"]

STEPS = (1, 2, 4, 8, 16, 32, 64)
_PLAIN: tuple[Sampler, ...] = (DDIM(), Heun(), DPMSolver2M(), DDPM(), DPMSolver2M(eta=1.0))


def menu(experiment: Experiment, denoiser: Denoiser) -> Iterator[Sampler]:
    """The samplers that are right for an experiment and what it samples with, its own first."""
    own = experiment.sampler
    if not (experiment.exact and own.flow_map):
        yield own
    others = _PLAIN if denoiser.posterior else (Renoise(),)
    if _jumps(denoiser) and not experiment.exact:
        others = (Jump(), *others)
    for sampler in others:
        for steps in STEPS:
            candidate = sampler.replace(steps=steps)
            try:
                experiment.replace(sampler=candidate)
            except SpecError:
                break
            if candidate != own:
                yield candidate


def _jumps(denoiser: Denoiser) -> bool:
    """Whether a denoiser has learned to jump."""
    inner = [v for v in vars(denoiser).values() if isinstance(v, Denoiser)]
    return any(map(_jumps, inner)) if inner else type(denoiser).jump is not Denoiser.jump


def name_of(sampler: Sampler) -> str:
    """A sampler without its steps: `DPMSolver2M(eta=1)`."""
    if isinstance(sampler, Diffusers):
        options = [f"{k}={v}" for k, v in sampler.options.items()]
        return f"{sampler.scheduler}({', '.join(options)})" if options else sampler.scheduler
    return short(sampler, "steps")


def short(component: Component, *without: str) -> str:
    """A component with the fields that are not as they are by default: `DPMSolver2M(eta=1)`."""
    plain = type(component)()
    changed = []
    for field in dataclasses.fields(component):
        value = getattr(component, field.name)
        if field.name in without or value == getattr(plain, field.name):
            continue
        told = (
            short(value) if isinstance(value, Component) else f"{value:g}" if isinstance(value, float) else f"{value}"
        )
        changed.append(f"{field.name}={told}")
    name = type(component).__name__
    return f"{name}({', '.join(changed)})" if changed else name


def text_of(sampler: Sampler) -> str:
    """`DDIM, 32 steps`."""
    return f"{name_of(sampler)}, {sampler.steps:,} step{'s' if sampler.steps != 1 else ''}"
