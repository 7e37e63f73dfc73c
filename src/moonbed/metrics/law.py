"""An exact law as metrics see it: densities and scores of arrays, and expectations under the law itself.

*Mixtures.* If the law is a mixture of Gaussians, sum_k w_k N(c_k, v_k), everything follows from one matrix of
responsibilities r_k(x), computed with one matrix product, since the exponent is linear in (x², x):

    log w_k N(x; c_k, v_k) = -x²/(2 v_k) + x c_k/v_k + const_k

The score, the posterior probabilities of modes and the columns of the panel are means of numbers a_k under r_k(x): the
product of that matrix with columns. Logarithms are to base 2 within, where the processor has its exponential.

*Expectations.* Entropy, quantiles of the log density, null moments: integrals over the law, taken as averages over a
fixed *table* of points. Half of them are drawn from the law p, half from q, which is p with noise of greater variance,
and each has the weight 2p/(p + q) (the balance heuristic of Veach and Guibas, Optimally Combining Sampling Techniques,
1995). No weight exceeds 2, and the tails, where q is larger, are known as well as the bulk. For mixtures the points are
scrambled Sobol points (Owen, Scrambled net variance for integrals of smooth functions, 1997) sent through the inverse
distribution functions. The table depends on the law alone, and is made once a process.
"""

from __future__ import annotations

import math
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from moonbed._lazy import lazy_import
from moonbed.metrics.base import Law
from moonbed.rng import Rng, Stream

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor
else:
    np = lazy_import("numpy")
    torch = lazy_import("torch")

__all__ = ["Arc", "KnownLaw", "Table", "known"]

_BLOCK = 1 << 17  # pairs of points and centres at once
_TABLE = 1 << 15  # points from p, and as many from q
_PAIRS = 1 << 25  # pairs of points and centres that a table may cost, above _LEAST points
_LEAST = 1 << 11
_LOG2E = math.log2(math.e)
_FLOOR = -86.0  # 2 to the power of less is lost beside 1, and denormals are many times slower
_MOST_MODES = 64


@lru_cache(16)
def known(law: Law) -> KnownLaw:
    """The law as metrics see it; laws that are equal share one, with its table."""
    return KnownLaw(law)


class Arc(NamedTuple):
    """A piece of a curve among the Gaussians of a mixture: which they are, and the parameter u in [0, 1] of each."""

    rows: slice
    u: np.ndarray


class Table(NamedTuple):
    """Points (N, dim) with weights (N,) that sum to 1, in ascending order of their log density (N,) under the law."""

    x: np.ndarray
    weights: np.ndarray
    log_density: np.ndarray

    def mean(self, values: np.ndarray) -> Any:
        """Expectation under the law of values (N, ...) at the points."""
        return self.weights @ values


