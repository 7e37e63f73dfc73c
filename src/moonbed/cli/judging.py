"""The commands that pass judgement: on anyone's samples, on two experiments, on the causes of an error."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from moonbed.cli.app import app
from moonbed.cli.options import (
    LOCAL,
    STORE,
    WORK,
    BudgetOption,
    CsvOption,
    DrawsOption,
    EngineOptions,
    JsonOption,
    MetricsOption,
    QuietOption,
    StoreOption,
    TrackOption,
    WorkOptions,
)
from moonbed.cli.output import (
    last,
    print_found,
    print_table,
    said,
    say,
    status,
    write_report,
    write_text,
)
from moonbed.cli.parsing import (
    at_least,
    beside,
    changed,
    check_writable,
    chosen_metrics,
    chosen_trackers,
    page_path,
    read_table,
)
from moonbed.component import SpecError, parse_overrides


@app.command
def evaluate(
    file: Path,
    /,
    *changes: str,
    target: Annotated[str, Parameter(help="The law that the samples should have, by name or as JSON.")],
    coordinates: Annotated[
        str,
        Parameter(
            help="own: as the target is described; standardised: its mean taken off, divided by its scale; "
            "auto: what they clearly are, which is said."
        ),
    ] = "auto",
    key: Annotated[str | None, Parameter(help="Name of the array, in a file with several.")] = None,
    train: Annotated[
        Path | None, Parameter(help="File with the training points, in the same coordinates: how near are copies?")
    ] = None,
    n: Annotated[int | None, Parameter(name="--n", help="Only the first so many points.")] = None,
    metrics: MetricsOption = "default",
    draws: DrawsOption = 39,
    engine: EngineOptions = LOCAL,
    store: StoreOption = STORE,
    csv: CsvOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> int:
    """Hold anyone's samples (.npy, .npz, .csv, .tsv, .txt, .pt, .safetensors) against an exact law.

    Every value comes with its interval, its floor and its p-value, and with what is wrong in words. Changes are fields
    of the target, `name=value`. Floors are kept in the store, by target, metric and n.

    For example:

        moonbed evaluate samples.npy --target TwoMoons
        moonbed evaluate samples.csv --target TwoMoons noise=0.1 --coordinates own --json
        moonbed evaluate samples.npz --key x --target EightGaussians --train data.npy
    """
    from moonbed.experiments.judge import Judgement, judge
    from moonbed.report.verdicts import estimates_table, judgement_csv, judgement_json, judgement_table
    from moonbed.targets import Target

    law = Target.parse(target)
    combinations = parse_overrides(changes)
    if len(combinations) > 1:
        raise SpecError([("", "one target at a time; give one value a field")])
    law = law.replace(**combinations[0])
    questions = chosen_metrics(metrics)
    at_least("--draws", draws, 1)
    if n is not None:
        at_least("--n", n, 1)
    if csv:
        check_writable(csv.parent)
    points = read_table(file, key)[:n]
    trained = None if train is None else read_table(train)
    options: dict[str, Any] = {"coordinates": coordinates, "train": trained, "draws": draws, "engine": engine.make()}
    events = judge(points, law, questions, store=store, **options)
    found, failures = last(((file.name, event) for event in events), quiet)
    if isinstance(found, Judgement):
        if csv:
            write_text(csv, judgement_csv(found))
        print_found(found, judgement_table, judgement_json, json)
        if not json and (estimates := estimates_table(found)):
            print_table(estimates)
        if coordinates == "auto" and not (quiet or json):
            say(f"[dim]likelier in {found.coordinates} coordinates; --coordinates says others[/]")
    return status([], failures)


@app.command
def compare(
    a: str,
    b: str,
    /,
    *changes: str,
    seeds: Annotated[
        int | None, Parameter(help="Paired seeds; with --until-decided the most. 5, or 28, unless said.")
    ] = None,
    until_decided: Annotated[
        bool, Parameter(negative="", help="Add seeds until there is a verdict, at a level that the looks share.")
    ] = False,
    level: Annotated[float, Parameter(help="Chance of a false verdict, over all metrics.")] = 0.05,
    margin: Annotated[
        float, Parameter(help="What counts as equivalent: a difference below so many sd of a pair's.")
    ] = 1.0,
    budget: BudgetOption = None,
    metrics: MetricsOption = "default",
    draws: DrawsOption = 39,
    track: TrackOption = None,
    work: WorkOptions = WORK,
    csv: CsvOption = None,
    report: Annotated[
        str | None, Parameter(help="The page to write, one HTML file, or none; compare.html in the store unless said.")
    ] = None,
) -> int:
    """Is B better than A? Both run with the same seeds; the verdict is better, worse, equivalent or cannot tell yet.

    A and B are presets, `file.py:name` or ids of runs, with changes of their own behind them in quotes; further
    changes, `name=value`, are made to both.

    For example:

        moonbed compare ddpm ema --budget quick --seeds 5
        moonbed compare cosine "cosine sampler=DDIM sampler.steps=50" training.steps=2000 --until-decided
        moonbed compare residual my_idea.py --json
    """
    from moonbed.experiments import compare as job
    from moonbed.experiments.named import find_experiment
    from moonbed.report.verdicts import comparison_csv, comparison_json, comparison_table

    place, questions = work.place(), chosen_metrics(metrics)
    where = place["store"]
    at_least("--draws", draws, 2)
    for option, value, top in (("--level", level, 1.0), ("--margin", margin, float("inf"))):
        if not 0 < value < top:
            raise SpecError([(option, f"should lie between 0 and {top:g}, given {value:g}")])
    if csv:
        check_writable(csv.parent)
    page = page_path(report, beside(work.store, "compare.html"))
    arms = [(text, experiment) for text, experiment in (find_experiment(text, where) for text in (a, b))]
    arms = [(text, changed(experiment, budget, changes)) for text, experiment in arms]
    count = seeds if seeds is not None else 28 if until_decided else 5
    options: dict[str, Any] = {"seeds": count, "until_decided": until_decided, "level": level, "margin": margin}
    options |= {"draws": draws, "track": chosen_trackers(track), **place}
    with said():
        found, failures = last(job.compare(arms[0], arms[1], questions, **options), work.quiet)
    if isinstance(found, job.Comparison):
        if csv:
            write_text(csv, comparison_csv(found))
        print_found(found, comparison_table, comparison_json, work.json)
        title = f"{found.b} against {found.a}"
        write_report(page, found.rows, where, work.silent, title=title, comparison=found)
        return status(list(found.rows), failures)
    return status([], failures)


@app.command
def anatomy(
    what: str,
    /,
    *changes: str,
    repeats: Annotated[int, Parameter(help="Draws of samples from the trained weights.")] = 5,
    seeds: Annotated[int, Parameter(help="Trainings from so many seeds instead, one draw each.")] = 1,
    budget: BudgetOption = None,
    metrics: MetricsOption = "anatomy",
    draws: DrawsOption = 39,
    out: Annotated[Path, Parameter(help="Folder for table and picture.")] = Path("anatomy"),
    work: WorkOptions = WORK,
) -> int:
    """Split the error of a run into its causes: floor, sampler, capacity, estimation.

    Give the id of a run (`moonbed list runs`), a preset or a file.py:name; changes are written `name=value`.

    For example:

        moonbed anatomy 5bf198d9
        moonbed anatomy residual --budget quick --json
        moonbed anatomy ema training.steps=2000 n=1000 --seeds 5
    """
    from moonbed.experiments import anatomy as job
    from moonbed.experiments.named import find_experiment
    from moonbed.report import figures
    from moonbed.report.verdicts import anatomy_csv, anatomy_json, anatomy_table

    place, questions = work.place(), chosen_metrics(metrics)
    where = place["store"]
    at_least("--draws", draws, 2)
    at_least("--seeds", seeds, 1)
    experiment = changed(find_experiment(what, where)[1], budget, changes)
    check_writable(out)
    options: dict[str, Any] = {"repeats": repeats, "seeds": seeds, "draws": draws, **place}
    found, failures = last(job.anatomy(experiment, questions, **options), work.quiet)
    if isinstance(found, job.Anatomy):
        print_found(found, anatomy_table, anatomy_json, work.json)
        write_text(out / "anatomy.csv", anatomy_csv(found))
        figures.save(figures.budget(found, 7.0), out / "anatomy.png")
        written = ["anatomy.csv", "anatomy.png"]
        if found.score_error:
            figures.save(figures.score_errors(found.score_error), out / "score_error.png")
            written.append("score_error.png")
        if not work.silent:
            kept = where.experiment(found.experiment).path / job.KEPT
            say(f"{', '.join(written)} in {out}{os.sep}; kept in {kept}, where `moonbed plot` and `report` find it")
    return status([], failures)
