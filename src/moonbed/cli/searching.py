"""The command that searches a space of experiments."""

from __future__ import annotations

from typing import Annotated, Any

from cyclopts import Parameter

from moonbed.cli.app import app
from moonbed.cli.options import (
    WORK,
    BudgetOption,
    DrawsOption,
    TrackOption,
    WorkOptions,
)
from moonbed.cli.output import escape, last, print_json, print_table, say, status
from moonbed.cli.parsing import at_least, changed, chosen_metrics, chosen_trackers, one_of
from moonbed.component import SpecError


@app.command
def search(
    what: str,
    /,
    *places: str,
    metric: Annotated[
        str | None, Parameter(help="What is made best, by name or as JSON; SlicedW1 unless said.")
    ] = None,
    trials: Annotated[int, Parameter(help="Trials in all, those of earlier calls among them.")] = 30,
    timeout: Annotated[float | None, Parameter(help="Minutes after which no more trials are begun.")] = None,
    seeds: Annotated[int | None, Parameter(help="Trainings a trial; 1 unless said.")] = None,
    prune: Annotated[
        str | None,
        Parameter(help='none, or JSON such as {"rungs": [0.25, 0.5], "keep": 0.33}; the median rule unless said.'),
    ] = None,
    method: Annotated[str | None, Parameter(help="TPE or Random.")] = None,
    together: Annotated[
        int | None, Parameter(help="Trials that are proposed, and may run, at once; 4 unless said. Part of the search.")
    ] = None,
    confirm: Annotated[int, Parameter(help="Fresh seeds for the best trial and the base; 0 for none.")] = 3,
    budget: BudgetOption = None,
    draws: DrawsOption = 39,
    track: TrackOption = None,
    work: WorkOptions = WORK,
) -> int:
    """Search a space for the best experiment, with Optuna; apart from comparisons, and resumed by the same command.

    Give a preset, a file.py:name or the id of a run with places to vary: `low..high`, `low..high:log`, `a,b,c`; one
    value is set for all. Or give a file.py with a variable that holds a `moonbed.Search`. Trials are kept in
    `searches/` in the store, where no other command sees them.

    For example:

        moonbed search ema training.optimizer.lr=1e-4..1e-2:log training.prediction=Epsilon,V --budget quick
        moonbed search fast sampler.steps=4..64 training.steps=300..900 --metric Energy --trials 40 --jobs 2
        moonbed search space.py --trials 100 --timeout 60 --json
    """
    from moonbed.experiments import search as job
    from moonbed.experiments.presets import BUDGETS
    from moonbed.experiments.spaces import Pruning, word
    from moonbed.report.searches import search_json, search_lines, search_tables

    place, trackers = work.place(), chosen_trackers(track)
    for option, value, low in (("--trials", trials, 1), ("--confirm", confirm, 0), ("--draws", draws, 1)):
        at_least(option, value, low)
    over, fixed = job.choices(_pairs(places))
    fields: dict[str, Any] = {"seeds": seeds, "together": together}
    fields["method"] = None if method is None else one_of("--method", method, ("TPE", "Random"))
    if metric is not None:
        (fields["metric"],) = _one(chosen_metrics(metric))
    name, found = job.find_search(
        " ".join([what, *(f"{k}={v}" for k, v in fixed.items())]), over, place["store"], **fields
    )
    if prune is not None:
        found = found.replace(prune=None if prune == "none" else Pruning.parse(prune))
    if budget is not None:
        found = found.replace(base=changed(found.base, budget, ()))
        name = " ".join([name, *(word(k, v) for k, v in BUDGETS[budget].changes.items())])
    options: dict[str, Any] = {"trials": trials, "minutes": timeout, "confirm": confirm, "draws": draws}
    options |= {"track": trackers, **place}
    result, failures = last(job.search(found, name=name, **options), work.quiet)
    if isinstance(result, job.Searched):
        if work.json:
            print_json(search_json(result))
        else:
            for title, table in search_tables(result).items():
                say(f"[bold]{escape(title)}[/]")
                print_table(table)
            for line in search_lines(result):
                say(escape(line))
    return status([], failures)


def _pairs(places: tuple[str, ...]) -> dict[str, str]:
    out: dict[str, str] = {}
    for word in places:
        name, equals, text = word.partition("=")
        if not (equals and name and text):
            raise SpecError([(word, "write name=low..high, name=low..high:log, name=a,b,c or name=value")])
        if name in out:
            raise SpecError([(name, "given twice")])
        out[name] = text
    return out


def _one(metrics: tuple[Any, ...]) -> tuple[Any]:
    if len(metrics) != 1:
        raise SpecError([("--metric", f"should be one metric, given {len(metrics)}")])
    return (metrics[0],)
