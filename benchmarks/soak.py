"""Soak: a thousand small experiments, a thousand reads and thousands of requests. Does anything grow?

    python benchmarks/soak.py [--only single,call,jobs,read,serve] [--count 1000] [--reads 200] [--requests 2000]
                              [--every 20] [--trace] [--out x.json]

    single   `moonbed.run`, one experiment a call, in one process
    call     all experiments in one call of `execute`
    jobs     the same by two processes, twenty experiments a call
    read     the commands that only read, over one store: list, show, table, report
    serve    requests to `moonbed serve`, measured in its process

Experiments are of a fraction of a second: samplers, predictions, targets, networks and metrics in turn, every
fiftieth diverges, and another fiftieth raises. Each part runs in a process of its own and is measured every `--every`
experiments, after `gc.collect()`: resident memory, that after glibc was told to give back what is free
(`malloc_trim`), bytes that are allocated (`mallinfo2`), file descriptors, threads, child processes, zombies, shared
memory and temporary files, and in `jobs` what its server of processes holds.

Growth is the mean step between two measurements after the first fifth, with its 95 % interval by Student's t: right
for a walk, too wide for what returns. A part fails where the interval of the allocated bytes lies above `--limit` kB
an experiment, where a count is not at its end what it was after the first fifth, or where a process or a temporary file
is left when the part has ended. Exits with 1 where one does.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import getpass
import io
import json
import math
import os
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from common import short, table, write

PARTS = ("single", "call", "jobs", "read", "serve")
COUNTS = ("fds", "threads", "children", "zombies", "shared", "temporary")
"""What must be flat, exactly."""
SIZES = ("rss", "trimmed", "allocated", "server")
"""What must not grow, in kB."""
KEPT = (f"torchinductor_{getpass.getuser()}",)
"""What torch keeps among temporary files for the next process, once for all."""
FAULTY = '''
from moonbed.diffusion import Sampler

class Faulty(Sampler):
    """Raises in the middle."""

    def trajectory(self, denoiser, x, times, rng):
        yield x
        raise RuntimeError("planted")
'''


# What is measured


class _Info(ctypes.Structure):
    _names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in _names.split()]


def _libc() -> Any:
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.mallinfo2.restype = _Info
    except (OSError, AttributeError):
        return None
    return libc


def measure(pid: int | None = None) -> dict[str, float]:
    """Sizes in kB and counts of a process; what only it can know of itself is left out for another."""
    own = pid is None
    out: dict[str, float] = {}
    if own:
        gc.collect()
        gc.collect()
    proc = Path("/proc") / str(pid or os.getpid())
    out["rss"] = _status(proc, "VmRSS")
    if own and (libc := _libc()) is not None:
        libc.malloc_trim(0)
        info = libc.mallinfo2()
        out |= {"trimmed": _status(proc, "VmRSS"), "allocated": (info.uordblks + info.hblkhd) / 1024}
    children = _children(proc)
    out |= {"fds": _count(proc / "fd") - own, "threads": _status(proc, "Threads"), "children": len(children)}
    out["zombies"] = sum("State:\tZ" in _text(Path("/proc") / child / "status") for child in children)
    out["shared"] = _text(proc / "maps").count("/dev/shm/")
    out["temporary"] = _count(Path(tempfile.gettempdir()))
    return out


def _count(folder: Path) -> int:
    return sum(1 for _ in folder.iterdir())


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _status(proc: Path, name: str) -> int:
    lines = [line for line in _text(proc / "status").splitlines() if line.startswith(f"{name}:")]
    return int(lines[0].split()[1]) if lines else 0


def _children(proc: Path) -> list[str]:
    return [child for task in (proc / "task").iterdir() for child in _text(task / "children").split()]


def growth(rows: Sequence[dict[str, float]], name: str) -> tuple[float, float] | None:
    """(kB an experiment after the first fifth, half width of its 95 % interval); None where it was not measured."""
    from scipy.stats import t

    rows = [row for row in rows[len(rows) // 5 :] if name in row]
    if len(rows) < 3:
        return None
    steps = [(b[name] - a[name]) / (b["done"] - a["done"]) for a, b in pairwise(rows)]
    n, mean = len(steps), sum(steps) / len(steps)
    sd = math.sqrt(sum((s - mean) ** 2 for s in steps) / (n - 1))
    return mean, float(t.ppf(0.975, n - 1)) * sd / math.sqrt(n)


# What is done


def experiments(count: int, folder: Path) -> Iterator[Any]:
    """Small experiments, no two alike."""
    from moonbed.diffusion.diffusers_bridge import Diffusers
    from moonbed.diffusion.predictions import EDM, X0, Epsilon, V
    from moonbed.diffusion.samplers import DDIM, DDPM, Churn, DPMSolver2M, Euler, EulerMaruyama, Heun, UniPC
    from moonbed.experiments import PRESETS
    from moonbed.experiments.averaging import EMA
    from moonbed.experiments.plugins import load_file
    from moonbed.networks.mlp import MLP
    from moonbed.networks.residual import Residual
    from moonbed.targets.boxes import Checkerboard
    from moonbed.targets.curves import Circles, TwoMoons
    from moonbed.targets.lifted import Lifted
    from moonbed.targets.mixtures import EightGaussians

    file = folder / "faulty.py"
    file.write_text(FAULTY)
    faulty = load_file(file).Faulty(steps=3)
    samplers = [DDIM(steps=4), DDPM(steps=5), Heun(steps=3), DPMSolver2M(steps=4), Euler(steps=4), UniPC(steps=4)]
    samplers += [EulerMaruyama(steps=5), Churn(steps=3), Diffusers(scheduler="EulerDiscreteScheduler", steps=4)]
    predictions = [Epsilon(), V(), X0(), EDM()]
    targets = [TwoMoons(), Checkerboard(), Circles(), EightGaussians(), Lifted(target=TwoMoons(), dim=3)]
    networks = [MLP(hidden=(16,)), MLP(hidden=(8, 8)), Residual(width=8, blocks=1)]
    small = {"training.batch": 32, "training.points": 500, "n": 50}
    for k in range(count):
        changes = {
            "training.seed": k,
            "training.steps": 100 + 100 * (k % 2),
            "training.target": targets[k % len(targets)],
            "training.prediction": predictions[k // 2 % len(predictions)],
            "training.network": networks[k // 3 % len(networks)],
            "training.averaging": EMA() if k % 4 == 1 else None,
            "sampler": samplers[k % len(samplers)],
        }
        if k % 50 == 20:
            changes["training.optimizer.lr"] = 1e20
        if k % 50 == 40:
            changes["sampler"] = faulty
        yield PRESETS["ddpm"].replace(**small, **changes)


def questions() -> tuple[Any, ...]:
    from moonbed.metrics.density import NLL
    from moonbed.metrics.neighbours import Precision
    from moonbed.metrics.two_sample import C2ST, MMD, Energy, SlicedW1

    return SlicedW1(directions=16), Energy(), MMD(), Precision(), NLL(), C2ST()


def single(store: Path, count: int) -> Iterator[int]:
    """One call each."""
    from moonbed.experiments import StoreError, run

    metrics, told = questions(), {"done": 0, "diverged": 0, "failed": 0}
    for k, experiment in enumerate(experiments(count, store), 1):
        asked = metrics if k % 10 == 0 else metrics[k % 4 : k % 4 + 2]
        try:
            (result,) = run(experiment, metrics=asked, store=store / "runs", device="cpu", doubt=k % 3 == 0)
            told[result.status] += 1
        except (RuntimeError, StoreError):
            told["failed"] += 1
        yield k
    _expect(told, count)


def call(store: Path, count: int, jobs: int = 1, at_once: int | None = None) -> Iterator[int]:
    """So many at once in one call, by so many processes."""
    from moonbed.experiments import Store
    from moonbed.experiments.engines import Failure, Local
    from moonbed.experiments.results import Result
    from moonbed.experiments.run import execute

    wanted, told, done = list(experiments(count, store)), {"done": 0, "diverged": 0, "failed": 0}, 0
    metrics = questions()[:4]
    at_once = at_once or count
    for first in range(0, count, at_once):
        part = wanted[first : first + at_once]
        for group, event in execute(part, metrics, Store(store / "runs"), "cpu", Local(jobs=jobs), doubt=False):
            if isinstance(event, Failure | Result):
                told[event.status if isinstance(event, Result) else "failed"] += 1
                done += len(group)
                if jobs == 1:
                    yield done
        if jobs > 1:  # between two calls nothing of them may be left
            yield done
    _expect(told, count)


def jobs(store: Path, count: int) -> Iterator[int]:
    return call(store, count, jobs=2, at_once=20)


def _expect(told: dict[str, int], count: int) -> None:
    wrong = [sum(k % 50 == rest for k in range(count)) for rest in (20, 40)]
    if [told["diverged"], told["failed"]] != wrong or sum(told.values()) != count:
        raise SystemExit(f"of {count} experiments {wrong[0]} should diverge and {wrong[1]} fail, but: {told}")


def read(store: Path, count: int) -> Iterator[int]:
    """Commands over a store of twenty runs."""
    from moonbed.cli import main
    from moonbed.experiments import PRESETS, run

    small = {"training.steps": 100, "training.batch": 32, "training.points": 500, "n": 50, "sampler.steps": 4}
    wanted = [PRESETS["ddpm"].replace(**small, **{"training.seed": seed}) for seed in range(20)]
    run(wanted, metrics=questions()[:2], store=store / "runs", device="cpu", doubt=False)
    where = ["--store", str(store / "runs")]
    page = ["report", *where, "--out", str(store / "page.html")]
    turns = [
        ["list", "runs"],
        ["table"],
        ["show", wanted[0].id],
        ["table", "--format", "json"],
        ["list", "runs", "--json"],
    ]
    for k in range(1, count + 1):
        words = page if k % 5 == 0 else [*turns[k % len(turns)], *where]
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as said:
            try:
                main(words)
            except SystemExit as end:
                if end.code:
                    raise SystemExit(f"moonbed {' '.join(words)}: {said.getvalue()}") from None
        yield k


def serve(store: Path, count: int) -> Iterator[tuple[int, int]]:
    """Requests to a server in a process of its own; yields (how many, its process)."""
    import http.client

    from moonbed.experiments import PRESETS, run

    small = {"training.steps": 100, "training.batch": 32, "training.points": 500, "n": 50, "sampler.steps": 4}
    wanted = [PRESETS["ddpm"].replace(**small, **{"training.seed": seed}) for seed in range(5)]
    run(wanted, metrics=questions()[:2], store=store / "runs", device="cpu", doubt=False)
    words = [sys.executable, "-m", "moonbed", "serve", "--store", str(store / "runs"), "--port", "0"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            line = next(line for line in process.stdout or () if "http://" in line)
            port = int(line.split("http://", 1)[1].split()[0].rstrip("/").rsplit(":", 1)[1])
            ids = [e.training.id for e in wanted]
            for k in range(1, count + 1):
                key = ids[k % len(ids)]
                paths = ["/", "/api/runs", f"/runs/{key}", f"/api/runs/{key}", f"/api/runs/{key}/live", "/runs/none"]
                path = f"/runs/{key}/report" if k % 50 == 0 else paths[k % len(paths)]
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
                connection.request("GET", path)
                answer = connection.getresponse()
                answer.read()
                connection.close()
                if k % 10 == 0:
                    time.sleep(0.2)  # until the sockets of the last ones are closed there too
                if answer.status != (404 if path == "/runs/none" else 200):
                    raise SystemExit(f"{path}: status {answer.status}")
                yield k, process.pid
        finally:
            process.terminate()


# One part, and all


def watch(part: str, folder: Path, count: int, every: int, trace: bool) -> list[dict[str, float]]:
    """Do a part here and measure it now and then."""
    rows: list[dict[str, float]] = []
    before = None
    for event in globals()[part](folder, count):
        done, pid = event if isinstance(event, tuple) else (event, None)
        if done % every:
            continue
        row = {"done": done, **measure(pid)}
        if part == "jobs":
            row["server"] = sum(_status(Path("/proc") / child, "VmRSS") for child in _children(Path("/proc/self")))
        rows.append(row)
        print(json.dumps(row), file=sys.stderr, flush=True)
        if trace and done >= count // 5 and before is None:
            tracemalloc.start(12)
            before = tracemalloc.take_snapshot()
    if before is not None:
        for line in tracemalloc.take_snapshot().compare_to(before, "traceback")[:8]:
            print(line, *line.traceback.format(), sep="\n", file=sys.stderr)
    return rows


def apart(part: str, options: Sequence[str]) -> tuple[list[dict[str, float]], list[str]]:
    """(the measurements of a part in a process of its own, what is left of it when it has ended)."""
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        temporary = Path(folder) / "temporary"
        temporary.mkdir()
        words = [sys.executable, __file__, "--part", part, "--folder", folder, *options]
        environment = {**os.environ, "TMPDIR": str(temporary)}
        found = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True, env=environment)
        left = [f"left behind: {path.name}" for path in temporary.iterdir() if path.name not in KEPT]
        ours = (p for p in Path("/proc").glob("[0-9]*") if f"TMPDIR={temporary}\0" in _text(p / "environ"))
        left += [f"still alive: {_text(process / 'cmdline')}" for process in ours]
    return json.loads(found.stdout.splitlines()[-1]), left


def verdict(rows: Sequence[dict[str, float]], limit: float) -> list[str]:
    """What is wrong, in words."""
    start, end = rows[len(rows) // 5], rows[-1]
    changed = [name for name in COUNTS if end[name] != start[name]]
    out = [f"{name}: {start[name]:.0f} became {end[name]:.0f}" for name in changed]
    for name in ("allocated", "server") if "allocated" in end else ("rss",):
        found = growth(rows, name)
        if found is not None and found[0] - found[1] > limit:
            out.append(f"{name} grows by {found[0]:.1f} ± {found[1]:.1f} kB an experiment")
    return out


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(PARTS))
    parser.add_argument("--count", type=int, default=1000, help="experiments of `single`, `call` and `jobs`")
    parser.add_argument("--reads", type=int, default=500)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--every", type=int, default=20)
    parser.add_argument("--limit", type=float, default=4.0, help="kB an experiment that count as growth")
    parser.add_argument("--trace", action="store_true", help="say what Python allocated after the first fifth")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    parser.add_argument("--out")
    given = parser.parse_args()
    counts = {"read": given.reads, "serve": given.requests}
    if given.part:
        rows = watch(given.part, Path(given.folder), counts.get(given.part, given.count), given.every, given.trace)
        print(json.dumps(rows))
        return 0
    results, lines, bad = {}, [], 0
    for part in given.only.split(","):
        options = ["--every", str(given.every), "--count", str(given.count), "--reads", str(given.reads)]
        rows, left = apart(part, [*options, "--requests", str(given.requests), *["--trace"] * given.trace])
        wrong = [*verdict(rows, given.limit), *left]
        bad += bool(wrong)
        results[part] = {"rows": rows, "wrong": wrong}
        cells = [part, f"{rows[-1]['done']:,}", f"{rows[0]['rss'] / 1024:.0f} → {rows[-1]['rss'] / 1024:.0f} MB"]
        for name in SIZES:
            slope = growth(rows, name)
            cells.append("" if slope is None else f"{slope[0]:+.2f} ± {short(slope[1])}")
        cells += [f"{rows[len(rows) // 5][name]:.0f} → {rows[-1][name]:.0f}" for name in COUNTS]
        lines.append([*cells, "; ".join(wrong) or "flat"])
    print(table(["part", "n", "memory", *(f"{name}, kB each" for name in SIZES), *COUNTS, "verdict"], lines))
    write(given.out, results)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
