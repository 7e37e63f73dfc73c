"""Rows of results: what several seeds gave, beside floor, interval and p-value, and the published value."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from moonbed import _shown
from moonbed._shown import Shown
from moonbed.experiments.engines import HERE, Engine, Failure, Progress
from moonbed.experiments.evaluate import Answer, askable_of
from moonbed.experiments.floors import load_floor
from moonbed.experiments.presets import CHANGES, PUBLISHED
from moonbed.experiments.results import Result
from moonbed.experiments.run import execute
from moonbed.experiments.spec import Experiment
from moonbed.experiments.storage.store import Store
from moonbed.experiments.trackers import Tracker, tracked
from moonbed.metrics import Metric
from moonbed.metrics.significance import Floor, interval
from moonbed.metrics.suites import SUITES
from moonbed.targets import Target

DRAWS = 39
"""Exact draws of a floor: enough for a two-sided p of 0.05."""

FEW = 2
"""Experiments of one training that are named one by one."""

__all__ = ["DRAWS", "Cell", "Row", "Rows", "floor_of", "follow", "rows"]


@dataclass(frozen=True)
class Cell:
    """One metric of one row: values over seeds, their doubt, the published value and the floor.

    `drawn` is the interval over evaluation draws of a single seed, `details` what the metric says beside its value;
    `lacks` says why there are no values.
    """

    metric: Metric
    values: tuple[float, ...]
    floor: Floor | None
    published: float | None = None
    drawn: tuple[float, float] | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    lacks: str = ""

    @property
    def p_value(self) -> float | None:
        """Of the values against the floor; None without a floor and without a value."""
        if self.floor is None or not self.values:
            return None
        return self.floor.p_value(self.values, self.metric.lower_is_better)

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % interval: of the mean over seeds (Student's t), or over evaluation draws where there is one seed."""
        if len(self.values) == 1 or (found := interval(self.values)) is None:
            return self.drawn
        return max(self.metric.least, found[0]), min(self.metric.most, found[1])


@dataclass(frozen=True, repr=False)
class Row(Shown):
    """One experiment over its seeds; `cells` is keyed by the metric's label (and id, where two have the same)."""

    name: str
    change: str
    results: tuple[Result, ...]
    cells: Mapping[str, Cell] = field(default_factory=dict)

    @property
    def done(self) -> tuple[Result, ...]:
        """The results that did not diverge."""
        return tuple(r for r in self.results if r.status == "done")

    @property
    def sentence(self) -> str:
        """The diagnosis of the first seed in words."""
        return self.done[0].sentence if self.done else ""


class Rows(Shown, list[Row]):
    """A list of rows that displays itself as a table."""

    def to_pandas(self, wide: bool = False) -> Any:
        """A DataFrame: a line for each row and metric, or with `wide` a line a row and a column a metric."""
        return _shown.face.to_pandas(self, wide=wide)

    def to_csv(self, wide: bool = False) -> str:
        """The same as CSV text; a field without a number is empty."""
        return str(_shown.face.to_csv(self, wide=wide))

    def to_markdown(self, labels: Sequence[str] | None = None) -> str:
        """A Markdown table of these metrics, all unless said."""
        return str(_shown.face.to_markdown(self, labels))

    def to_latex(self, labels: Sequence[str] | None = None) -> str:
        """A LaTeX `tabular` (booktabs) of these metrics, all unless said."""
        return str(_shown.face.to_latex(self, labels))


def follow(
    wanted: Mapping[str, Sequence[Experiment]],
    metrics: Sequence[Metric],
    draws: int,
    store: Store,
    device: str = "auto",
    engine: Engine = HERE,
    trackers: Sequence[Tracker] = (),
) -> Iterator[tuple[str, Progress | Result | Failure]]:
    """Yield (what it is about, event) while experiments and their floors are computed; then `rows` reads them.

    Trackers are told what the events say.

    The interval of a row with several seeds is over these; only a single one's is taken over evaluation draws.
    """
    doubt = any(len(group) == 1 for group in wanted.values())
    seeds = {name: ", seed {}" if len(group) > 1 else "" for name, group in wanted.items()}
    names = {e.id: name + seeds[name].format(e.training.seed) for name, group in wanted.items() for e in group}
    every = [e for group in wanted.values() for e in group]
    events: Iterator[tuple[list[Experiment], Progress | Result | Failure]]
    events = execute(every, metrics, store, device, engine, doubt, draws)
    if trackers:
        events = tracked(events, trackers, store, metrics, draws, names)
    for group, event in events:
        yield together([*dict.fromkeys(names[e.id] for e in group)]) or "floor", event


def together(names: Sequence[str]) -> str:
    """What experiments of one training are called: their names, or of many what these have in common and how many."""
    if len(names) <= FEW:
        return " + ".join(names)
    common = [word for word in names[0].split() if all(word in name.split() for name in names)]
    return " ".join([*common, f"({len(names)} experiments)"])


def rows(
    results: Mapping[str, Sequence[Result]],
    metrics: Sequence[Metric],
    store: Store,
    changes: Mapping[str, str] = CHANGES,
) -> Rows:
    """Results by name, as rows with their floors; published values where the metrics are the published ones."""
    out = Rows()
    for name, found in results.items():
        cells: dict[str, Cell] = {}
        spec, done = found[0].experiment, [r for r in found if r.status == "done"]
        lacking = askable_of(spec, [m for m in metrics if not any(m.id in r.answers for r in done)])
        suite_first = tuple(metrics[: len(SUITES["published"])]) == SUITES["published"]
        known = PUBLISHED.get(name.partition(",")[0], ()) if suite_first else ()
        known = (*known, *known[3:4])  # the same number is published for 2|AUC-.5| and meant for 2|mean AUC-.5|
        for k, metric in enumerate(metrics):
            answers = [r.answers[metric.id] for r in done if metric.id in r.answers]
            label = f"{metric.label} ({metric.id[:6]})" if metric.label in cells else metric.label
            only = answers[0] if len(answers) == 1 else Answer(0.0)
            cells[label] = Cell(
                metric,
                tuple(a.value for a in answers),
                floor_of(store, spec.law, metric, spec.n),
                known[k] if k < len(known) else None,
                drawn=only.interval,
                details=only.details,
                lacks=lacking.get(metric.id, ""),
            )
        out.append(Row(name, changes.get(name, ""), tuple(found), cells))
    return out


def floor_of(store: Store, target: Target, metric: Metric, n: int) -> Floor | None:
    """The floor that the store holds, None without draws."""
    draws = load_floor(store, target, metric, n)
    return Floor(draws) if draws else None
