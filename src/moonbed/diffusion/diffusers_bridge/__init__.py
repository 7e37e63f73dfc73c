"""The bridge to diffusers: its schedulers as schedules and as samplers, unchanged.

diffusers keeps noise schedule, parameterisation and solver in one scheduler object; here they are three axes.
`DiffusersBetas` takes the schedule out of a scheduler, `Diffusers` the solver. docs/diffusers.md lists what goes
through.
"""

from moonbed.diffusion.diffusers_bridge.betas import DiffusersBetas
from moonbed.diffusion.diffusers_bridge.bridge import Diffusers

__all__ = ["Diffusers", "DiffusersBetas"]
