"""A tilted law as a mixture: the same Gaussians with other weights, or round ones on a grid, fitted to its density.

    q(x) = sum_k w_k N_k(x)   with the w_k that are closest in KL(q || .)

The weights are found by expectation maximisation with q in the place of data (Richardson 1972; Lucy 1974): w_k is
multiplied by the mean of N_k/m under q, m the mixture so far. The divergence goes down at every turn; what is left of
it says whether the mixture may stand for the law. Where labels lie apart the tilt is nearly constant over a Gaussian,
and the components of the law itself do; where they overlap, a grid of narrower ones is taken.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from moonbed._lazy import lazy_import
from moonbed.targets.mixtures import Mixture
from moonbed.targets.tilted import Tilt

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = lazy_import("torch")

__all__ = ["as_mixture"]

_POINTS = 3000  # at which the density is held
_NODES = 1600  # of a grid
_TURNS = 150
_ENOUGH = 1e-7  # nats
_CLOSE = 1e-3  # nats
_LEAST = 1e-9  # weight


def as_mixture(tilt: Tilt, whole: Mixture) -> Mixture | None:
    """The mixture that stands for a tilt of the mixture `whole`, None where none is near enough."""
    points, masses, _ = _held(tilt, _POINTS)
    for candidate in (whole, _grid(tilt)):
        mixture, divergence = _fitted(tilt, candidate, points, masses)
        if divergence < _CLOSE:
            return mixture
    return None


def _held(tilt: Tilt, most: int) -> tuple[Tensor, Tensor, float]:
    """Nodes of the quadrature, their masses, which sum to one, and their spacing: as fine as `most` nodes allow."""
    stride = 1
    while True:
        grid = tilt.grid.every(stride)
        nodes, log_masses = grid.nodes
        kept = log_masses > log_masses.max() + math.log(1e-7)
        if int(kept.sum()) <= most:
            masses = torch.exp(log_masses[kept])
            return nodes[kept], masses / masses.sum(), grid.spacing
        stride += 1


def _grid(tilt: Tilt) -> Mixture:
    """Round Gaussians, as wide as they are apart, where the law has mass."""
    nodes, masses, spacing = _held(tilt, _NODES)
    return Mixture(masses, nodes, torch.full((nodes.shape[1],), spacing, dtype=torch.float64))


def _fitted(tilt: Tilt, start: Mixture, points: Tensor, masses: Tensor) -> tuple[Mixture, float]:
    """The mixture with the weights that fit best, and its divergence in nats."""
    std = start.std.expand_as(start.centres)
    scaled = (points[:, None] - start.centres) / std
    kernels = torch.exp(-scaled.square().sum(2) / 2) / (math.sqrt(2 * math.pi) * std).prod(1)  # (points, K)
    weights, log_q = start.weights, tilt.log_prob(points)
    divergence = math.inf
    for turn in range(_TURNS):
        density = (kernels @ weights).clamp(min=1e-300)
        divergence = abs(float(masses @ (log_q - torch.log(density)))) if turn % 10 == 0 else divergence
        if divergence < _ENOUGH:
            break
        weights = weights * ((masses / density) @ kernels)
        weights = weights / weights.sum()
    kept = weights > _LEAST
    std = start.std if start.std.ndim == 1 else start.std[kept]
    return Mixture(weights[kept] / weights[kept].sum(), start.centres[kept], std), divergence
