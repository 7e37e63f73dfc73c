"""Uniform laws on boxes: products of intervals, exact at every noise level through the normal distribution function.

With `x_0` uniform on [a, b], `x_t = alpha x_0 + sigma eps` and `z = (alpha x_0 - x_t)/sigma`, which given x_t is a
standard normal variable cut to [l, h] = [(alpha a - x_t)/sigma, (alpha b - x_t)/sigma],

    p_t(x_t) = (Phi(h) - Phi(l))/(alpha (b - a))    E[x_0 | x_t] = (x_t + sigma E[z])/alpha    grad log p_t = E[z]/sigma

(Botev, The Normal Law under Linear Restrictions, 2017, on their stable evaluation). Coordinates of one box are
independent; boxes mix by their weights. Differences of Phi cancel in the tails and for narrow intervals: there the
scaled complementary error function and a 16-node quadrature take over, so that all are accurate far from the support.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from moonbed._lazy import lazy_import
from moonbed.component import Positive
from moonbed.rng import Stream
from moonbed.targets.base import Level, column
from moonbed.targets.following import FromParts

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = lazy_import("torch")

__all__ = ["BoxMixture", "Boxes"]

_BLOCK = 1 << 18  # pairs of points and boxes at once


class BoxMixture(NamedTuple):
    """Uniform laws on boxes: weights (K,) that sum to 1, corners low < high (K, dim); float64."""

    weights: Tensor
    low: Tensor
    high: Tensor

    def sample(self, n: int, stream: Stream) -> Tensor:
        return self.draw(n, stream)[0]

    def draw(self, n: int, stream: Stream) -> tuple[Tensor, Tensor]:
        """(n, dim) float64 points, and the numbers (n,) of the boxes that they come from."""
        k = torch.multinomial(self.weights, n, replacement=True, generator=stream.generator)
        return torch.lerp(self.low[k], self.high[k], stream.uniform((n, self.low.shape[1]), torch.float64)), k

    def log_prob(self, x: Tensor, alpha: Level = 1.0, sigma: Level = 0.0) -> Tensor:
        """At sigma = 0, minus infinity outside the boxes."""
        out = []
        for rows, a, s in self._blocks(x, alpha, sigma):
            smooth = self._log_joint(rows, a, torch.where(s == 0, 1.0, s))[0].logsumexp(1)
            inside = ((rows[:, None] >= a[..., None] * self.low) & (rows[:, None] < a[..., None] * self.high)).all(2)
            volume = (self.high - self.low).prod(1) * a ** self.low.shape[1]
            sharp = torch.log((inside * self.weights / volume).sum(1))
            out.append(torch.where(s.squeeze(1) == 0, sharp, smooth))
        return torch.cat(out)

    def denoise(self, x_t: Tensor, alpha: Level, sigma: Level) -> Tensor:
        out = []
        for x, a, s in self._blocks(x_t, alpha, sigma):
            log_joint, _, share = self._log_joint(x, a, torch.where(s == 0, 1.0, s))
            r = torch.softmax(log_joint, 1)
            mean = (r[..., None] * torch.lerp(self.low, self.high, share)).sum(1)
            out.append(torch.where(s == 0, x / a, mean))
        return torch.cat(out)

    def score(self, x_t: Tensor, alpha: Level = 1.0, sigma: Level = 0.0) -> Tensor:
        if (column(sigma) == 0).any():
            raise ValueError("a uniform law has a score at sigma > 0 only, given sigma = 0")
        out = []
        for x, a, s in self._blocks(x_t, alpha, sigma):
            log_joint, z, _ = self._log_joint(x, a, s)
            out.append((torch.softmax(log_joint, 1)[..., None] * z).sum(1) / s)
        return torch.cat(out)

    def _log_joint(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """log w_k p_t(x | k) (b, K); E[z | x, k] and the share of the box that lies below E[x_0 | x, k] (b, K, dim)."""
        a, s = alpha[..., None], sigma[..., None]
        log_mass, z, share = interval((a * self.low - x[:, None]) / s, a * (self.high - self.low) / s)
        log_density = log_mass - torch.log(a * (self.high - self.low))
        return torch.log(self.weights) + log_density.sum(2), z, share

    def _blocks(self, x: Tensor, alpha: Level, sigma: Level) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        x, size = x.to(torch.float64), max(1, _BLOCK // self.low.numel())
        a, s = (column(level).expand(len(x), 1) for level in (alpha, sigma))
        return zip(x.split(size), a.split(size), s.split(size), strict=True)


def interval(low: Tensor, width: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A standard normal z and the interval [low, low + width]: log P(in), E[z | in] and E[(z - low)/width | in].

    Mirrored so that the middle is not negative. With the hazard `h(n) = phi(n)/Phi(-n)` of the nearer end n,

        E[z | in] = h(n) (1 - phi(f)/phi(n))/(1 - Phi(-f)/Phi(-n)),    f = n + width
    """
    mirrored = low + width / 2 < 0
    near = torch.where(mirrored, -low - width, low)
    narrow = (width < 0.1) & (width * (near + width / 2) < 10)

    n, w = torch.where(narrow, 0.0, near), torch.where(narrow, 1.0, width)
    above = torch.special.log_ndtr(-n)
    beyond = (torch.special.log_ndtr(-n - w) - above).clamp(max=-1e-12)
    log_mass = above + torch.log(-torch.expm1(beyond))
    hazard = math.sqrt(2 / math.pi) / torch.special.erfcx(n.clamp(min=-30) / math.sqrt(2))
    z = hazard * torch.expm1(-w * (n + w / 2)) / torch.expm1(beyond)
    share = (z - n) / w

    if narrow.any():
        n, w = torch.where(narrow, near, 0.0), torch.where(narrow, width, 0.05)
        mass, first = torch.zeros_like(n), torch.zeros_like(n)
        for u, weight in zip(*_nodes(), strict=True):
            g = weight * torch.exp(-w * u * (n + w * u / 2))
            mass, first = mass + g, first + u * g
        thin = torch.log(w * mass) - n**2 / 2 - math.log(2 * math.pi) / 2
        log_mass = torch.where(narrow, thin, log_mass)
        share = torch.where(narrow, first / mass, share)
        z = torch.where(narrow, n + w * first / mass, z)

    share = share.clamp(0, 1)
    return log_mass, torch.where(mirrored, -z, z), torch.where(mirrored, 1 - share, share)


