"""What the benchmarks share: processes of one thread each, plain tables, JSON with the versions behind the numbers."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")


@contextmanager
def single_thread() -> Iterator[None]:
    """The processes share the cores, so none of them takes more than one."""
    import torch
    from threadpoolctl import threadpool_limits

    threads = torch.get_num_threads()
    with threadpool_limits(1):
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)


def one_thread() -> None:
    """The same for the rest of a process."""
    import torch
    from threadpoolctl import threadpool_limits

    torch.set_num_threads(1)
    threadpool_limits(1)


def spread_out(work: Callable[[T], R], tasks: Sequence[T], jobs: int, what: str) -> Iterator[R]:
    """`map(work, tasks)` in that order, in `jobs` fresh processes, with its progress on stderr."""
    started, said = time.monotonic(), 0.0
    for done, result in enumerate(_results(work, tasks, jobs), 1):
        yield result
        now = time.monotonic()
        if now - said > 20 or done == len(tasks):
            said = now
            left = (now - started) / done * (len(tasks) - done)
            print(f"{what}: {done} of {len(tasks)}, {now - started:.0f} s, {left:.0f} s left", file=sys.stderr)


def _results(work: Callable[[T], R], tasks: Sequence[T], jobs: int) -> Iterator[R]:
    if jobs == 1:
        with single_thread():
            yield from map(work, tasks)
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=one_thread) as pool:
        yield from pool.map(work, tasks, chunksize=2)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Markdown, which lines up in a terminal too."""
    lines = [[cell.replace("|", "\\|") for cell in line] for line in (head, *rows)]
    width = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * w for w in width])
    return "\n".join("| " + " | ".join(c.ljust(w) for c, w in zip(line, width, strict=True)) + " |" for line in lines)


def write(path: str | None, results: dict[str, Any]) -> None:
    """The results with what they were made by, as JSON; nothing where there is no path."""
    if not path:
        return
    made_by = {name: version(name) for name in ("moonbed", "numpy", "scipy", "scikit-learn", "torch")}
    made_by |= {"python": platform.python_version(), "machine": platform.machine(), "cores": os.cpu_count()}
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(json.dumps({**results, "made by": made_by}, indent=1) + "\n", encoding="utf-8")
    print(f"written to {path}")
