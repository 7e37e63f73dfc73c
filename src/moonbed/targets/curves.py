"""Targets made of curves with Gaussian noise."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

from moonbed._lazy import lazy_import
from moonbed.component import PositiveFloat
from moonbed.targets.base import Curve

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = lazy_import("torch")


class TwoMoons(Curve):
    """Two half circles, (cos a, sin a) and (1 - cos a, 1/2 - sin a) with a ~ U(0, pi), and Gaussian noise.

    The law that scikit-learn's `make_moons` draws its points near (its angles are a regular grid, these are iid).
    """

    arcs: ClassVar[int] = 2
    noise: PositiveFloat = 0.05

    def point(self, u: Tensor, arc: int) -> Tensor:
        x, y = torch.cos(math.pi * u), torch.sin(math.pi * u)
        return torch.stack([x, y] if arc == 0 else [1 - x, 0.5 - y], dim=-1)
