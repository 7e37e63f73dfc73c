"""What the benchmarks share: processes of so many threads, workers that take turns, tables, JSON with its versions."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import get_context
from pathlib import Path
from statistics import median
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


# Workers that take turns: while one is timed the others wait


@dataclass(frozen=True)
class Part:
    """A generator of a script by name, what it is called with, and the threads of its process; None: the default."""

    name: str
    given: Mapping[str, Any]
    threads: int | None = 1


class Worker:
    """A fresh process that computes the next value of a generator whenever it is asked."""

    def __init__(self, script: str, part: Part) -> None:
        self.part, environment = part, dict(os.environ)
        for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
            environment.pop(variable, None)
            if part.threads is not None:
                environment[variable] = str(part.threads)
        command = [sys.executable, script, "--worker", part.name, json.dumps(part.given)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.process = subprocess.Popen(command, **pipes, text=True, env=environment)

    def __enter__(self) -> Worker:
        return self

    def __next__(self) -> Any:
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.part.name} {dict(self.part.given)} ended with status {self.process.wait()}")
        return json.loads(line)

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.communicate()


def serve(generators: Mapping[str, Callable[..., Iterator[Any]]], name: str, given: str) -> None:
    """The other side of a `Worker`."""
    answers, sys.stdout = sys.stdout, sys.stderr
    values = generators[name](**json.loads(given))
    for _ in sys.stdin:
        print(json.dumps(next(values)), file=answers, flush=True)


def in_turns(script: str, parts: Mapping[str, Part], repeats: int) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """(the first value of each part, its `repeats` values after that), the parts taking turns: A B A B."""
    with ExitStack() as stack:
        workers = {name: stack.enter_context(Worker(script, part)) for name, part in parts.items()}
        first = {name: next(worker) for name, worker in workers.items()}
        values: dict[str, list[Any]] = {name: [] for name in parts}
        for _ in range(repeats):
            for name, worker in workers.items():
                values[name].append(next(worker))
    return first, values


def once(script: str, part: Part) -> Any:
    """The first value of a part."""
    with Worker(script, part) as worker:
        return next(worker)


# Numbers and tables

UNITS = {"ms": 1e3, "s": 1.0}


@dataclass(frozen=True)
class Line:
    """Seconds of Moonbed beside those of a reference and of a limit, repeat by repeat, and the target."""

    what: str
    moonbed: Sequence[float]
    reference: Sequence[float] = ()
    limit: Sequence[float] = ()
    target: str = ""
    met: bool | None = None
    threads: str = "1"
    unit: str = "s"

    def cells(self) -> list[str]:
        scale = UNITS[self.unit]
        times = [spread([scale * v for v in values], self.unit) for values in (self.moonbed, self.reference)]
        against = ratio(self.reference, self.moonbed)
        share = ratio(self.moonbed, self.limit)
        limit = f"{spread([scale * v for v in self.limit], self.unit)}: {spread(share, '×')}" if share else ""
        met = {None: "", True: ": met", False: ": missed"}[self.met]
        n = "/".join(str(len(v)) for v in (self.moonbed, self.reference) if len(v))
        return [self.what, *times, spread(against, "×"), limit, self.target + met, self.threads, n]

    def record(self) -> dict[str, Any]:
        return asdict(self) | {
            "ratio": ratio(self.reference, self.moonbed),
            "over limit": ratio(self.moonbed, self.limit),
        }


HEAD = ["what", "Moonbed", "reference", "ratio", "limit: Moonbed over it", "target", "threads", "n"]


def ratio(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """Repeat by repeat where the numbers of repeats agree, else of the medians; nothing where a side is missing."""
    if not above or not below:
        return []
    if len(above) == len(below):
        return [a / b for a, b in zip(above, below, strict=True)]
    return [median(above) / median(below)]


def short(value: float) -> str:
    """Three digits, or all of a large number."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def spread(values: Sequence[float], unit: str = "") -> str:
    """Median and range: `1.5 ms (1.4 .. 1.7)`."""
    if not values:
        return ""
    shown = f"{short(median(values))} {unit}".rstrip()
    return shown if len(values) == 1 else f"{shown} ({short(min(values))} .. {short(max(values))})"


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float | None:
    """b of the least-squares fit values = a sizes**b; None for fewer than two sizes."""
    import numpy as np

    return None if len(sizes) < 2 else float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


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
    made_by = {}
    for name in ("moonbed", "numpy", "scipy", "scikit-learn", "torch", "diffusers", "jax"):
        with suppress(PackageNotFoundError):
            made_by[name] = version(name)
    made_by |= {"python": platform.python_version(), "machine": platform.machine(), "cores": os.cpu_count()}
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(json.dumps({**results, "made by": made_by}, indent=1) + "\n", encoding="utf-8")
    print(f"written to {path}")
