"""What an objective may draw on: the law, the training points and their labels, the law of the noise, a teacher."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from moonbed._lazy import lazy_import
from moonbed.rng import Rng, Stream

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from moonbed.diffusion.denoisers import Denoiser
else:
    torch = lazy_import("torch")

__all__ = ["Data", "Law", "Rows"]


class Law(Protocol):
    """What a regression may ask of the target."""

    def denoise(self, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """(n, dim): E[x_0 | alpha x_0 + sigma eps = x_t], with a noise level (n,) for each row."""


class Prior(Protocol):
    """A law that noise can be drawn from."""

    def sample(self, n: int, stream: Stream) -> Tensor:
        """(n, dim) float64."""


class Rows(NamedTuple):
    """Training points (n, dim), their labels (n,) where the network is told them, and how far training is, 0 to 1."""

    x0: Tensor
    labels: Tensor | None = None
    progress: float = 0.0


@dataclass
class Data:
    """The law, the training points (k, dim), and what else a training has.

    `prior` is None for standard normal noise; of `classes` labels a share `dropout` is not told to the network; the
    `teacher` is another model, and `rng` names the streams of what is made once.
    """

    law: Law
    points: Tensor
    prior: Prior | None = None
    classes: int = 0
    dropout: float = 0.0
    teacher: Denoiser | None = None
    rng: Rng = field(default_factory=lambda: Rng(0))
    _made: dict[Any, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def noise(self, like: Tensor, stream: Stream) -> Tensor:
        """(n, dim) of the prior, in the type and on the device of the data."""
        if self.prior is None:
            return stream.normal(like.shape).to(like)
        return self.prior.sample(len(like), stream).to(like)

    def columns(self, labels: Tensor | None, stream: Stream) -> Tensor | None:
        """(n, classes): what the network is told of the labels, zeros where they are dropped; None without labels."""
        if labels is None:
            return None
        kept = stream.uniform((len(labels),)) >= self.dropout
        return torch.nn.functional.one_hot(labels, self.classes).float() * kept[:, None]

    def pairs(self, count: int, steps: int) -> tuple[Tensor, Tensor]:
        """Noise (count, dim), and where the teacher's probability flow takes it."""
        from moonbed.diffusion.samplers import Heun

        if (count, steps) not in self._made:
            if self.teacher is None:
                raise ValueError("pairs of noise and data are made by a teacher")
            stream = self.rng.stream("pairs")
            noise = self.noise(self.points.new_empty(count, self.points.shape[1]), stream)
            with torch.no_grad():
                for x in Heun(steps=steps).trajectory(self.teacher, noise, stream):
                    ends = x
            self._made[count, steps] = noise, ends
        return self._made[count, steps]
