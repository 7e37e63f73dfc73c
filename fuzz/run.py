"""All fuzz targets in turn: `python fuzz/run.py --seconds 60 --out build/fuzz`; a line each, and their sum.

What counts as an input is an execution that libFuzzer reports. Corpora and findings are kept below `--out`, so that the
next call goes on from them; `totals.jsonl` has a line for each run of a target. Exit status 1 if anything was found.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent


def main() -> int:
    targets = sorted(path.stem.removeprefix("fuzz_") for path in HERE.glob("fuzz_*.py"))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*", default=targets, help=f"of {', '.join(targets)}; all unless said")
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--out", type=Path, default=Path("build/fuzz"))
    given = parser.parse_args()
    print(f"{'target':<12}{'inputs':>12}{'wall s':>9}{'CPU s':>9}{'peak MB':>9}  findings")
    lines = [once(name, given.seconds, given.out) for name in given.targets]
    print(f"{'all':<12}{sum(line['inputs'] for line in lines):>12,}")
    return int(any(line["findings"] for line in lines))


def once(name: str, seconds: int, out: Path) -> dict:
    """Run one target for a time; it is started again after what libFuzzer cannot go on from."""
    corpus, findings = out / "corpus" / name, out / "findings" / name
    corpus.mkdir(parents=True, exist_ok=True)
    findings.mkdir(parents=True, exist_ok=True)
    before, start, spent = set(findings.iterdir()), time.monotonic(), _cpu()
    inputs, peak = 0, 0
    while (left := seconds - (time.monotonic() - start)) >= 1:
        options = [f"-max_total_time={int(left)}", "-rss_limit_mb=2048", "-timeout=10", "-print_final_stats=1"]
        options += ["-max_len=4096", "-len_control=0", f"-artifact_prefix={findings.resolve()}/"]
        command = [sys.executable, str(HERE / f"fuzz_{name}.py"), *options, str(corpus)]
        environment = os.environ | {"MOONBED_FINDINGS": str(findings), "OMP_NUM_THREADS": "1"}
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, errors="replace")
        stats = dict(re.findall(r"stat::(\w+):\s+(\d+)", ended.stderr))
        inputs += int(stats.get("number_of_executed_units", 0))
        peak = max(peak, int(stats.get("peak_rss_mb", 0)))
        if not stats:
            (findings / "stopped.txt").write_text(ended.stderr[-20_000:])
            break
    found = sorted(p.name for p in set(findings.iterdir()) - before if p.suffix != ".txt" or p.name == "stopped.txt")
    line = {"target": name, "inputs": inputs, "wall": time.monotonic() - start, "cpu": _cpu() - spent}
    line |= {"peak_mb": peak, "findings": found, "ended": time.time()}
    with (out / "totals.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
    shown = f"{name:<12}{inputs:>12,}{line['wall']:>9.0f}{line['cpu']:>9.0f}{peak:>9}"
    print(f"{shown}  {', '.join(found) or 'none'}", flush=True)
    return line


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    sys.exit(main())
