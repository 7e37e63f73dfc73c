"""Sums of a Gaussian kernel over all pairs of points, in one or two dimensions, from characteristic functions.

On a line, by Poisson's summation formula, with ω_j = 2πj/P,

    Σ_m exp(-γ (d + mP)²) = sqrt(π/γ)/P Σ_j exp(-ω_j²/(4γ)) cos(ω_j d)

Left, all but m = 0 is below ε where P exceeds the largest |d| by sqrt(ln(1/ε)/γ); right, all beyond ω = 2 sqrt(γ
ln(1/ε)) is. Kernel and spectrum are both Gaussian, so that few frequencies give the kernel to rounding: 13, and 2 more
for each 1/sqrt(γ) of the points' extent. As cos(ω(x-y)) = cos ωx cos ωy + sin ωx sin ωy, the sum over pairs is one over
frequencies,

    Σ_i Σ_j v_i w_j exp(-γ |x_i - y_j|²) = Σ_ω c(ω) <φ(ω), ψ(ω)>        φ(ω) = Σ_i v_i (cos ωx_i, sin ωx_i), ψ of w, y

In the plane kernel and waves are products over the axes, and φ one matrix product: (frequencies, points) of the first
axis by (points, frequencies) of the second. O(n k²) time and O(k²) memory for n points and k frequencies an axis.

Sums of this kind in the sense of Greengard and Strain, The fast Gauss transform, 1991, by plane waves: Spivak,
Veerapaneni and Greengard, The fast generalized Gauss transform, 2010.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from moonbed._lazy import lazy_import

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy_import("numpy")

__all__ = ["Waves"]

_LENGTH = math.sqrt(-math.log(1e-16))
_BLOCK = 1 << 11  # points at once


@dataclass(frozen=True)
class Waves:
    """Plane waves for exp(-gamma |x - y|²) between points (n, 1) or (n, 2) within a box of the sides `extent`.

    `total` of two transforms is the kernel's sum over all pairs, to 1e-14 of their number times the largest weights.
    """

    extent: tuple[float, ...]
    gamma: float

    @property
    def steps(self) -> list[float]:
        """Distance of frequencies, an axis."""
        return [2 * math.pi / (side + _LENGTH / math.sqrt(self.gamma)) for side in self.extent]

    @property
    def counts(self) -> list[int]:
        """Number of frequencies, an axis."""
        return [1 + math.ceil(2 * _LENGTH * math.sqrt(self.gamma) / step) for step in self.steps]

    def transform(self, x: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
        """(2 k,) or (2 k, 2 l): Σ of weight, 1 if not given, times cos and sin on each axis, alternating."""
        sums = np.zeros([2 * count for count in self.counts])
        for start in range(0, len(x), _BLOCK):
            rows = slice(start, start + _BLOCK)
            waves = [
                _powers(np.exp(1j * step * x[rows, axis]), count)
                for axis, (step, count) in enumerate(zip(self.steps, self.counts, strict=True))
            ]
            if weights is not None:
                waves[0] *= weights[rows, None]
            sums += waves[0].sum(0) if len(waves) == 1 else waves[0].T @ waves[1]
        return sums

    def total(self, left: np.ndarray, right: np.ndarray) -> float:
        """Sum of the kernel over all pairs of the points behind two transforms."""
        coefficients = [self._coefficients(step, count) for step, count in zip(self.steps, self.counts, strict=True)]
        product = left * right
        for c in reversed(coefficients):
            product = product @ c
        return float(product)

    def _coefficients(self, step: float, count: int) -> np.ndarray:
        c = step / math.sqrt(math.pi * self.gamma) * np.exp(-np.square(step * np.arange(count)) / (4 * self.gamma))
        c[0] /= 2
        return np.repeat(c, 2)


def _powers(base: np.ndarray, count: int) -> np.ndarray:
    """(n, 2 count) real and imaginary parts of base⁰, base¹, ..., by doubling: errors grow with log(count)."""
    powers = np.empty((count, len(base)), dtype=complex)  # by rows: others' last bits depend on alignment in NumPy 1.26
    powers[0] = 1
    done = 1
    while done < count:
        more = min(done, count - done)
        factor = base if done == 1 else powers[done - 1] * base
        np.multiply(powers[:more], factor, out=powers[done : done + more])
        done += more
    return np.ascontiguousarray(powers.T).view(float)
