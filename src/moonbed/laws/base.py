"""What a broken law is, and how to say by how much."""

from __future__ import annotations

import torch
from torch import Tensor


class Broken(AssertionError):
    """A law that does not hold."""


def hold(condition: object, message: str) -> None:
    """Raise `Broken` with the message unless the condition holds."""
    if not condition:
        raise Broken(message)


def close(got: Tensor, wanted: Tensor, what: str, rtol: float = 1e-9, atol: float = 1e-9) -> None:
    """|got - wanted| <= atol + rtol |wanted| everywhere; NaN is never close."""
    hold(got.shape == wanted.shape, f"{what}: shape {tuple(got.shape)}, not {tuple(wanted.shape)}")
    excess = (got - wanted).abs() - rtol * wanted.abs()
    hold((excess <= atol).all(), f"{what}: off by {(got - wanted).abs().max():.3g} (rtol {rtol:g}, atol {atol:g})")


def times(n: int = 501) -> Tensor:
    """(n,) float64: even times on [0, 1]."""
    return torch.linspace(0, 1, n, dtype=torch.float64)
