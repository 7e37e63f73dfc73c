"""Times of training: at which noise levels a network is trained, and how often at each.

A distribution on [0, 1] is given by its quantiles: t = quantile(u) with u uniform. So any of them can be drawn with low
discrepancy, or be reweighted by what the losses say, without knowing how.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, ClassVar

from annotated_types import Ge, Le

from moonbed._lazy import lazy_import
from moonbed.component import Component, Fraction, Positive, PositiveFloat
from moonbed.diffusion.schedules import Schedule
from moonbed.rng import Stream

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = lazy_import("torch")

__all__ = ["Times"]


class Times(Component):
    """A distribution of training times in [0, 1]. A member gives `quantile`."""

    plain: ClassVar[bool] = True
    """Whether times are the quantiles of independent uniform numbers, and their losses are taken as they are."""

    @abstractmethod
    def quantile(self, u: Tensor, schedule: Schedule) -> Tensor:
        """(n,) float64: the times at the quantiles u (n,) in [0, 1), float64."""

    def sample(self, n: int, schedule: Schedule, stream: Stream) -> Tensor:
        """(n,) float64."""
        return self.draw(n, schedule, stream)[0]

    def draw(self, n: int, schedule: Schedule, stream: Stream) -> tuple[Tensor, Tensor | float]:
        """Times (n,) and what their losses have to be multiplied by, (n,) or 1, where some are drawn more often."""
        return self.quantile(stream.uniform((n,), torch.float64), schedule), 1.0


class Uniform(Times):
    """Uniform on [0, 1)."""

    def quantile(self, u: Tensor, schedule: Schedule) -> Tensor:
        return u


class Discrete(Times):
    """Uniform on 0, 1/(steps-1), ..., 1: the integer timesteps of DDPM (Ho et al. 2020)."""

    steps: Positive = 1000

    def quantile(self, u: Tensor, schedule: Schedule) -> Tensor:
        return (u * self.steps).floor() / max(1, self.steps - 1)


class LogNormal(Times):
    """log(sigma/alpha) normal (Karras et al. 2022), cut to the schedule's range: the same noise levels under any one.

    EDM has mean -1.2 and std 1.2, for images.
    """

    mean: float = -1.2
    std: PositiveFloat = 1.2

    def quantile(self, u: Tensor, schedule: Schedule) -> Tensor:
        return schedule.time(-2 * (self.mean + self.std * _normal(u)))


class LogitNormal(Times):
    """logit(t) normal: t = sigmoid(mean + std z) (Esser et al., Scaling Rectified Flow Transformers, 2024)."""

    mean: float = 0.0
    std: PositiveFloat = 1.0

    def quantile(self, u: Tensor, schedule: Schedule) -> Tensor:
        return torch.sigmoid(self.mean + self.std * _normal(u))


class Mode(Times):
    """t = v - scale (cos²(pi v/2) - 1 + v) with v = 1 - u, heavy in the middle for scale > 0 (Esser et al. 2024).

    Monotone, and so a distribution on [0, 1], for -1 <= scale <= 2/(pi - 2).
    """

    scale: Annotated[float, Ge(-1), Le(2 / (math.pi - 2))] = 1.29

    def quantile(self, u: Tensor, schedule: Schedule) -> Tensor:
        return 1 - u - self.scale * (torch.cos(torch.pi / 2 * u) ** 2 - 1 + u)


class LowDiscrepancy(Times):
    """Another distribution in strata: of every `rows` rows, one u in each of as many equal parts (Kingma et al. 2021).

    Parts come in the order of multiples of the golden ratio, so that a batch of any size covers the noise levels evenly
    and its loss varies less.
    """

    plain = False
    times: Times = Uniform()
    rows: Positive = 512

    def quantile(self, u: Tensor, schedule: Schedule) -> Tensor:
        return self.times.quantile(u, schedule)

    def draw(self, n: int, schedule: Schedule, stream: Stream) -> tuple[Tensor, Tensor | float]:
        blocks = -(-n // self.rows)
        shift = stream.uniform((blocks, 1), torch.float64)
        u = (shift + _order(self.rows)) / self.rows
        return self.times.quantile(u.reshape(-1)[:n], schedule), 1.0

    def check(self) -> Iterator[tuple[str, str]]:
        yield from _only_plain(self.times)


class Stepwise(Times):
    """Another distribution with the mass of its equal parts changed; losses are divided by how often they are drawn.

    So the mean of the loss stays what it is under `times`, and only its variance changes (importance sampling).
    """

    plain = False
    times: Times = Uniform()
    mass: tuple[PositiveFloat, ...] = (1.0,)

    def check(self) -> Iterator[tuple[str, str]]:
        yield from _only_plain(self.times)
        if not self.mass:
            yield "mass", "should have at least one part"

    def quantile(self, u: Tensor, schedule: Schedule) -> Tensor:
        return self._both(u, schedule)[0]

    def draw(self, n: int, schedule: Schedule, stream: Stream) -> tuple[Tensor, Tensor | float]:
        return self._both(stream.uniform((n,), torch.float64), schedule)

    def _both(self, u: Tensor, schedule: Schedule) -> tuple[Tensor, Tensor]:
        mass = torch.tensor(self.mass, dtype=torch.float64)
        mass = mass / mass.sum()
        total = torch.cat([torch.zeros(1, dtype=torch.float64), mass.cumsum(0)])
        part = torch.searchsorted(total[1:].contiguous(), u, right=True).clamp(max=len(mass) - 1)
        inner = ((u - total[part]) / mass[part]).clamp(0, 1)
        return self.times.quantile((part + inner) / len(mass), schedule), 1 / (len(mass) * mass[part])


class Adaptive(Times):
    """Importance sampling by the losses: parts of `times` are drawn as often as the root mean square of their losses.

    That minimises the variance of the mean loss (Nichol & Dhariwal, Improved DDPM, 2021, section 3.3; here measured
    anew, on `probe` rows, before each block of steps, so that nothing has to be kept between blocks). A share `even`
    of the draws goes evenly to all parts. Losses are divided by how often they are drawn, so the objective stays.
    """

    plain = False
    times: Times = Uniform()
    parts: Positive = 32
    probe: Positive = 2048
    even: Fraction = 0.1

    def check(self) -> Iterator[tuple[str, str]]:
        yield from _only_plain(self.times)
        if self.probe % self.parts:
            yield "probe", f"should be a multiple of parts ({self.parts}), given {self.probe}"
        if self.even == 0:
            yield "even", "should be above 0: a part that is never drawn would count as infinitely much"

    def quantile(self, u: Tensor, schedule: Schedule) -> Tensor:
        return self.times.quantile(u, schedule)

    def strata(self) -> Times:
        """Times for `probe` rows, as many in each part."""
        return LowDiscrepancy(times=self.times, rows=self.probe)

    def adapted(self, losses: Tensor) -> Times:
        """The distribution that the losses (probe,) at `strata` ask for."""
        by_part = losses.double()[_order(self.probe).argsort()].reshape(self.parts, -1)
        size = by_part.square().mean(1).sqrt()
        if not (size.isfinite().all() and size.sum() > 0):
            return self.times  # the training is about to be found diverged, or perfect
        mass = (1 - self.even) * size / size.sum() + self.even / self.parts
        return Stepwise(times=self.times, mass=tuple(mass.tolist()))


def _order(n: int) -> Tensor:
    """(n,) int64: 0 to n - 1, of which any consecutive ones are spread evenly."""
    return (torch.arange(n, dtype=torch.float64) * (math.sqrt(5) - 1) / 2 % 1).argsort().argsort()


def _only_plain(times: Times) -> Iterator[tuple[str, str]]:
    if not times.plain:
        yield "times", f"{type(times).__name__} draws in a way of its own: give a plain distribution"


def _normal(u: Tensor) -> Tensor:
    """Standard normal quantiles; u = 0 would be at minus infinity."""
    return torch.special.ndtri(u.clamp(min=2.0**-54))
