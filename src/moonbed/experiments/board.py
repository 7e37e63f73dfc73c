"""Boards: one question over many experiments, as a table of rows and columns with floors and verdicts.

A verdict is that of a paired test over seeds against the reference row of the same column, adjusted by Holm over all
cells of the board that are compared in a metric. Where all values are positive it is of their logarithms: methods that
differ by orders of magnitude have spreads that do.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from moonbed.component import SpecError, nearest
from moonbed.experiments.compare import Verdict, paired_badness
from moonbed.experiments.engines import HERE, Engine, Failure, Progress
from moonbed.experiments.results import Result
from moonbed.experiments.rows import DRAWS, Row, follow, rows
from moonbed.experiments.spec import Experiment
from moonbed.experiments.storage.store import Store
from moonbed.metrics import Metric
from moonbed.metrics.significance import equivalence_p, holm, paired_p, spread

__all__ = ["Board", "Filled", "Place", "fill"]

Place = tuple[str, str]
"""(row, column)."""


@dataclass(frozen=True)
class Board:
    """Experiments by row and column, and what is asked of them. `reference` is the row that others are held against.

    `published` are values that others state for a place, as text; `notes` say what a place lacks.
    """

    name: str
    question: str
    cells: Mapping[Place, Experiment]
    metrics: Sequence[Metric]
    reference: str
    across: str = ""
    seeds: int = 5
    published: Mapping[Place, str] = field(default_factory=dict)
    notes: Mapping[Place, str] = field(default_factory=dict)

    def only(self, rows: Sequence[str]) -> Board:
        """The board with some of its rows, and the reference. Raises `SpecError` for an unknown one."""
        for row in rows:
            if row not in self.rows:
                raise SpecError([("--rows", f"{self.name} has no row {row!r}; {nearest(row, self.rows)}")])
        kept = {place: e for place, e in self.cells.items() if place[0] in {*rows, self.reference}}
        return replace(self, cells=kept)

    @property
    def rows(self) -> list[str]:
        """Names of the rows, in order."""
        return list(dict.fromkeys(row for row, _ in self.cells))

    @property
    def columns(self) -> list[str]:
        """Names of the columns, in order."""
        return list(dict.fromkeys(column for _, column in self.cells))


@dataclass(frozen=True)
class Filled:
    """A board with its results; `verdicts` by place and metric id, where there is a reference to compare with."""

    board: Board
    seeds: int
    results: Mapping[Place, Row]
    verdicts: Mapping[tuple[Place, str], Verdict]


def fill(
    board: Board,
    *,
    seeds: int | None = None,
    draws: int = DRAWS,
    store: Store | str = "runs",
    device: str = "auto",
    engine: Engine = HERE,
) -> Iterator[tuple[str, Progress | Failure | Filled]]:
    """Yield (what it is about, event) while the cells are computed, then the `Filled` board."""
    count, where = board.seeds if seeds is None else seeds, Store.at(store)
    if count < 1:
        raise SpecError([("--seeds", f"should be at least 1, given {count}")])
    names = {" · ".join(place): place for place in board.cells}
    wanted = {name: [board.cells[place].shifted(k) for k in range(count)] for name, place in names.items()}
    results: dict[str, Result] = {}
    for about, event in follow(wanted, board.metrics, draws, where, device, engine):
        if isinstance(event, Result):
            results[event.experiment.id] = event
        else:
            yield about, event
    found = {name: [results[e.id] for e in group if e.id in results] for name, group in wanted.items()}
    table = rows({name: group for name, group in found.items() if len(group) == count}, board.metrics, where, {})
    placed = {names[row.name]: row for row in table}
    yield "board", Filled(board, count, placed, _verdicts(board, placed, count))


def _verdicts(board: Board, placed: Mapping[Place, Row], seeds: int) -> dict[tuple[Place, str], Verdict]:
    out: dict[tuple[Place, str], Verdict] = {}
    if seeds < 2:
        return out
    for metric in board.metrics:
        differences = {}
        for (row, column), found in placed.items():
            reference = placed.get((board.reference, column))
            if reference is not None and row != board.reference:
                differences[row, column] = _worse_by(reference, found, metric)
        p = dict(zip(differences, holm([paired_p(d) for d in differences.values()]), strict=True))
        for place, d in differences.items():
            verdict: Verdict = "cannot tell yet"
            if p[place] < 0.05:
                verdict = "worse" if spread(d).mean > 0 else "better"
            elif equivalence_p(d, 1.0) < 0.05:
                verdict = "equivalent"
            out[place, metric.id] = verdict
    return out


def _worse_by(reference: Row, row: Row, metric: Metric) -> list[float]:
    """By seed: how much worse a row is than the reference; a logarithm where that can be taken."""
    a, b = ([r.values.get(metric.id, math.nan) for r in found.results] for found in (reference, row))
    if metric.lower_is_better is None or not all(0 < v < math.inf for v in (*a, *b)):
        return paired_badness(reference, row, metric)
    sign = 1 if metric.lower_is_better else -1
    return [sign * math.log(v / u) for u, v in zip(a, b, strict=True)]
