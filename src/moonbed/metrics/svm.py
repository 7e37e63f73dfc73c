"""Support vector machine with a smooth Gaussian kernel, exact, by an interior point method in a low-rank feature space.

The dual problem, for labels y = ±1 and a kernel matrix K, is that of Cortes and Vapnik (Support-vector networks, 1995):

    min ½ Σ a_i a_j y_i y_j K_ij - Σ a_i    where 0 <= a_i <= C and Σ a_i y_i = 0,    f(x) = Σ a_i y_i k(x_i, x) + b

Where the kernel is as wide as the data and the dimension is low, K has few eigenvalues above rounding (60 of 8,000 in
the plane), so K = ΦᵀΦ with few features, w = Φ (y a), and a step of the interior point method costs O(n r²) instead of
O(n³): Fine and Scheinberg, Efficient SVM training using low-rank kernel representations, JMLR 2001; the step is the
predictor and corrector of Mehrotra (SIAM J. Optimization 1992), with corrections of centrality (Gondzio 1996).

*Features.* Pivoted Cholesky picks points, the nodes, until no other point's kernel function differs by more than
1e-10 (squared norm) from its interpolant at the nodes. All kernel functions k(x, ·) ≈ Σ_p ψ_p(x) k(p, ·) are then those
of the nodes. The cardinal functions ψ depend little on the width of the kernel: those of a kernel 5 % narrower than for
the scale of all points serve each fold whose scale differs by less than 11 %, with its own kernel between the nodes.
The leading eigenvectors of K are the features.

*Newton matrices.* Each is 1 + Σ d_i φ_i φ_iᵀ, with weights d_i that change from step to step. Products of features are
smooth as well, so the nodes are also those of a quadrature: Σ d_i φ_i φ_iᵀ ≈ Σ_p (Σ_i ψ_p(x_i) d_i) φ_p φ_pᵀ. Only the
few points of large weight, near the margin, are summed one by one. An error here costs steps, not exactness: the
residuals are those of the problem itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from moonbed._lazy import lazy_import

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy_import("numpy")

__all__ = ["LowRankMachines"]

_NODES = 400  # where more are needed libsvm is as fast, and so it is with less than 8 points a node
_FAR = 1e-10  # squared norm of what a kernel function may lack of its interpolant
_LEAST = 1e-9  # eigenvalue of K/n below which a feature is left out
_NEAR = 0.11  # relative difference of inverse widths that cardinal functions may serve
_NARROWER = 1.05  # inverse width of the kernel that they are of, in units of the one asked for
_HEAVY = 50.0  # weight of a point that is summed by itself
_STEPS = 200
_CORRECTIONS = 3  # of centrality, a step
_SOME = 2000  # points among which nodes are sought first
_GAP = 1e-11  # complementarity a z at the end


class LowRankMachines:
    """Machines with C = 1 and the kernel exp(-|(x - y) h|²), trained on parts of the same points (n, dim).

    `decision` is exact to 1e-4; that of libsvm, even with a small tolerance, is to 1e-3: it holds its kernel in single
    precision.
    """

    def __init__(self, x: np.ndarray, label: np.ndarray, h: np.ndarray) -> None:
        self.x, self.y = x - np.median(x, axis=0), np.where(label > 0, 1.0, -1.0)
        self._bases: list[tuple[np.ndarray, _Basis | None]] = []
        self._basis(h)

    def decision(self, train: np.ndarray, test: np.ndarray, h: np.ndarray) -> np.ndarray | None:
        """(test,) decision values, by the points `train`, under the inverse widths h (dim,).

        None where the kernel needs too many nodes, or the solver too many steps.
        """
        basis = self._basis(h)
        if basis is None:
            return None
        z = self.x[basis.nodes] * h
        at_nodes = basis.features(np.exp(-np.square(z[:, None] - z).sum(2)))
        phi = np.ones((len(at_nodes), len(self.x)))
        np.matmul(at_nodes[:-1], basis.psi, out=phi[:-1])
        u = _solve(phi[:, train], self.y[train], _Newton(train, at_nodes, basis.single))
        return None if u is None else u @ phi[:, test]

    def _basis(self, h: np.ndarray) -> _Basis | None:
        """A basis for the inverse widths h, or almost these."""
        for known, basis in self._bases:
            if (np.abs(h - known) <= _NEAR * known).all():
                return basis
        basis = _basis(self.x * h * _NARROWER, min(_NODES, len(self.x) // 8))
        self._bases.append((h, basis))
        return basis


@dataclass(frozen=True, eq=False)
class _Basis:
    """Nodes (c,) among n points, and the cardinal functions (c, n) of a kernel there, once more in single precision."""

    nodes: np.ndarray
    psi: np.ndarray
    single: np.ndarray
    gram: np.ndarray

    def features(self, kernel: np.ndarray) -> np.ndarray:
        """(r+1, c) values at the nodes of the leading eigenvectors of ψᵀ kernel ψ, and of the constant 1."""
        values, vectors = np.linalg.eigh(kernel)
        root = vectors * np.sqrt(np.maximum(values, 0))
        values, vectors = np.linalg.eigh(root.T @ self.gram @ root)
        leading = vectors[:, values > _LEAST * self.psi.shape[1]]
        return np.vstack([(root @ leading).T, np.ones(len(kernel))])


def _basis(z: np.ndarray, most: int) -> _Basis | None:
    """Of the kernel exp(-|x-y|²) at points (n, dim), by Cholesky with the largest pivot first, at most `most` nodes.

    The first nodes are found among some of the points, and the others where these leave something.
    """
    step = max(1, len(z) // _SOME)
    some = _cholesky(z[::step], [], most) if step > 1 else ([], z)
    found = some and _cholesky(z, [step * node for node in some[0]], most)
    if not found:
        return None
    nodes, factor = found
    psi = _inverse(factor[:, nodes].T).T @ factor
    return _Basis(np.array(nodes), psi, psi.astype(np.float32), psi @ psi.T)


def _cholesky(z: np.ndarray, first: list[int], most: int) -> tuple[list[int], np.ndarray] | None:
    """Nodes, those of `first` before others, and the factor (c, n) with K ≈ factorᵀ factor; None: too many nodes."""
    from scipy.linalg import cholesky

    nodes, lower = list(first), np.empty((most, len(z)))
    if nodes:
        norm = np.square(z).sum(1)
        kernel = np.exp(np.minimum(2 * z[nodes] @ z.T - norm - norm[nodes, None], 0))
        half = cholesky(kernel[:, nodes], lower=True, check_finite=False)
        np.matmul(_inverse(half), kernel, out=lower[: len(nodes)])
    left = 1 - np.square(lower[: len(nodes)]).sum(0)
    left[nodes] = 0
    while left.max() > _FAR:
        count, pivot = len(nodes), int(left.argmax())
        if count == most:
            return None
        row = np.exp(-np.square(z - z[pivot]).sum(1))
        row -= lower[:count, pivot] @ lower[:count]
        row /= math.sqrt(left[pivot])
        lower[count] = row
        left -= row * row
        nodes.append(pivot)
        left[nodes] = 0
    return nodes, lower[: len(nodes)]


def _inverse(lower: np.ndarray) -> np.ndarray:
    from scipy.linalg import solve_triangular

    return np.asarray(solve_triangular(lower, np.eye(len(lower)), lower=True, check_finite=False))


def _solve(phi: np.ndarray, y: np.ndarray, newton: _Newton) -> np.ndarray | None:
    """(r+1,) weights w and intercept b for features phi (r+1, n) whose last row is 1; None: too many steps."""
    now = _Iterate(phi, y)
    for _ in range(_STEPS):
        if now.advance(phi, y, newton):
            return np.append(now.u[:-1], _intercept(now.f - now.u[-1], y, now.a < now.z, now.t < now.s))
    return None


class _Iterate:
    """u = (w, b), f = uᵀ phi, a, t = 1 - a and the multipliers z of a >= 0, s of t >= 0, on their way to

    y f - 1 = z - s, w = Φ (y a), Σ y a = 0 and a z = t s = 0. The start has a z = t s = 1/2 at f = 0.
    """

    def __init__(self, phi: np.ndarray, y: np.ndarray) -> None:
        n, mu = len(y), 0.5
        self.u, self.f = np.zeros(len(phi)), np.zeros(n)
        self.a = np.full(n, 2 * mu / (2 * mu - 1 + math.sqrt(1 + 4 * mu * mu)))
        self.t = 1 - self.a
        self.z, self.s = mu / self.a, mu / self.t

    def advance(self, phi: np.ndarray, y: np.ndarray, newton: _Newton) -> bool:
        """One step; True, and none, at the solution."""
        a, t, z, s, n = self.a, self.t, self.z, self.s, len(y)
        ridge = np.ones(len(phi))
        ridge[-1] = 0.0
        off, margin = phi @ (y * a) - ridge * self.u, y * self.f - 1 - z + s
        mu = float(z @ a + s @ t) / (2 * n)
        if mu < _GAP and np.abs(off).max() < 1e-8 * n:
            return True
        za, st = z / a, s / t
        d = 1 / (za + st)
        solve = newton(phi, d, ridge)

        def direction(of_z: np.ndarray, of_s: np.ndarray) -> tuple[np.ndarray, ...]:
            """Steps of u, f, a, z and s that take z a to (of_z + z) a and s t to (of_s + s) t, to first order."""
            g = d * (of_z - of_s - margin)
            du = solve(phi @ (y * g) + off)
            df = du @ phi
            da = g - d * (y * df)
            return du, df, da, of_z - za * da, of_s + st * da

        def longest(da: np.ndarray, dz: np.ndarray, ds: np.ndarray) -> float:
            """The step that keeps all signs, at most 1."""
            shrink = min((da / a).min(), -(da / t).max(), (dz / z).min(), (ds / s).min())
            return min(1.0, -0.995 / float(shrink)) if shrink < 0 else 1.0

        _, _, da, dz, ds = direction(-z, -s)
        step = longest(da, dz, ds)
        ahead = float((z + step * dz) @ (a + step * da) + (s + step * ds) @ (t - step * da)) / (2 * n)
        target = mu * (ahead / mu) ** 3
        to_z, to_s = target - dz * da, target + ds * da
        best = direction(to_z / a - z, to_s / t - s)
        step = longest(*best[2:])
        for _ in range(_CORRECTIONS):
            if step > 0.9:
                break
            _, _, da, dz, ds = best
            reach = min(1.0, 1.3 * step + 0.1)
            z_ahead, s_ahead = (z + reach * dz) * (a + reach * da), (s + reach * ds) * (t - reach * da)
            for product, to in ((z_ahead, to_z), (s_ahead, to_s)):
                to += np.maximum(np.clip(product, 0.1 * target, 10 * target) - product, -10 * target)
            other = direction(to_z / a - z, to_s / t - s)
            further = longest(*other[2:])
            if further < step + 0.02:
                break
            best, step = other, further
        du, df, da, dz, ds = best
        for value, change in ((self.u, du), (self.f, df), (a, da), (t, -da), (z, dz), (s, ds)):
            value += step * change
        return False


@dataclass(frozen=True, eq=False)
class _Newton:
    """Solves with ridge + Σ d_i φ_i φ_iᵀ over points `train` of those of a basis."""

    train: np.ndarray
    at_nodes: np.ndarray
    psi: np.ndarray

    def __call__(self, phi: np.ndarray, d: np.ndarray, ridge: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        from scipy.linalg import cho_factor, cho_solve

        heavy = np.flatnonzero(d > _HEAVY)
        attempts = [(True, 0.0), (True, 1e-13)]  # the second where rounding is more than the ridge
        if len(heavy) < len(d) // 4:
            attempts.insert(0, (False, 0.0))
        for exact, rounding in attempts:
            if exact:
                scaled = phi * np.sqrt(d)
                matrix = scaled @ scaled.T
            else:
                light = np.zeros(self.psi.shape[1], dtype=np.float32)
                light[self.train] = d
                light[self.train[heavy]] = 0
                scaled = phi[:, heavy] * np.sqrt(d[heavy])
                matrix = (self.at_nodes * (self.psi @ light)) @ self.at_nodes.T + scaled @ scaled.T
            matrix[np.diag_indices(len(matrix))] += ridge + rounding * np.trace(matrix)
            with suppress(np.linalg.LinAlgError):
                factor = cho_factor(matrix, lower=True, check_finite=False)
                return lambda right: np.asarray(cho_solve(factor, right, check_finite=False))
        raise np.linalg.LinAlgError("a sum of squares is not positive")


def _intercept(g: np.ndarray, y: np.ndarray, none: np.ndarray, full: np.ndarray) -> float:
    """b as libsvm takes it: the mean over free support vectors of y - g, or the middle of where it may lie."""
    free = ~(none | full)
    if free.any():
        return float(np.mean((y - g)[free]))
    up = (y > 0) == none  # b must be at least y - g at these, at most at the others
    b = y - g
    return float((b[up].max(initial=-math.inf) + b[~up].min(initial=math.inf)) / 2)
