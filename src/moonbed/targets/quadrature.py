"""A law of which only the density is known, up to a factor: everything else by quadrature, in one or two dimensions.

A sum over an even grid of spacing h integrates a smooth function of width d with a relative error of about
2 exp(-2 pi² (d/h)²) (Trefethen and Weideman, The Exponentially Convergent Trapezoidal Rule, 2014). The grid is refined
until along each of its lines every tenth node gives the same integral as all: then h is about d/10. With
s = sigma/alpha, the density of x_t/alpha is

    s = 0    the one that is given, over its integral Z
    s < h    a Gauss-Hermite sum of 8 nodes a coordinate around x_t/alpha, since the density is smooth on the scale of s
    s > h    a mixture of Gaussians at the nodes of the grid; where s is several h, at every second, fourth or eighth

and the mean of the same nodes by their shares in the sum is E[x_0 | x_t]. The mixture is separable, a product of one
row of kernels a coordinate with the matrix of masses: a million nodes cost a million multiplications, no exponentials.
Where s is small, the nodes within twelve s of x_t/alpha are all that count.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import cache, cached_property
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from moonbed._lazy import lazy_import
from moonbed.component import SpecError
from moonbed.targets.base import Level, column

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = lazy_import("torch")

__all__ = ["Grid", "Quadrature"]

_DEPTH = 100.0  # the grid reaches to where the log density is so much below its maximum
_COARSE = 96  # nodes a side of the grid that looks for that place
_APART, _TOLERANCE = 5, 1e-8  # every fifth node of a line gives its integral to this; then the spacing is halved
_MOST = 2560  # nodes a side before that
_STRIDES = {1: 1.05, 2: 2.15, 4: 4.5, 8: 14.0}  # every k-th node will do from so many spacings of noise on
_WINDOWS, _REACH = 2, 12.0  # up to this stride, nodes within so many s are taken
_FLOOR = -350.0  # exponents: the product of two factors is still a normal number
_BLOCK = 1 << 21  # numbers at once

OnAxes: TypeAlias = "Callable[[tuple[Tensor, ...]], Tensor]"
"""From evenly spaced axes, one a coordinate, to a number for each node: (I, J), J = 1 on a line."""


class Grid(NamedTuple):
    """Evenly spaced axes, one a coordinate; masses (I, J) of the nodes, the largest 1, J = 1 on a line; log of 1."""

    axes: tuple[Tensor, ...]
    masses: Tensor
    log_unit: Tensor

    @property
    def spacing(self) -> float:
        """The larger one."""
        return max(float(axis[1] - axis[0]) for axis in self.axes)

    def every(self, k: int) -> Grid:
        """Each k-th node, with the mass of k^dim."""
        axes = tuple(axis[::k] for axis in self.axes)
        masses = self.masses[::k, :: min(k, self.masses.shape[1])]
        return Grid(axes, masses.contiguous(), self.log_unit + len(axes) * math.log(k))

    def around(self, y: Tensor, reach: float) -> tuple[list[Tensor], Tensor]:
        """Of each row of y (b, dim) the nodes within `reach`, or the nearest: axes (b, i), masses (b, i, j)."""
        places = []
        for y_j, axis in zip(y.detach().unbind(1), self.axes, strict=True):
            step = float(axis[1] - axis[0])
            count = min(2 * math.ceil(reach / step) + 1, len(axis))
            first = ((y_j - axis[0]) / step - (count - 1) / 2).round().clamp(0, len(axis) - count).long()
            places.append(first[:, None] + torch.arange(count))
        axes = [axis[place] for axis, place in zip(self.axes, places, strict=True)]
        columns = places[1] if len(places) == 2 else torch.zeros(len(y), 1, dtype=torch.int64)
        return axes, self.masses[places[0][:, :, None], columns[:, None]]

    @property
    def nodes(self) -> tuple[Tensor, Tensor]:
        """(K, dim) nodes that have a mass, and its logarithm (K,)."""
        masses = self.masses.reshape(-1)
        points = torch.cartesian_prod(*self.axes).reshape(-1, len(self.axes))
        return points[masses > 0], torch.log(masses[masses > 0]) + self.log_unit


class Quadrature:
    """log_prob, denoise and score of the density exp(`log_density`)/Z at every noise level.

    `log_density` takes points (n, dim) and returns (n,) finite numbers, smooth in the points; `on_axes`, if there is a
    faster way, the same numbers on a grid. `draws` (n, dim) are points of the law, which say where it lies.

    log_prob is good to 1e-8 and the score to 1e-7 where samples lie, with noise or without. Where the log density is 60
    below its maximum, or turns on a tenth of the width of the modes (half-way between two labels), 1e-3 is usual and a
    few per cent are seen. Farther than 100 below, values with noise are finite and too low.
    """

    def __init__(self, log_density: Callable[[Tensor], Tensor], draws: Tensor, on_axes: OnAxes | None = None) -> None:
        self._log_density, self._draws, self._on_axes = log_density, draws, on_axes

    def log_prob(self, x: Tensor, alpha: Level = 1.0, sigma: Level = 0.0) -> Tensor:
        x, alpha, s = _ratio(x, alpha, sigma)

        def log_prob(y: Tensor, s: Tensor, stride: int | None) -> Tensor:
            if stride is None:
                return self._log_density(y) - self.log_z
            return self._near(y, s)[0] if stride == 0 else self._far(y, s, stride, False)[0]

        return self._each(x / alpha, s, log_prob, 0) - x.shape[1] * torch.log(alpha).squeeze(1)

    def denoise(self, x_t: Tensor, alpha: Level, sigma: Level) -> Tensor:
        x_t, alpha, s = _ratio(x_t, alpha, sigma)
        return x_t / alpha + self._each(x_t / alpha, s, self._step, x_t.shape[1])

    def score(self, x_t: Tensor, alpha: Level = 1.0, sigma: Level = 0.0) -> Tensor:
        x_t, alpha, s = _ratio(x_t, alpha, sigma)

        def score(y: Tensor, s: Tensor, stride: int | None) -> Tensor:
            return self._gradient(y) if stride is None else self._step(y, s, stride) / s**2

        return self._each(x_t / alpha, s, score, x_t.shape[1]) / alpha

    # Where there is no noise, little, and more

    def _each(self, y: Tensor, s: Tensor, f: Callable[[Tensor, Tensor, int | None], Tensor], columns: int) -> Tensor:
        """f of the rows with their s (n, 1) and the stride of their noise: None without noise, 0 with little."""
        bounds = torch.tensor([*_STRIDES.values()], dtype=torch.float64) * self.grid.spacing
        group = torch.where(s > 0, 1 + torch.bucketize(s.contiguous(), bounds, right=True), 0).squeeze(1)
        strides = [None, 0, *_STRIDES]
        found = group.unique().tolist()
        if len(found) <= 1:
            return torch.cat([f(a, b, strides[g]) for g in found[:1] or [0] for a, b in _blocks(y, s)])
        out = y.new_zeros(len(y), *[columns] * (columns > 0))
        for g in found:
            rows = torch.nonzero(group == g).squeeze(1)
            parts = [f(a, b, strides[g]) for a, b in _blocks(y[rows], s[rows])]
            out = out.index_put((rows,), torch.cat(parts))
        return out

    def _step(self, y: Tensor, s: Tensor, stride: int | None) -> Tensor:
        """(b, dim): E[x_0 | x_0 + s eps = y] - y."""
        if stride is None:
            return torch.zeros_like(y)
        return self._near(y, s)[1] if stride == 0 else self._far(y, s, stride, True)[1]

    def _gradient(self, y: Tensor) -> Tensor:
        """(b, dim): of the log density."""
        keep = torch.is_grad_enabled() and y.requires_grad
        with torch.enable_grad(), torch.inference_mode(False):
            y = y if keep else y.detach().clone().requires_grad_()
            return torch.autograd.grad(self._log_density(y).sum(), y, create_graph=keep)[0]

    def _near(self, y: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """Little noise: log density (b,) and step (b, dim), from nodes around the rows themselves."""
        z, log_w = _hermite(y.shape[1])
        points = (y[:, None] + s[..., None] * z).reshape(-1, y.shape[1])
        log_q = torch.cat([self._log_density(part) for part in points.split(_BLOCK)])
        log_joint = log_q.reshape(len(y), -1) + log_w
        return log_joint.logsumexp(1) - self.log_z, s * (torch.softmax(log_joint, 1) @ z)

    def _far(self, y: Tensor, s: Tensor, stride: int, steps: bool) -> tuple[Tensor, Tensor]:
        """More noise: log density (b,) and, if asked for, step (b, dim), from the grid."""
        grid = self._grids[stride]
        axes, masses = grid.around(y, _REACH * float(s.max())) if stride <= _WINDOWS else (grid.axes, grid.masses)
        kernels, tops = zip(*(_kernel(y[:, [j]], axis, s) for j, axis in enumerate(axes)), strict=True)
        left, right = kernels if len(kernels) == 2 else (kernels[0], torch.ones_like(s))
        across = (left[:, None] @ masses).squeeze(1)  # (b, J)
        total = (across * right).sum(1)
        lost = total.detach() < math.exp(0.9 * _FLOOR)  # the nearest nodes weigh nothing
        total = torch.where(lost, 1.0, total)
        log_p = torch.log(total) + sum(tops) + grid.log_unit
        step = torch.zeros_like(y)
        if steps:
            moments = [(left * (axes[0] - y[:, :1]) * (right[:, None] @ masses.mT).squeeze(1)).sum(1)]
            if len(kernels) == 2:
                moments.append((right * (axes[1] - y[:, 1:]) * across).sum(1))
            step = torch.stack(moments, dim=1) / total[:, None]
        if lost.any():
            far_log_p, far_step = _one_by_one(y[lost], s[lost], *grid.nodes)
            log_p, step = log_p.index_put((lost,), far_log_p), step.index_put((lost,), far_step)
        return log_p - y.shape[1] * torch.log(math.sqrt(2 * math.pi) * s).squeeze(1), step

    # The grid

    @property
    def log_z(self) -> float:
        """log of the integral of exp(log_density)."""
        return self._found[1]

    @property
    def grid(self) -> Grid:
        """All nodes; their masses sum to 1."""
        return self._found[0]

    @cached_property
    def _grids(self) -> dict[int, Grid]:
        return {stride: self.grid.every(stride) for stride in _STRIDES}

    @cached_property
    def _found(self) -> tuple[Grid, float]:
        with torch.inference_mode(False), torch.no_grad():
            return self._refine(*self._extent())

    def _on(self, low: Tensor, high: Tensor, counts: list[int]) -> tuple[tuple[Tensor, ...], Tensor]:
        """Axes with so many nodes, and the log density (I, J) on them."""
        ends = zip(low.tolist(), high.tolist(), counts, strict=True)
        axes = tuple(torch.linspace(a, b, n, dtype=torch.float64) for a, b, n in ends)
        if self._on_axes is not None:
            return axes, self._on_axes(axes)
        points = torch.cartesian_prod(*axes).reshape(-1, len(axes))
        values = [self._log_density(part) for part in points.split(_BLOCK)]
        return axes, torch.cat(values).reshape(counts[0], -1)

    def _extent(self) -> tuple[Tensor, Tensor]:
        """Corners (dim,) of the box out of which the log density is `_DEPTH` below its maximum."""
        low, high = self._draws.amin(0), self._draws.amax(0)
        while True:
            margin = (high - low) / 2
            low, high = low - margin, high + margin
            axes, log_q = self._on(low, high, [_COARSE] * len(low))
            inside = log_q > log_q.max() - _DEPTH
            ends = []
            for seen in (inside.any(1), inside.any(0))[: len(axes)]:
                places = torch.nonzero(seen).squeeze(1)
                ends.append((int(places[0]) - 1, int(places[-1]) + 1))
            if all(first >= 0 and last < _COARSE for first, last in ends):
                corners = [(axis[first], axis[last]) for axis, (first, last) in zip(axes, ends, strict=True)]
                a, b = zip(*corners, strict=True)
                return torch.stack(a), torch.stack(b)

    def _refine(self, low: Tensor, high: Tensor) -> tuple[Grid, float]:
        """The grid that is fine enough, and log Z. Raises SpecError where none is."""
        counts = [_COARSE] * len(low)
        while True:
            _, log_q = self._on(low, high, counts)
            masses = torch.exp((log_q - log_q.max()).clamp(min=_FLOOR))
            wanted = [math.ceil(n * _coarseness(lines)) for n, lines in zip(counts, (masses.T, masses), strict=False)]
            if wanted == counts:
                return self._normalised(*self._on(low, high, [2 * n - 1 for n in counts]))
            if max(wanted) > _MOST:
                message = f"the density is not smooth enough for quadrature on {_MOST} nodes a side"
                raise SpecError([("target", message)])
            counts = wanted

    def _normalised(self, axes: tuple[Tensor, ...], log_q: Tensor) -> tuple[Grid, float]:
        top = log_q.max()
        masses = torch.exp((log_q - top).clamp(min=_FLOOR)).where(log_q > top + _FLOOR, 0.0)
        log_total = torch.log(masses.sum())
        cell = math.prod(float(axis[1] - axis[0]) for axis in axes)
        return Grid(axes, masses, -log_total), float(top + log_total) + math.log(cell)


def _coarseness(lines: Tensor) -> float:
    """How many times more nodes the lines (L, N) need until every fifth gives the sum of all: 1 where it does."""
    folded = torch.nn.functional.pad(lines, (0, -lines.shape[1] % _APART)).reshape(len(lines), -1, _APART).sum(1)
    sums = lines.sum(1)
    error = float((folded * _APART - sums[:, None]).abs().max() / sums.max())
    if error < _TOLERANCE:
        return 1.0
    width = math.sqrt(-math.log(min(error, 1.8) / 2))  # error = 2 exp(-width²)
    return min(max(1.1, 1.05 * math.sqrt(-math.log(_TOLERANCE / 2)) / width), 4.0)


def _ratio(x: Tensor, alpha: Level, sigma: Level) -> tuple[Tensor, Tensor, Tensor]:
    """The rows in float64, alpha (1, 1) or (n, 1), and sigma/alpha (n, 1)."""
    alpha = column(alpha)
    return x.to(torch.float64), alpha, (column(sigma) / alpha).expand(len(x), 1)


def _blocks(y: Tensor, s: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    size = max(1, _BLOCK // 1024)
    return zip(y.split(size), s.split(size), strict=True)


def _kernel(y: Tensor, axis: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """(b, I) exp(-(y - axis)²/(2 s²)) over the largest of the row, and the logarithm (b,) of that."""
    exponent = -(((y - axis) / s) ** 2) / 2
    top = exponent.detach().amax(1, keepdim=True)
    return (exponent - top).clamp(min=_FLOOR).exp(), top.squeeze(1)


def _one_by_one(y: Tensor, s: Tensor, nodes: Tensor, log_masses: Tensor) -> tuple[Tensor, Tensor]:
    """As `_far`, but for the normal density's factor: in logarithms, node by node."""
    log_p, step = [], []
    size = max(1, _BLOCK // len(nodes))
    for rows, ratio in zip(y.split(size), s.split(size), strict=True):
        distance = torch.cdist(rows, nodes, compute_mode="donot_use_mm_for_euclid_dist")
        log_joint = log_masses - (distance / ratio) ** 2 / 2
        log_p.append(log_joint.logsumexp(1))
        step.append(torch.softmax(log_joint, 1) @ nodes - rows)
    return torch.cat(log_p), torch.cat(step)


@cache
def _hermite(dim: int) -> tuple[Tensor, Tensor]:
    """(K, dim) nodes and (K,) log weights that integrate against the standard normal density."""
    import numpy as np

    nodes, weights = (torch.from_numpy(a) for a in np.polynomial.hermite_e.hermegauss(8))
    log_w = torch.log(weights / weights.sum())
    z = torch.cartesian_prod(*[nodes] * dim).reshape(-1, dim)
    return z, torch.cartesian_prod(*[log_w] * dim).reshape(-1, dim).sum(1)
