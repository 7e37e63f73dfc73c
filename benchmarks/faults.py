"""Faults, counted: processes killed, writes that fail, bytes that turn over, folders full, read-only
or shared, readers that go, clocks that jump.

    python benchmarks/faults.py --out build/faults.json
    python benchmarks/faults.py --only kills,writes --scale 0.1

What is lost is counted for each kind, and is the exit status: anything of a store that is then neither as before nor as
wanted, a message without a reason, a traceback, a result whose bytes differ from those of a run that nobody disturbed.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path

import faults_damage
import faults_folders
import faults_kills
import faults_outputs
import faults_writes
from common import one_thread
from faults_subject import Count, command

KILLS = {"train": 60, "sample": 40, "evaluate": 40, "floor": 30, "write": 40}
Part = Callable[[float, int], Iterator[Count]]


def _kills(scale: float, seed: int) -> Iterator[Count]:
    yield faults_kills.kills({stage: max(1, round(scale * n)) for stage, n in KILLS.items()}, seed)


def _commands(scale: float, seed: int) -> Iterator[Count]:
    yield faults_kills.commands(max(3, round(scale * 21)), seed)
    yield faults_folders.startup(max(2, round(scale * 10)), seed)
    yield faults_folders.pipes()
    yield from faults_outputs.pipes(faults_outputs.PRINTING[:: max(1, round(1 / scale))])


def _outputs(scale: float, seed: int) -> Iterator[Count]:
    yield from faults_outputs.pages(max(2, round(scale * 40)), seed)
    yield from faults_outputs.disturbed(max(1, round(scale * 20)), seed)


def _signals(scale: float, seed: int) -> Iterator[Count]:
    yield from faults_kills.signals(max(1, round(scale * 5)), seed)


def _writes(scale: float, seed: int) -> Iterator[Count]:
    yield from faults_writes.writes(max(1, round(1 / scale)))


def _damage(scale: float, seed: int) -> Iterator[Count]:
    yield from faults_damage.damages(max(1, round(1 / scale)), seed)
    yield from faults_damage.misplaced(seed)


def _folders(scale: float, seed: int) -> Iterator[Count]:
    yield faults_folders.full(4096 * max(1, round(1 / scale)))
    yield faults_folders.readonly()
    yield faults_folders.together(max(2, round(scale * 20)), seed)


PARTS: dict[str, Part] = {
    "kills": _kills,
    "writes": _writes,
    "damage": _damage,
    "folders": _folders,
    "signals": _signals,
    "commands": _commands,
    "outputs": _outputs,
}


def _import_all() -> None:
    """Children are forked from a process that has imported all that a command needs."""
    with (
        tempfile.TemporaryDirectory() as warm,
        Path(os.devnull).open("w") as nowhere,
        redirect_stdout(nowhere),
        redirect_stderr(nowhere),
        suppress(SystemExit),
    ):
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        command(Path(warm))
    for number, handler in before.items():
        signal.signal(number, handler)


def line(count: Count) -> str:
    """A line of the table."""
    stages = ", ".join(f"{stage} {n:,}" for stage, n in sorted(count.stages.items(), key=lambda item: -item[1])[:9])
    return f"| {count.fault} | {count.tried:,} | {count.tried - len(count.lost):,} | {len(count.lost)} | {stages} |"


def main() -> int:
    """Run the parts, print the table, write the JSON; 1 if anything was lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(PARTS), help=f"parts, of {', '.join(PARTS)}")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the full dose")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments")
    parser.add_argument("--out", type=Path, help="write the counts as JSON")
    given = parser.parse_args()
    if unknown := set(given.only.split(",")) - set(PARTS):
        parser.error(f"--only: no part is called {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    one_thread()
    _import_all()
    counts: list[Count] = []
    print("| fault | tried | survived | lost | where |\n| --- | --- | --- | --- | --- |", flush=True)
    for name in given.only.split(","):
        begun = time.monotonic()
        for count in PARTS[name](given.scale, given.seed):
            counts.append(count)
            print(line(count), flush=True)
            for lost in count.lost[:5]:
                print(f"LOST {lost}", file=sys.stderr)
        print(f"{name}: {time.monotonic() - begun:.0f} s", file=sys.stderr)
        if given.out:
            found = [{"fault": c.fault, "tried": c.tried, "lost": c.lost, "stages": c.stages} for c in counts]
            given.out.parent.mkdir(parents=True, exist_ok=True)
            given.out.write_text(json.dumps(found, indent=2) + "\n")
    return 1 if any(count.lost for count in counts) else 0


if __name__ == "__main__":
    sys.exit(main())
