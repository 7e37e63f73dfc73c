"""Trainings a minute against the number of workers, for processes of this machine and for Ray on it.

    python benchmarks/engines.py [--trainings 8] [--steps 4000] [--repeats 3] [--workers 1,2,4] [--out FILE]

What is timed is a run of so many trainings that are alike, samples and one metric with them, from an engine that is
warm (Ray is connected, and has its workers) to the last result, into a store that is new each time. Rounds go through
all engines in turn, so that they share whatever else the machine does; each is held against `Local(jobs=1)` of its
round. `overhead` is what a task costs that does next to nothing: trainings of one step, over their number.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

from moonbed.experiments import PRESETS, Experiment, Store
from moonbed.experiments.engines import Engine, Local, Ray
from moonbed.experiments.run import execute
from moonbed.metrics.two_sample import SlicedW1

METRICS = (SlicedW1(directions=16),)


def experiments(count: int, steps: int) -> list[Experiment]:
    """So many seeds of a small training."""
    small = PRESETS["ema"].replace(**{"training.steps": steps, "training.batch": 128, "sampler": "DDIM", "n": 200})
    return [small.replace(**{"training.seed": seed, "sampler.steps": 10}) for seed in range(count)]


def seconds(engine: Engine, wanted: list[Experiment], store: Store) -> float:
    """Wall time of a run."""
    start = time.perf_counter()
    for _ in execute(wanted, METRICS, store, "cpu", engine):
        pass
    return time.perf_counter() - start


def measured(workers: list[int], count: int, steps: int, repeats: int) -> dict[str, dict[str, list[float]]]:
    """Engine -> seconds of the run, and of one with a single step a training, by round."""
    wanted, short = experiments(count, steps), experiments(count, 1)
    engines: dict[str, Engine] = {f"Local(jobs={k})": Local(jobs=k) for k in workers}
    Ray(jobs=max(workers)).workers  # noqa: B018  (begins Ray with a core for each of the most workers)
    engines |= {f"Ray(jobs={k})": Ray(jobs=k) for k in workers}
    out: dict[str, dict[str, list[float]]] = {name: {"run": [], "short": []} for name in engines}
    for number in range(repeats + 1):
        for name, engine in engines.items():
            with tempfile.TemporaryDirectory() as folder:
                found = {"run": seconds(engine, wanted, Store(folder)), "short": seconds(engine, short, Store(folder))}
            if number:  # the first round begins workers
                for key, value in found.items():
                    out[name][key].append(value)
    return out


def main() -> None:
    """Measure, print a table as Markdown, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--trainings", type=int, default=8)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--workers", default="1,2,4")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    load = os.getloadavg()[0]
    found = measured([int(k) for k in given.workers.split(",")], given.trainings, given.steps, given.repeats)
    base = found["Local(jobs=1)"]["run"]
    print(
        f"{given.trainings} trainings of {given.steps:,} steps, {given.repeats} rounds, {os.cpu_count()} cores, ",
        end="",
    )
    print(f"load before {load:.1f}, after {os.getloadavg()[0]:.1f}\n")
    print("| engine | trainings a minute | of Local(jobs=1), median (least to most) | overhead a task, s |")
    print("|---|---|---|---|")
    for name, times in found.items():
        ratios = [one / other for one, other in zip(base, times["run"], strict=True)]
        rate = 60 * given.trainings / statistics.median(times["run"])
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        print(f"| `{name}` | {rate:.1f} | {spread} | {statistics.median(times['short']) / given.trainings:.3f} |")
    if given.out:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
