"""Growth: time of training against steps and batch, time and peak memory of the metrics against n.

    make bench
    python benchmarks/growth.py [--only training,metrics] [--n 10000,100000,1000000] [--metrics Energy,SlicedW1]
                                [--seconds 60] [--limit 2.0] [--out x.json]

Exponents are least squares in logarithms: 1 is linear. Training is of the preset `ema`, Moonbed's and the plain one
(plain.py) in turns, one thread each, for a training of 10,000 steps, for which Moonbed compiles nothing.

Each metric runs at each n in a process of its own, on exact samples of two moons and as many reference points. The peak
is that process's (`getrusage`), all imports included, while the time is the metric's alone; this process imports
nothing that is large, so that a child cannot inherit a peak from it. An n is left out where the growth so far says
that it would take longer than `--seconds`. Exits with 1 where Energy or SlicedW1 takes more than the limit of memory.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

from common import Part, Worker, exponent, in_turns, one_thread, short, spread, table, write

PARTS = str(Path(__file__).with_name("parts.py"))
LINEAR = ("Energy", "SlicedW1")
"""The two that must take a million points within the limit."""
METRICS = (*LINEAR, "SlicedW1Law", "NLL", "OffSupport", "LogDensityKS", "Panel", "N50", "ModeWeights", "Memorisation")
METRICS += ("Precision", "Coverage", "MMD", "KSD", "MMDAggregated", "C2ST")
FIRST = 2_500
"""Where the growth begins to be seen."""


# Training


def training(steps: int, batches: list[int], repeats: int) -> list[dict[str, Any]]:
    """Seconds against steps, 1×, 2× and 4×, and a step's against the batch."""
    out = []
    walked: dict[str, list[list[float]]] = {"moonbed": [], "reference": []}
    ours = {"preset": "ema", "steps": steps, "training.steps": 10_000}
    plain = {"row": "ema", "steps": steps}
    with Worker(PARTS, Part("moonbed_training", ours)) as a, Worker(PARTS, Part("plain_training", plain)) as b:
        next(a), next(b)
        for _ in range(repeats):  # four times as many steps in a row are the sum of four values
            for name, worker in (("moonbed", a), ("reference", b)):
                walked[name].append([steps * next(worker) for _ in range(7)])
    for name, found in walked.items():
        sizes = [steps, 2 * steps, 4 * steps]
        out.append(_row(name, "steps", sizes, [[sum(v[i:j]) for v in found] for i, j in ((0, 1), (1, 3), (3, 7))]))
    times: dict[str, list[list[float]]] = {"moonbed": [], "reference": []}
    for batch in batches:
        parts = {
            "moonbed": Part("moonbed_training", {**ours, "training.batch": batch}),
            "reference": Part("plain_training", {**plain, "batch": batch}),
        }
        _, found_ = in_turns(PARTS, parts, repeats)
        for name in times:
            times[name].append([steps * v for v in found_[name]])
    return out + [_row(name, "batch", batches, found) for name, found in times.items()]


def _row(side: str, against: str, sizes: list[int], seconds: list[list[float]]) -> dict[str, Any]:
    middle = [sorted(v)[len(v) // 2] for v in seconds]
    return {"side": side, "against": against, "sizes": sizes, "seconds": seconds, "exponent": exponent(sizes, middle)}


# Metrics


def child(name: str, n: int) -> dict[str, Any]:
    """What a metric takes at a size, in this process."""
    import resource
    import time

    from moonbed.metrics import Evaluation, Metric
    from moonbed.rng import Rng
    from moonbed.targets.curves import TwoMoons

    one_thread()
    law, rng, metric = TwoMoons(), Rng(0), Metric.parse(name)
    train = law.sample(50_000, rng.stream("train")).numpy()

    def evaluation(n: int) -> Evaluation:
        x, y = (law.sample(n, rng.stream(part, n)).numpy() for part in ("samples", "reference"))
        return Evaluation(x, y, rng, law=law, train=train)

    metric(evaluation(100))  # what is imported, and what is kept of the law
    asked = evaluation(n)
    started = time.perf_counter()
    value = float(metric(asked))
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {"n": n, "value": value, "seconds": seconds, "gigabytes": peak / 1e9}


def apart(name: str, n: int, most: float) -> dict[str, Any]:
    """The same in a process of its own, for at most so many seconds."""
    command = [sys.executable, __file__, "--child", name, "--n", str(n)]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True, timeout=most).stdout)


