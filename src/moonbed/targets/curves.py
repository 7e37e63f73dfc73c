"""Curves with Gaussian noise: mixtures of infinitely many Gaussians, summed by Gauss-Legendre quadrature.

The density of a point `c(u)`, u uniform on [0, 1], plus noise of standard deviation `d` is the integral of
`N(x; c(u), d²)` over u. The integrand is analytic and as wide as d along the curve, so a Gauss-Legendre rule converges
geometrically once its nodes lie closer together than about d (Trefethen, Is Gauss Quadrature Better than
Clenshaw-Curtis?, 2008): below 1e-8 relative with the number taken here, at every noise level, since more noise only
makes the integrand smoother. The rule *is* a mixture of Gaussians, with the nodes for centres.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator
from functools import cache, cached_property
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge, Gt, Le

from moonbed._lazy import lazy_import
from moonbed.component import Positive, PositiveFloat, SpecError
from moonbed.rng import Stream
from moonbed.targets.mixtures import GaussianMixture, Mixture, at_most

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = lazy_import("torch")

__all__ = ["Curve", "Noise"]

Noise = Annotated[float, Ge(1e-3)]
"""Standard deviation across a curve of unit size: with less, an exact quadrature takes too many nodes to be of use."""

_SINGLE = 1024  # the eigenvalue problem behind a rule of n nodes costs n³: more nodes are laid out in panels
_PANEL = 64
_MOST = 1 << 21
_NEAR = 2.6  # nodes a standard deviation of the noise, where the curve is run through fastest


class Curve(GaussianMixture):
    """Gaussian noise around curves: a member gives `point`, everything else is inherited.

    The curve is cut into `arcs` pieces of equal weight, each analytic in the parameter u in [0, 1] (a piece ends at a
    corner or a change of formula). Where a member has `classes`, the arcs carry the labels in order.
    """

    noise: float

    @property
    def arcs(self) -> int:
        """Number of pieces."""
        return 1

    @abstractmethod
    def point(self, u: Tensor, arc: int) -> Tensor:
        """(n, dim): the points of piece `arc` at the parameters u (n,), before standardisation."""

    @property
    def dim(self) -> int:
        return 2

    @property
    def nodes(self) -> int:
        """Quadrature nodes an arc: enough for the noise and the curvature, where the curve is run through fastest."""
        speed, extent = self._speed
        return max(64, math.ceil(_NEAR * speed / min(self.noise, extent / 8)))

    @cached_property
    def _speed(self) -> tuple[float, float]:
        """Largest |dc/du| over all pieces, and the larger side of the box around the curve."""
        u = torch.linspace(0, 1, 4097, dtype=torch.float64)
        points = torch.stack([self.point(u, arc) for arc in range(self.arcs)])  # (arcs, 4097, dim)
        extent = points.amax((0, 1)) - points.amin((0, 1))
        return float(points.diff(dim=1).norm(dim=2).max()) * 4096, float(extent.max())

    def components(self) -> Mixture:
        if self.arcs * self.nodes > _MOST:
            needs = f"{type(self).__name__} would take {self.arcs * self.nodes:,} quadrature nodes, at most {_MOST:,}"
            raise SpecError([("noise", f"{self.noise} is too small for a curve as long: {needs}")])
        u, w = _rule(self.nodes)
        points = torch.cat([self.point(u, arc) for arc in range(self.arcs)])
        std = torch.full((self.dim,), self.noise, dtype=torch.float64)
        return Mixture(w.repeat(self.arcs) / self.arcs, points, std)

    def sample_labelled(self, n: int, stream: Stream) -> tuple[Tensor, Tensor]:
        arc = stream.integers(self.arcs, (n,))
        u = stream.uniform((n,), torch.float64)
        x = torch.empty(n, self.dim, dtype=torch.float64)
        for k in range(self.arcs):
            x[arc == k] = self.point(u[arc == k], k)
        x = (x + self.noise * stream.normal((n, self.dim), torch.float64) - self.mean) / self.scale
        return x, arc * self.classes // self.arcs


@cache
def _rule(count: int) -> tuple[Tensor, Tensor]:
    """At least `count` Gauss-Legendre nodes on [0, 1] and their weights: in one panel, or in equal panels of 64."""
    import numpy as np

    panels = 1 if count <= _SINGLE else math.ceil(count / _PANEL)
    nodes, weights = np.polynomial.legendre.leggauss(count if panels == 1 else _PANEL)
    u, w = torch.from_numpy((nodes + 1) / 2), torch.from_numpy(weights / 2)
    if panels == 1:
        return u, w
    return ((torch.arange(panels)[:, None] + u) / panels).reshape(-1), w.repeat(panels) / panels


# Members


class TwoMoons(Curve):
    """Two half circles, (cos a, sin a) and (1 - cos a, 1/2 - sin a) with a ~ U(0, pi), and Gaussian noise.

    The law that scikit-learn's `make_moons` draws its points near (its angles are a regular grid, these are iid).
    Label 0 is the outer arc, 1 the inner.
    """

    arcs = 2
    classes = 2
    mode_names = ("outer moon", "inner moon")
    noise: Noise = 0.05

    @property
    def nodes(self) -> int:
        return max(64, math.ceil(8 / self.noise))  # the number behind the mean and scale of the first trained runs

    def point(self, u: Tensor, arc: int) -> Tensor:
        x, y = torch.cos(math.pi * u), torch.sin(math.pi * u)
        return torch.stack([x, y] if arc == 0 else [1 - x, 0.5 - y], dim=-1)


def _polar(radius: Tensor | float, angle: Tensor) -> Tensor:
    return torch.stack([radius * torch.cos(angle), radius * torch.sin(angle)], dim=-1)


class Rings(Curve):
    """Concentric circles of radii 1/rings, 2/rings, ..., 1, of equal weight (not as their lengths), a label each."""

    rings: Positive = 3
    noise: Noise = 0.03

    def check(self) -> Iterator[tuple[str, str]]:
        yield from at_most(100, rings=self.rings)

    @property
    def arcs(self) -> int:
        return self.rings

    @property
    def classes(self) -> int:
        return self.rings

    def point(self, u: Tensor, arc: int) -> Tensor:
        return _polar((arc + 1) / self.rings, 2 * math.pi * u)


class Circles(Curve):
    """Two concentric circles of equal weight, radii 1 (label 0) and `factor` (1), as scikit-learn's `make_circles`.

    Its angles are a regular grid, these are iid.
    """

    arcs = 2
    classes = 2
    factor: PositiveFloat = 0.5
    noise: Noise = 0.05

    def point(self, u: Tensor, arc: int) -> Tensor:
        return _polar(1.0 if arc == 0 else self.factor, 2 * math.pi * u)


class SwissRoll(Curve):
    """The spiral (a cos a, a sin a)/10 with a ~ U(1.5 pi, 4.5 pi): scikit-learn's `make_swiss_roll` from the side.

    Uniform in the angle as there, so about three times denser inside; a tenth of the size.
    """

    noise: Noise = 0.05

    def point(self, u: Tensor, arc: int) -> Tensor:
        angle = 1.5 * math.pi * (1 + 2 * u)
        return _polar(angle / 10, angle)


class SCurve(Curve):
    """Two three-quarter circles that make an S: scikit-learn's `make_s_curve` from the side."""

    arcs = 2
    noise: Noise = 0.05

    def point(self, u: Tensor, arc: int) -> Tensor:
        angle = 1.5 * math.pi * u
        x, y = torch.sin(angle), torch.cos(angle) - 1
        return torch.stack([x, y] if arc == 0 else [-x, -y], dim=-1)


