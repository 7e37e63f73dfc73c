"""Schedules: how much data and how much noise there is at a time. See `moonbed.diffusion.schedules.base`."""

from moonbed.diffusion.schedules.base import Schedule, VariancePreserving, at
from moonbed.diffusion.schedules.betas import SubVP, VPLinear, VPScaledLinear
from moonbed.diffusion.schedules.exploding import VE, EDMSchedule
from moonbed.diffusion.schedules.flows import Linear, Trigonometric
from moonbed.diffusion.schedules.ratios import Cosine, Laplace, LinearLogSNR, Sigmoid

__all__ = [
    "VE",
    "Cosine",
    "EDMSchedule",
    "Laplace",
    "Linear",
    "LinearLogSNR",
    "Schedule",
    "Sigmoid",
    "SubVP",
    "Trigonometric",
    "VPLinear",
    "VPScaledLinear",
    "VariancePreserving",
    "at",
]
