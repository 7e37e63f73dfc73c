"""Targets: distributions whose law is known exactly at every noise level.

The forward process turns data `x_0` into `x_t = alpha x_0 + sigma eps` with standard normal `eps`. A target knows the
density `p_t` of `x_t` and the mean `E[x_0 | x_t]` in closed form or by quadrature; the two are bound by Tweedie's
formula (Robbins, An Empirical Bayes Approach to Statistics, 1956; Efron, Tweedie's Formula and Selection Bias, 2011):

    grad log p_t(x_t) = (alpha E[x_0 | x_t] - x_t)/sigma²

Where the data carry a label `y`, the law of each label is a target again, and Bayes' rule gives `P(y | x_t)`.

Coordinates are standardised by the mean and standard deviation of the *law*, not of a sample, so that the same number
means the same in every run: `mean + scale * x` is in the units in which the target is described.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Protocol, TypeAlias

from moonbed._lazy import lazy_import
from moonbed.component import Component
from moonbed.rng import Stream

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = lazy_import("torch")

__all__ = ["Law", "Level", "Target", "column"]

Level: TypeAlias = "float | Tensor"
"""A noise level: one number, or (n,) float64 with one for each row."""


class Law(Protocol):
    """What can be sampled, weighed and denoised: a target, or a part of one."""

    def sample(self, n: int, stream: Stream) -> Tensor: ...
    def log_prob(self, x: Tensor, alpha: Level = 1.0, sigma: Level = 0.0) -> Tensor: ...
    def denoise(self, x_t: Tensor, alpha: Level, sigma: Level) -> Tensor: ...
    def score(self, x_t: Tensor, alpha: Level = 1.0, sigma: Level = 0.0) -> Tensor: ...


class Target(Component):
    """A distribution on R^dim: iid samples, exact log density and exact denoiser at every noise level.

    A member gives `sample`, `log_prob` and `denoise`; one with labels also `classes`, `label_weights`,
    `sample_labelled` and `part`. Noise levels `alpha > 0` and `sigma >= 0` are numbers, or (n,) with one for each row.
    """

    @property
    def dim(self) -> int:
        """Number of coordinates."""
        return 2

    @property
    def classes(self) -> int:
        """Number of labels; they are 0 to classes - 1."""
        return 1

    @property
    def mean(self) -> Tensor:
        """(dim,) population mean before standardisation."""
        return torch.zeros(self.dim, dtype=torch.float64)

    @property
    def scale(self) -> Tensor:
        """(dim,) what a coordinate was divided by after the mean was taken off."""
        return torch.ones(self.dim, dtype=torch.float64)

    @property
    def label_weights(self) -> Tensor:
        """(classes,) probabilities of the labels."""
        return torch.full((self.classes,), 1 / self.classes, dtype=torch.float64)

    @abstractmethod
    def sample(self, n: int, stream: Stream) -> Tensor:
        """(n, dim) float64: independent draws from the exact law."""

    @abstractmethod
    def log_prob(self, x: Tensor, alpha: Level = 1.0, sigma: Level = 0.0) -> Tensor:
        """(n,) float64: exact log density, in nats, of `alpha x_0 + sigma eps` at the rows of x (n, dim)."""

    @abstractmethod
    def denoise(self, x_t: Tensor, alpha: Level, sigma: Level) -> Tensor:
        """(n, dim) float64: exact E[x_0 | alpha x_0 + sigma eps = x_t] at the rows of x_t (n, dim)."""

    def dataset(self, n: int, stream: Stream) -> Tensor:
        """(n, dim) float64: the points to train on or to compare with. iid, unless a target's published use differs."""
        return self.sample(n, stream)

    def sample_labelled(self, n: int, stream: Stream) -> tuple[Tensor, Tensor]:
        """What `sample` draws from the same stream, and the labels (n,) int64 of the points."""
        if self.classes > 1:
            raise NotImplementedError(f"{type(self).__name__} has {self.classes} labels but no sample_labelled")
        return self.sample(n, stream), torch.zeros(n, dtype=torch.int64)

    def score(self, x_t: Tensor, alpha: Level = 1.0, sigma: Level = 0.0) -> Tensor:
        """(n, dim) float64: exact grad log p_t at the rows of x_t (n, dim)."""
        alpha, sigma = column(alpha), column(sigma)
        if (sigma == 0).any():
            raise ValueError(f"{type(self).__name__} has a score at sigma > 0 only, given sigma = 0")
        x_t = x_t.to(torch.float64)
        return (alpha * self.denoise(x_t, alpha, sigma) - x_t) / sigma**2

    def part(self, label: int) -> Law:
        """The law of one known label, as plainly as it can be had; `given` makes a target of it."""
        if self.classes > 1:
            raise NotImplementedError(f"{type(self).__name__} has {self.classes} labels but no part(label)")
        return self

    def given(self, label: int) -> Target:
        """The law of the points with a label, in the same coordinates. Raises ValueError for an unknown label."""
        from moonbed.targets.given import Given

        return Given(target=self, label=label)

    def label_probs(self, x_t: Tensor, alpha: Level = 1.0, sigma: Level = 0.0) -> Tensor:
        """(n, classes) float64: posterior probabilities of the labels at the rows of x_t (n, dim)."""
        log_p = torch.stack([self.part(k).log_prob(x_t, alpha, sigma) for k in range(self.classes)], dim=1)
        return torch.softmax(log_p + torch.log(self.label_weights), dim=1)


def column(level: Level) -> Tensor:
    """A noise level as float64 that multiplies rows: (1, 1) or (n, 1)."""
    return torch.as_tensor(level, dtype=torch.float64).reshape(-1, 1)
