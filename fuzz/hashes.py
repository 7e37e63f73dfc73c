"""The page's reader of addresses in node: `python fuzz/hashes.py --count 1000000`; 1 if anything was found."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from moonbed.report.page.bundle import bundle

HERE = Path(__file__).parent
CALL = "console.log(JSON.stringify({ ...fuzzHashes(%d, %d), cpu: process.cpuUsage().user / 1e6 }));"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    script = (
        bundle(("menu.js", "state.js")) + (HERE / "hashes.js").read_text("utf-8") + CALL % (given.seed, given.count)
    )
    begun = time.monotonic()
    found = json.loads(subprocess.run(["node", "-"], input=script, capture_output=True, text=True, check=True).stdout)
    print(f"{found['inputs']:,} addresses, {time.monotonic() - begun:.0f} s, {found['cpu']:.0f} s of CPU")
    for address, trouble in found["troubles"]:
        print(f"{trouble}: {address!r}")
    return int(bool(found["troubles"]))


if __name__ == "__main__":
    sys.exit(main())
