"""The data behind the figures, read from a store: training curves with their floors, sweeps, budgets, score errors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from moonbed.experiments.anatomy import Anatomy, load_anatomy
from moonbed.experiments.lossfloor import loss_floor
from moonbed.experiments.rows import Row
from moonbed.experiments.spec import Training
from moonbed.experiments.storage.folder import StoreError
from moonbed.experiments.storage.runs import log_of
from moonbed.experiments.storage.store import Store
from moonbed.experiments.stored import by_seed, stored_rows
from moonbed.experiments.sweeps import evaluations, sampler_name, siblings
from moonbed.report.figures.curves import Curve, Point
from moonbed.report.figures.style import parted

__all__ = ["budgets", "curves", "errors", "quality_label", "sweeps"]

BEST = ("SlicedW1Law", "SlicedW1", "W2", "Energy", "MMD")
"""Metrics to draw quality with, the first that there is: distances, which do not grow with n."""


def curves(rows: Sequence[Row], store: Store) -> list[Curve]:
    """The training of the first seed of each row, each training once, with its loss floor."""
    found: dict[str, tuple[list[str], Training]] = {}
    for row in rows:
        for training in row.results[0].experiment.needs[:1]:
            found.setdefault(training.id, ([], training))[0].append(row.name)
    out = []
    for names, training in found.values():
        try:
            log = log_of(store.training(training))
        except StoreError:  # the floor may be there and the training not
            continue
        if log:
            heads, shared = parted(names, 60)
            out.append(
                Curve(", ".join([" = ".join(heads), *([shared] if shared else [])]), log, loss_floor(training, store))
            )
    return out


def sweeps(rows: Sequence[Row], store: Store) -> Iterator[tuple[str, list[Point]]]:
    """(metric, points) of each training that the store holds under several samplers or numbers of steps."""
    firsts = [row.results[0].experiment for row in rows]
    everyone = [r.experiment for row in rows for r in row.results]
    for group in siblings(store, everyone):
        metrics = tuple(cell.metric for cell in _first(rows, firsts, group).cells.values())
        groups = {f"{sampler_name(g[0])}, {g[0].sampler.steps} steps": g for g in by_seed(group)}
        points = [
            Point(sampler_name(e := row.results[0].experiment), evaluations(e), row)
            for row in stored_rows(groups, metrics, store)
        ]
        label = quality_label([p.row for p in points])
        points = [p for p in points if label and p.row.cells[label].values]
        if label and len({p.nfe for p in points}) > 1:
            yield label, points


def _first(rows: Sequence[Row], firsts: Sequence[Any], group: Sequence[Any]) -> Row:
    trainings = {e.training.id for e in group}
    return next(row for row, e in zip(rows, firsts, strict=True) if e.training.id in trainings)


def quality_label(rows: Sequence[Row]) -> str:
    """The metric to draw quality with: one that most rows have, distances first."""
    count = {label: sum(bool(row.cells[label].values) for row in rows) for label in rows[0].cells}
    most = max(count.values(), default=0)
    names = {label: type(rows[0].cells[label].metric).__name__ for label, n in count.items() if n == most > 0}
    ranked = sorted(names, key=lambda label: BEST.index(names[label]) if names[label] in BEST else len(BEST))
    return ranked[0] if ranked else ""


def budgets(rows: Sequence[Row], store: Store) -> Iterator[tuple[str, Anatomy]]:
    """(name, error budget) of the rows of which the store holds one, that of the first seed that has it."""
    for row in rows:
        found = (load_anatomy(store, r.experiment) for r in row.results)
        kept = next((a for a in found if a is not None), None)
        if kept is not None:
            yield row.name, kept


def errors(rows: Sequence[Row], store: Store) -> Iterator[tuple[str, Mapping[str, Mapping[str, Sequence[float]]]]]:
    """(name, curves of the score error by noise level) of the rows of which a budget or a metric gives them."""
    held = dict(budgets(rows, store))
    for row in rows:
        if row.name in held and held[row.name].score_error:
            yield row.name, held[row.name].score_error
            continue
        answers = (a for r in row.done for a in r.answers.values() if "score_error" in a.details)
        if (answer := next(answers, None)) is not None:
            yield row.name, {"estimation": answer.details["score_error"]}
