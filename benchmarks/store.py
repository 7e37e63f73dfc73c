"""A store of 10,000 finished runs: how long whole commands take on it, with an index and without.

    python benchmarks/store.py
    python benchmarks/store.py --trainings 250 --repeats 1 --out build/store.json

The store is made without training: 500 configurations of the preset `fast` from five seeds, each sampled in four ways,
with ids, seals, checksums and metrics as real runs have them; samples and weights are small. `cold` is the first
command on a folder without an index, `warm` any later one; the files are in the cache of the system in both. A command
is a process: its start, its imports and its output count.
"""

from __future__ import annotations

import argparse
import copy
import io
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import common
import numpy as np

from moonbed.component import digest
from moonbed.experiments.floors import save_floor
from moonbed.experiments.presets import PRESETS
from moonbed.experiments.storage.store import Store
from moonbed.metrics.suites import SUITES
from moonbed.targets import Target

SEEDS, STEPS = 5, (8, 16, 32, 64)
METRICS = SUITES["published"]


def specs(trainings: int) -> list[list[dict[str, Any]]]:
    """The experiments of each training, as their specs: rates and widths by configuration, then seeds."""
    out, base = [], PRESETS["fast"].spec()
    for k in range(trainings):
        spec, number = copy.deepcopy(base), k // SEEDS
        training = spec["training"]
        training["optimizer"]["lr"] = round(0.002 + 0.0001 * (number % 50), 6)
        training["network"]["hidden"] = [16 + number // 50] * 3
        training["seed"] = k % SEEDS
        out.append([{**spec, "sampler": {**spec["sampler"], "steps": steps}, "n": 100} for steps in STEPS])
    return out


def fill(root: Path, trainings: int) -> list[str]:
    """A store of so many trainings, each sampled four times; the ids of its experiments."""
    store, rng, ids = Store(root), np.random.default_rng(0), []
    common_record = {"status": "done", "device": "cpu", "versions": {"moonbed": "0.1.0"}}
    log = "".join(f'{{"step": {100 * k}, "loss": {1 / k!r}}}\n' for k in range(1, 10)).encode()
    fsync, os.fsync = os.fsync, lambda _: None
    try:
        for group in specs(trainings):
            training = group[0]["training"]
            key = digest(training)
            folder = store.folder(key)
            folder.write_json("training.json", {"id": key, "spec": training})
            record = {**common_record, "id": key, "step": training["steps"], "parameters": 5000, "seconds": 1.5}
            folder.finish(record, {"weights.safetensors": rng.bytes(256), "log.jsonl": log})
            ids += [_experiment(store, key, spec, common_record, rng) for spec in group]
        law = Target.parse(specs(1)[0][0]["training"]["target"])
        for metric in METRICS:
            save_floor(store, law, metric, 100, list(0.05 + 0.01 * rng.random(39)))
    finally:
        os.fsync = fsync
    return ids


def _experiment(store: Store, training: str, spec: dict[str, Any], record: dict[str, Any], rng: Any) -> str:
    key, data = digest(spec), io.BytesIO()
    folder = store.folder(training, key)
    folder.write_json("experiment.json", {"id": key, "spec": spec})
    np.save(data, rng.normal(size=(100, 2)).astype("float32"))
    more = {"id": key, "training": training, "n": spec["n"], "exploded": 0, "seconds": 0.25}
    folder.finish({**record, **more}, {"samples.npy": data.getvalue()})
    for metric in METRICS:
        value = float(abs(rng.normal(0.1, 0.03)))
        stored = {"metric": metric.spec(), "n": spec["n"], "value": value, "details": {}, "interval": [0.0, 2 * value]}
        folder.write_json(f"metrics/{metric.id}.json", stored)
    return key


def seconds(root: Path, *words: str) -> tuple[float, float]:
    """Wall time and processor time of a command on the store; its output is read."""
    command = [sys.executable, "-m", "moonbed", *words, "--store", str(root)]
    started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)} ended with status {done.returncode}: {done.stderr}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - started, used


def served(root: Path) -> dict[str, float]:
    """Seconds from the start of `moonbed serve` to its first list of runs, and of a second one."""
    command = [sys.executable, "-m", "moonbed", "serve", "--port", "0", "--store", str(root)]
    started = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        watch = threading.Timer(120, process.kill)
        watch.start()
        try:
            address = process.stdout.readline().split()[-1]  # type: ignore[union-attr]
            out = {}
            for name in ("first list", "second list"):
                with urllib.request.urlopen(f"{address.rstrip('/')}/api/runs", timeout=120) as answer:
                    json.load(answer)
                out[name] = time.perf_counter() - started
                time.sleep(0.5)  # longer than a list is kept
                started = time.perf_counter()
        finally:
            watch.cancel()
            process.terminate()
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trainings", type=int, default=2500, help="four runs each")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--keep", help="make the store in this folder, or use the one that is there")
    parser.add_argument("--out", help="write the numbers as JSON")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(given.keep or temporary) / "runs"
        started = time.perf_counter()
        if not root.exists():
            fill(root, given.trainings)
        print(f"{4 * given.trainings:,} runs made in {time.perf_counter() - started:.0f} s", file=sys.stderr)
        found = measure(root, given.repeats)
    rows = [
        [name, *(common.spread([v[k] for v in values if len(v) > k], "s") for k in range(2)), str(len(values))]
        for name, values in found.items()
    ]
    print(common.table(["command", "wall", "processor", "n"], rows))
    common.write(given.out, {"runs": 4 * given.trainings, "seconds": found})


def measure(root: Path, repeats: int) -> dict[str, list[tuple[float, ...]]]:
    """Command -> its seconds of wall and processor, repeat by repeat."""
    one, other = (digest(group[0]) for group in specs(2 * SEEDS)[::SEEDS])
    where = ("--where", "training.optimizer.lr<0.003", "--where", "sampler.steps=32", "--sort=-MMD")
    compare = ("compare", one, other, "--metrics", "published", "--report", "none", "--device", "cpu", "--quiet")
    cold = {
        "list runs": ("list", "runs"),
        "list runs --json": ("list", "runs", "--json"),
        "list runs --where ... --sort -MMD": ("list", "runs", *where),
        "table ID": ("table", one),
        "compare A B": compare,
        "index": ("index",),
    }
    out: dict[str, list[tuple[float, ...]]] = {
        "list presets (no runs)": [seconds(root, "list", "presets") for _ in range(repeats)]
    }
    for name, words in cold.items():
        out[f"{name}, cold"] = []
        for _ in range(repeats):
            for path in root.glob("index.sqlite*"):
                path.unlink()
            out[f"{name}, cold"].append(seconds(root, *words))
    for name, words in {**cold, "show ID": ("show", one)}.items():
        if name != "index":
            out[f"{name}, warm"] = [seconds(root, *words) for _ in range(repeats)]
    for _ in range(repeats):
        for name, value in served(root).items():
            out.setdefault(f"serve, {name}, warm", []).append((value,))
    return out


if __name__ == "__main__":
    main()
