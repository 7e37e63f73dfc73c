"""What the commands are given: names and numbers, turned into components or into an error that says what is allowed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from moonbed.component import Component, SpecError, kinds, members, nearest, parse_overrides, split_values

if TYPE_CHECKING:
    import numpy as np

    from moonbed.experiments.spec import Experiment
    from moonbed.experiments.trackers import Tracker
    from moonbed.metrics import Metric


def all_kinds() -> dict[str, type[Component]]:
    """Name of a kind -> the kind, with every member registered."""
    import moonbed.experiments  # noqa: F401  (registers every member)

    return kinds()


def summaries(kind: type[Component]) -> dict[str, str]:
    """Name of a member -> the first line of its docstring."""
    import inspect

    return {name: (inspect.getdoc(cls) or "").split("\n", 1)[0] for name, cls in members(kind).items()}


def preset_changes() -> dict[str, str]:
    """Name of a preset -> what it changes."""
    from moonbed.experiments.presets import CHANGES

    return dict(CHANGES)


def suites() -> dict[str, str]:
    """Name of a suite of metrics -> what is in it."""
    from moonbed.metrics.suites import SUITES

    return {name: ", ".join(dict.fromkeys(type(m).__name__ for m in suite)) for name, suite in SUITES.items()}


def boards() -> dict[str, str]:
    """Name of a board -> what it asks."""
    import inspect

    from moonbed.experiments.boards import BOARDS

    asked = {name: (inspect.getdoc(make) or "").split("\n", 1)[0] for name, make in BOARDS.items()}
    return {"order": "Order of convergence of every native sampler, and diffusers beside it.", **asked}


def changed(experiment: Experiment, budget: str | None, changes: Sequence[str]) -> Experiment:
    """The experiment under a budget, then with changes that name one value a field."""
    from moonbed.experiments.presets import BUDGETS

    if budget is not None:
        experiment = experiment.replace(**BUDGETS[one_of("--budget", budget, BUDGETS)].changes)
    combinations = parse_overrides(changes)
    if len(combinations) > 1:
        raise SpecError([("", "one experiment at a time; give one value a field")])
    return experiment.replace(**combinations[0])


def read_table(path: Path, key: str | None = None) -> np.ndarray:
    """Points of a file, (n, columns) float64. Raises `SpecError` for what is no table of points."""
    from moonbed.points import PointsError, read_points

    try:
        return read_points(path, key)
    except PointsError as error:
        raise SpecError([("", str(error))]) from None


def chosen_metrics(text: str) -> tuple[Metric, ...]:
    """Metrics from names of suites, names of metrics, and metrics as JSON, with commas between them."""
    from moonbed.metrics import Metric
    from moonbed.metrics.suites import SUITES

    out: dict[str, Metric] = {}
    for name in split_values(text):
        if not name.startswith("{"):
            one_of("--metrics", name, [*SUITES, *members(Metric)])
        try:
            out |= {metric.id: metric for metric in SUITES.get(name) or (Metric.parse(name),)}
        except SpecError as error:
            raise SpecError([(f"--metrics {place}".strip(), message) for place, message in error.problems]) from None
    return tuple(out.values())


def chosen_trackers(text: str | None) -> tuple[Tracker, ...]:
    """Trackers from their names, or as JSON, with commas between them. `SpecError` too for what is not installed."""
    from moonbed.experiments.trackers import Tracker

    out = []
    for name in split_values(text) if text else ():
        try:
            out.append(Tracker.parse(name))
        except SpecError as error:
            raise SpecError([(f"--track {place}".strip(), message) for place, message in error.problems]) from None
        out[-1].require()
    return tuple(out)


def one_of(option: str, value: str, known: Iterable[str]) -> str:
    """The value, if it is known; else `SpecError` with the nearest one that is."""
    if value not in known:
        raise SpecError([(option, f"no such name {value!r}; {nearest(value, known)}")])
    return value


def at_least(option: str, value: int, low: int) -> None:
    """`SpecError` for a number that is too small."""
    if value < low:
        raise SpecError([(option, f"should be at least {low}, given {value}")])


def not_negative(option: str, value: float) -> None:
    """`SpecError` for a number below 0, or none."""
    if not 0 <= value < float("inf"):
        raise SpecError([(option, f"should be at least 0, given {value:g}")])


def beside(store: str, name: str) -> Path:
    """Where a page goes that no place was named for: in the store, or here where that is a URL."""
    from moonbed.experiments.storage.places import located, remote

    root = located(store)
    return Path(name) if remote(root) else root / name


def check_writable(out: Path) -> None:
    """`StoreError` now, for a folder that cannot be written."""
    from moonbed.experiments.storage.folder import Folder

    Folder(out).write(".probe", b"")
    (out / ".probe").unlink(missing_ok=True)


def check_page(path: Path) -> Path:
    """The path of a page, that can be written; `SpecError` for a folder, `StoreError` for where nothing can be."""
    if path.is_dir():
        raise SpecError([("", f"{path} is a folder; name a file in it, as {path / 'report.html'}")])
    check_writable(path.parent)
    return path


def page_path(text: str | None, default: Path) -> Path | None:
    """Where `--report` puts the page: `default` unless said, None for `none`."""
    return None if text == "none" else check_page(default if text is None else Path(text))
