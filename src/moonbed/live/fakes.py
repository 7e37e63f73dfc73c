"""Fakes that a sampler runs on: functions, streams and schedules that note or remember what they are asked."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from moonbed._lazy import lazy_import
from moonbed.diffusion import Denoiser, Sampler, Schedule
from moonbed.diffusion.diffusers_bridge import Diffusers
from moonbed.live.plan import LAW, NETWORK
from moonbed.live.tape import Untraceable
from moonbed.rng import Stream

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor
else:
    np = lazy_import("numpy")
    torch = lazy_import("torch")

__all__ = ["Functions", "Make", "Tracker", "states"]


class Functions:
    """What a denoiser is made of: `network(f)` and `law(f)`; here, what they are asked is given to `answer`."""

    def __init__(self, answer: Callable[[int, int, Tensor, tuple[float, ...]], Tensor], columns: int) -> None:
        self._answer, self._columns = answer, columns

    def network(self, f: int) -> Any:
        """A function (x, c_noise) with the number f."""

        def network(x: Tensor, c_noise: Tensor) -> Tensor:
            if c_noise.numel() != 1:
                raise Untraceable("it asks the network at several noise levels at once")
            rest = (*x[0, self._columns :].tolist(), float(c_noise))
            return self._answer(NETWORK, f, x[:, : self._columns], rest)

        return network

    def law(self, f: int) -> Any:
        """A law with the number f, of which the denoiser is asked."""
        return _Law(lambda x, alpha, sigma: self._answer(LAW, f, x, (float(alpha), float(sigma))))


class _Law:
    def __init__(self, denoise: Callable[[Tensor, float, float], Tensor]) -> None:
        self.denoise = denoise


Make = Callable[[Functions], Denoiser]
"""What makes a denoiser from the functions."""


class Tracker(Denoiser):
    """A denoiser that tells `asked` where it is asked, (x_t, t), and asks at the x_t that comes back."""

    def __init__(self, inner: Denoiser, asked: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.inner, self.schedule, self._asked = inner, inner.schedule, asked
        self.gaussian, self.posterior = inner.gaussian, inner.posterior

    def given(self, label: int | None) -> Tracker:
        return Tracker(self.inner.given(label), self._asked)

    def combine(self, x_t: Tensor, t: Tensor, w_x: Tensor | float, w_d: Tensor | float) -> Tensor:
        return self.inner.combine(self._asked(x_t, t), t, w_x, w_d)

    def jump(self, x_t: Tensor, t: float | Tensor, u: float | Tensor) -> Tensor:
        return self.inner.jump(self._asked(x_t, torch.as_tensor(t, dtype=torch.float64)), t, u)


class _Draws(Stream):
    """A stream of which normal numbers are all that can be drawn."""

    def __init__(self, normal: Callable[[Sequence[int]], Tensor]) -> None:
        super().__init__(0)
        self._normal = normal

    def normal(self, shape: Sequence[int], dtype: torch.dtype | None = None) -> Tensor:
        return self._normal(shape)

    def uniform(self, shape: Sequence[int], dtype: torch.dtype | None = None) -> Tensor:
        raise Untraceable("it draws uniform numbers, which a plan has no line for")

    def integers(self, high: int, shape: Sequence[int]) -> Tensor:
        raise Untraceable("it draws integers, which a plan has no line for")

    def permutation(self, n: int) -> Tensor:
        raise Untraceable("it draws a permutation, which a plan has no line for")

    def numpy(self) -> np.random.Generator:
        raise Untraceable("it draws by NumPy, where nobody sees what")


@lru_cache(8)
def _remembering(schedule: Schedule) -> Schedule:
    """A copy of a schedule that computes nothing twice: the samplers of a menu ask at the same times."""
    other, known = copy(schedule), dict[Any, Any]()

    def remember(name: str, method: Callable[[Tensor], Any]) -> Callable[[Tensor], Any]:
        def asked(t: Tensor) -> Any:
            if t.requires_grad:
                return method(t)
            key = (name, t.shape, t.numpy().tobytes())
            if key not in known:
                known[key] = method(t)
            found = known[key]
            return tuple(c.clone() for c in found) if isinstance(found, tuple) else found.clone()

        return asked

    for name in ("alpha", "sigma", "logsnr", "derivatives", "time"):
        object.__setattr__(other, name, remember(name, getattr(other, name)))
    return other


def _remember(denoiser: Denoiser) -> None:
    """Let a denoiser, and those that it is made of, ask schedules that remember."""
    denoiser.schedule = _remembering(denoiser.schedule)
    for inner in vars(denoiser).values():
        if isinstance(inner, Denoiser):
            _remember(inner)


@contextmanager
def _drawing(sampler: Sampler, normal: Callable[[Sequence[int]], Tensor]) -> Iterator[None]:
    """diffusers' schedulers draw with a function of their module, which is replaced meanwhile."""
    if not isinstance(sampler, Diffusers):
        yield
        return
    module = sys.modules[sampler._class().__module__]

    def randn_tensor(shape: Sequence[int], *args: Any, dtype: torch.dtype | None = None, **kwargs: Any) -> Tensor:
        x = normal(shape)
        return x if dtype is None else x.to(dtype)

    if not hasattr(module, "randn_tensor"):
        yield
        return
    with patch.object(module, "randn_tensor", randn_tensor):
        yield


def states(
    sampler: Sampler, denoiser: Denoiser, x: Tensor, normal: Callable[[Sequence[int]], Tensor]
) -> Iterator[Tensor]:
    """The states that a sampler yields, with these draws."""
    _remember(denoiser)
    with torch.no_grad(), _drawing(sampler, normal):
        yield from sampler.trajectory(denoiser, x, _Draws(normal))
