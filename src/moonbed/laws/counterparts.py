"""The schedulers of diffusers beside our samplers: the same timesteps, the same noise, the exact denoiser.

diffusers computes in float32, from tables of float32, so that equal methods differ by about 1e-5 of the greatest
states. Its options are set so that both do the same: the same timesteps, the same last step (onto no noise, which is
denoising, or onto the least noise of the schedule), and no lower order at the end.
"""

from __future__ import annotations

import inspect
from typing import Any, NamedTuple

from torch import Tensor

from moonbed.diffusion import Exact, Sampler
from moonbed.diffusion.diffusers_bridge import DiffusersBetas
from moonbed.diffusion.samplers import (
    DDIM,
    DDPM,
    DEIS,
    Churn,
    DPMSolver2M,
    DPMSolver3M,
    Trailing,
    UniformTime,
    UniPC,
)
from moonbed.rng import Rng
from moonbed.targets import Target

TRAILING: dict[str, Any] = {"timestep_spacing": "trailing"}
ONTO_LEAST: dict[str, Any] = {
    "timestep_spacing": "linspace",
    "final_sigmas_type": "sigma_min",
    "lower_order_final": False,
}


class Counterpart(NamedTuple):
    """One of our samplers, the scheduler that should do the same, its options.

    `denoises`: ours denoises once more at the end. `why` says why they are not equal, where they are known not to be.
    """

    sampler: Sampler
    scheduler: str
    options: dict[str, Any]
    denoises: bool
    why: str = ""


def _trailing(sampler: Sampler, scheduler: str, **options: Any) -> Counterpart:
    """40 timesteps, the last of which is denoised by both."""
    ours = sampler.replace(steps=39, spacing=Trailing())
    return Counterpart(ours, scheduler, TRAILING | options, denoises=False)


def _onto_least(sampler: Sampler, scheduler: str, why: str = "", **options: Any) -> Counterpart:
    """37 steps of 27 timesteps, from the last one to the first; we then denoise."""
    ours = sampler.replace(steps=37, spacing=UniformTime())
    return Counterpart(ours, scheduler, ONTO_LEAST | options, True, why)


_MULTISTEP = "DPMSolverMultistepScheduler"
_SDE = {"algorithm_type": "sde-dpmsolver++"}

COUNTERPARTS = [
    _trailing(DDIM(), "DDIMScheduler", clip_sample=False),
    _trailing(DDIM(), "EulerDiscreteScheduler"),
    _trailing(DDIM(eta=1), "DDPMScheduler", clip_sample=False),
    _trailing(DDPM(), "DDPMScheduler", clip_sample=False),
    _trailing(DDIM(eta=1), "EulerAncestralDiscreteScheduler"),
    _trailing(Churn(s_churn=0), "HeunDiscreteScheduler"),
    _onto_least(DPMSolver2M(), _MULTISTEP),
    _onto_least(DPMSolver2M(eta=1), _MULTISTEP, **_SDE),
    _onto_least(DPMSolver3M(), _MULTISTEP, solver_order=3, solver_type="heun"),
    _onto_least(
        DPMSolver3M(eta=1),
        _MULTISTEP,
        "its third order with noise subtracts D2/2 where k-diffusion and the ODE add it",
        solver_order=3,
        solver_type="heun",
        **_SDE,
    ),
    _onto_least(UniPC(points=1), "UniPCMultistepScheduler", solver_order=1),
    _onto_least(UniPC(points=2), "UniPCMultistepScheduler", solver_order=2),
    _onto_least(UniPC(points=3), "UniPCMultistepScheduler", solver_order=3),
    _onto_least(
        UniPC(points=3, corrector=False), "UniPCMultistepScheduler", solver_order=3, disable_corrector=[*range(37)]
    ),
    *(
        _onto_least(DEIS(points=k, variable="logrho"), "DEISMultistepScheduler", solver_order=k, solver_type="logrho")
        for k in (1, 2, 3)
    ),
    _onto_least(
        DEIS(points=3),
        "DEISMultistepScheduler",
        "it knows the polynomial in log(sigma/alpha) alone, ours of the paper is in t",
        solver_order=3,
        solver_type="logrho",
    ),
]

