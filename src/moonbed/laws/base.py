"""What a broken law is, and how to say by how much."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Law = Callable[[Any], None]
"""Raises `Broken` for a member that does not obey; the first line of its docstring is the law in words."""


class Broken(AssertionError):
    """A law that does not hold; the message says where and by how much."""


@dataclass(frozen=True)
class Verdict:
    """What came of holding a member against a law, which stands here in words; the message is empty where it holds."""

    law: str
    holds: bool
    message: str = ""


def hold(condition: object, message: str) -> None:
    """Raise `Broken` with the message unless the condition holds."""
    if not condition:
        raise Broken(message)


def close(got: Tensor, wanted: Tensor, what: str, rtol: float = 1e-9, atol: float = 1e-9) -> None:
    """|got - wanted| <= atol + rtol |wanted| everywhere; NaN is never close."""
    hold(isinstance(got, Tensor), f"{what}: a {type(got).__name__}, not a tensor")
    hold(got.shape == wanted.shape, f"{what}: shape {tuple(got.shape)}, not {tuple(wanted.shape)}")
    bad = int((~got.isfinite() & wanted.isfinite()).sum())
    hold(not bad, f"{what}: {bad} of {got.numel()} values are NaN or infinite")
    excess = (got - wanted).abs() - rtol * wanted.abs()
    hold((excess <= atol).all(), f"{what}: off by {(got - wanted).abs().max():.3g} (rtol {rtol:g}, atol {atol:g})")


def times(n: int = 501) -> Tensor:
    """(n,) float64: even times on [0, 1]."""
    return torch.linspace(0, 1, n, dtype=torch.float64)


def numbers(value: Any, shape: tuple[int, ...], what: str, dtype: torch.dtype | None = torch.float64) -> Tensor:
    """The value, if it is a tensor of that shape and type, all of it finite."""
    hold(isinstance(value, Tensor), f"{what}: a {type(value).__name__}, not a tensor")
    hold(tuple(value.shape) == shape, f"{what}: shape {tuple(value.shape)}, not {shape}")
    hold(dtype is None or value.dtype == dtype, f"{what}: {value.dtype}, not {dtype}")
    nan, infinite = int(value.isnan().sum()), int(value.isinf().sum())
    hold(not nan and not infinite, f"{what}: of {value.numel()} values {nan} are NaN and {infinite} infinite")
    return value


def in_words(law: Law) -> str:
    """The first line of a law's docstring."""
    return (law.__doc__ or law.__name__).split("\n", 1)[0]
