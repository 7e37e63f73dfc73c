"""Memory: peak and time of the two-sample metrics at n = 100,000, where a matrix of all distances would take 80 GB.

    python benchmarks/memory.py [--n 100000] [--metrics Energy,MMD,SlicedW1] [--limit 2.0] [--out x.json]

Each metric runs in a process of its own, on n exact samples against n reference points of two moons. The peak is that
process's own (`getrusage`), all imports included; this one imports nothing that is large, so that a child cannot
inherit a peak from it. Exits with 1 where a peak is above the limit. Energy and MMD take all pairs: minutes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys

from common import table, write


def child(name: str, n: int) -> None:
    import resource
    import time

    from common import one_thread

    from moonbed.metrics import Evaluation, Metric
    from moonbed.rng import Rng
    from moonbed.targets.curves import TwoMoons

    one_thread()
    law, rng = TwoMoons(), Rng(0)
    x, y = (law.sample(n, rng.stream(part)).numpy() for part in ("samples", "reference"))
    started = time.perf_counter()
    value = float(Metric.parse(name)(Evaluation(x, y, rng)))
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    print(json.dumps({"metric": name, "value": value, "seconds": seconds, "gigabytes": peak / 1e9}))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=100_000, help="samples, and as many reference points")
    parser.add_argument("--metrics", default="Energy,MMD,SlicedW1", help="names, separated by commas")
    parser.add_argument("--limit", type=float, default=2.0, help="gigabytes")
    parser.add_argument("--out", help="write the results as JSON to this file")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        child(given.child, given.n)
        return 0
    rows = []
    for name in given.metrics.split(","):
        command = [sys.executable, __file__, "--child", name, "--n", str(given.n)]
        rows.append(json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout))
        print(f"{name}: {rows[-1]['seconds']:.1f} s", file=sys.stderr)
    print(f"n = {given.n:,} samples against as many; one thread\n")
    print(
        table(
            ["metric", "peak GB", "seconds", "value"],
            [[r["metric"], f"{r['gigabytes']:.2f}", f"{r['seconds']:.1f}", f"{r['value']:.3g}"] for r in rows],
        )
    )
    write(given.out, {"n": given.n, "limit": given.limit, "metrics": rows})
    return int(any(r["gigabytes"] > given.limit for r in rows))


if __name__ == "__main__":
    sys.exit(main())
