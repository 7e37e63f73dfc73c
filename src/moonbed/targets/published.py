"""The two moons as a published write-up uses them, kept so that its numbers can be reproduced and explained."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from moonbed._lazy import lazy_import
from moonbed.component import NonNegativeInt
from moonbed.rng import Stream
from moonbed.targets.base import Law
from moonbed.targets.curves import Noise, TwoMoons
from moonbed.targets.following import Following

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = lazy_import("torch")


class PublishedMoons(Following):
    """scikit-learn's `make_moons`, standardised by its own mean and standard deviation, drawn with a fixed seed.

    Its data sets are not iid: the angles are a regular grid, half the points lie on each moon, and every set of the
    same size is the same one (`seed`), whatever stream it is asked with. The exact law behind it, which everything but
    `dataset` speaks of, is `TwoMoons(noise)`.
    """

    classes = 2
    noise: Noise = 0.05
    seed: NonNegativeInt = 42

    @cached_property
    def law(self) -> TwoMoons:
        """The exact law that the grid approximates."""
        return TwoMoons(noise=self.noise)

    @property
    def mean(self) -> Tensor:
        return self.law.mean

    @property
    def scale(self) -> Tensor:
        return self.law.scale

    def sample_labelled(self, n: int, stream: Stream) -> tuple[Tensor, Tensor]:
        return self.law.sample_labelled(n, stream)

    def part(self, label: int) -> Law:
        return self.law.part(label)

    def dataset(self, n: int, stream: Stream) -> Tensor:
        from sklearn.datasets import make_moons
        from sklearn.preprocessing import StandardScaler

        x, _ = make_moons(n, noise=self.noise, random_state=self.seed)
        return torch.from_numpy(StandardScaler().fit_transform(x))
