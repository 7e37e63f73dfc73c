"""Averages of the weights over training, used for sampling in place of the last ones.

An average of exponential profile forgets with a fixed memory; one of power-function profile with a memory in proportion
to the training so far, its relative width `sigma_rel`. Any of the latter is a linear combination of snapshots of two of
them, so the width may be chosen after training (Karras et al., Analyzing and Improving the Training Dynamics of
Diffusion Models, 2024, section 3 and appendix C).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated

from annotated_types import Gt, Le

from moonbed._lazy import lazy_import
from moonbed.component import Component, Fraction, Positive

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor
else:
    np = lazy_import("numpy")
    torch = lazy_import("torch")

__all__ = ["Averaging", "PowerEMA", "post_hoc"]


Width = Annotated[float, Gt(0), Le(0.28)]
"""A relative standard deviation of power-function profiles; an even one has 0.29."""


class Averaging(Component):
    """Running averages of the weights; the first of `count` is used for sampling."""

    @property
    def count(self) -> int:
        """Number of averages."""
        return 1

    @abstractmethod
    def update(self, averages: Tensor, weights: Tensor, step: int) -> None:
        """Take in the weights (..., k) after step `step` (1, 2, ...), in place of averages (..., count, k).

        Averages start as the initial weights.
        """

    def keeps(self, step: int, steps: int) -> bool:
        """Whether the averages after this step of a training are kept as a snapshot."""
        return False


class EMA(Averaging):
    """average <- d average + (1 - d) weights, d = `decay`, or min(decay, (1 + step)/(10 + step)) with `warmup`.

    With warm-up it is diffusers' `EMAModel(decay)`: step counts from 0, and the first update takes the weights whole.
    """

    decay: Fraction = 0.999
    warmup: bool = True

    def update(self, averages: Tensor, weights: Tensor, step: int) -> None:
        decay = self.decay
        if self.warmup:
            decay = 0.0 if step == 1 else min(decay, step / (9 + step))
        averages.lerp_(weights.unsqueeze(-2), 1 - decay)


class PowerEMA(Averaging):
    """Averages with weights in proportion to step^gamma (Karras et al., EDM2, 2024), d = (1 - 1/step)^(gamma + 1).

    gamma is given by the standard deviation of that profile relative to the training so far, one for each of
    `sigma_rels`. `snapshots` of them are kept, evenly over the training, for an experiment's `sigma_rel`.
    """

    sigma_rels: tuple[Width, ...] = (0.05, 0.10)
    snapshots: Positive = 32

    def check(self) -> Iterator[tuple[str, str]]:
        if not self.sigma_rels:
            yield "sigma_rels", "should be at least one"

    @property
    def count(self) -> int:
        return len(self.sigma_rels)

    def update(self, averages: Tensor, weights: Tensor, step: int) -> None:
        for k, width in enumerate(self.sigma_rels):
            decay = (1 - 1 / step) ** (gamma(width) + 1)
            averages[..., k, :].lerp_(weights, 1 - decay)

    def keeps(self, step: int, steps: int) -> bool:
        return step * self.snapshots // steps != (step - 1) * self.snapshots // steps


def gamma(sigma_rel: float) -> float:
    """The exponent of the profile with a relative standard deviation: the largest root of equation 126 there."""
    inverse = sigma_rel**-2
    return float(np.roots([1, 7, 16 - inverse, 12 - inverse]).real.max())


def post_hoc(snapshots: Mapping[int, Tensor], sigma_rels: tuple[float, ...], sigma_rel: float) -> tuple[Tensor, float]:
    """The average (k,) of another width at the last snapshot, and how far its profile is from the wanted one.

    `snapshots` are averages (count, k) by step. The combination of them whose profile is nearest in the mean square;
    the distance is relative, 0 for a perfect one.
    """
    steps = sorted(snapshots)
    t = np.array([step for step in steps for _ in sigma_rels], float)
    g = np.array([gamma(width) for _ in steps for width in sigma_rels])
    last, wanted = float(steps[-1]), gamma(sigma_rel)
    inner = _inner(t[:, None], g[:, None], t, g)
    aim = _inner(t, g, last, wanted)
    x = np.linalg.lstsq(inner, aim, rcond=1e-12)[0]
    whole = float(_inner(np.array(last), np.array(wanted), last, wanted))
    rest = max(0.0, whole - 2 * float(x @ aim) + float(x @ inner @ x)) / whole
    rows = torch.cat([snapshots[step] for step in steps]).double()
    return (torch.from_numpy(x) @ rows).float(), rest**0.5


def _inner(t: np.ndarray, g: np.ndarray, u: np.ndarray | float, h: np.ndarray | float) -> np.ndarray:
    """Integral of the product of two profiles, (g + 1) x^g/t^(g + 1) on [0, t] and likewise h on [0, u]."""
    least = np.minimum(t, u)
    log = (g + h + 1) * np.log(least) - (g + 1) * np.log(t) - (h + 1) * np.log(u)
    return (g + 1) * (h + 1) / (g + h + 1) * np.exp(log)
