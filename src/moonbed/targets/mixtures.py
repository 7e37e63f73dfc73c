"""Mixtures of Gaussians: exact at every noise level, because the forward process keeps them mixtures.

With weights `w_k`, centres `c_k` and standard deviations `d_k` (one a coordinate), `x_t = alpha x_0 + sigma eps` has
the centres `alpha c_k` and the variances `v_k = alpha² d_k² + sigma²`, and with the responsibilities
`r_k(x) ∝ w_k N(x; alpha c_k, v_k)`,

    log p_t(x) = log sum_k w_k N(x; alpha c_k, v_k)
    E[x_0 | x_t = x] = sum_k r_k (c_k + alpha d_k²/v_k (x - alpha c_k))
    grad log p_t(x) = -sum_k r_k (x - alpha c_k)/v_k

Where all `d_k` are equal, the sums over k need the mean centre `sum_k r_k c_k` alone.
"""

from __future__ import annotations

import itertools
import math
from abc import abstractmethod
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, NamedTuple

from annotated_types import Ge, Le

from moonbed._lazy import lazy_import
from moonbed.component import NonNegativeInt, Positive, PositiveFloat
from moonbed.rng import Rng, Stream
from moonbed.targets.base import Level
from moonbed.targets.following import FromParts

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = lazy_import("torch")

__all__ = ["GaussianMixture", "Mixture"]

_BLOCK = 1 << 18  # pairs of points and centres at once: bounds the memory and stays in the cache
_FLOOR = -700.0  # exp() of less is denormal or zero in float64, and denormals are many times slower


class Block(NamedTuple):
    """Some rows x (b, dim), their noise level, log p_t (b,) and responsibilities (b, K)."""

    x: Tensor
    alpha: Level
    sigma: Level
    log_prob: Tensor
    r: Tensor