def _nodes() -> tuple[list[float], list[float]]:
    import numpy as np

    nodes, weights = np.polynomial.legendre.leggauss(16)
    return ((nodes + 1) / 2).tolist(), (weights / 2).tolist()


class Boxes(FromParts):
    """A target that is uniform on each of some boxes: a member gives `boxes`."""

    @abstractmethod
    def boxes(self) -> BoxMixture:
        """The boxes and their weights before standardisation."""

    @cached_property
    def _raw(self) -> BoxMixture:
        return self.boxes()

    @property
    def dim(self) -> int:
        return self._raw.low.shape[1]

    @cached_property
    def mean(self) -> Tensor:
        weights, low, high = self._raw
        return weights @ ((low + high) / 2)

    @cached_property
    def scale(self) -> Tensor:
        """(dim,) population standard deviation before standardisation."""
        weights, low, high = self._raw
        return torch.sqrt(weights @ (((low + high) / 2 - self.mean) ** 2 + (high - low) ** 2 / 12))

    @cached_property
    def mixture(self) -> BoxMixture:
        """The boxes in standardised coordinates."""
        weights, low, high = self._raw
        return BoxMixture(weights, (low - self.mean) / self.scale, (high - self.mean) / self.scale)

    def part(self, label: int) -> BoxMixture:
        weights, low, high = self.mixture
        mine = self.labels == label
        return BoxMixture(weights[mine] / weights[mine].sum(), low[mine], high[mine])


class Checkerboard(Boxes):
    """Uniform on the dark squares of a checkerboard of side x side squares, a label each (`side` even).

    With side 4 and squares of length 2, the density before standardisation is 1/32: often quoted where the samples are
    drawn with another law (1/39.5 in one notebook). Log densities here are those of the standardised coordinates.
    """

    side: Positive = 4

    def check(self) -> Iterator[tuple[str, str]]:
        if self.side % 2 or self.side > 64:
            yield "side", f"should be even and at most 64, given {self.side}"

    @property
    def classes(self) -> int:
        return self.side**2 // 2

    def boxes(self) -> BoxMixture:
        axis = torch.arange(self.side)
        squares = torch.cartesian_prod(axis, axis)
        low = 2.0 * squares[squares.sum(1) % 2 == 0].double() - self.side
        return BoxMixture(torch.full((len(low),), 1 / len(low), dtype=torch.float64), low, low + 2)
