"""The law that classifier-free guidance aims at: the whole law, tilted towards a label by a power.

    q(x) = p(x | c)^w p(x)^(1 - w)/Z = p(x) P(c | x)^w/(P(c)^w Z)

w = 0 is p, w = 1 is p(x | c), and w > 1 also shuns what other labels share with c (Ho and Salimans, Classifier-Free
Diffusion Guidance, 2022). Guidance adds scores with the weights w and 1 - w at *every* noise level. Those sums are not
the scores of q with noise, so guided samples do not follow q (Bradley and Nakkiran, Classifier-Free Guidance is a
Predictor-Corrector, 2024): held against this law, they show by how much.

Samples are exact, by rejection: q/p is proportional to P(c | x)^w, and q/p(. | c) to P(c | x)^(w - 1), at most one.
Densities with noise are found by quadrature: see `moonbed.targets.quadrature`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING

from moonbed._lazy import lazy_import
from moonbed.component import NonNegative, SpecError
from moonbed.rng import Rng, Stream
from moonbed.targets.base import Law, Level, Target
from moonbed.targets.boxes import BoxMixture
from moonbed.targets.curves import TwoMoons
from moonbed.targets.following import OfLabel
from moonbed.targets.mixtures import GaussianMixture, Mixture
from moonbed.targets.published import PublishedMoons
from moonbed.targets.quadrature import Grid, Quadrature

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = lazy_import("torch")

__all__ = ["Tilted"]

_DRAWS = 1 << 18  # proposals at once
_LEAST = 1e-4  # proposals that must be accepted
_LEAST_W = 0.4  # where a part's density counts to this power, exp(-300) of it may stand for less


class Tilted(OfLabel):
    """p(x | label)^w p(x)^(1 - w), normalised, with w = `guidance`, in the coordinates of `target`: not standardised.

    Where the target has one label, or w is 0 or 1, that law itself. Else by quadrature in one or two dimensions, for
    laws whose density is smooth. Uniform laws have edges: there a label's boxes must not overlap those of others, and
    all w > 0 give the label's own law. A point takes about one proposal where w > 1, up to 1/P(c) where w < 1. Raises
    SpecError when it is first asked for a density that no grid can hold. Source: Ho and Salimans 2022.
    """

    target: Target = TwoMoons()
    guidance: NonNegative = 2.0

    def check(self) -> Iterator[tuple[str, str]]:
        yield from super().check()
        try:
            classes, dim = self.target.classes, self.target.dim
        except SpecError:  # data that are elsewhere
            return
        if self.label in range(classes) and dim > 2 and classes > 1 and self.guidance not in (0, 1):
            name = type(self.target).__name__
            yield "target", f"{name} has {dim} dimensions; the law is found by quadrature in at most 2"

    @cached_property
    def law(self) -> Law:
        if self.guidance == 0 or self.target.classes == 1:
            return self.target
        part = self.target.part(self.label)
        if self.guidance == 1:
            return part
        if isinstance(part, BoxMixture):
            return self._apart(part)
        whole = self.target.law if isinstance(self.target, PublishedMoons) else self.target
        return Tilt(whole, part, float(self.target.label_weights[self.label]), self.guidance)

    def _apart(self, part: BoxMixture) -> BoxMixture:
        """The boxes of the label, if no other label's lie on them: then P(label | x) is 1 on all of them."""
        for other in set(range(self.target.classes)) - {self.label}:
            boxes = self.target.part(other)
            if not isinstance(boxes, BoxMixture) or _overlap(boxes, part):
                message = f"the boxes of the labels {self.label} and {other} overlap: a density with edges has no grid"
                raise SpecError([("target", message)])
        return part


def _overlap(a: BoxMixture, b: BoxMixture) -> bool:
    """Whether a box of a has a point in common with one of b."""
    common = torch.minimum(a.high[:, None], b.high) > torch.maximum(a.low[:, None], b.low)
    return bool(common.all(2).any())


class Tilt:
    """The tilt of a law by a part of it whose probability is `share`, w neither 0 nor 1: a `Law`."""

    def __init__(self, whole: Law, part: Law, share: float, w: float) -> None:
        self._whole, self._part, self._log_share, self._w = whole, part, math.log(share), w

    @cached_property
    def _quadrature(self) -> Quadrature:
        draws = self.sample(4096, Rng(0).stream("targets", "Tilted", "extent"))
        whole, part = self._whole, self._part
        if not isinstance(whole, GaussianMixture) or not isinstance(part, Mixture) or self._w < _LEAST_W:
            return Quadrature(self._log_density, draws)

        def on_axes(axes: tuple[Tensor, ...]) -> Tensor:
            log_p, log_part = (_log_mixture(mixture, axes) for mixture in (whole.mixture, part))
            return log_p + self._w * (log_part - log_p)

        return Quadrature(self._log_density, draws, on_axes)

    @property
    def grid(self) -> Grid:
        """Nodes that have the law's mass."""
        return self._quadrature.grid

    def _log_density(self, x: Tensor) -> Tensor:
        """(n,): log q + log Z."""
        log_p = self._whole.log_prob(x)
        return log_p + self._w * (self._part.log_prob(x) - log_p)

    def sample(self, n: int, stream: Stream) -> Tensor:
        """(n, dim): exact draws. Raises ValueError where fewer than one proposal in 10,000 is accepted."""
        proposal, power = (self._part, self._w - 1) if self._w > 1 else (self._whole, self._w)
        kept: list[Tensor] = []
        found = drawn = 0
        while not kept or found < n:
            if drawn >= _DRAWS and found < _LEAST * drawn:
                raise ValueError(f"the tilt is too strong to be drawn from: {found} of {drawn} proposals were accepted")
            rate = max(found / drawn if drawn else 0.5, _LEAST)
            x = proposal.sample(min(_DRAWS, math.ceil((n - found) / rate) + 64), stream)
            log_posterior = self._log_share + self._part.log_prob(x) - self._whole.log_prob(x)
            u = stream.uniform((len(x),), torch.float64)
            kept.append(x[torch.log(u) < power * log_posterior])
            found, drawn = found + len(kept[-1]), drawn + len(x)
        return torch.cat(kept)[:n]

    def log_prob(self, x: Tensor, alpha: Level = 1.0, sigma: Level = 0.0) -> Tensor:
        return self._quadrature.log_prob(x, alpha, sigma)

    def denoise(self, x_t: Tensor, alpha: Level, sigma: Level) -> Tensor:
        return self._quadrature.denoise(x_t, alpha, sigma)

    def score(self, x_t: Tensor, alpha: Level = 1.0, sigma: Level = 0.0) -> Tensor:
        return self._quadrature.score(x_t, alpha, sigma)


def _log_mixture(mixture: Mixture, axes: tuple[Tensor, ...]) -> Tensor:
    """(I, J) log density of Gaussians on a grid, J = 1 on a line: a matrix product. Below about -300 it is too high."""
    total: Tensor | float = 0.0
    std = mixture.std.expand_as(mixture.centres)
    for w, c, d in zip(*(a.split(1 << 12) for a in (mixture.weights, mixture.centres, std)), strict=True):
        factors = [(-(((axis[:, None] - c[:, j]) / d[:, j]) ** 2) / 2).clamp(min=-350) for j, axis in enumerate(axes)]
        left = w * factors[0].exp() / (math.sqrt(2 * math.pi) * d).prod(1)
        right = factors[1].exp() if len(factors) == 2 else torch.ones(1, len(w), dtype=torch.float64)
        total = total + left @ right.T
    return torch.log(torch.as_tensor(total).clamp(min=1e-300))
