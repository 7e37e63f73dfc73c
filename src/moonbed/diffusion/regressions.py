"""What is regressed on in place of x_0.

The minimum over all F is at E[x_0 | x_t] whether x_0 itself is regressed on or any other variable of that conditional
mean; what differs is the variance of the gradient (Xu et al., Stable Target Field for Reduced Variance Score Estimation
in Diffusion Models, 2023).
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

from moonbed._lazy import lazy_import
from moonbed.component import Component, NonNegativeInt
from moonbed.diffusion.data import Data
from moonbed.rng import Stream

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = lazy_import("torch")

__all__ = ["Regression"]


class Regression(Component):
    """What takes the place of x_0 in the loss: something with the same conditional mean, given x_t."""

    drawn: ClassVar[bool] = False
    """Whether it is x_0 itself, which asks nothing of noise, coupling and labels."""

    @abstractmethod
    def correction(
        self, data: Data, x0: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor, stream: Stream
    ) -> Tensor | None:
        """(n, dim) what to add to x0 (n, dim), at noise levels (n,) float64; None for nothing."""


class Drawn(Regression):
    """x_0 as it was drawn: denoising score matching (Vincent 2011)."""

    drawn = True

    def correction(
        self, data: Data, x0: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor, stream: Stream
    ) -> Tensor | None:
        return None


class ExactMean(Regression):
    """E[x_0 | x_t] of the target's exact law: no noise in the regression, so what is left is the network's capacity.

    A diagnosis, not a method: no data set has it.
    """

    def correction(
        self, data: Data, x0: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor, stream: Stream
    ) -> Tensor | None:
        return data.law.denoise(x_t.double(), alpha, sigma).to(x0.device) - x0


class StableTarget(Regression):
    """Stable target field (Xu et al. 2023): x_0 averaged over training points by their posterior weights given x_t.

    The points are those of up to `ROWS` rows, the true x_0 among them, and `references` further ones. A priori each of
    them is as likely to be the true one, so the average is its conditional mean given x_t and the points: its mean
    given x_t is that of x_0, and its variance less, the more points there are as near as the noise reaches.
    Softmax of -|x_t - alpha x|²/(2 sigma²) over the points x, which is attention. O(n (ROWS + references)).
    """

    references: NonNegativeInt = 512

    def correction(
        self, data: Data, x0: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor, stream: Stream
    ) -> Tensor | None:
        precision = (alpha / sigma**2)[:, None]
        query = torch.cat([precision * x_t, -alpha[:, None] * precision / 2], dim=1).to(x0)
        out = torch.empty_like(x0)
        for rows in (slice(start, start + ROWS) for start in range(0, len(x0), ROWS)):
            more = data.points[stream.integers(len(data.points), (self.references,)).to(x0.device)]
            points = torch.cat([x0[rows], more])
            key = torch.cat([points, (points**2).sum(1, keepdim=True)], dim=1)[None, None]
            mean = torch.nn.functional.scaled_dot_product_attention(query[None, None, rows], key, key, scale=1.0)
            out[rows] = mean[0, 0, :, :-1]
        return out - x0


ROWS = 512
"""Rows whose own points serve one another in a `StableTarget`."""
