"""`moonbed report`: what the store holds as one page. Nothing is computed for it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from moonbed.cli.app import app
from moonbed.cli.options import STORE, JsonOption, StoreOption
from moonbed.cli.output import print_json, say_size, warn, written
from moonbed.cli.parsing import check_page, chosen_metrics
from moonbed.component import SpecError

if TYPE_CHECKING:
    from moonbed.experiments.spec import Experiment
    from moonbed.experiments.storage.store import Store
    from moonbed.metrics import Metric

MOST = 16
"""Rows of a page for which none were named."""


@app.command
def report(
    *what: str,
    out: Annotated[Path, Parameter(help="The file to write.")] = Path("report.html"),
    metrics: Annotated[
        str | None,
        Parameter(
            help="Suites or metrics, by name or as JSON, with commas between them; those that the store holds unless "
            "said."
        ),
    ] = None,
    title: Annotated[str | None, Parameter(help="Title of the page.")] = None,
    store: StoreOption = STORE,
    open: Annotated[bool, Parameter(negative="", help="Open it in the browser.")] = False,
    json: JsonOption = False,
) -> int:
    """Write what the store holds as one HTML page that opens from disk: table, verdicts, figures, and the models alive.

    Give ids of runs (`moonbed list runs`), presets, `file.py` or `file.py:name`; without any it is every finished run,
    the newest 16 rows. Runs that are equal up to their seeds are one row. Nothing is trained and nothing measured: what
    is not in the store is an error that says which command makes it.

    For example:

        moonbed report
        moonbed report fast residual --out page.html --open
        moonbed report 5bf198d9 my_idea.py:mine --json
    """
    from moonbed.experiments.engines import cores, warm_up
    from moonbed.experiments.storage.store import Store
    from moonbed.experiments.stored import groups_of, stored_rows
    from moonbed.report import tables

    where, path = Store(store), check_page(out)
    if cores() > 1:
        warm_up()  # torch is imported there while the store is read here
    groups, said = groups_of(what, where, MOST)
    questions = asked_of(groups, metrics, where)
    table = stored_rows(groups, questions, where)
    heading = title or (f"Runs in {store}" if len(table) > 1 else table[0].name)
    size = written(path, table, where, json, title=heading)
    warn(said)
    if json:
        print_json({"report": str(path), "bytes": size, "rows": tables.to_json(table)})
    else:
        say_size(path, size)
    if open:
        import webbrowser

        webbrowser.open(path.resolve().as_uri())
    return 0


def asked_of(groups: dict[str, list[Experiment]], text: str | None, store: Store) -> tuple[Metric, ...]:
    """The metrics that were asked for, of which the store should hold something; or those it holds."""
    from moonbed.experiments.stored import held, questions

    experiments = [experiment for group in groups.values() for experiment in group]
    if text is None:
        return questions(store, experiments)
    asked = chosen_metrics(text)
    known = {metric.id: metric.label for experiment in experiments for metric in held(store, experiment)}
    if not any(metric.id in known for metric in asked):
        has = ", ".join(dict.fromkeys(known.values())) or "none"
        raise SpecError(
            [("--metrics", f"none of these was asked of these runs; `moonbed run --metrics` asks; held: {has}")]
        )
    return asked
