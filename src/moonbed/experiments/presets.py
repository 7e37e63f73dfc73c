"""Named experiments: a fast one, and the eight rows of a published ablation with its numbers, protocol and budgets.

The write-up trains a small network on scikit-learn's `make_moons` with diffusers and adds one change a row. As presets
the rows train on `TwoMoons`, iid from the exact law; `published` puts them on the write-up's own data.

`fast` is what reaches the quality of the last row in seconds, from the same data. docs/speed.md takes it apart: which
of its changes bought how much.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from moonbed.component import SpecError, nearest
from moonbed.diffusion.diffusers_bridge import Diffusers, DiffusersBetas
from moonbed.diffusion.objectives import Denoising
from moonbed.diffusion.predictions import EDM
from moonbed.diffusion.regressions import StableTarget
from moonbed.diffusion.samplers import DDIM
from moonbed.diffusion.schedules import VE
from moonbed.diffusion.times import Discrete, LogNormal
from moonbed.diffusion.weights import P2
from moonbed.experiments.averaging import EMA
from moonbed.experiments.optimizers import Muon, WarmupCosine
from moonbed.experiments.spec import Experiment, Training
from moonbed.networks.embeddings import Fourier
from moonbed.networks.mlp import MLP
from moonbed.networks.residual import Residual
from moonbed.targets.published import PublishedMoons

__all__ = ["BUDGETS", "FAST", "PRESETS", "PUBLISHED", "ROWS", "Budget", "preset", "published"]


def _rows() -> dict[str, Experiment]:
    baseline = Experiment(sampler=Diffusers(scheduler="EulerDiscreteScheduler"))
    ddpm = baseline.replace(sampler=Diffusers(scheduler="DDPMScheduler"))
    ema = ddpm.replace(**{"training.averaging": EMA()})
    cosine = ema.replace(**{"training.schedule": DiffusersBetas(betas="squaredcos_cap_v2")})
    larger = cosine.replace(**{"training.network": MLP(hidden=(128, 128, 128))})
    snr_ema = larger.replace(**{"training.objective": Denoising(times=Discrete(), weight=P2())})
    return {
        "baseline": baseline,
        "ddpm": ddpm,
        "ema": ema,
        "cosine": cosine,
        "larger-mlp": larger,
        "snr": snr_ema.replace(**{"training.averaging": None}),
        "snr-ema": snr_ema,
        "residual": larger.replace(**{"training.network": Residual()}),
    }


ROWS: Mapping[str, Experiment] = _rows()

FAST = Experiment(
    training=Training(
        schedule=VE(sigma_max=20.0),
        prediction=EDM(),
        network=MLP(hidden=(48,) * 5, embedding=Fourier()),
        objective=Denoising(times=LogNormal(mean=-2.0), regression=StableTarget()),
        optimizer=Muon(adam_lr=6e-3),
        learning_rate=WarmupCosine(),
        steps=900,
        clip=None,
    ),
    sampler=DDIM(eta=1.0, steps=200),
)

PRESETS: Mapping[str, Experiment] = {"fast": FAST, **ROWS}

CHANGES: Mapping[str, str] = {
    "fast": "stable target field, EDM prediction, Muon: 900 steps of a small MLP",
    "baseline": "linear betas, Euler sampler, MLP 66-128-128-2",
    "ddpm": "DDPM sampler",
    "ema": "+ EMA of the weights, decay 0.999",
    "cosine": "+ cosine betas",
    "larger-mlp": "+ one hidden layer",
    "snr": "larger-mlp with loss weight 1/(SNR+1), without EMA",
    "snr-ema": "larger-mlp with loss weight 1/(SNR+1)",
    "residual": "larger-mlp with 3 residual blocks as network",
}

# In the order of SUITES["published"]: MMD, energy, sliced W1, C2ST 2|AUC-.5|, C2ST accuracy; SVM only.
PUBLISHED: Mapping[str, tuple[float, ...]] = {
    "baseline": (0.043403, 0.059351, 0.053859, 0.1904, 0.4076),
    "ddpm": (0.036139, 0.051655, 0.043603, 0.2074, 0.3968),
    "ema": (0.000001, 0.020453, 0.016328, 0.2570, 0.3697),
    "cosine": (0.000001, 0.019954, 0.015846, 0.2606, 0.3677),
    "larger-mlp": (0.000001, 0.017666, 0.014260, 0.2526, 0.3667),
    "snr": (0.034003, 0.048948, 0.041441, 0.1742, 0.4200),
    "snr-ema": (0.021315, 0.034615, 0.028897, 0.2039, 0.3974),
    "residual": (0.000001, 0.015938, 0.012952, 0.2488, 0.3623),
}


@dataclass(frozen=True)
class Budget:
    """What changes of a preset under a budget, how many seeds, and how many exact draws make the floor."""

    changes: Mapping[str, Any]
    seeds: int
    draws: int


BUDGETS: Mapping[str, Budget] = {
    "quick": Budget({"training.steps": 1_500, "sampler.steps": 250, "n": 1_000}, seeds=2, draws=20),
    "paper": Budget(
        {"training.steps": 40_000, "training.batch": 512, "sampler.steps": 1_000, "n": 5_000}, seeds=1, draws=20
    ),
}


def preset(name: str) -> Experiment:
    """The preset of that name. Raises `SpecError` with the nearest valid one."""
    if name not in PRESETS:
        raise SpecError([("", f"no preset is called {name!r}; {nearest(name, PRESETS)}")])
    return PRESETS[name]


def published(experiment: Experiment) -> Experiment:
    """The experiment on the write-up's data: scikit-learn's grid moons, to train on and to compare with."""
    return experiment.replace(**{"training.target": PublishedMoons()})
