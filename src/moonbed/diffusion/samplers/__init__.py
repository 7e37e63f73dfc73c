"""Samplers: from noise to data along a falling sequence of times.

A sampler is a generator that yields the state after each step, so that the caller may watch, stop or draw it. The first
state is sigma(1) times standard normal noise; the last one is a denoised point. Where the steps end is a `Spacing`.
"""

from moonbed.component import discover
from moonbed.diffusion.samplers.ancestral import DDIM, DDPM
from moonbed.diffusion.samplers.base import Sampler, SpacedSampler, SteppingSampler
from moonbed.diffusion.samplers.maps import Jump, Renoise
from moonbed.diffusion.samplers.multistep import DEIS, DPMSolver2M, DPMSolver3M, MultistepSampler, UniPC
from moonbed.diffusion.samplers.ode import RK4, RK45, Euler, Heun, Midpoint
from moonbed.diffusion.samplers.spacings import (
    Karras,
    Leading,
    Quadratic,
    SinhLogSNR,
    Spacing,
    Trailing,
    UniformLogSNR,
    UniformTime,
)
from moonbed.diffusion.samplers.stochastic import Churn, EulerMaruyama, PredictorCorrector

__all__ = [
    "DDIM",
    "DDPM",
    "DEIS",
    "RK4",
    "RK45",
    "Churn",
    "DPMSolver2M",
    "DPMSolver3M",
    "Euler",
    "EulerMaruyama",
    "Heun",
    "Jump",
    "Karras",
    "Leading",
    "Midpoint",
    "MultistepSampler",
    "PredictorCorrector",
    "Quadratic",
    "Renoise",
    "Sampler",
    "SinhLogSNR",
    "SpacedSampler",
    "Spacing",
    "SteppingSampler",
    "Trailing",
    "UniPC",
    "UniformLogSNR",
    "UniformTime",
]

discover(__name__)