WORDS = {
    "Churn": "its Heun adds no noise, and is Churn with s_churn = 0",
    "DPMSolver2M": "it has eta = 0 and eta = 1 alone",
    "DPMSolver3M": "its third order has half of D''/2, and eta = 0 and eta = 1 alone",
    "DDIM": "it is compared at eta = 0 and eta = 1",
    "DDPM": "its fixed_large adds noise at the last timestep too, unless that is 0",
    "DEIS": "it knows the polynomial in log(sigma/alpha) alone",
    "Euler": "its Euler is in sigma/alpha, and that is DDIM; ours is in t",
    "Heun": "its Heun is in sigma/alpha, and that is Churn with s_churn = 0; ours is in t",
    "Midpoint": "its KDPM2 takes the middle of log sigma and steps in sigma/alpha; ours is in t",
    "RK4": "none; PNDM only starts with it",
    "RK45": "none",
    "EulerMaruyama": "its ScoreSdeVe is for VE alone and keeps a noise schedule of its own",
    "PredictorCorrector": "its ScoreSdeVe is for VE alone and keeps a noise schedule of its own",
    "Renoise": "its CMStochasticIterative keeps a noise schedule and a prediction of its own",
    "Jump": "none that follows our noise schedule; without a flow map it is DDIM",
    "Diffusers": "it is diffusers",
}


def difference(pair: Counterpart, target: Target, betas: str = "linear", n: int = 100) -> float:
    """The greatest difference in any coordinate at the end, from the same noise, over the greatest coordinate."""
    schedule: Any = DiffusersBetas.parse({"type": "DiffusersBetas", "betas": betas})
    noise = Rng(0).stream("noise").normal((n, target.dim))
    *_, before, last = pair.sampler.trajectory(Exact(target, schedule), noise, Rng(0).stream("s"))
    ours, theirs = before if pair.denoises else last, diffused(pair, target, schedule, noise)
    return float((ours - theirs).abs().max() / ours.abs().max())


def diffused(pair: Counterpart, target: Target, schedule: DiffusersBetas, noise: Tensor) -> Tensor:
    """(n, dim): what the scheduler makes of the noise. One that works in sigma/alpha has to end without noise."""
    import diffusers

    cls = getattr(diffusers, pair.scheduler)
    known = inspect.signature(cls.__init__).parameters
    scheduler = cls(
        trained_betas=schedule._scheduler.betas.numpy(), **{k: v for k, v in pair.options.items() if k in known}
    )
    scheduler.set_timesteps(pair.sampler.steps + (not pair.denoises))
    random = pair.sampler.needs_score and "generator" in inspect.signature(scheduler.step).parameters
    extra = {"generator": Rng(0).stream("s").generator} if random else {}
    exact, times = Exact(target, schedule), scheduler.timesteps.double() / (schedule.steps - 1)
    scaled = float(scheduler.init_noise_sigma) != 1
    start = schedule.sigma(times[0]) / (schedule.alpha(times[0]) if scaled else 1)
    x = noise * float(start)
    for k, t in zip(scheduler.timesteps, times, strict=True):
        eps = exact.eps(scheduler.scale_model_input(x, k), t)
        x = scheduler.step(eps, k, x, **extra).prev_sample
    return x


def beside(sampler: Sampler) -> tuple[float | None, str]:
    """(difference from the counterpart, if any; which it is, and why they differ) for any steps and spacing."""
    from moonbed.targets.curves import TwoMoons

    for pair in COUNTERPARTS:
        if pair.sampler.replace(steps=sampler.steps, **_spacing(sampler)) == sampler:
            return difference(pair, TwoMoons(noise=0.2)), f"{pair.scheduler}{': ' * bool(pair.why)}{pair.why}"
    return None, WORDS.get(type(sampler).__name__, "none was looked for")


def _spacing(sampler: Sampler) -> dict[str, Any]:
    return {"spacing": sampler.spacing} if hasattr(sampler, "spacing") else {}
