"""Speed: Moonbed beside the published ablation in plain form (plain.py), beside JAX and beside what no code can beat.

    make bench
    python benchmarks/speed.py [--only step,quality,rows,evaluation,sampling,import,ensemble,gpu] [--full] [--out FILE]

A time alone says little of a shared machine, so every number is a ratio within one run: each side is a process of its
own with the threads stated, and they take turns (A B A B); shown are median and range over n repeats. Ratio: reference
over Moonbed, so more is better. The limit of a training step is its matrix products alone, that of sampling the
network's forward passes alone. The sections:

    step        ms a training step of two presets, on one thread
    quality     the preset `fast` against 40,000 plain steps of `residual`, and what it reaches
    rows        the eight rows at the paper's budget on this machine's cores, from times a step; --full runs them too
    evaluation  the four published metrics at n = 5,000, with a floor of 20 draws, on all cores, and without
    sampling    samplers against the forward passes that they take
    import      `import moonbed`, `--help` and an error against bare Python
    ensemble    eight seeds as one batched computation
    gpu         64 seeds of `residual`, where there is a GPU
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

import jax_step
from common import HEAD, Line, Part, Worker, in_turns, once, ratio, spread, table, write

PARTS = str(Path(__file__).with_name("parts.py"))
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
STEPS, SAMPLING = 40_000, 1_000
ROWS = ("baseline", "ddpm", "ema", "cosine", "larger-mlp", "snr", "snr-ema", "residual")
SHARED = {"ddpm": "baseline"}
"""Row -> the row whose training is the same; they differ in the sampler."""
SAMPLED = {"ema": "ddpm", "cosine": "ddpm", "snr": "larger-mlp", "snr-ema": "larger-mlp"}
"""Row -> the row whose sampling takes the same time: the same network under the same scheduler, with other weights."""
NETWORKS = {"residual": "residual", "ema": "mlp"}


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    steps: int = 300
    repeats: int = 5
    sampling: int = 50
    n: int = 5_000
    draws: int = 20
    seeds: int = 8
    rows: tuple[str, ...] = ROWS
    presets: tuple[str, ...] = ("residual", "ema")
    seconds: float = 60.0
    """Longest floor that is drawn in full."""


TINY = Size(100, 1, 2, 200, 2, 2, ("ddpm",), ("ema",), 5.0)
Section = Iterator[Line | str]


def step(size: Size) -> Section:
    for preset in size.presets:
        parts = {"moonbed": Part("moonbed_training", {"preset": preset, "steps": size.steps})}
        parts["reference"] = Part("plain_training", {"row": preset, "steps": size.steps})
        if jax_step.FOUND:
            parts["jax"] = Part("jax_training", {"network": NETWORKS[preset], "steps": size.steps})
        parts["limit"] = Part("products", {"row": preset, "steps": size.steps})
        first, times = in_turns(PARTS, parts, size.repeats)
        ours, plain, limit = times["moonbed"], times["reference"], times["limit"]
        met = median(ratio(plain, ours)) >= 3
        yield Line(f"training step, {preset}", ours, plain, (), "ratio >= 3", met, unit="ms")
        met = median(ratio(ours, limit)) <= 1.6
        yield Line(f"training step, {preset}, products", ours, (), limit, "<= 1.6 × limit", met, unit="ms")
        if jax_step.FOUND:
            jax = times["jax"]
            target, met = "ratio > 1", median(ratio(jax, ours)) > 1
            yield Line(f"training step, {preset}, JAX", ours, jax, target=target, met=met, unit="ms")
        else:
            yield "JAX: not installed, left out (pip install -e '.[bench]')"
        del first["limit"]
        blocks = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in first.items())
        yield f"{preset}: first block of 100 steps {blocks}"
        yield f"{preset}: the products alone have a ratio of {spread(ratio(plain, limit))}, which bounds all others"


def quality(size: Size) -> Section:
    tiny = {"steps": 100, "points": 1000} if size is TINY else {}
    changes = {f"training.{k}": v for k, v in tiny.items()} | ({"n": size.n, "sampler.steps": 20} if tiny else {})
    if not has_preset("fast"):
        yield "There is no preset `fast` in this version: left out."
        return
    whole = {"preset": "fast", **changes}
    for threads in (None, 1):
        ours, plain = [], []
        with Worker(PARTS, Part("plain_training", {"row": "residual", "steps": size.steps}, threads)) as reference:
            next(reference)
            for _ in range(min(3, size.repeats)):
                ours.append(once(PARTS, Part("moonbed_whole", whole, threads)))
                plain.append(STEPS * next(reference))
        met = median(ratio(plain, ours)) >= 200
        yield Line("`fast`, whole training", ours, plain, (), "ratio >= 200", met, label(threads))
    yield f"reference: {STEPS:,} steps of `residual`, from {len(plain)} × {size.steps} measured; growth.py checks that"
    found = once(PARTS, Part("moonbed_quality", whole, None))
    for name, got in found.items():
        low, high = got["interval"] or (float("nan"), float("nan"))
        met = f"; target <= 0.0127: {'met' if got['value'] <= 0.0127 else 'missed'}" if "irsanov" in name else ""
        yield f"`fast`: {name} {got['value']:.4g} ({low:.4g} .. {high:.4g}){met}"


def rows(size: Size) -> Section:
    tasks: dict[str, float] = {}
    reference, measured = 0.0, {}
    ours_values, plain_values, floors = evaluation_times(size)
    for row in size.rows:
        task = SHARED.get(row, row)
        whose = {"training": task, "sampling": SAMPLED.get(row, row)}
        for stage, name in whose.items():
            key = stage, name
            if key not in measured:
                measured[key] = stage_of(row, stage, size)
                yield measured[key]
            reference += median(measured[key].reference)
            if stage == "sampling" or task not in tasks:  # the reference trains every row, Moonbed every training
                tasks[task] = tasks.get(task, 0.0) + median(measured[key].moonbed)
        tasks[task] += median(ours_values)
        reference += median(plain_values)
    total = makespan(list(tasks.values()), CORES)
    jobs, target = f"{CORES} jobs, {label(None)}", "ratio >= 5"
    met = reference / total >= 5
    yield Line(f"{len(size.rows)} rows in all", [total], [reference], (), target, met, jobs)
    yield Line("the same with floors", [total + floors["seconds"]], [reference], threads=jobs)
    yield "from times on one core each, longest first on all cores; without intervals, which the reference has not"


def stage_of(row: str, stage: str, size: Size) -> Line:
    """Seconds of a row's whole training or sampling, from some of its steps."""
    ours: dict[str, Any] = {"preset": row, "protocol": "published"}
    plain: dict[str, Any] = {"row": row}
    if stage == "training":
        total, steps = STEPS, {"steps": 2 * size.steps // 3}
    else:
        total, steps = SAMPLING, {"n": size.n, "steps": size.sampling}
        plain["total"] = SAMPLING
    a, b = Part(f"moonbed_{stage}", ours | steps), Part(f"plain_{stage}", plain | steps, None)
    first, times = in_turns(PARTS, {"moonbed": a, "reference": b}, min(3, size.repeats))
    start = {side: first[side] if stage == "training" else 0.0 for side in times}  # compilation counts
    found = ([start[side] + total * v for v in times[side]] for side in ("moonbed", "reference"))
    return Line(f"{row}, {total:,} steps of {stage}", *found, threads=f"1, {label(None)}")


def full() -> Section:
    """The real thing, with floors and intervals, tables and pictures."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["reproduce", "--budget", "paper", "--jobs", str(CORES), "--store", f"{folder}/runs", "--quiet"]
        started = time.perf_counter()
        subprocess.run(moonbed(*command, "--out", folder), check=True, stdout=subprocess.DEVNULL)
        yield Line("moonbed reproduce --budget paper", [time.perf_counter() - started], threads=f"{CORES} jobs")


@cache
def evaluation_times(size: Size) -> tuple[list[float], list[float], dict[str, float]]:
    """(seconds of Moonbed's values, of the plain ones, of the floor); the slow plain ones once, in between."""
    ours: list[float] = []
    with Worker(PARTS, Part("moonbed_values", {"n": size.n})) as worker:
        next(worker)
        ours.append(next(worker))
        more = min(2, int(10 / ours[0])) if size is not TINY else 1
        ours += [next(worker) for _ in range(more)]
        plain = [once(PARTS, Part("plain_values", {"n": size.n}, None))]
        ours += [next(worker) for _ in range(more)]
    floors = once(
        PARTS, Part("moonbed_floors", {"n": size.n, "draws": size.draws, "most": size.seconds, "jobs": CORES})
    )
    return ours, plain, floors


def evaluation(size: Size) -> Section:
    ours, plain, floors = evaluation_times(size)
    threads = f"1, {label(None)}"
    yield Line(
        "four published metrics, floor cached",
        ours,
        plain,
        (),
        "ratio >= 50",
        median(ratio(plain, ours)) >= 50,
        threads,
    )
    both = [median(ours) + floors["seconds"]]
    met = median(ratio(plain, both)) >= 10
    yield Line(
        f"four published metrics and a floor of {size.draws} draws", both, plain, (), "ratio >= 10", met, threads
    )
    if floors["drawn"] < size.draws:
        drawn = f"{floors['drawn']} of {size.draws} draws"
        yield f"floor: {drawn} measured, since all would have taken more than {size.seconds:.0f} s"


def sampling(size: Size) -> Section:
    steps = 20 if size is TINY else 200  # of a trajectory
    for preset in size.presets:
        ddpm = {"sampler": "Diffusers", "sampler.steps": steps}
        for name, changes in (("DDPM by the bridge", ddpm), ("DDIM", {"sampler": "DDIM", "sampler.steps": steps})):
            common = {"n": size.n, "steps": 2 * size.sampling}
            parts = {
                "moonbed": Part("moonbed_sampling", {"preset": preset, **common, **changes}),
                "limit": Part("forwards", {"preset": preset, **common}),
            }
            if name != "DDIM":
                parts["reference"] = Part("plain_sampling", {"row": preset, **common, "total": steps})
            _, times = in_turns(PARTS, parts, size.repeats)
            met = median(ratio(times["moonbed"], times["limit"])) <= 1.15
            sides = times["moonbed"], times.get("reference", ()), times["limit"]
            yield Line(f"sampling step, {preset}, {name}", *sides, "<= 1.15 × limit", met, unit="ms")


def import_(size: Size) -> Section:
    commands = {
        "import moonbed": ([sys.executable, "-c", "import moonbed"], 0, 0.3),
        "moonbed --help": (moonbed("--help"), 0, 0.7),
        "moonbed run nosuch": (moonbed("run", "nosuch"), 2, 0.7),
    }
    for what, (command, status, most) in commands.items():
        ours, bare = [], []
        for _ in range(size.repeats):
            ours.append(seconds_of(command, status))
            bare.append(seconds_of([sys.executable, "-c", "pass"], 0))
        yield Line(what, ours, bare, target=f"< {most} s", met=median(ours) < most, threads="default")
    yield "reference: `python -c pass`; seconds of the whole process"


def ensemble(size: Size) -> Section:
    """Seeds stacked into one batched computation against each alone, which is what a CPU gets."""
    for batch in (64, 512):
        common = {"preset": "ema", "seeds": size.seeds, "steps": size.steps, "training.batch": batch}
        parts = {
            side: Part("moonbed_together", {**common, "stacked": side == "stacked"}) for side in ("stacked", "alone")
        }
        _, times = in_turns(PARTS, parts, min(3, size.repeats))
        what = f"{size.seeds} seeds of `ema` stacked, batch {batch}, a step of each"
        yield Line(what, times["stacked"], times["alone"], unit="ms")
    yield "reference: one after the other, which is what a CPU gets: its bits do not depend on company"


def gpu(size: Size) -> Section:
    import torch

    if not torch.cuda.is_available():
        yield "no GPU here: 64 seeds of `residual` at paper budget, for which the target is 2 minutes, left out"
        return
    seconds = once(PARTS, Part("moonbed_seeds", {"preset": "residual", "seeds": 64, "device": "cuda"}, None))
    yield Line("64 seeds of `residual`", [seconds], target="< 120 s", met=seconds < 120, threads=label(None))


# What the sections share


def label(threads: int | None) -> str:
    return str(threads) if threads else f"default ({CORES} cores)"


def moonbed(*words: str) -> list[str]:
    return [str(Path(sys.executable).with_name("moonbed")), *words]


def has_preset(name: str) -> bool:
    code = f"from moonbed.experiments.presets import PRESETS; print({name!r} in PRESETS)"
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "True\n"


def seconds_of(command: list[str], status: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        done = subprocess.run(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        seconds = time.perf_counter() - started
    if done.returncode != status:
        raise RuntimeError(f"{command[1:]} ended with status {done.returncode}, not {status}")
    return seconds


def makespan(seconds: list[float], cores: int) -> float:
    """When the last of them ends, the longest first, each on the core that is free first."""
    free = [0.0] * cores
    for task in sorted(seconds, reverse=True):
        free[free.index(min(free))] += task
    return max(free)


SECTIONS: dict[str, Callable[[Size], Section]] = {
    "step": step,
    "quality": quality,
    "rows": rows,
    "evaluation": evaluation,
    "sampling": sampling,
    "import": import_,
    "ensemble": ensemble,
    "gpu": gpu,
}


def report(name: str, found: Section) -> dict[str, Any]:
    """Print a section when it is there, and return it; one that fails says so, and the others go on."""
    started, failed = time.monotonic(), False
    lines: list[Line] = []
    notes: list[str] = []
    try:
        for item in found:
            (lines if isinstance(item, Line) else notes).append(item)
    except (RuntimeError, subprocess.CalledProcessError) as error:
        failed = True
        notes.append(f"FAILED: {error}")
    print(f"\n## {name}\n")
    if lines:
        print(table(HEAD, [line.cells() for line in lines]))
    print("\n".join(["", *notes] if lines and notes else notes))
    seconds = time.monotonic() - started
    print(f"{name}: {seconds:.0f} s", file=sys.stderr, flush=True)
    return {"lines": lines, "notes": notes, "seconds": seconds, "failed": failed}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(SECTIONS), help="sections, separated by commas")
    parser.add_argument("--full", action="store_true", help="run `moonbed reproduce --budget paper` too")
    parser.add_argument("--tiny", action="store_true", help="the least that runs; its numbers mean nothing")
    parser.add_argument("--out", help="write the results as JSON to this file")
    given = parser.parse_args()
    names = given.only.split(",")
    if unknown := sorted(set(names) - set(SECTIONS)):
        parser.error(f"no section is called {unknown[0]!r}; there are {', '.join(SECTIONS)}")
    size = TINY if given.tiny else Size()
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    print(f"{CORES} cores, load {load:.1f} at the start")
    if load > 0.5:
        print("The machine is busy: two threads that wait for one another suffer most, so rows flatters Moonbed here.")
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache  # what earlier runs compiled is not there
        found = {name: report(name, SECTIONS[name](size)) for name in names}
        if given.full:
            found["full"] = report("full", full())
    lines = [line for section in found.values() for line in section["lines"] if line.target]
    if lines:
        print("\n## Summary\n\n" + table(HEAD, [line.cells() for line in lines]))
        print(f"\n{sum(bool(line.met) for line in lines)} of {len(lines)} targets met; {CORES} cores")
    sections = {k: {**section, "lines": [line.record() for line in section["lines"]]} for k, section in found.items()}
    write(given.out, {"tiny": given.tiny, "load": load, "sections": sections})
    return int(any(section["failed"] for section in found.values()))


if __name__ == "__main__":
    sys.exit(main())
