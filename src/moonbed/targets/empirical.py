"""A user's own points as a target: a Gaussian around each of them.

With a small bandwidth its denoiser is the exact denoiser of the training set itself, the one that a model which had
memorised its data would be: `E[x_0 | x_t]` is the softmax-weighted mean of the points. With a large one it is Parzen's
estimate (On Estimation of a Probability Density Function and Mode, 1962).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moonbed._lazy import lazy_import
from moonbed.component import PositiveFloat, SpecError
from moonbed.points import SUFFIXES, content_of, parse_points
from moonbed.targets.mixtures import GaussianMixture, Mixture

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor
else:
    np = lazy_import("numpy")
    torch = lazy_import("torch")

__all__ = ["Points"]


class Points(GaussianMixture):
    """The points of a file (see `moonbed.points`: text, .npy, .npz, .pt, .safetensors), each with a Gaussian around it.

    Rows are points, columns coordinates; with `labelled` the last one is a label (0, 1, 2, ... without gaps). Text may
    begin with header lines. `key` names the array in a file that holds several. `bandwidth` is the standard
    deviation of the Gaussians in units of each column's standard deviation.

    `sha256` is the digest of the file's content. It is filled in when the target is made, is part of the id, and is
    held against the file from then on: another content is another target, and never passes under the old id.
    """

    file: str = ""
    bandwidth: PositiveFloat = 0.05
    labelled: bool = False
    key: str | None = None
    sha256: str | None = None

    def check(self) -> Iterator[tuple[str, str]]:
        if not self.file or (self.sha256 is not None and not os.path.exists(_path(self.file))):  # noqa: PTH110
            return  # a template, or the record of a run whose data lie elsewhere: to be read, not drawn from
        try:
            _load(self.file, self.labelled, self.key, self.sha256)
        except SpecError as error:
            yield from error.problems

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.file and self.sha256 is None:
            object.__setattr__(self, "sha256", _load(self.file, self.labelled, self.key, None)[0])

    @cached_property
    def _data(self) -> tuple[Tensor, Tensor]:
        """(n, dim) float64 points and (n,) int64 labels."""
        data = torch.tensor(_load(self.file, self.labelled, self.key, self.sha256)[1])
        if self.labelled:
            return data[:, :-1].contiguous(), data[:, -1].long()
        return data, torch.zeros(len(data), dtype=torch.int64)

    @property
    def dim(self) -> int:
        return self._data[0].shape[1]

    @property
    def classes(self) -> int:
        return int(self._data[1].max()) + 1

    @property
    def labels(self) -> Tensor:
        return self._data[1]

    def components(self) -> Mixture:
        points = self._data[0]
        weights = torch.full((len(points),), 1 / len(points), dtype=torch.float64)
        return Mixture(weights, points, self.bandwidth * points.std(0, correction=0))


def _path(file: str) -> Path:
    return Path(os.path.expanduser(file))  # noqa: PTH111 (pathlib raises where there is no such user)


def _load(file: str, labelled: bool, key: str | None, sha256: str | None) -> tuple[str, np.ndarray]:
    """Digest and table of a file; SpecError where it cannot be read, is no table of points, or has another digest."""
    if not file:
        raise SpecError([("file", f"give the path of a file with one point a row: {', '.join(SUFFIXES)}")])
    try:
        stat = _path(file).stat()
        digest, table = _read(_path(file).resolve(), labelled, key, (stat.st_mtime_ns, stat.st_size))
    except OSError as error:
        raise SpecError([("file", f"cannot read {file}: {error.strerror or error}")]) from None
    except ValueError as error:
        raise SpecError([("file", f"{file}: {error}")]) from None
    if sha256 not in (None, digest):
        message = f"{file} has changed: its digest is {digest}, not {sha256}; sha256=null takes it as it is"
        raise SpecError([("sha256", message)])
    return digest, table


@lru_cache(4)
def _read(path: Path, labelled: bool, key: str | None, stamp: Any) -> tuple[str, np.ndarray]:
    """Digest and validated table (n, columns) float64. Raises ValueError, with the line where there is one."""
    content = content_of(path)
    table = parse_points(content, path.suffix, key, finite=True)
    columns = table.shape[1] - labelled
    if columns < 1:
        raise ValueError(f"has {table.shape[1]} columns, too few for coordinates" + " and a label" * labelled)
    if len(table) < 2:
        raise ValueError(f"has too few points: {len(table)}, at least 2 are needed")
    constant = np.flatnonzero(np.ptp(table[:, :columns], axis=0) == 0)
    if len(constant):
        raise ValueError(f"column {constant[0] + 1} is the same in all points")
    if labelled and not np.array_equal(found := np.unique(table[:, -1]), np.arange(len(found))):
        raise ValueError(f"labels in the last column should be 0, 1, 2, ..., given {found[:8].tolist()}")
    table.setflags(write=False)
    return hashlib.sha256(content).hexdigest()[:16], table