class Spirals(Curve):
    """Spiral arms around one centre, a label each, with about the same density everywhere along an arm.

    Radius r from 0.2 to 1 with r² uniform, at the angle 2 pi turns r (Archimedes), plus an equal part of a turn an arm.
    """

    arms: Positive = 2
    turns: Annotated[float, Gt(0), Le(100)] = 1.5
    noise: Noise = 0.02

    def check(self) -> Iterator[tuple[str, str]]:
        yield from at_most(100, arms=self.arms)

    @property
    def arcs(self) -> int:
        return self.arms

    @property
    def classes(self) -> int:
        return self.arms

    def point(self, u: Tensor, arc: int) -> Tensor:
        r = torch.sqrt(0.04 + 0.96 * u)
        return _polar(r, 2 * math.pi * (self.turns * r + arc / self.arms))


class Pinwheel(Curve):
    """Swirling arms, dense in their middles, a label each: curves with noise, where the usual one twists Gaussians.

    The usual pinwheel (Johnson et al., Composing Graphical Models with Neural Networks, 2016) turns the points of a
    Gaussian of radius 1 ± 0.3 by the angle `rate * exp(radius)`; with more noise its density has no closed form. Here
    the spine of an arm is turned, at the radius 1 + 0.35 (v + v³) with v ~ U(-1, 1), a bell cut at 0.3 and 1.7 with
    standard deviation 0.33, and the noise is isotropic and added after.
    """

    arms: Positive = 5
    rate: Annotated[float, Ge(0), Le(5)] = 0.25
    noise: Noise = 0.05

    def check(self) -> Iterator[tuple[str, str]]:
        yield from at_most(100, arms=self.arms)

    @property
    def arcs(self) -> int:
        return self.arms

    @property
    def classes(self) -> int:
        return self.arms

    def point(self, u: Tensor, arc: int) -> Tensor:
        v = 2 * u - 1
        r = 1 + 0.35 * (v + v**3)
        return _polar(r, self.rate * torch.exp(r) + 2 * math.pi * arc / self.arms)
