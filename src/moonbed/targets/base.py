"""Targets: distributions whose law is known exactly at every noise level.

The forward process turns data `x_0` into `x_t = alpha x_0 + sigma eps` with standard normal `eps`. If `x_0` is a
mixture of Gaussians with centres `c_k`, weights `w_k` and common standard deviations `d` (one a coordinate), so is
`x_t`: its centres are `alpha c_k`, its variances `v = alpha² d² + sigma²`. With the responsibilities
`r_k(x) ∝ w_k N(x; alpha c_k, v)`,

    log p_t(x) = log sum_k w_k N(x; alpha c_k, v)
    E[x_0 | x_t] = sum_k r_k c_k + alpha d²/v (x_t - alpha sum_k r_k c_k)

A curve convolved with Gaussian noise is such a mixture too, with infinitely many centres: the integral along the curve
is done by Gauss-Legendre quadrature, whose error falls geometrically with the number of nodes.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from moonbed._lazy import lazy_import
from moonbed.component import Component
from moonbed.rng import Stream

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = lazy_import("torch")

__all__ = ["Curve", "GaussianMixture", "Mixture", "Target"]


class Target(Component):
    """A distribution on R^dim: iid samples, exact log density and exact denoiser at every noise level."""

    dim: ClassVar[int] = 2

    @abstractmethod
    def sample(self, n: int, stream: Stream) -> Tensor:
        """(n, dim) float64: independent draws from the exact law."""

    @abstractmethod
    def log_prob(self, x: Tensor, alpha: float = 1.0, sigma: float = 0.0) -> Tensor:
        """(n,) float64: exact log density, in nats, of `alpha x_0 + sigma eps` at the rows of x (n, dim)."""

    @abstractmethod
    def denoise(self, x_t: Tensor, alpha: float, sigma: float) -> Tensor:
        """(n, dim) float64: exact E[x_0 | alpha x_0 + sigma eps = x_t] at the rows of x_t (n, dim)."""

    def dataset(self, n: int, stream: Stream) -> Tensor:
        """(n, dim) float64: the points to train on or to compare with. iid, unless a target's published use differs."""
        return self.sample(n, stream)


class Mixture(NamedTuple):
    """Gaussians with common standard deviations: weights (K,) that sum to 1, centres (K, dim), std (dim,); float64."""

    weights: Tensor
    centres: Tensor
    std: Tensor


_BLOCK = 1 << 18  # pairs of points and centres at once: bounds the memory and stays in the cache
_FLOOR = -700.0  # exp() of less is denormal or zero in float64, and denormals are many times slower


class GaussianMixture(Target):
    """A target that is a mixture of Gaussians with common standard deviations, finite or by quadrature."""

    @property
    @abstractmethod
    def mixture(self) -> Mixture:
        """The mixture itself, at alpha = 1 and sigma = 0."""

    def sample(self, n: int, stream: Stream) -> Tensor:
        weights, centres, std = self.mixture
        k = torch.multinomial(weights, n, replacement=True, generator=stream.generator)
        return centres[k] + std * stream.normal((n, self.dim), torch.float64)

    def log_prob(self, x: Tensor, alpha: float = 1.0, sigma: float = 0.0) -> Tensor:
        return torch.cat([total for _, total, _ in self._blocks(x, alpha, sigma)])

    def denoise(self, x_t: Tensor, alpha: float, sigma: float) -> Tensor:
        _, centres, std = self.mixture
        gain = alpha * std**2 / (alpha**2 * std**2 + sigma**2)
        out = []
        for x, _, r in self._blocks(x_t, alpha, sigma):
            centre = r @ centres
            out.append(centre + gain * (x - alpha * centre))
        return torch.cat(out)

    def responsibilities(self, x_t: Tensor, alpha: float = 1.0, sigma: float = 0.0) -> Tensor:
        """(n, K) float64: posterior weight of each centre, given the rows of x_t (n, dim)."""
        return torch.cat([r for _, _, r in self._blocks(x_t, alpha, sigma)])

    def _blocks(self, x: Tensor, alpha: float, sigma: float) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Blocks of rows: (x as float64, log p_t, responsibilities)."""
        weights, centres, std = self.mixture
        x = x.to(torch.float64)
        scale = torch.sqrt(alpha**2 * std**2 + sigma**2)
        log_norm = torch.log(scale).sum() + self.dim / 2 * math.log(2 * math.pi)
        out = []
        for rows in x.split(max(1, _BLOCK // len(weights))) or (x,):
            far = torch.cdist(rows / scale, alpha * centres / scale, compute_mode="donot_use_mm_for_euclid_dist")
            log_joint = torch.addcmul(torch.log(weights), far, far, value=-0.5)
            top = log_joint.amax(1, keepdim=True)
            r = (log_joint - top).clamp(min=_FLOOR).exp()
            total = r.sum(1, keepdim=True)
            out.append((rows, (top + torch.log(total)).squeeze(1) - log_norm, r / total))
        return out


class Curve(GaussianMixture):
    """Gaussian noise around curves: a member gives `point`, everything else is inherited.

    The curve is cut into `arcs` pieces of equal weight; `point` is asked for the parameter u in [0, 1] of a piece.
    Coordinates are standardised by the population mean and standard deviation of the target, noise included.
    """

    arcs: ClassVar[int] = 1
    noise: float

    @abstractmethod
    def point(self, u: Tensor, arc: int) -> Tensor:
        """(n, dim): the points of piece `arc` at the parameters u (n,), before standardisation."""

    @property
    def nodes(self) -> int:
        """Quadrature nodes an arc. The number that an error takes grows as 1/noise (a safety factor of about 2)."""
        return max(64, math.ceil(8 / self.noise))

    @cached_property
    def _raw(self) -> tuple[Tensor, Tensor]:
        """Quadrature over all pieces: weights (K,) and raw points (K, dim)."""
        import numpy as np

        nodes, weights = np.polynomial.legendre.leggauss(self.nodes)
        u, w = torch.from_numpy((nodes + 1) / 2), torch.from_numpy(weights / 2)
        points = torch.cat([self.point(u, arc) for arc in range(self.arcs)])
        return w.repeat(self.arcs) / self.arcs, points

    @cached_property
    def mean(self) -> Tensor:
        """(dim,) population mean before standardisation."""
        weights, points = self._raw
        return weights @ points

    @cached_property
    def scale(self) -> Tensor:
        """(dim,) population standard deviation before standardisation, noise included."""
        weights, points = self._raw
        return torch.sqrt(weights @ (points - self.mean) ** 2 + self.noise**2)

    @cached_property
    def mixture(self) -> Mixture:
        weights, points = self._raw
        return Mixture(weights, (points - self.mean) / self.scale, self.noise / self.scale)

    def sample(self, n: int, stream: Stream) -> Tensor:
        arc = stream.integers(self.arcs, (n,))
        u = stream.uniform((n,), torch.float64)
        x = torch.empty(n, self.dim, dtype=torch.float64)
        for k in range(self.arcs):
            x[arc == k] = self.point(u[arc == k], k)
        return (x + self.noise * stream.normal((n, self.dim), torch.float64) - self.mean) / self.scale
