"""Normalising flows as networks: a density, not a denoiser. For `MaximumLikelihood` and `Draw`."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar

from moonbed.component import Positive
from moonbed.networks.base import Network

if TYPE_CHECKING:
    from torch import nn


class SplineFlow(Network):
    """Neural spline flow (Durkan et al. 2019) by zuko (the extra `flow`): `transforms` autoregressive splines.

    Each has `bins` bins and a conditioner with `hidden` layers. Forward returns log q (n,) of x (n, dim), in nats.
    """

    density: ClassVar[bool] = True
    transforms: Positive = 3
    hidden: tuple[Positive, ...] = (64, 64)
    bins: Positive = 8

    def check(self) -> Iterator[tuple[str, str]]:
        if importlib.util.find_spec("zuko") is None:
            yield "", "needs zuko: pip install 'moonbed[flow]'"

    def build(self, dim: int) -> nn.Module:
        from moonbed.networks._flow import SplineFlowModule

        return SplineFlowModule(dim, self.transforms, self.hidden, self.bins)