class Mixture(NamedTuple):
    """Gaussians: weights (K,) that sum to 1, centres (K, dim), std (dim,) of all or (K, dim) of each; float64."""

    weights: Tensor
    centres: Tensor
    std: Tensor

    def sample(self, n: int, stream: Stream) -> Tensor:
        return self.draw(n, stream)[0]

    def draw(self, n: int, stream: Stream) -> tuple[Tensor, Tensor]:
        """(n, dim) float64 points, and the numbers (n,) of the Gaussians that they come from."""
        k = torch.multinomial(self.weights, n, replacement=True, generator=stream.generator)
        std = self.std if self.std.ndim == 1 else self.std[k]
        return self.centres[k] + std * stream.normal((n, self.centres.shape[1]), torch.float64), k

    def log_prob(self, x: Tensor, alpha: Level = 1.0, sigma: Level = 0.0) -> Tensor:
        return _join(x, (block.log_prob for block in self.blocks(x, alpha, sigma)))

    def denoise(self, x_t: Tensor, alpha: Level, sigma: Level) -> Tensor:
        def mean(x: Tensor, a: Level, v: Tensor, c: Tensor, d2: Tensor) -> Tensor:
            return c + a * d2 / v * (x - a * c)

        return _join(x_t, (self._mean(block, mean) for block in self.blocks(x_t, alpha, sigma)))

    def score(self, x_t: Tensor, alpha: Level = 1.0, sigma: Level = 0.0) -> Tensor:
        def score(x: Tensor, a: Level, v: Tensor, c: Tensor, d2: Tensor) -> Tensor:
            return (a * c - x) / v

        return _join(x_t, (self._mean(block, score) for block in self.blocks(x_t, alpha, sigma)))

    def responsibilities(self, x_t: Tensor, alpha: Level = 1.0, sigma: Level = 0.0) -> Tensor:
        """(n, K) float64: posterior weight of each Gaussian, given the rows of x_t (n, dim)."""
        return _join(x_t, (block.r for block in self.blocks(x_t, alpha, sigma)))

    def _mean(self, block: Block, f: Callable[..., Tensor]) -> Tensor:
        """(b, dim): sum_k r_k f(x, alpha, v_k, c_k, d_k²), f affine in c_k."""
        x, a, s, _, r = block
        if self.std.ndim == 1:
            d2 = self.std**2
            return f(x, a, a**2 * d2 + s**2, r @ self.centres, d2)
        columns = []
        for x_j, c, d2 in zip(x.unbind(1), self.centres.unbind(1), (self.std**2).unbind(1), strict=True):
            columns.append((r * f(x_j[:, None], a, a**2 * d2 + s**2, c, d2)).sum(1))
        return torch.stack(columns, dim=1)

    def blocks(self, x: Tensor, alpha: Level, sigma: Level) -> Iterator[Block]:
        """Rows of x (n, dim) with log densities and responsibilities, as many at once as the memory should hold."""
        x = x.to(torch.float64)
        size = max(1, _BLOCK // len(self.weights))
        for start in range(0, max(len(x), 1), size):
            rows = slice(start, start + size)
            a, s = _rows(alpha, rows), _rows(sigma, rows)
            log_joint, log_norm = self._log_joint(x[rows], a, s)
            top = log_joint.amax(1, keepdim=True)
            r = (log_joint - top).clamp(min=_FLOOR).exp()
            total = r.sum(1, keepdim=True)
            yield Block(x[rows], a, s, (top + torch.log(total)).squeeze(1) - log_norm, r / total)

    def _log_joint(self, x: Tensor, alpha: Level, sigma: Level) -> tuple[Tensor, Tensor]:
        """log w_k N(x; alpha c_k, v_k) (b, K) but for a term that no k changes; minus that term, () or (b,)."""
        log_weights, half = torch.log(self.weights), self.centres.shape[1] / 2 * math.log(2 * math.pi)
        common = self.std.ndim == 1
        if common and not isinstance(alpha, torch.Tensor) and not isinstance(sigma, torch.Tensor):
            scale = torch.sqrt(alpha**2 * self.std**2 + sigma**2)
            far = torch.cdist(x / scale, alpha * self.centres / scale, compute_mode="donot_use_mm_for_euclid_dist")
            return torch.addcmul(log_weights, far, far, value=-0.5), torch.log(scale).sum() + half
        log_joint = log_weights
        log_norm = torch.tensor(half, dtype=torch.float64)
        for x_j, c, d in zip(x.unbind(1), self.centres.unbind(1), self.std.unbind(-1), strict=True):
            v = alpha**2 * d**2 + sigma**2  # (), (K,), (b, 1) or (b, K)
            log_joint = log_joint - (x_j[:, None] - alpha * c) ** 2 / (2 * v)
            if common:
                log_norm = log_norm + torch.log(v).reshape(-1) / 2
            else:
                log_joint = log_joint - torch.log(v) / 2
        return log_joint, log_norm


def _join(x: Tensor, parts: Iterator[Tensor]) -> Tensor:
    """The parts below one another, one row a row of x.

    Without gradients they are copied into their places: small tensors kept between large ones that are freed would
    leave holes in the heap that nothing fits into, and the process would grow by gigabytes.
    """
    if torch.is_grad_enabled() and x.requires_grad:
        return torch.cat(list(parts))
    first = next(parts)
    out = first.new_empty(len(x), *first.shape[1:])
    start = 0
    for part in itertools.chain([first], parts):
        out[start : start + len(part)] = part
        start += len(part)
    return out


def _rows(level: Level, rows: slice) -> Level:
    """The noise level of some rows: a number, or (b, 1)."""
    if not isinstance(level, torch.Tensor):
        return level
    return float(level) if level.numel() == 1 else level.to(torch.float64).reshape(-1, 1)[rows]


class GaussianMixture(FromParts):
    """A target that is a mixture of Gaussians, finite or by quadrature: a member gives `components`."""

    @abstractmethod
    def components(self) -> Mixture:
        """The mixture before standardisation."""

    @cached_property
    def _raw(self) -> Mixture:
        return self.components()

    @property
    def dim(self) -> int:
        return self._raw.centres.shape[1]

    @cached_property
    def mean(self) -> Tensor:
        return self._raw.weights @ self._raw.centres

    @cached_property
    def scale(self) -> Tensor:
        """(dim,) population standard deviation before standardisation, noise included."""
        weights, centres, std = self._raw
        return torch.sqrt(weights @ (centres - self.mean) ** 2 + (std**2 if std.ndim == 1 else weights @ std**2))

    @cached_property
    def mixture(self) -> Mixture:
        """The mixture itself, at alpha = 1 and sigma = 0."""
        weights, centres, std = self._raw
        return Mixture(weights, (centres - self.mean) / self.scale, std / self.scale)

    def responsibilities(self, x_t: Tensor, alpha: Level = 1.0, sigma: Level = 0.0) -> Tensor:
        """(n, K) float64: posterior weight of each component, given the rows of x_t (n, dim)."""
        return self.mixture.responsibilities(x_t, alpha, sigma)

    def part(self, label: int) -> Mixture:
        weights, centres, std = self.mixture
        mine = self.labels == label
        return Mixture(weights[mine] / weights[mine].sum(), centres[mine], std if std.ndim == 1 else std[mine])


# Members


def at_most(limit: int, **counts: int) -> Iterator[tuple[str, str]]:
    """Problems for `check`: the fields whose count is above a limit."""
    for name, count in counts.items():
        if count > limit:
            yield name, f"should be at most {limit}, given {count}"


def modes(centres: Tensor, std: float) -> Mixture:
    """Equal isotropic Gaussians at the rows of `centres` (K, dim)."""
    count, dim = centres.shape
    weights = torch.full((count,), 1 / count, dtype=torch.float64)
    return Mixture(weights, centres, torch.full((dim,), std, dtype=torch.float64))


class EightGaussians(GaussianMixture):
    """Eight Gaussians on a circle, one a label; `std` is a standard deviation.

    Radius 5 and variance 0.1 are those of the flow-matching literature (Tong et al., Improving and Generalizing
    Flow-Based Generative Models, 2024). The code that its numbers come from takes sqrt(0.1) as the *covariance*: for
    that law write `std=0.5623`. Its points are `scale * x`, where `scale` is sqrt(radius²/2 + std²), about 3.6, in both
    coordinates. Its moons are 3 y - 1 with y = `mean + scale * x` of `TwoMoons` but for the noise: 0.2 U, with the same
    U ~ U(0, 1) in both coordinates, which is no law of ours (`noise=0.0577` has its variance) and moves y by 0.1.
    Distances and paths from the one to the other are those of the literature in these coordinates only.
    """

    radius: PositiveFloat = 5.0
    std: PositiveFloat = math.sqrt(0.1)

    @property
    def classes(self) -> int:
        return 8

    def components(self) -> Mixture:
        angle = torch.arange(8, dtype=torch.float64) * math.pi / 4
        return modes(self.radius * torch.stack([torch.cos(angle), torch.sin(angle)], dim=1), self.std)


class GaussianGrid(GaussianMixture):
    """A square grid of side x side Gaussians at distance 1, one a label: who drops modes?"""

    side: Positive = 5
    std: PositiveFloat = 0.1

    def check(self) -> Iterator[tuple[str, str]]:
        yield from at_most(100, side=self.side)

    @property
    def classes(self) -> int:
        return self.side**2

    def components(self) -> Mixture:
        axis = torch.arange(self.side, dtype=torch.float64)
        return modes(torch.cartesian_prod(axis, axis), self.std)


class FortyModes(GaussianMixture):
    """Forty Gaussians at random places in [-40, 40]², one a label: the mixture of the sampling literature.

    Construction of Midgley et al., Flow Annealed Importance Sampling Bootstrap (2023): uniform centres, and standard
    deviation softplus(1). The centres are drawn from our own stream (`seed`), so they are not those of that paper and
    numbers do not transfer digit by digit.
    """

    seed: NonNegativeInt = 0
    std: PositiveFloat = math.log1p(math.e)

    @property
    def classes(self) -> int:
        return 40

    def components(self) -> Mixture:
        uniform = Rng(self.seed).stream("targets", "FortyModes", "centres").uniform((40, 2), torch.float64)
        return modes(80 * uniform - 40, self.std)


class FractalTree(GaussianMixture):
    """Trees of tapering branches that grow from one root, a tree a label; at every fork the branches split in two.

    A mixture with structure at every scale down to `width * ratio**(depth - 1)`, in the spirit of the toy of Karras et
    al., Guiding a Diffusion Model with a Bad Version of Itself (2024). Our own construction: a branch is a chain of
    isotropic Gaussians at most 1.4 of the thinnest standard deviation apart (it ripples by less than 1e-3), which
    tapers from `width` times its length to `ratio` of that. A branch weighs as much as its area, length x mean width.
    """

    depth: Positive = 5
    classes: Positive = 2
    ratio: Annotated[float, Ge(0.1), Le(1)] = 0.75
    """Length of a branch over that of the one it grows from; the trunk has length 1."""
    width: PositiveFloat = 0.06
    """Standard deviation across a branch at its beginning, over its length."""
    spread: PositiveFloat = 0.6
    """Angle in radians by which a branch turns to either side."""

    def check(self) -> Iterator[tuple[str, str]]:
        count = self.classes * 2.0 ** min(self.depth, 100) / (self.ratio * self.width)
        if count > 1 << 17:
            yield "depth", f"or classes should be less, or width more: they take about {count:,.0f} Gaussians"

    @property
    def _beads(self) -> int:
        """Gaussians a branch."""
        return math.ceil(1 / (1.4 * self.ratio * self.width))

    def components(self) -> Mixture:
        u = (torch.arange(self._beads, dtype=torch.float64) + 0.5) / self._beads  # along a branch
        taper = 1 - (1 - self.ratio) * u
        weights, centres, std = [], [], []
        for label in range(self.classes):
            tips = torch.zeros(1, 2, dtype=torch.float64)
            angles = torch.full((1,), 2 * math.pi * (label / self.classes + 0.25), dtype=torch.float64)
            for depth in range(self.depth):
                length = self.ratio**depth
                along = length * torch.stack([torch.cos(angles), torch.sin(angles)], dim=1)
                centres.append((tips[:, None] + u[:, None] * along[:, None]).reshape(-1, 2))
                std.append((self.width * length * taper).repeat(len(tips)))
                weights.append(length * std[-1])
                tips = (tips + along).repeat(2, 1)
                angles = torch.cat([angles - self.spread, angles + self.spread])
        w = torch.cat(weights)
        return Mixture(w / w.sum(), torch.cat(centres), torch.cat(std)[:, None].expand(-1, 2).contiguous())
