"""Class-conditional laws as targets of their own: to train on one label, or to judge guided samples."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING

from moonbed.component import SpecError
from moonbed.rng import Stream
from moonbed.targets.base import Law, Level, Target
from moonbed.targets.curves import TwoMoons

if TYPE_CHECKING:
    from torch import Tensor


class Given(Target):
    """The points of one label of another target, in that target's coordinates (so not of unit variance)."""

    target: Target = TwoMoons()
    label: int = 0

    def check(self) -> Iterator[tuple[str, str]]:
        try:
            classes = self.target.classes
        except SpecError:  # data that are elsewhere: said where they are used
            return
        if self.label not in range(classes):
            known = f"0 to {classes - 1}" if classes > 1 else "0 only"
            yield "label", f"{type(self.target).__name__} has the labels {known}, given {self.label}"

    @cached_property
    def law(self) -> Law:
        """What is sampled, weighed and denoised here."""
        return self.target.part(self.label)

    @property
    def dim(self) -> int:
        return self.target.dim

    @property
    def mean(self) -> Tensor:
        return self.target.mean

    @property
    def scale(self) -> Tensor:
        return self.target.scale

    def sample(self, n: int, stream: Stream) -> Tensor:
        return self.law.sample(n, stream)

    def log_prob(self, x: Tensor, alpha: Level = 1.0, sigma: Level = 0.0) -> Tensor:
        return self.law.log_prob(x, alpha, sigma)

    def denoise(self, x_t: Tensor, alpha: Level, sigma: Level) -> Tensor:
        return self.law.denoise(x_t, alpha, sigma)

    def score(self, x_t: Tensor, alpha: Level = 1.0, sigma: Level = 0.0) -> Tensor:
        return self.law.score(x_t, alpha, sigma)
