"""Low-dimensional laws in high-dimensional space: the manifold hypothesis, with a known manifold.

    X_0 = s (Q Y_0 + nu E),    Y_0 ~ target in R^d, E ~ N(0, I) in R^D, Q (D, d) with orthonormal columns

The orthogonal group leaves Gaussian noise alone, so the law after the forward process factorises into the target's own,
at the noise level `tau² = alpha² nu² + sigma²/s²`, and a Gaussian across. With `u = x_t/s` and `z = Q' u`,

    log p_t(x_t) = log p_tau^target(z) + log N(u - Q z; 0, tau²) - D log s
    E[x_0 | x_t] = s (Q y + alpha nu²/tau² (u - alpha Q y)),    y = E[Y_0 | alpha Y_0 + tau eps = z]

Q is Haar distributed: the QR decomposition of a Gaussian matrix, with the signs of R's diagonal taken into Q (Mezzadri,
How to Generate Random Matrices from the Classical Compact Groups, 2007).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING

from moonbed._lazy import lazy_import
from moonbed.component import NonNegativeInt, Positive, PositiveFloat, SpecError
from moonbed.rng import Rng, Stream
from moonbed.targets.base import Level, Target, column
from moonbed.targets.curves import TwoMoons

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = lazy_import("torch")


class Lifted(Target):
    """Any target in `dim` dimensions: a random isometry, plus isotropic noise in all directions.

    `noise` is in the units of the standardised target. One factor s for all coordinates makes their mean variance 1: a
    factor a coordinate would bend the isometry and make the noise unequal. `scale` is 1/s: `x * scale` is Q Y + noise.
    """

    target: Target = TwoMoons()
    dim: Positive = 16
    noise: PositiveFloat = 0.05
    seed: NonNegativeInt = 0

    def check(self) -> Iterator[tuple[str, str]]:
        try:
            least = self.target.dim
        except SpecError:  # data that are elsewhere: said where they are used
            return
        if self.dim < least:
            yield "dim", f"should be at least that of the target ({least}), given {self.dim}"

    @property
    def classes(self) -> int:
        return self.target.classes

    @property
    def label_weights(self) -> Tensor:
        return self.target.label_weights

    @property
    def scale(self) -> Tensor:
        return torch.full((self.dim,), 1 / self._s, dtype=torch.float64)

    @property
    def _s(self) -> float:
        return 1 / math.sqrt(self.target.dim / self.dim + self.noise**2)

    @cached_property
    def isometry(self) -> Tensor:
        """(dim, target.dim) float64 with orthonormal columns."""
        normal = Rng(self.seed).stream("targets", "Lifted", "isometry")
        q, r = torch.linalg.qr(normal.normal((self.dim, self.target.dim), torch.float64))
        return q * torch.sign(r.diagonal())

    def sample(self, n: int, stream: Stream) -> Tensor:
        return self.sample_labelled(n, stream)[0]

    def sample_labelled(self, n: int, stream: Stream) -> tuple[Tensor, Tensor]:
        y, labels = self.target.sample_labelled(n, stream)
        noise = stream.normal((n, self.dim), torch.float64)
        return self._s * (y @ self.isometry.T + self.noise * noise), labels

    def log_prob(self, x: Tensor, alpha: Level = 1.0, sigma: Level = 0.0) -> Tensor:
        z, across, tau = self._split(x, alpha, sigma)
        log_gauss = (self.dim - self.target.dim) * torch.log(2 * math.pi * tau**2) + (across / tau) ** 2 @ _ones(across)
        inside = self.target.log_prob(z, alpha, tau)
        return inside - (log_gauss / 2).squeeze(1) - self.dim * math.log(self._s)

    def denoise(self, x_t: Tensor, alpha: Level, sigma: Level) -> Tensor:
        z, across, tau = self._split(x_t, alpha, sigma)
        alpha = column(alpha)
        gain = alpha * self.noise**2 / tau**2
        y = self.target.denoise(z, alpha, tau)
        return self._s * ((y + gain * (z - alpha * y)) @ self.isometry.T + gain * across)

    def score(self, x_t: Tensor, alpha: Level = 1.0, sigma: Level = 0.0) -> Tensor:
        z, across, tau = self._split(x_t, alpha, sigma)
        return (self.target.score(z, alpha, tau) @ self.isometry.T - across / tau**2) / self._s

    def part(self, label: int) -> Target:
        return Lifted(target=self.target.given(label), dim=self.dim, noise=self.noise, seed=self.seed)

    def _split(self, x: Tensor, alpha: Level, sigma: Level) -> tuple[Tensor, Tensor, Tensor]:
        """x/s in the target's coordinates (n, d), what is across (n, D), and the noise level tau, (1, 1) or (n, 1)."""
        u = x.to(torch.float64) / self._s
        z = u @ self.isometry
        tau = torch.sqrt((column(alpha) * self.noise) ** 2 + (column(sigma) / self._s) ** 2)
        return z, u - z @ self.isometry.T, tau


def _ones(x: Tensor) -> Tensor:
    return torch.ones(x.shape[1], 1, dtype=x.dtype)
