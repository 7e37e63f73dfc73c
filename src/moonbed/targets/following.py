"""Targets that follow a law which is had elsewhere: that of a mixture's parts, of a label, or behind another target."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

from moonbed._lazy import lazy_import
from moonbed.component import SpecError
from moonbed.rng import Stream
from moonbed.targets.base import Law, Level, Target

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = lazy_import("torch")

__all__ = ["Following", "FromParts", "OfLabel", "Parts"]


class Following(Target):
    """A target that is sampled, weighed and denoised by a law, in that law's coordinates: a member gives `law`."""

    @property
    @abstractmethod
    def law(self) -> Law:
        """What is sampled, weighed and denoised here."""

    def sample(self, n: int, stream: Stream) -> Tensor:
        return self.law.sample(n, stream)

    def log_prob(self, x: Tensor, alpha: Level = 1.0, sigma: Level = 0.0) -> Tensor:
        return self.law.log_prob(x, alpha, sigma)

    def denoise(self, x_t: Tensor, alpha: Level, sigma: Level) -> Tensor:
        return self.law.denoise(x_t, alpha, sigma)

    def score(self, x_t: Tensor, alpha: Level = 1.0, sigma: Level = 0.0) -> Tensor:
        return self.law.score(x_t, alpha, sigma)


class Parts(Law, Protocol):
    """A mixture of parts, with weights (K,) that sum to 1."""

    @property
    def weights(self) -> Tensor: ...
    def draw(self, n: int, stream: Stream) -> tuple[Tensor, Tensor]: ...


class FromParts(Following):
    """A target that is a mixture: a member gives `mixture`.

    Parts lie in order of their labels, as many for each; a member with labels only says how many `classes`.
    """

    @property
    @abstractmethod
    def mixture(self) -> Parts:
        """The mixture in standardised coordinates."""

    @property
    def law(self) -> Law:
        return self.mixture

    @cached_property
    def labels(self) -> Tensor:
        """(K,) int64: the label of each part."""
        count = len(self.mixture.weights)
        return torch.arange(count) * self.classes // count

    @cached_property
    def label_weights(self) -> Tensor:
        return torch.zeros(self.classes, dtype=torch.float64).index_add_(0, self.labels, self.mixture.weights)

    def sample(self, n: int, stream: Stream) -> Tensor:
        return self.sample_labelled(n, stream)[0]

    def sample_labelled(self, n: int, stream: Stream) -> tuple[Tensor, Tensor]:
        x, k = self.mixture.draw(n, stream)
        return x, self.labels[k]


class OfLabel(Following):
    """A target made from a label of another one, in that one's coordinates (so not of unit variance)."""

    target: Target
    label: int = 0

    def check(self) -> Iterator[tuple[str, str]]:
        try:
            classes = self.target.classes
        except SpecError:  # data that are elsewhere: said where they are used
            return
        if self.label not in range(classes):
            known = f"0 to {classes - 1}" if classes > 1 else "0 only"
            yield "label", f"{type(self.target).__name__} has the labels {known}, given {self.label}"

    @property
    def dim(self) -> int:
        return self.target.dim

    @property
    def mean(self) -> Tensor:
        return self.target.mean

    @property
    def scale(self) -> Tensor:
        return self.target.scale
