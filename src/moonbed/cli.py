"""The command line: parsing and printing. Anything that computes is called from here, not written here."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

from cyclopts import App, CycloptsError, Parameter

import moonbed
from moonbed.component import Component, SpecError, kinds, members, nearest, parse_overrides

if TYPE_CHECKING:
    from moonbed.experiments.reproduce import Row
    from moonbed.experiments.run import Failure, Progress, Result
    from moonbed.experiments.spec import Experiment
    from moonbed.metrics import Metric

app = App(
    name="moonbed",
    version=moonbed.__version__,
    help="A test bed for diffusion and flow models on distributions whose exact law is known.",
    help_epilogue="Configurations are named by an id; what `runs/` holds is not computed again. Exit status: 0 done, "
    "2 bad input or a run that diverged, 130 interrupted (the same command goes on).",
    suppress_keyboard_interrupt=False,
)

StoreOption = Annotated[
    Path, Parameter(help="Folder of the runs; the environment variable MOONBED_STORE names another.")
]
DeviceOption = Annotated[str, Parameter(help="cpu, cuda, mps, or auto for the fastest of them here.")]
JobsOption = Annotated[
    int | None, Parameter(help="Processes at once; one a core unless said. Results do not depend on it.")
]
QuietOption = Annotated[bool, Parameter(negative="", help="No progress on standard error.")]
JsonOption = Annotated[bool, Parameter(name="--json", negative="", help="Print JSON on standard output.")]
STORE = Path(os.environ.get("MOONBED_STORE", "runs"))


@app.command
def run(
    what: str,
    /,
    *changes: str,
    protocol: Annotated[
        str, Parameter(help="default: iid from the exact law; published: the write-up's own data.")
    ] = "default",
    metrics: Annotated[
        str | None, Parameter(help="Suites or metrics, by name, with commas between them; the protocol's unless said.")
    ] = None,
    budget: Annotated[
        str | None, Parameter(help="quick or paper; the configuration's own numbers unless said.")
    ] = None,
    draws: Annotated[int, Parameter(help="Exact draws for the floor of each metric.")] = 24,
    jobs: JobsOption = None,
    device: DeviceOption = "auto",
    store: StoreOption = STORE,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> int:
    """Train, sample and evaluate a preset, or the experiments of a Python file.

    Changes are written `name=value`, with the dotted name of a field; values with commas between them are a sweep.

    For example:

        moonbed run baseline --budget quick
        moonbed run residual sampler.steps=64 training.steps=5000
        moonbed run ema training.seed=0,1,2 training.steps=2000 --jobs 2
        moonbed run my_idea.py --json
    """
    from moonbed.experiments.presets import BUDGETS, preset, published
    from moonbed.experiments.reproduce import follow, rows
    from moonbed.experiments.store import Store

    if what.endswith(".py"):
        from moonbed.experiments.plugins import experiments_in

        named = experiments_in(what)
    else:
        named = {what: preset(what)}
    if budget is not None:
        changed = BUDGETS[_one_of("--budget", budget, BUDGETS)].changes
        named = {name: experiment.replace(**changed) for name, experiment in named.items()}
    named = dict(_varied(named, changes))
    if _one_of("--protocol", protocol, ("default", "published")) == "published":
        named = {name: published(experiment) for name, experiment in named.items()}
    questions = _metrics(metrics or protocol)
    _at_least("--draws", draws, 1)
    where, jobs = Store(store), _jobs(jobs)

    wanted = {name: [experiment] for name, experiment in named.items()}
    results, failures = _follow(follow(wanted, questions, draws, where, device, jobs), quiet)
    found = {name: [results[e.id]] for name, e in named.items() if e.id in results}
    table = rows(found, questions, where, changes={}) if found else []
    _print(table, json)
    return _status(table, failures)


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
    jobs: JobsOption = None,
    device: DeviceOption = "auto",
    store: StoreOption = STORE,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> int:
    """Reproduce the published two-moons ablation: every row trained, sampled, evaluated, tabled and drawn.

    Each number stands beside the published one and the floor: what a perfect sampler gets under the same protocol.

    For example:

        moonbed reproduce
        moonbed reproduce --rows baseline,residual --seeds 3
        moonbed reproduce --budget paper --out paper
    """
    from moonbed.experiments import reproduce as job
    from moonbed.experiments.presets import BUDGETS
    from moonbed.experiments.store import Store
    from moonbed.metrics.suites import SUITES

    started = time.monotonic()
    wanted = job.plan([name.strip() for name in rows.split(",")] if rows else None, budget, seeds)
    draws = BUDGETS[budget].draws if draws is None else draws
    _at_least("--draws", draws, 1)
    where, metrics = Store(store), SUITES["published"]
    _writable(out)
    results, failures = _follow(job.follow(wanted, metrics, draws, where, device, _jobs(jobs)), quiet)
    found = {name: [results[e.id] for e in group if e.id in results] for name, group in wanted.items()}
    table = job.rows({name: group for name, group in found.items() if group}, metrics, where)
    _print(table, json)
    if table:
        written = _write(table, out, where)
        if not (json or quiet):
            _say(f"{', '.join(written)} in {out}{os.sep}; {time.monotonic() - started:.0f} s in all")
    return _status(table, failures)


@app.command(name="list")
def list_(kind: str | None = None, /, *, store: StoreOption = STORE, json: JsonOption = False) -> int:
    """List what there is: presets, runs, and the members of every kind of component.

    For example:

        moonbed list
        moonbed list presets
        moonbed list sampler
        moonbed list runs --json
    """
    sections: dict[str, dict[str, str]] = {"presets": _changes()}
    sections |= {name.lower(): _summaries(k) for name, k in _kinds().items()}
    if kind is not None:
        plural = {name.rstrip("s"): name for name in [*sections, "runs"]}
        name = plural.get(kind.lower().rstrip("s"), kind)
        if name == "runs":
            sections["runs"] = _runs(store)
        sections = {name: sections[_one_of("kind", name, [*sections, "runs"])]}
    if json:
        _json(sections)
        return 0
    for title, entries in sections.items():
        width = max((len(name) for name in entries), default=0)
        _say(f"[bold]{title}[/]")
        for name, text in entries.items():
            _say(f"  {name:<{width}}  [dim]{_escape(text)}[/]")
        if not entries:
            _say("  [dim]none[/]")
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
    from moonbed.experiments.store import Store, StoreError, load_spec

    if name in PRESETS:
        return _show(PRESETS[name], {}, json)
    for kind in _kinds().values():
        if name in members(kind):
            return _show_member(members(kind)[name], json)
    hits = Store(store).find(name) if len(name) >= 4 and name.isalnum() else []
    if not hits:
        known = [*PRESETS, *(m for kind in _kinds().values() for m in members(kind))]
        raise SpecError([("", f"no preset, component or run in {store} is called {name!r}; {nearest(name, known)}")])
    if len(hits) > 1:
        raise SpecError(
            [("", f"{name!r} is the beginning of {len(hits)} ids: {', '.join(f.path.name for _, f in hits)}")]
        )
    kind_name, folder = hits[0]
    folder.verify()
    try:
        component: Component = load_spec(folder, _kinds()[kind_name])
    except StoreError as error:
        raise SpecError([("", str(error))]) from None
    return _show(component, folder.record() or {"status": "unfinished"}, json)


# Printing


def _say(text: str) -> None:
    from rich.console import Console

    Console(highlight=False, soft_wrap=True).print(text)


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def _json(data: Any) -> None:
    sys.stdout.write(json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def _show(component: Component, record: Mapping[str, Any], as_json: bool) -> int:
    if as_json:
        _json({"id": component.id, "spec": component.spec(), **({"record": record} if record else {})})
    else:
        print(component)
        print(f"# id {component.id}")
        for key, value in record.items():
            print(f"# {key}: {value}")
    return 0


def _show_member(member: type[Component], as_json: bool) -> int:
    import inspect

    try:
        example: Component | None = member()
    except SpecError:
        example = None
    if as_json:
        _json({"type": member.__name__, "doc": inspect.getdoc(member), "spec": example.spec() if example else None})
    else:
        print(f"{member.kind().__name__} {member.__name__}\n\n{inspect.getdoc(member)}\n")
        print(example if example else f"{member.__name__}(...)")
    return 0


def _print(table: Sequence[Row], as_json: bool) -> None:
    from moonbed.report import tables

    if as_json:
        _json(tables.to_json(table))
    elif table:
        from rich.console import Console

        console = Console()
        width = console.width if console.is_terminal else 140
        labels = list(table[0].cells)
        if any(cell.published is not None for row in table for cell in row.cells.values()):
            labels = labels[: tables.WIDE]  # the published ones
        Console(width=max(width, 60)).print(tables.to_terminal(table, labels))


def _write(table: Sequence[Row], out: Path, store: Any) -> list[str]:
    """Tables and pictures of a reproduction."""
    import io

    import numpy as np

    from moonbed.experiments.evaluate import reference
    from moonbed.report import plots, tables

    labels = list(table[0].cells)
    files = {
        "table.csv": tables.to_csv(table),
        "table.md": tables.to_markdown(table, labels),
        "table.tex": tables.to_latex(table, labels),
    }
    for name, text in files.items():
        (out / name).write_text(text, encoding="utf-8")
    drawn = []
    for row in table:
        if row.done:
            first = row.done[0].experiment
            samples = np.load(io.BytesIO(store.experiment(first).file("samples.npy")), allow_pickle=False)
            plots.save(plots.pair(f"{row.name}: {row.change}", reference(first), samples), out / f"{row.name}.png")
            drawn.append((row.name, samples, first))
    if drawn:
        title = f"Target and generated, n = {len(drawn[0][1]):,}, first seed"
        figure = plots.overview(title, reference(drawn[0][2]), [(name, samples) for name, samples, _ in drawn])
        plots.save(figure, out / "all.png")
    return [*files, *(f"{name}.png" for name, *_ in drawn), *(["all.png"] if drawn else [])]


def _follow(
    events: Iterable[tuple[str, Progress | Result | Failure]], quiet: bool
) -> tuple[dict[str, Result], list[tuple[str, Failure]]]:
    """Show the progress of a job; gather its results by experiment id, and its failures."""
    from moonbed.experiments.run import Failure, Result
    from moonbed.report.progress import Bars

    results: dict[str, Result] = {}
    failures: list[tuple[str, Failure]] = []
    with Bars(quiet) as bars:
        for name, event in events:
            if isinstance(event, Result):
                results[event.experiment.id] = event
            elif isinstance(event, Failure):
                failures.append((name, event))
            else:
                bars.show(name, event)
    return results, failures


def _status(table: Sequence[Row], failures: Sequence[tuple[str, Failure]]) -> int:
    """Say on standard error what went wrong; 2 if anything did."""
    lines = [f"{row.name}: {r.message}" for row in table for r in row.results if r.status == "diverged"]
    for name, failure in failures:
        lines.append(f"{name}: {failure.message}")
        if failure.trace:
            sys.stderr.write(failure.trace)
    for line in dict.fromkeys(lines):
        sys.stderr.write(f"moonbed: {line}\n")
    return 2 if lines else 0


# Parsing


def _kinds() -> dict[str, type[Component]]:
    import moonbed.experiments  # noqa: F401  (registers every member)

    return kinds()


def _summaries(kind: type[Component]) -> dict[str, str]:
    import inspect

    return {name: (inspect.getdoc(cls) or "").split("\n", 1)[0] for name, cls in members(kind).items()}


def _changes() -> dict[str, str]:
    from moonbed.experiments.presets import CHANGES

    return dict(CHANGES)


def _runs(store: Path) -> dict[str, str]:
    from moonbed.experiments.store import Store

    text = "{status}, n = {n:,}, {exploded} exploded, training {training}"
    return {folder.path.name: text.format(**record) for folder, record in Store(store).runs()}


def _varied(named: Mapping[str, Experiment], changes: Sequence[str]) -> Iterator[tuple[str, Experiment]]:
    """Each experiment under each combination of the changes, with the swept values in its name."""
    combinations = parse_overrides(changes)
    swept = [key for key in combinations[0] if len({c[key] for c in combinations}) > 1]
    for name, experiment in named.items():
        for combination in combinations:
            tag = " ".join(f"{key}={combination[key]}" for key in swept)
            yield f"{name} {tag}".strip(), experiment.replace(**combination)


def _metrics(text: str) -> tuple[Metric, ...]:
    """Metrics from names of suites and of metrics."""
    from moonbed.metrics import Metric
    from moonbed.metrics.suites import SUITES

    out: dict[str, Metric] = {}
    for name in (part.strip() for part in text.split(",")):
        for metric in SUITES.get(name) or (_metric(name, [*SUITES, *members(Metric)]),):
            out[metric.id] = metric
    return tuple(out.values())


def _metric(name: str, known: Sequence[str]) -> Metric:
    from moonbed.metrics import Metric

    _one_of("--metrics", name, known)
    return Metric.parse(name)


def _one_of(option: str, value: str, known: Iterable[str]) -> str:
    if value not in known:
        raise SpecError([(option, f"no such name {value!r}; {nearest(value, known)}")])
    return value


def _at_least(option: str, value: int, low: int) -> None:
    if value < low:
        raise SpecError([(option, f"should be at least {low}, given {value}")])


def _jobs(jobs: int | None) -> int:
    from moonbed.experiments.workers import cores

    if jobs is None:
        return cores()
    _at_least("--jobs", jobs, 1)
    return jobs


def _writable(out: Path) -> None:
    from moonbed.experiments.store import Folder

    Folder(out).write(".probe", b"")
    (out / ".probe").unlink(missing_ok=True)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Entry point of the `moonbed` command."""
    try:
        code = app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
    except CycloptsError as error:
        sys.stderr.write(f"moonbed: {' '.join(str(error).split())}\n")
        code = 2
    except SpecError as error:
        lines = [f"{place}: {message}" if place else message for place, message in error.problems]
        sys.stderr.write("".join(f"moonbed: {' '.join(line.split())}\n" for line in lines))
        code = 2
    except KeyboardInterrupt:
        sys.stderr.write("moonbed: interrupted; what was done is kept, and the same command goes on from there\n")
        code = 130
    except RuntimeError as error:
        if type(error).__name__ != "StoreError":
            raise
        sys.stderr.write(f"moonbed: {error}\n")
        code = 2
    sys.stdout.flush()
    sys.exit(code or 0)
