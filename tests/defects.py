"""Two moons with one planted defect each: what a metric should see, or not see."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from moonbed.targets.curves import TwoMoons

LAW = TwoMoons()


def draw(n: int, rng: np.random.Generator, noise: float = 0.05, inner: float = 0.5, start: float = 0.0) -> np.ndarray:
    """Raw points; the inner moon has the weight `inner`, the outer one lacks its first share `start`."""
    lower, u = rng.random(n) < inner, rng.random(n)
    a = np.pi * np.where(lower, u, start + (1 - start) * u)
    x = np.where(lower[:, None], np.c_[1 - np.cos(a), 0.5 - np.sin(a)], np.c_[np.cos(a), np.sin(a)])
    return x + noise * rng.normal(size=(n, 2))


def bridge(n: int, rng: np.random.Generator, share: float = 0.01) -> np.ndarray:
    """A share of the points lies on a straight line from the top of the outer moon to the bottom of the inner."""
    x, out = draw(n, rng), rng.random(n) < share
    between = [0, 1] + rng.random((n, 1)) * [1, -1.5] + 0.05 * rng.normal(size=(n, 2))
    return np.where(out[:, None], between, x)


DEFECTS: dict[str, Callable[[int, np.random.Generator], np.ndarray]] = {
    "none": draw,
    "noise .045": lambda n, rng: draw(n, rng, noise=0.045),
    "noise .06": lambda n, rng: draw(n, rng, noise=0.06),
    "bridge": bridge,
    "52/48": lambda n, rng: draw(n, rng, inner=0.48),
    "shift .02": lambda n, rng: draw(n, rng) + np.array([0.02, 0]),
    "missing end": lambda n, rng: draw(n, rng, start=0.05),
}


def standardise(x: Any) -> np.ndarray:
    return (np.asarray(x) - LAW.mean.numpy()) / LAW.scale.numpy()


def defective(name: str, n: int, seed: int) -> np.ndarray:
    """(n, 2) standardised points with a defect of `DEFECTS`."""
    return standardise(DEFECTS[name](n, np.random.default_rng([seed, *name.encode()])))
