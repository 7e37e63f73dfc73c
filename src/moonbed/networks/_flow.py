"""The torch module behind the normalising flows; imported when one is built."""

from __future__ import annotations

from collections.abc import Sequence

import zuko
from torch import Tensor, nn


class SplineFlowModule(nn.Module):
    """See `moonbed.networks.flow.SplineFlow`."""

    def __init__(self, dim: int, transforms: int, hidden: Sequence[int], bins: int) -> None:
        super().__init__()
        self.flow = zuko.flows.NSF(features=dim, transforms=transforms, hidden_features=list(hidden), bins=bins)

    def forward(self, x: Tensor, c_noise: Tensor) -> Tensor:
        return self.flow().log_prob(x)

    def draw(self, noise: Tensor) -> Tensor:
        """Samples (n, dim) from standard normal noise (n, dim)."""
        return self.flow().transform.inv(noise)
