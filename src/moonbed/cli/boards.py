"""The command that fills boards."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from moonbed.cli.app import app
from moonbed.cli.options import (
    WORK,
    CsvOption,
    DrawsOption,
    WorkOptions,
)
from moonbed.cli.output import escape, last, print_json, print_table, say, status, write_text
from moonbed.cli.parsing import at_least, check_writable


@app.command
def board(
    name: str,
    /,
    *,
    seeds: Annotated[int | None, Parameter(help="Paired seeds a cell; the board's own number unless said.")] = None,
    draws: DrawsOption = 39,
    rows: Annotated[str | None, Parameter(help="Only these rows, with commas between them, and the reference.")] = None,
    markdown: Annotated[Path | None, Parameter(help="Write the tables as Markdown to this file as well.")] = None,
    work: WorkOptions = WORK,
    csv: CsvOption = None,
) -> int:
    """Fill a board: one question over many experiments, with floors and verdicts. `moonbed list boards` names them.

    What the store holds is not computed again; a board that was cut off goes on.

    For example:

        moonbed board order
        moonbed board samplers --seeds 3 --markdown samplers.md
        moonbed board few-steps --rows shortcut,reflow --json
    """
    from moonbed.experiments.board import Filled, fill
    from moonbed.experiments.boards import board as find
    from moonbed.report import boards as report

    at_least("--draws", draws, 1)
    for path in (csv, markdown):
        if path:
            check_writable(path.parent)
    if name == "order":
        return _order(markdown, csv, work.json, work.quiet)
    chosen = find(name)
    if rows is not None:
        chosen = chosen.only([row.strip() for row in rows.split(",")])
    found, failures = last(fill(chosen, seeds=seeds, draws=draws, **work.place()), work.quiet)
    if not isinstance(found, Filled):
        return status([], failures)
    if csv:
        write_text(csv, report.board_csv(found))
    if markdown:
        write_text(markdown, report.board_markdown(found))
    if work.json:
        print_json(report.board_json(found))
    else:
        say(escape(found.board.question))
        for table in report.board_tables(found):
            print_table(table)
    return status(list(found.results.values()), failures)


def _order(markdown: Path | None, csv: Path | None, json: bool, quiet: bool) -> int:
    """Order of convergence of every native sampler on an exact denoiser, in theory and measured."""
    from moonbed import laws
    from moonbed.diffusion.schedules import VE
    from moonbed.experiments.engines import Progress
    from moonbed.report import boards as report
    from moonbed.report.progress import Bars
    from moonbed.report.tables import csv_text
    from moonbed.targets.mixtures import EightGaussians

    samplers, rows = laws.natives(), []
    target, schedule = EightGaussians(std=2.5), VE(sigma_min=0.3, sigma_max=300.0)  # smooth, and few e-foldings
    with Bars(quiet) as bars:
        for k, sampler in enumerate(samplers, 1):
            rows += laws.order_table([sampler], schedule, target, 64)
            bars.show("order", Progress("samplers", k, len(samplers)))
    lines = report.order_lines(rows)
    if csv:
        write_text(csv, csv_text(lines))
    if markdown:
        write_text(markdown, report.order_markdown(lines))
    if json:
        print_json({"board": "order", "cells": lines})
    else:
        print_table(report.order_rich(lines))
    return 0
