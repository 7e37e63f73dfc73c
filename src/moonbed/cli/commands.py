"""The commands that run and show. Anything that computes is called from here, not written here."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from moonbed.cli.app import app
from moonbed.cli.listing import list_runs
from moonbed.cli.options import (
    STORE,
    WORK,
    BudgetOption,
    CsvOption,
    DrawsOption,
    JsonOption,
    StoreOption,
    TrackOption,
    WorkOptions,
)
from moonbed.cli.output import (
    escape,
    follow_runs,
    print_json,
    print_rows,
    said,
    say,
    show_component,
    show_member,
    status,
    write_report,
    write_rows,
    write_text,
)
from moonbed.cli.parsing import (
    all_kinds,
    at_least,
    beside,
    boards,
    check_writable,
    chosen_metrics,
    chosen_trackers,
    one_of,
    page_path,
    preset_changes,
    suites,
    summaries,
)
from moonbed.component import Component, SpecError, members, nearest, parse_overrides

if TYPE_CHECKING:
    from moonbed.metrics import Metric


@app.command
def run(
    what: str = "fast",
    /,
    *changes: str,
    protocol: Annotated[
        str, Parameter(help="default: iid from the exact law; published: the write-up's own data.")
    ] = "default",
    metrics: Annotated[
        str | None,
        Parameter(help="Suites or metrics, by name or as JSON, with commas between them; the protocol's unless said."),
    ] = None,
    budget: BudgetOption = None,
    draws: DrawsOption = 39,
    skip_invalid: Annotated[
        bool, Parameter(negative="", help="Leave out combinations of a sweep that cannot be, and say which.")
    ] = False,
    track: TrackOption = None,
    work: WorkOptions = WORK,
    csv: CsvOption = None,
    report: Annotated[
        str | None, Parameter(help="The page to write, one HTML file, or none; report.html in the store unless said.")
    ] = None,
) -> int:
    """Train, sample and evaluate a preset (`fast` unless said), or the experiments of a Python file.

    A file that defines components and no experiment is tried in `fast`: each of them in the place of its kind, beside
    `fast` itself; its metrics are asked as well. The file's code is run, with all that you may do.

    Changes are written `name=value`, with the dotted name of a field; values with commas between them are a sweep.

    For example:

        moonbed run
        moonbed run baseline --budget quick
        moonbed run residual sampler.steps=64 training.steps=5000
        moonbed run ema training.seed=0,1,2 training.steps=2000 --jobs 2
        moonbed run my_idea.py --json
    """
    from moonbed.experiments.grid import varied
    from moonbed.experiments.presets import BUDGETS, preset, published
    from moonbed.experiments.rows import follow, rows

    if "=" in what:
        what, changes = "fast", (what, *changes)
    own: tuple[Metric, ...] = ()
    if what.endswith(".py"):
        from moonbed.experiments.plugins import experiments_in, metrics_in

        named, own = experiments_in(what), metrics_in(what)
    else:
        named = {what: preset(what)}
    if budget is not None:
        changed = BUDGETS[one_of("--budget", budget, BUDGETS)].changes
        named = {name: experiment.replace(**changed) for name, experiment in named.items()}
    with said():
        named = varied(named, parse_overrides(changes), skip_invalid)
    if one_of("--protocol", protocol, ("default", "published")) == "published":
        named = {name: published(experiment) for name, experiment in named.items()}
    questions = tuple({metric.id: metric for metric in (*chosen_metrics(metrics or protocol), *own)}.values())
    at_least("--draws", draws, 1)
    place, trackers = work.place(), chosen_trackers(track)

    if csv:
        check_writable(csv.parent)
    page = page_path(report, beside(work.store, "report.html"))
    wanted = {name: [experiment] for name, experiment in named.items()}
    with said():
        results, failures = follow_runs(follow(wanted, questions, draws, **place, trackers=trackers), work.quiet)
    found = {name: [results[e.id]] for name, e in named.items() if e.id in results}
    table = rows(found, questions, place["store"], changes={}) if found else []
    if csv and table:
        from moonbed.report.tables import to_csv

        write_text(csv, to_csv(table))
    print_rows(table, work.json)
    write_report(page, table, place["store"], work.silent, title=" ".join((what, *changes)))
    return status(table, failures)


@app.command
def reproduce(
    *,
    rows: Annotated[
        str | None, Parameter(help="Names of rows, with commas between them; all eight unless said.")
    ] = None,
    budget: Annotated[
        str, Parameter(help="quick: minutes; paper: 40,000 steps, batch 512, 1,000 sampling steps, 5,000 points.")
    ] = "quick",
    seeds: Annotated[int | None, Parameter(help="Seeds a row; the budget's unless said.")] = None,
    draws: Annotated[
        int | None, Parameter(help="Exact draws for the floor of each metric; the budget's unless said.")
    ] = None,
    out: Annotated[Path, Parameter(help="Folder for tables and pictures.")] = Path("reproduction"),
    report: Annotated[
        str | None, Parameter(help="The page to write, one HTML file, or none; report.html in --out unless said.")
    ] = None,
    track: TrackOption = None,
    work: WorkOptions = WORK,
) -> int:
    """Reproduce the published two-moons ablation: every row trained, sampled, evaluated, tabled and drawn.

    Each number stands beside the published one and the floor: what a perfect sampler gets under the same protocol.

    For example:

        moonbed reproduce
        moonbed reproduce --rows baseline,residual --seeds 3
        moonbed reproduce --budget paper --out paper
    """
    from moonbed.experiments import rows as job
    from moonbed.experiments.presets import BUDGETS
    from moonbed.experiments.reproduce import plan
    from moonbed.metrics.suites import SUITES

    started = time.monotonic()
    wanted = plan([name.strip() for name in rows.split(",")] if rows else None, budget, seeds)
    draws = BUDGETS[budget].draws if draws is None else draws
    at_least("--draws", draws, 1)
    metrics = SUITES["published"]
    check_writable(out)
    page = page_path(report, out / "report.html")
    place, trackers = work.place(), chosen_trackers(track)
    where = place["store"]
    with said():
        events = job.follow(wanted, metrics, draws, **place, trackers=trackers)
        results, failures = follow_runs(events, work.quiet)
    found = {name: [results[e.id] for e in group if e.id in results] for name, group in wanted.items()}
    table = job.rows({name: group for name, group in found.items() if group}, metrics, where)
    print_rows(table, work.json)
    if table:
        written = write_rows(table, out, where)
        if not work.silent:
            say(f"{', '.join(written)} in {out}{os.sep}; {time.monotonic() - started:.0f} s in all")
        lead = "Every row trained, sampled and measured again, beside the published values (◇)."
        write_report(page, table, where, work.silent, title="The published two-moons ablation, reproduced", lead=lead)
    return status(table, failures)


@app.command(name="list")
def list_(
    kind: str | None = None,
    /,
    *,
    where: Annotated[
        list[str] | None,
        Parameter(
            negative="",
            help="Only runs of which this holds: FIELD=VALUE, or !=, <, <=, >, >=; a field of the run or its "
            "configuration, or a metric. May be given several times.",
        ),
    ] = None,
    sort: Annotated[
        str | None, Parameter(help="Field to sort runs by, -FIELD for the largest first; the newest first unless said.")
    ] = None,
    limit: Annotated[int | None, Parameter(help="At most so many runs.")] = None,
    store: StoreOption = STORE,
    json: JsonOption = False,
) -> int:
    """List what there is: presets, suites of metrics, runs, and the members of every kind of component.

    Runs can be filtered and sorted by what they are (`status`, `n`, `seed`, `time`, ...), by their configuration
    (dotted names as in changes) and by what their metrics say.

    For example:

        moonbed list
        moonbed list presets
        moonbed list sampler
        moonbed list runs --json
        moonbed list runs --where training.prediction=V --where "sampler.steps<=32" --sort=-time --limit 20
        moonbed list runs --where "SlicedW1<0.05" --sort SlicedW1
    """
    sections: dict[str, dict[str, str]] = {"presets": preset_changes(), "suites": suites(), "boards": boards()}
    sections |= {name.lower(): summaries(k) for name, k in all_kinds().items()}
    if kind is not None:
        plural = {name.rstrip("s"): name for name in [*sections, "runs"]}
        name = plural.get(kind.lower().rstrip("s"), kind)
        if name == "runs":
            if limit is not None:
                at_least("--limit", limit, 1)
            return list_runs(store, where or [], sort, limit, json)
        sections = {name: sections[one_of("kind", name, [*sections, "runs"])]}
    if where or sort or limit is not None:
        raise SpecError([("", "--where, --sort and --limit are for runs: `moonbed list runs`")])
    if json:
        print_json(sections)
        return 0
    for title, entries in sections.items():
        width = max((len(name) for name in entries), default=0)
        say(f"[bold]{title}[/]")
        for name, text in entries.items():
            say(f"  {escape(f'{name:<{width}}')}  [dim]{escape(text)}[/]")
        if not entries:
            say("  [dim]none[/]")
    return 0


@app.command
def show(name: str, /, *, store: StoreOption = STORE, json: JsonOption = False) -> int:
    """Print a preset, a component or a stored run (by its id or the beginning of it) as a typed configuration.

    For example:

        moonbed show residual
        moonbed show DDIM
        moonbed show 5bf198d9 --json
    """
    from moonbed.experiments.presets import PRESETS
    from moonbed.experiments.storage.folder import StoreError
    from moonbed.experiments.storage.runs import load_spec, verify_run
    from moonbed.experiments.storage.store import Store

    if name in PRESETS:
        return show_component(PRESETS[name], {}, json)
    for kind in all_kinds().values():
        if name in members(kind):
            return show_member(members(kind)[name], json)
    hits = Store(store).find(name) if len(name) >= 4 and name.isalnum() else []
    if not hits:
        known = [*PRESETS, *(m for kind in all_kinds().values() for m in members(kind))]
        raise SpecError([("", f"no preset, component or run in {store} is called {name!r}; {nearest(name, known)}")])
    if len(hits) > 1:
        raise SpecError(
            [("", f"{name!r} is the beginning of {len(hits)} ids: {', '.join(f.path.name for _, f in hits)}")]
        )
    kind_name, folder = hits[0]
    verify_run(folder)
    try:
        component: Component = load_spec(folder, all_kinds()[kind_name])
    except StoreError as error:
        raise SpecError([("", str(error))]) from None
    return show_component(component, folder.record() or {"status": "unfinished"}, json)
