"""What the fuzz targets share: a loop that counts and keeps findings, and values as a stranger might write them.

A target is a function of bytes and the exceptions that it may raise. Anything else is a finding: another exception, a
second of CPU, more memory than libFuzzer is told (`-rss_limit_mb`), or a file written where none should be. With
MOONBED_FINDINGS=FOLDER a finding is kept there once for each place that raised it, and the fuzzer goes on; without, it
stops at the first, as libFuzzer does.
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
import random
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import atheris

os.environ.setdefault("OMP_NUM_THREADS", "1")
warnings.simplefilter("ignore")
SECONDS = 1.0
"""CPU time that one input may take."""


NOISE = [random.Random(k).randbytes(600) for k in range(64)]
"""Seeds for targets that draw values from bytes: enough of them for a deep configuration."""


class Slow(Exception):
    """An input that took too long."""


class Wrong(Exception):
    """An answer that cannot be."""


def fuzz(one: Callable[[bytes], None], documented: tuple[type[Exception], ...], seeds: Sequence[bytes] = ()) -> None:
    """Run libFuzzer with the arguments of the command on `one`; `seeds` are put into its first corpus folder."""
    folders = [a for a in sys.argv[1:] if not a.startswith("-") and Path(a).is_dir()]
    for k, seed in enumerate(seeds if folders else ()):
        (Path(folders[0]) / f"seed-{k:03}").write_bytes(seed)
    kept = os.environ.get("MOONBED_FINDINGS")

    def test(data: bytes) -> None:
        start = time.thread_time()
        try:
            with contextlib.suppress(*documented):
                one(data)
            if (took := time.thread_time() - start) > SECONDS:
                raise Slow(f"{took:.1f} s")
        except Exception as error:
            if kept is None:
                raise
            keep(Path(kept), data, error)

    with contextlib.suppress(Exception):  # what is imported at its first use is nobody's second
        one(NOISE[0])
    atheris.Setup(sys.argv, test)
    atheris.Fuzz()


def keep(folder: Path, data: bytes, error: Exception) -> None:
    """Write input and traceback, unless the same line of ours raised the same before."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f for f in frames if "/moonbed/" in f.filename] or frames
    name = f"{type(error).__name__}-{Path(ours[-1].filename).stem}-{ours[-1].lineno}"
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / name).exists():
        (folder / name).write_bytes(data)
        (folder / f"{name}.txt").write_text("".join(traceback.format_exception(error)), errors="replace")


# Values

ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 10**9, 10**12, 2**63, -(2**63), 10**400, 0.0, -0.0, 1e-300, 1e300, 0.5, 5e-324,
    float("nan"), float("inf"), -float("inf"), "", " ", "0", "nan", "1e400", "None", "true", "{", "[", "{}", "\x00",
    "\ud800",
    "\u202e", "\u2028", "../../etc/passwd", "/dev/zero", "/etc/passwd", "<script>", "[red]", "$\\foo$", "{{x}}",
    [], {}, [[]], [None], [0, 0], [1, 2, 3], {"type": None}, {"type": []}, {"type": {}}, {"type": ""}, {"": 0},
)  # fmt: skip


class Draw:
    """Values drawn from the fuzzer's bytes."""

    def __init__(self, data: bytes, names: Sequence[str] = (), parts: Sequence[Any] = ()) -> None:
        self.from_ = atheris.FuzzedDataProvider(data)
        self.names, self.parts = names, parts

    def below(self, n: int) -> int:
        return int(self.from_.ConsumeIntInRange(0, n - 1))

    def one_of(self, values: Sequence[Any]) -> Any:
        return values[self.below(len(values))]

    def text(self) -> str:
        kind = self.below(4)
        if kind == 0 and self.names:
            return str(self.one_of(self.names))
        if kind == 1:
            return str(self.from_.ConsumeUnicode(self.below(64)))
        return str(self.from_.ConsumeUnicodeNoSurrogates(self.below(16)))

    def value(self, depth: int = 3) -> Any:
        kind = self.below(9 if depth else 6)
        if kind == 0:
            return copy.deepcopy(self.one_of(ODD))
        if kind == 1:
            return self.text()
        if kind == 2:
            return self.from_.ConsumeIntInRange(-3, 100)
        if kind == 3:
            return self.from_.ConsumeInt(self.one_of((1, 4, 8, 40)))
        if kind == 4:
            return self.from_.ConsumeFloat()
        if kind == 5 and self.parts:
            return json.loads(json.dumps(self.one_of(self.parts)))
        if kind == 6:
            return [self.value(depth - 1) for _ in range(self.below(4))]
        return {self.text(): self.value(depth - 1) for _ in range(self.below(4))}

    def mutated(self, data: Any) -> Any:
        """The data with up to four places replaced, removed, renamed, or joined by others."""
        box = [json.loads(json.dumps(data))]
        for _ in range(1 + self.below(4)):
            places = [*_places(box)]
            holder, key = self.one_of(places)
            kind = self.below(6)
            if kind <= 2:
                holder[key] = self.value()
            elif kind == 3 and isinstance(holder, dict):
                holder[self.text()] = holder.pop(key)
            elif kind == 4 and isinstance(holder, dict):
                del holder[key]
            elif isinstance(inner := holder[key], dict):
                inner[self.text()] = self.value()
            elif isinstance(inner, list):
                inner.append(self.value())
            else:
                other, there = self.one_of(places)
                holder[key] = json.loads(json.dumps(other[there]))
        return box[0]


def _places(inside: Any) -> Any:
    keys = inside.items() if isinstance(inside, dict) else enumerate(inside) if isinstance(inside, list) else ()
    for key, value in keys:
        yield inside, key
        yield from _places(value)