class KnownLaw:
    """NumPy face of a law. `log_density`, `score` and `mode_probs` take (n, dim); `table` integrates over the law."""

    def __init__(self, law: Law) -> None:
        self._law: Any = law
        inner = getattr(law, "law", law)
        mixture = getattr(law, "mixture", None) or getattr(inner, "mixture", inner)
        self._mixture: Any = mixture if all(hasattr(mixture, a) for a in ("weights", "centres", "std")) else None
        self._inner: Any = inner if hasattr(inner, "mixture") else law
        self._probe = law.sample(2, Rng(0).stream("metrics", "probe")).to(torch.float64)

    @property
    def dim(self) -> int:
        """Number of coordinates."""
        return self._probe.shape[1]

    @cached_property
    def scale(self) -> np.ndarray:
        """(dim,) what coordinates were divided by when the law was standardised."""
        scale = getattr(self._law, "scale", None)
        return np.ones(self.dim) if scale is None else np.asarray(scale, dtype=np.float64)

    # Densities

    def log_density(self, x: np.ndarray, blur: float = 0.0) -> np.ndarray:
        """(n,) log density at x of the law plus `blur` times normal noise; -inf where x is not finite."""
        out = np.full(len(x), -np.inf)
        finite = (np.abs(x) <= 1e150).all(1)
        if finite.any():
            out[finite] = self._log_density(torch.from_numpy(x[finite]), blur).numpy()
        return out

    def _log_density(self, x: Tensor, blur: float) -> Tensor:
        if self._mixture is None:
            return self._law.log_prob(x, 1.0, blur)
        return self.posterior(x, blur=blur)[0]

    @cached_property
    def has_score(self) -> bool:
        """Whether the law has a score without noise."""
        if self._mixture is not None:
            return True
        try:
            return hasattr(self._law, "score") and bool(torch.isfinite(self._law.score(self._probe, 1.0, 0.0)).all())
        except (ValueError, NotImplementedError):
            return False

    def score(self, x: np.ndarray) -> np.ndarray:
        """(n, dim) gradient of the log density at finite points."""
        points = torch.from_numpy(x)
        if self._mixture is None:
            return self._law.score(points, 1.0, 0.0).numpy()
        v = self.std**2
        precision, mean = self.posterior(points, torch.cat([1 / v, self.centres / v], dim=1))[1].split(self.dim, dim=1)
        return (mean - points * precision).numpy()

    # Under noise

    def sample(self, n: int, stream: Stream) -> Tensor:
        """(n, dim) independent draws."""
        return self._law.sample(n, stream).to(torch.float64)

    @property
    def has_denoiser(self) -> bool:
        """Whether the law has `denoise`."""
        return hasattr(self._law, "denoise")

    def denoise(self, y: Tensor, sigma: float) -> Tensor:
        """(n, dim) exact E[x_0 | x_0 + sigma eps = y]."""
        return self._law.denoise(y, 1.0, sigma)

    # The mixture

    @property
    def is_mixture(self) -> bool:
        """Whether the law is a mixture of Gaussians; only then are there `centres`, `std`, `weights`, `posterior`."""
        return self._mixture is not None

    @cached_property
    def weights(self) -> Tensor:
        """(K,) weights of the Gaussians."""
        return self._mixture.weights.to(torch.float64)

    @cached_property
    def centres(self) -> Tensor:
        """(K, dim) their centres."""
        return self._mixture.centres.to(torch.float64)

    @cached_property
    def std(self) -> Tensor:
        """(K, dim) their standard deviations."""
        return self._mixture.std.to(torch.float64).expand_as(self.centres)

    def posterior(
        self, x: Tensor, columns: Tensor | None = None, inflate: float = 1.0, blur: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """(n,) log density and (n, m) means of `columns` (K, m) under the responsibilities, at variances `inflate` v +
        `blur`²."""
        v = inflate * self.std**2 + blur**2
        exponents = self._exponents(v, torch.full_like(v, 1 / (2 * math.pi)))
        log_p = torch.empty(len(x), dtype=torch.float64)
        means = np.empty((len(x), 0 if columns is None else columns.shape[1]))
        size = max(1, _BLOCK // len(v))
        memory = np.empty((size, len(v)))
        for start in range(0, len(x), size):
            rows = slice(start, min(start + size, len(x)))
            bits = np.matmul(_powers(x[rows].numpy()), exponents, out=memory[: rows.stop - start])
            r = torch.from_numpy(bits)
            top = r.amax(1, keepdim=True)
            total = r.sub_(top).clamp_(min=_FLOOR).exp2_().sum(1, keepdim=True)
            log_p[rows] = (top + torch.log2(total)).squeeze(1) / _LOG2E
            if columns is not None:
                np.matmul(bits, columns.numpy(), out=means[rows])
                means[rows] /= total.numpy()
        return log_p, torch.from_numpy(means)

    def kernel_mean(self, x: np.ndarray, h: float) -> np.ndarray:
        """(n,) E exp(-|x - X|²/(2 h²)): 0 at points that are not finite. Of a mixture in single precision."""
        if self._mixture is None:
            return np.exp(self.log_density(x, blur=h) + self.dim / 2 * math.log(2 * math.pi * h**2))
        exponents = self._exponents(self.std**2 + h**2, torch.full_like(self.std, h**2))
        finite, out = (np.abs(x) <= 1e150).all(1), np.zeros(len(x))
        points, sums = x[finite], np.empty(int(finite.sum()))
        size = max(1, _BLOCK // exponents.shape[1])
        memory, single = np.empty((size, exponents.shape[1])), torch.empty(size, exponents.shape[1])
        for start in range(0, len(points), size):
            rows = slice(start, min(start + size, len(points)))
            bits = np.matmul(_powers(points[rows]), exponents, out=memory[: rows.stop - start])
            k = single[: len(bits)].copy_(torch.from_numpy(bits))
            sums[rows] = k.clamp_(min=_FLOOR).exp2_().sum(1).numpy()
        out[finite] = sums
        return out

    def _exponents(self, v: Tensor, unit: Tensor) -> np.ndarray:
        """(2 dim + 1, K): log2 of w_k prod sqrt(unit/v_k) exp(-(x - c_k)²/(2 v_k)) is a product with (x², x, 1)."""
        constant = torch.log(self.weights) + 0.5 * (torch.log(unit / v) - self.centres**2 / v).sum(1)
        return _LOG2E * torch.cat([-0.5 / v, self.centres / v, constant[:, None]], dim=1).T.contiguous().numpy()

    # Modes: the arcs of a curve, the labels or the Gaussians of a mixture, the labels of any other law

    @cached_property
    def arcs(self) -> tuple[Arc, ...]:
        """The arcs of a curve in two dimensions; () for all other laws."""
        count = getattr(self._inner, "arcs", 0)
        if not (self.is_mixture and count and self.dim == 2) or len(self.weights) % count:
            return ()
        each = len(self.weights) // count
        out = []
        for k in range(count):
            w = self.weights[k * each : (k + 1) * each].numpy()
            out.append(Arc(slice(k * each, (k + 1) * each), (np.cumsum(w) - w / 2) / w.sum()))
        return tuple(out)

    @cached_property
    def mode_names(self) -> tuple[str, ...]:
        """Names of the modes, of which there may be none."""
        names = getattr(self._inner, "mode_names", None)
        if names is not None:
            return tuple(names)
        kind, count = self._modes
        return tuple(f"{kind} {k + 1}" if kind != "label" else f"label {k}" for k in range(count))

    @cached_property
    def _modes(self) -> tuple[str, int]:
        classes = int(getattr(self._law, "classes", 1))
        if 1 <= len(self.arcs) <= _MOST_MODES:
            return "arc", len(self.arcs)
        if self.is_mixture and len(self.weights) <= _MOST_MODES:
            return "mode", len(self.weights)
        labelled = hasattr(self._law, "labels") if self.is_mixture else hasattr(self._law, "label_probs")
        return ("label", classes) if labelled and 1 < classes <= _MOST_MODES else ("", 0)

    @cached_property
    def mode_of(self) -> np.ndarray:
        """(K,) the mode that each Gaussian of a mixture belongs to; zeros where there are no modes."""
        kind, count = self._modes
        total = len(self.weights)
        if kind == "label":
            return np.asarray(self._law.labels)
        return np.arange(total) * max(count, 1) // total

    @cached_property
    def mode_weights(self) -> np.ndarray:
        """(modes,) their probabilities."""
        count = len(self.mode_names)
        if self.is_mixture:
            return np.bincount(self.mode_of, self.weights.numpy(), minlength=count)[:count]
        weights = getattr(self._law, "label_weights", None)
        return self.table.mean(self.mode_probs(self.table.x)) if weights is None else np.asarray(weights)

    def mode_probs(self, x: np.ndarray) -> np.ndarray:
        """(n, modes) posterior probabilities of the modes at points of the support."""
        points = torch.from_numpy(x)
        if not self.is_mixture:
            return self._law.label_probs(points).numpy()
        columns = torch.nn.functional.one_hot(torch.tensor(self.mode_of), len(self.mode_names)).to(torch.float64)
        return self.posterior(points, columns)[1].numpy()

    # Expectations

    @cached_property
    def draws(self) -> np.ndarray:
        """(N, dim) points that are spread as the law is, N = 32,768 or fewer where the law is costly."""
        if self._mixture is None:
            return self._law.sample(_TABLE, Rng(0).stream("metrics", "table")).to(torch.float64).numpy()
        k, normal = self._sobol
        return (self.centres[k] + self.std[k] * normal).numpy()

    @cached_property
    def _sobol(self) -> tuple[Tensor, Tensor]:
        """Numbers (N,) of Gaussians and standard normal points (N, dim), evenly spread."""
        budget = max(_LEAST, min(_TABLE, _PAIRS // len(self.weights)))
        count = 1 << budget.bit_length() - 1
        seed = Rng(0).stream("metrics", "table").seed % 2**62
        u = torch.quasirandom.SobolEngine(self.dim + 1, scramble=True, seed=seed).draw(count, dtype=torch.float64)
        k = torch.searchsorted(self.weights.cumsum(0), u[:, 0].contiguous()).clamp(max=len(self.weights) - 1)
        return k, torch.special.ndtri(u[:, 1:].clamp(1e-12, 1 - 1e-12))

    @cached_property
    def table(self) -> Table:
        """Points to integrate with: `table.mean(f(table.x))` is the expectation of f."""
        x = torch.from_numpy(self.draws)
        if self.is_mixture:
            k, normal = self._sobol
            wide = 1 + 3 * math.sqrt(2 / self.dim)
            x = torch.cat([x, self.centres[k] + math.sqrt(wide) * self.std[k] * normal])
            log_q = self.posterior(x, inflate=wide)[0]
        elif self.has_score:
            blur = self.local_width * math.sqrt(3 * math.sqrt(2 / self.dim))
            more = self._law.sample(len(x), Rng(0).stream("metrics", "wide table"))
            noise = Rng(0).stream("metrics", "wide noise").normal(more.shape, torch.float64)
            x = torch.cat([x, more + blur * noise])
            log_q = self._law.log_prob(x, 1.0, blur)
        else:
            log_q = None
        log_p = self._log_density(x, 0.0)
        weights = torch.ones(len(x), dtype=torch.float64) if log_q is None else torch.sigmoid(log_p - log_q)
        order = torch.argsort(log_p, stable=True)
        return Table(x[order].numpy(), (weights / weights.sum())[order].numpy(), log_p[order].numpy())

    @cached_property
    def local_width(self) -> float:
        """Standard deviation of the Gaussian with as large a mean squared score, a coordinate."""
        return math.sqrt(self.dim / float((self.score(self.draws[:4096]) ** 2).sum(1).mean()))

    @cached_property
    def log_density_moments(self) -> tuple[float, float]:
        """Mean (minus the entropy) and standard deviation of the log density, in nats."""
        mean = float(self.table.mean(self.table.log_density))
        return mean, math.sqrt(self.table.mean((self.table.log_density - mean) ** 2))

    def below(self, t: np.ndarray | float, closed: bool = False) -> Any:
        """P(log p(X) < t), or <= t."""
        total = np.concatenate([[0.0], np.cumsum(self.table.weights)])
        return np.minimum(total[np.searchsorted(self.table.log_density, t, side="right" if closed else "left")], 1.0)

    def level(self, mass: float) -> tuple[float, float]:
        """A log density t that is exceeded but for about `mass` of the law, and P(log p(X) < t)."""
        place = int(np.searchsorted(np.cumsum(self.table.weights), mass, side="right"))
        t = float(self.table.log_density[min(place, len(self.table.weights) - 1)])
        return t, float(self.below(t))


def _powers(x: np.ndarray) -> np.ndarray:
    """(n, 2 dim + 1): x², x, 1."""
    return np.hstack([x**2, x, np.ones((len(x), 1))])
