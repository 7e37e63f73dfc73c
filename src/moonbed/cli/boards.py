"""The command that fills boards."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from moonbed.cli.app import STORE, CsvOption, DeviceOption, JobsOption, JsonOption, QuietOption, StoreOption, app
from moonbed.cli.output import last, print_json, print_table, say, status, write_text
from moonbed.cli.parsing import at_least, check_writable, chosen_jobs


@app.command
def board(
    name: str,
    /,
    *,
    seeds: Annotated[int | None, Parameter(help="Paired seeds a cell; the board's own number unless said.")] = None,
    draws: Annotated[int, Parameter(help="Exact draws for the floor of each metric.")] = 39,
    rows: Annotated[str | None, Parameter(help="Only these rows, with commas between them, and the reference.")] = None,
    markdown: Annotated[Path | None, Parameter(help="Write the tables as Markdown to this file as well.")] = None,
    jobs: JobsOption = None,
    device: DeviceOption = "auto",
    store: StoreOption = STORE,
    csv: CsvOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> int:
    """Fill a board: one question over many experiments, with floors and verdicts. `moonbed list boards` names them.

    What the store holds is not computed again; a board that was cut off goes on.

    For example:

        moonbed board order
        moonbed board samplers --seeds 3 --markdown samplers.md
        moonbed board few-steps --rows shortcut,reflow --json
    """
    from moonbed.experiments.boards import Filled, fill
    from moonbed.experiments.boards import board as find
    from moonbed.report import boards as report

    at_least("--draws", draws, 1)
    for path in (csv, markdown):
        if path:
            check_writable(path.parent)
    if name == "order":
        return _order(markdown, csv, json)
    chosen = find(name)
    if rows is not None:
        chosen = chosen.only([row.strip() for row in rows.split(",")])
    found, failures = last(
        fill(chosen, seeds=seeds, draws=draws, store=str(store), device=device, jobs=chosen_jobs(jobs)), quiet
    )
    if not isinstance(found, Filled):
        return status([], failures)
    if csv:
        write_text(csv, report.board_csv(found))
    if markdown:
        write_text(markdown, report.board_markdown(found))
    if json:
        print_json(report.board_json(found))
    else:
        say(found.board.question)
        for table in report.board_tables(found):
            print_table(table)
    return status(list(found.results.values()), failures)


def _order(markdown: Path | None, csv: Path | None, json: bool) -> int:
    return 0
