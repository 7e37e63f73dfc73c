"""What a script or a notebook asks for, each in one call: rows, a comparison, an error budget, a page.

Beside `cli` the other face: `experiments` yields events, `report` draws them, and here the one is shown by the other.
Progress stands on standard error at a terminal and in the cell in a notebook; elsewhere nothing is said.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from moonbed.experiments import anatomy as budgets
from moonbed.experiments import compare as comparisons
from moonbed.experiments.engines import Engine, Failure, Progress, engine_of
from moonbed.experiments.named import find_experiment
from moonbed.experiments.presets import PRESETS
from moonbed.experiments.rows import DRAWS, Row, Rows, follow, rows
from moonbed.experiments.run import gather, suite
from moonbed.experiments.spec import Experiment
from moonbed.experiments.storage.folder import StoreError
from moonbed.experiments.storage.store import Store
from moonbed.experiments.trackers import Tracker
from moonbed.metrics import Metric
from moonbed.writing import write_page

if TYPE_CHECKING:
    from moonbed.report.notebook import Page

__all__ = ["anatomy", "compare", "measure", "write_report"]

Event = TypeVar("Event")


def measure(
    experiments: Mapping[str, Experiment | Sequence[Experiment]],
    *,
    metrics: Sequence[Metric] | str = "default",
    draws: int = DRAWS,
    store: Store | str | Path = "runs",
    device: str = "auto",
    jobs: int | None = None,
    engine: Engine | str | None = None,
    track: Sequence[Tracker] = (),
    quiet: bool = False,
) -> Rows:
    """Run experiments by name (several of one name are its seeds) and return a row for each, with floors.

    What the store holds is not computed again; `track` are trackers that hear of it. Raises, and asks for a guard with
    several `jobs`, as `moonbed.experiments.run.run` does.
    """
    wanted = {name: [e] if isinstance(e, Experiment) else list(e) for name, e in experiments.items()}
    chosen, where = suite(metrics), Store.at(store)
    found = {
        r.experiment.id: r
        for r in gather(_shown(follow(wanted, chosen, draws, where, device, engine_of(engine, jobs), track), quiet))
    }
    return rows({name: [found[e.id] for e in group] for name, group in wanted.items()}, chosen, where, changes={})


def compare(
    a: Experiment | str,
    b: Experiment | str,
    *,
    names: tuple[str, str] | None = None,
    seeds: int = 5,
    until_decided: bool = False,
    level: float = 0.05,
    margin: float = 1.0,
    metrics: Sequence[Metric] | str = "default",
    draws: int = DRAWS,
    store: Store | str | Path = "runs",
    device: str = "auto",
    jobs: int | None = None,
    engine: Engine | str | None = None,
    track: Sequence[Tracker] = (),
    quiet: bool = False,
) -> comparisons.Comparison:
    """Is b better than a? Both run with the same seeds; see `moonbed.experiments.compare` for what the verdict means.

    Arms are experiments, or words as on the command line: "ema", "ema sampler.steps=64", "my_idea.py:Ralston", an id.
    With `until_decided`, `seeds` is the most that are tried. Raises as `measure` does, and `SpecError` for what cannot
    be compared.
    """
    where = Store.at(store)
    arms = [_arm(arm, where, name) for arm, name in zip((a, b), names or (None, None), strict=True)]
    one, other = ((name or letter, e) for letter, (name, e) in zip("AB", arms, strict=True))
    options: dict[str, Any] = {"seeds": seeds, "until_decided": until_decided, "level": level, "margin": margin}
    options |= {"draws": draws, "store": where, "device": device, "engine": engine_of(engine, jobs)}
    options["track"] = track
    return _last(comparisons.compare(one, other, suite(metrics), **options), comparisons.Comparison, quiet)


def anatomy(
    experiment: Experiment | str,
    *,
    repeats: int = 5,
    seeds: int = 1,
    metrics: Sequence[Metric] | str = "anatomy",
    draws: int = DRAWS,
    store: Store | str | Path = "runs",
    device: str = "auto",
    jobs: int | None = None,
    engine: Engine | str | None = None,
    quiet: bool = False,
) -> budgets.Anatomy:
    """The error budget of an experiment, or of what words name as on the command line; `moonbed.experiments.anatomy`.

    One seed: `repeats` draws of samples from the trained weights. Several: so many trainings, one draw each.
    """
    where = Store.at(store)
    _, found = _arm(experiment, where, None)
    options: dict[str, Any] = {
        "repeats": repeats,
        "seeds": seeds,
        "draws": draws,
        "device": device,
        "engine": engine_of(engine, jobs),
    }
    return _last(budgets.anatomy(found, suite(metrics), store=where, **options), budgets.Anatomy, quiet)


def write_report(
    results: Sequence[Row] | Row | comparisons.Comparison,
    path: str | Path = "report.html",
    *,
    title: str = "Results",
    lead: str = "",
    store: Store | str | Path = "runs",
) -> Page:
    """Write rows or a comparison as one HTML file that opens from disk, the models of the store living in it.

    What is returned displays itself as a link; its `frame()` shows the page in the notebook. Raises `StoreError` where
    the file cannot be written.
    """
    from moonbed.report.notebook import Page

    comparison = results if isinstance(results, comparisons.Comparison) else None
    found = results.rows if isinstance(results, comparisons.Comparison) else results
    shown = Rows([found] if isinstance(found, Row) else found)
    return Page(Path(path), write_page(path, shown, store, title=title, lead=lead, comparison=comparison))


def _arm(what: Experiment | str, store: Store, name: str | None) -> tuple[str, Experiment]:
    """Name and experiment; a preset has a name of its own, others "" unless they are given one."""
    if isinstance(what, str):
        text, experiment = find_experiment(what, store)
        return name or text, experiment
    return name or next((key for key, preset in PRESETS.items() if preset == what), ""), what


def _shown(events: Iterable[tuple[str, Event]], quiet: bool) -> Iterator[tuple[str, Event]]:
    """The same events, their progress shown."""
    from moonbed.report.progress import bars

    with bars(quiet) as shown:
        for about, event in events:
            if isinstance(event, Progress):
                shown.show(about, event)
            yield about, event


Found = TypeVar("Found")


def _last(events: Iterable[tuple[str, Any]], kind: type[Found], quiet: bool) -> Found:
    """What a job ends with. Raises `StoreError` at a failure that its message explains, RuntimeError at another."""
    found = None
    for about, event in _shown(events, quiet):
        if isinstance(event, Failure):
            raise StoreError(f"{about}: {event.message}") if not event.trace else RuntimeError(event.trace)
        found = event if isinstance(event, kind) else found
    if found is None:
        raise RuntimeError(f"the job ended without {kind.__name__}")
    return found