def grown(name: str, sizes: list[int], most: float) -> dict[str, Any]:
    """A metric at each size, as far as its time allows; `left_out` says what was not, and why."""
    found: list[dict[str, Any]] = []
    left_out = {}
    for n in [min(FIRST, sizes[0]), *sizes]:
        if found and found[-1]["n"] == n:
            continue
        if (predicted := _predicted(found, n)) > most:
            left_out[n] = f"about {short(predicted)} s"
            continue
        try:  # a prediction may be wrong
            found.append(apart(name, n, 2 * most + 30))
        except subprocess.TimeoutExpired:
            left_out[n] = f"stopped after {2 * most + 30:.0f} s"
            break
    kept = [f for f in found if f["n"] in sizes]
    b = exponent([f["n"] for f in kept], [f["seconds"] for f in kept])
    print(f"{name}: {sum(f['seconds'] for f in found):.1f} s", file=sys.stderr, flush=True)
    return {"metric": name, "sizes": kept, "exponent": b, "left out": left_out}


def _predicted(found: list[dict[str, Any]], n: int) -> float:
    """Seconds at n by the exponent of the two sizes before it; quadratic if there is only one."""
    if not found:
        return 0.0
    last, b = found[-1], 2.0
    if len(found) > 1 and last["seconds"] > 0.01:
        b = math.log(last["seconds"] / found[-2]["seconds"]) / math.log(last["n"] / found[-2]["n"])
    elif last["seconds"] <= 0.01:
        b = 1.0
    return last["seconds"] * (n / last["n"]) ** max(0.0, b)


# Report


def training_table(rows: list[dict[str, Any]]) -> str:
    def cells(row: dict[str, Any]) -> list[str]:
        times = ", ".join(f"{n}: {spread(v, 's')}" for n, v in zip(row["sizes"], row["seconds"], strict=True))
        return [row["side"], row["against"], times, f"{row['exponent']:.2f}", str(len(row["seconds"][0]))]

    return table(["training", "against", "size: seconds, median (range)", "exponent", "n"], map(cells, rows))


def metrics_table(rows: list[dict[str, Any]], sizes: list[int]) -> str:
    def cells(row: dict[str, Any]) -> list[str]:
        found = {f["n"]: f"{short(f['seconds'])} s, {f['gigabytes']:.2f} GB" for f in row["sizes"]}
        b = "" if row["exponent"] is None else f"{row['exponent']:.2f}"
        return [row["metric"], *(found.get(n, row["left out"].get(n, "left out")) for n in sizes), b]

    return table(["metric", *(f"n = {n:,}" for n in sizes), "exponent"], map(cells, rows))


def within(row: dict[str, Any], limit: float) -> bool:
    """Say whether a metric keeps its limit; what was not measured breaks none."""
    last = row["sizes"][-1] if row["sizes"] else {"n": 0, "gigabytes": 0.0}
    kept = max((f["gigabytes"] for f in row["sizes"]), default=0.0) <= limit
    missing = f", more was left out ({', '.join(row['left out'].values())})" if row["left out"] else ""
    verdict = "within" if kept else "above"
    print(f"{row['metric']}: {last['gigabytes']:.2f} GB at n = {last['n']:,}, {verdict} {limit:g} GB{missing}")
    return kept


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="training,metrics", help="sections, separated by commas")
    parser.add_argument("--n", default="10000,100000,1000000", help="samples, and as many reference points")
    parser.add_argument("--metrics", default=",".join(METRICS), help="names, separated by commas")
    parser.add_argument("--seconds", type=float, default=60.0, help="longest time of a metric")
    parser.add_argument("--limit", type=float, default=2.0, help="gigabytes, for " + " and ".join(LINEAR))
    parser.add_argument("--tiny", action="store_true", help="the least that runs; its numbers mean nothing")
    parser.add_argument("--out", help="write the results as JSON to this file")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    given = parser.parse_args()
    sizes, results, status = sorted(map(int, given.n.split(","))), {"limit": given.limit, "tiny": given.tiny}, 0
    if given.child:
        print(json.dumps(child(given.child, sizes[0])))
        return 0
    if given.tiny:
        sizes, given.metrics = [100, 200], "Energy,NLL"
    if "training" in given.only.split(","):
        quick = (100, [64, 128], 1) if given.tiny else (100, [256, 512, 1024, 2048], 3)
        results["training"] = training(*quick)
        print(f"## training, preset `ema`, one thread\n\n{training_table(results['training'])}\n")
    if "metrics" in given.only.split(","):
        results["metrics"] = [grown(name, sizes, given.seconds) for name in given.metrics.split(",")]
        print(f"## metrics, n samples against as many, one thread\n\n{metrics_table(results['metrics'], sizes)}\n")
        status = int(any(not within(row, given.limit) for row in results["metrics"] if row["metric"] in LINEAR))
    write(given.out, results)
    return status


if __name__ == "__main__":
    sys.exit(main())
