"""The table: every scheduler that diffusers exports, and how it goes through the bridge or why it does not.

Two things cannot be mended by telling. A scheduler of tokens has no state in R^n. And one that takes x_0_hat for a
sample of the data and puts fresh noise on it (consistency models: Song et al. 2023; LCM: Luo et al. 2023) needs a model
that gives samples. A denoiser gives their mean, E[x_0 | x_t], and a chain of noised means has too little variance
however many steps it takes: of a Gaussian it keeps half under LCM, and 85 % under TCD with its eta of 0.3.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from moonbed.diffusion.diffusers_bridge import conventions as betas
from moonbed.diffusion.diffusers_bridge import levels
from moonbed.diffusion.diffusers_bridge.conventions import BACKWARD, Convention

__all__ = ["TABLE", "Refused", "Through", "convention_of", "markdown"]


@dataclass(frozen=True)
class Through:
    """It goes through by a convention, with `a` n + `b` evaluations of the denoiser in n steps."""

    convention: type[Convention]
    a: int = 1
    b: int = 0
    noise: bool = False
    """Whether it adds noise on its way, unless an option says otherwise."""
    schedules: str = "any"
    remark: str = ""

    @property
    def evaluations(self) -> str:
        """As a formula in n."""
        sign = f" {'-' if self.b < 0 else '+'} {abs(self.b)}" if self.b else ""
        return f"{self.a if self.a > 1 else ''}n{sign}"


@dataclass(frozen=True)
class Refused:
    """It does not, and why."""

    why: str


CONSISTENCY = Refused("expects a model that gives samples of the data, not their mean, and puts fresh noise on them")
TOKENS = Refused("samples discrete tokens")
FLOW = "with `use_flow_sigmas`, as a flow"

TABLE: Mapping[str, Through | Refused] = {
    "AmusedScheduler": TOKENS,
    "BlockRefinementScheduler": TOKENS,
    "CMStochasticIterativeScheduler": CONSISTENCY,
    "CogVideoXDDIMScheduler": Through(betas.Betas),
    "CogVideoXDPMScheduler": Through(betas.BetasAndLast, noise=True),
    "CosineDPMSolverMultistepScheduler": Through(
        levels.Sigmas, noise=True, remark="needs torchsde, which recurses too deep from noise ratios of 1,000"
    ),
    "DDIMInverseScheduler": Refused(BACKWARD),
    "DDIMParallelScheduler": Through(betas.Betas),
    "DDIMScheduler": Through(betas.Betas),
    "DDPMParallelScheduler": Through(betas.Betas, noise=True),
    "DDPMScheduler": Through(betas.Betas, noise=True),
    "DDPMWuerstchenScheduler": Through(
        levels.OwnCosine, noise=True, schedules="those with noise ratios from 0.01 to 100"
    ),
    "DEISMultistepScheduler": Through(betas.Betas, remark=FLOW),
    "DPMSolverMultistepInverseScheduler": Refused(BACKWARD),
    "DPMSolverMultistepScheduler": Through(betas.Betas, remark=FLOW),
    "DPMSolverSDEScheduler": Through(betas.BetasAndSeed, 2, -1, noise=True, remark="needs torchsde"),
    "DPMSolverSinglestepScheduler": Through(betas.Betas, remark=FLOW),
    "DiscreteDDIMScheduler": TOKENS,
    "EDMDPMSolverMultistepScheduler": Through(levels.Sigmas),
    "EDMEulerScheduler": Through(levels.Sigmas),
    "EntropyBoundScheduler": TOKENS,
    "EulerAncestralDiscreteScheduler": Through(betas.Betas, noise=True),
    "EulerDiscreteScheduler": Through(betas.Betas),
    "FlowMapEulerDiscreteScheduler": Through(levels.Flow, remark="with the velocity in place of a mean one: Euler"),
    "FlowMatchEulerDiscreteScheduler": Through(levels.Flow),
    "FlowMatchHeunDiscreteScheduler": Through(levels.FlowEnds, 2, -1),
    "FlowMatchLCMScheduler": CONSISTENCY,
    "HeliosDMDScheduler": CONSISTENCY,
    "HeliosScheduler": Through(levels.OneStageFlow, remark="one stage"),
    "HeunDiscreteScheduler": Through(betas.Betas, 2, -1),
    "IPNDMScheduler": Through(levels.Angles),
    "KDPM2AncestralDiscreteScheduler": Through(betas.Betas, 2, -1, noise=True),
    "KDPM2DiscreteScheduler": Through(betas.Betas, 2, -1),
    "KarrasVeScheduler": Refused("is withdrawn by diffusers; EDMEulerScheduler and HeunDiscreteScheduler do its work"),
    "LCMScheduler": CONSISTENCY,
    "LMSDiscreteScheduler": Through(betas.Betas),
    "LTXEulerAncestralRFScheduler": Through(levels.FlowToZero, noise=True),
    "MiniMaxH3Scheduler": Through(levels.BackwardFlow, remark="its shift is 12 unless said"),
    "PNDMScheduler": Through(betas.Betas, 1, 9),
    "PiflowScheduler": Refused("expects a policy: several denoised points a step, where a denoiser gives one"),
    "RFD4ProteinaScheduler": Refused("samples atoms of proteins, with a mask and a generator for each"),
    "RePaintScheduler": Refused("fills in an image, and steps with that image and a mask"),
    "SASolverScheduler": Through(betas.Betas, noise=True, remark=FLOW),
    "SCMScheduler": CONSISTENCY,
    "ScoreSdeVeScheduler": Through(levels.PredictorCorrector, 2, noise=True),
    "TCDScheduler": CONSISTENCY,
    "UnCLIPScheduler": Through(betas.BetasAndNext, noise=True, schedules='`DiffusersBetas(betas="squaredcos_cap_v2")`'),
    "UniPCMultistepScheduler": Through(betas.Betas, remark=FLOW),
    "VQDiffusionScheduler": TOKENS,
}


def convention_of(name: str, cls: type, options: Mapping[str, Any]) -> type[Convention] | Refused:
    """How a scheduler is told things: by the table, and one that is not in it by the options that it has."""
    entry = TABLE.get(name) or _guess(cls)
    if isinstance(entry, Refused):
        return entry
    if options.get("stochastic_sampling"):
        return CONSISTENCY
    return levels.FlowOption if options.get("use_flow_sigmas") else entry.convention


def _guess(cls: type) -> Through | Refused:
    options = set(inspect.signature(cls.__init__).parameters)  # type: ignore[misc]
    steps = set(inspect.signature(cls.set_timesteps).parameters) if hasattr(cls, "set_timesteps") else set()
    if "trained_betas" in options:
        return Through(betas.Betas)
    if {"sigma_min", "sigma_max", "sigma_data"} <= options:
        return Through(levels.Sigmas)
    if "sigmas" in steps:
        return Through(levels.Flow)
    return Refused("is told its noise schedule in no way that is known here")


def markdown() -> str:
    """The table of docs/diffusers.md."""
    head = ("scheduler", "schedules", "is told", "wants", "evaluations in n steps", "adds noise", "remark")
    rows = [head, ("---",) * len(head)]
    for name, entry in TABLE.items():
        if isinstance(entry, Refused):
            rows.append((f"`{name}`", "none", "", "", "", "", f"refused: {entry.why}"))
            continue
        how = entry.convention
        noise = "yes" if entry.noise else "no"
        rows.append((f"`{name}`", entry.schedules, how.told, how.wants, entry.evaluations, noise, entry.remark))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
