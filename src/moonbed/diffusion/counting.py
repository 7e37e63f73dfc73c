"""What a sample costs: a denoiser that counts its evaluations.

One call of `combine`, or of `jump`, is one evaluation of the network for every row (Lu et al. 2022 call it NFE).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from moonbed.diffusion.denoisers import Denoiser

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Counted"]


class Counted(Denoiser):
    """Any denoiser, and `evaluations`: how often it was asked since it was wrapped."""

    def __init__(self, denoiser: Denoiser) -> None:
        self.denoiser, self.schedule, self.evaluations = denoiser, denoiser.schedule, 0
        self.gaussian, self.posterior = denoiser.gaussian, denoiser.posterior

    def given(self, label: int | None) -> Counted:
        return Counted(self.denoiser.given(label))

    def combine(self, x_t: Tensor, t: Tensor, w_x: Tensor | float, w_d: Tensor | float) -> Tensor:
        self.evaluations += 1
        return self.denoiser.combine(x_t, t, w_x, w_d)

    def jump(self, x_t: Tensor, t: float | Tensor, u: float | Tensor) -> Tensor:
        self.evaluations += 1
        return self.denoiser.jump(x_t, t, u)
