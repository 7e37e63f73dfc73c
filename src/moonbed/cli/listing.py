"""`moonbed list runs` and `moonbed index`: runs filtered and sorted, and the index that makes it quick."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from moonbed.cli.app import app
from moonbed.cli.options import STORE, JsonOption, StoreOption
from moonbed.cli.output import escape, print_json, say, warn

if TYPE_CHECKING:
    from moonbed.experiments.listing import Line, Listed

USUAL = 50
"""Runs that a terminal is shown unless said; what is not a terminal gets all."""


def list_runs(store: str, where: Sequence[str], sort: str | None, limit: int | None, json: bool) -> int:
    """Print the runs that fit; 2 where one is damaged."""
    from moonbed.experiments.listing import listed
    from moonbed.experiments.storage.store import Store

    usual = USUAL if limit is None and not json and sys.stdout.isatty() else None
    found = listed(Store(store), where, sort, limit if usual is None else usual, values=json)
    if json:
        print_json({"runs": {line.run.id: _as_json(line) for line in found.lines}})
    elif found.lines or not found.damaged:
        _print(found)
    if usual is not None and found.total > usual:
        warn([f"the first {usual} of {found.total:,} runs; --limit {found.total} shows all"])
    warn(found.damaged)
    return 2 if found.damaged else 0


def _print(found: Listed) -> None:
    say("[bold]runs[/]")
    if not found.lines:
        say("  [dim]none[/]")
        return
    head = ["id", "status", "n", "finished", "training", "training.seed", "name", *found.asked]
    rows = []
    for k, line in enumerate(found.lines):
        run = line.run
        status = run.status + (f", {run.exploded} exploded" if run.exploded else "")
        when = datetime.fromtimestamp(run.time).strftime("%Y-%m-%d %H:%M")
        asked = [_text(values[k]) for values in found.asked.values()]
        rows.append([run.id, status, f"{run.n:,}", when, run.training, str(run.seed), line.name, *asked])
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in (head, *rows)]
    say(f"  [dim]{escape(lines[0])}[/]")
    sys.stdout.write("".join(f"  {line}\n" for line in lines[1:]))


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return str(value.get("type"))
    return "" if value is None else str(value)


def _as_json(line: Line) -> dict[str, Any]:
    run = line.run
    values = {key: value if math.isfinite(value) else str(value) for key, value in line.values.items()}
    about = {"name": line.name, "training": run.training, "status": run.status, "n": run.n}
    about |= {"training.seed": run.seed}
    return {**about, "exploded": run.exploded, "seconds": run.seconds, "time": run.time, "values": values}


@app.command
def index(*, store: StoreOption = STORE, json: JsonOption = False) -> int:
    """Make the index of a store again from its folders, and say what is in it.

    It is never needed: each command brings the index up to date with what has changed, and goes without where it cannot
    be written. It makes the first `list runs --where` on another's store quicker.

    For example:

        moonbed index
        moonbed index --store s3://bucket/runs --json
    """
    from moonbed.experiments.storage.store import Store

    started, where = time.monotonic(), Store(store)
    found = where.index()
    runs = found.look(anew=True)
    found.values(runs)
    seconds = time.monotonic() - started
    count = {status: sum(run.status == status for run in runs) for status in ("done", "unfinished", "damaged")}
    file = str(found.file) if found.kept else None
    if json:
        print_json(
            {
                "runs": len(runs),
                **count,
                "trainings": len({r.training for r in runs}),
                "seconds": seconds,
                "index": file,
            }
        )
    else:
        more = "".join(f", {count[status]:,} {status}" for status in ("unfinished", "damaged") if count[status])
        say(f"{len(runs):,} runs{more}; {seconds:.1f} s; {escape(file) if file else 'kept in memory only'}")
    warn(run.message for run in runs if run.status == "damaged")
    return 0
