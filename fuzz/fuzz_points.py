"""Tables of points from anyone's file, of every format that `moonbed evaluate` and the target `Points` take."""

from __future__ import annotations

import io

import atheris

with atheris.instrument_imports(include=["moonbed"]):
    from common import Wrong, fuzz

    from moonbed.points import SUFFIXES, PointsError, parse_points

import numpy as np
import torch
from safetensors.numpy import save


def written(how) -> bytes:
    file = io.BytesIO()
    how(file)
    return file.getvalue()


X = np.arange(6.0).reshape(3, 2)
SEEDS = {
    ".csv": b"x,y\n1,2\n3e4,inf # far\n",
    ".tsv": b"1\t2\n3\t4\n",
    ".txt": b"1 2\n'3' \"4\"\n",
    ".npy": written(lambda f: np.save(f, X.astype("f4"))),
    ".npz": written(lambda f: np.savez(f, x=X)),
    ".pt": written(lambda f: torch.save({"x": torch.tensor(X)}, f)),
    ".pth": written(lambda f: torch.save(torch.tensor(X), f, _use_new_zipfile_serialization=False)),
    ".safetensors": save({"x": X}),
}
NAMES = sorted(SUFFIXES)


def one(data: bytes) -> None:
    suffix = NAMES[data[0] % len(NAMES)] if data else ""
    table = parse_points(data[1:], suffix)
    if table.dtype != np.float64 or table.ndim != 2 or np.isnan(table).any() or table.size > 1000 * max(len(data), 100):
        raise Wrong(f"{table.shape} {table.dtype} from {len(data)} bytes")


if __name__ == "__main__":
    fuzz(one, (PointsError,), [bytes([NAMES.index(k)]) + v for k, v in SEEDS.items()])
