"""The only door to randomness: named, independent streams under one seed.

    Rng(seed).stream("train", 17).normal((512, 2))

A stream is a generator seeded with a hash of the seed and its name. Names are independent of one another: adding a
metric never changes the training noise, and step 17 draws the same numbers whether the run came there in one go or was
resumed. So no state of a generator ever needs to be saved. Numbers are drawn on the CPU and moved, so that every device
sees the same ones.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from moonbed._lazy import lazy_import

if TYPE_CHECKING:
    import numpy as np
    import torch
else:
    np = lazy_import("numpy")
    torch = lazy_import("torch")

__all__ = ["Rng", "Stream"]


class Rng:
    """A tree of named random streams. `Rng(0)`, `Rng(0).child("evaluation", 3)`."""

    def __init__(self, seed: int, device: str | torch.device = "cpu") -> None:
        self._path: tuple[str, ...] = (str(seed),)
        self._device = device

    def child(self, *name: str | int) -> Rng:
        """The subtree under a name; its streams are independent of those of its parent and siblings."""
        child = Rng.__new__(Rng)
        child._path = (*self._path, *(str(part) for part in name))
        child._device = self._device
        return child

    def stream(self, *name: str | int) -> Stream:
        """The stream of that name, from its beginning."""
        path = "\x1f".join((*self._path, *(str(part) for part in name)))
        return Stream(int.from_bytes(hashlib.sha256(path.encode()).digest()[:8], "little"), self._device)


class Stream:
    """One sequence of random numbers; each draw goes on where the last one ended."""

    def __init__(self, seed: int, device: str | torch.device = "cpu") -> None:
        self.seed = seed
        self._device = device
        self._generator: torch.Generator | None = None

    @classmethod
    def over(cls, generator: torch.Generator, device: str | torch.device = "cpu") -> Stream:
        """The numbers that a CPU generator gives from where it stands, for a caller who has one."""
        stream = cls(generator.initial_seed(), device)
        stream._generator = generator
        return stream

    @property
    def generator(self) -> torch.Generator:
        """The CPU `torch.Generator` behind the stream, for libraries that take one."""
        if self._generator is None:
            self._generator = _generator(self.seed)
        return self._generator

    def normal(self, shape: Sequence[int], dtype: torch.dtype | None = None) -> torch.Tensor:
        """Standard normal numbers of a shape, float32 unless said."""
        return torch.randn(tuple(shape), generator=self.generator, dtype=dtype or torch.float32).to(self._device)

    def uniform(self, shape: Sequence[int], dtype: torch.dtype | None = None) -> torch.Tensor:
        """Uniform numbers in [0, 1) of a shape, float32 unless said."""
        return torch.rand(tuple(shape), generator=self.generator, dtype=dtype or torch.float32).to(self._device)

    def integers(self, high: int, shape: Sequence[int]) -> torch.Tensor:
        """Uniform integers in [0, high) of a shape, int64."""
        return torch.randint(high, tuple(shape), generator=self.generator).to(self._device)

    def permutation(self, n: int) -> torch.Tensor:
        """A uniform permutation of 0..n-1, (n,) int64."""
        return torch.randperm(n, generator=self.generator).to(self._device)

    def numpy(self) -> np.random.Generator:
        """A NumPy generator seeded with this stream, for libraries that draw with NumPy."""
        return np.random.default_rng(self.seed)

    @contextmanager
    def as_global(self) -> Iterator[None]:
        """Within the block, torch's global generators draw from this stream (initialisation, dropout)."""
        # torch.manual_seed would also queue a call, with its stack, for every device that is not initialised
        cuda = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
        with torch.random.fork_rng(devices=cuda):
            torch.default_generator.set_state(_generator(self.seed).get_state())
            for device in cuda:
                torch.cuda.default_generators[device].manual_seed(self.seed)
            yield


def _generator(seed: int) -> torch.Generator:
    """A CPU generator (Mersenne Twister) whose 624 words all depend on the 64 bits of `seed`.

    `manual_seed` alone uses 32 bits of it: among the 80,000 streams of one training, two would often be the same.
    """
    generator = torch.Generator().manual_seed(seed)
    state = generator.get_state().numpy()
    words = hashlib.shake_256(seed.to_bytes(8, "little")).digest(4 * 624)
    state[24 : 24 + 8 * 624].view(np.uint64)[:] = np.frombuffer(words, dtype="<u4")  # after seed, left, seeded, next
    generator.set_state(torch.from_numpy(state))
    return generator
