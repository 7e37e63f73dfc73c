"""Boards as pivot tables: a table for each metric, with the floor, the spread over seeds and a verdict in each cell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from moonbed.report.tables import csv_text, finite, flat, floor, measured, notes, within_floor

if TYPE_CHECKING:
    from rich.table import Table

    from moonbed.experiments.boards import Filled, Place
    from moonbed.metrics import Metric

__all__ = ["board_csv", "board_json", "board_markdown", "board_tables"]

SIGNS = {"better": "▲", "worse": "▼", "equivalent": "=", "cannot tell yet": "?", "mixed": "±"}


def legend(filled: Filled) -> str:
    """What a cell holds."""
    board = filled.board
    text = f"mean ± sd over {filled.seeds} seeds" if filled.seeds > 1 else "one seed"
    text += "; ≈ every seed within the floor, the 5 % to 95 % of exact samples"
    if filled.verdicts:
        text += f"; against {board.reference} in the same column (paired t, Holm over the table): "
        text += "▲ better, ▼ worse, = equivalent within 1 sd of a pair, ? cannot tell"
    return text


def _cell(filled: Filled, place: Place, metric: Metric) -> str:
    row = filled.results.get(place)
    if row is None:
        return filled.board.notes.get(place, "–")
    cell = next(c for c in row.cells.values() if c.metric == metric)
    if cell.lacks:
        return "–"
    if len(row.done) < len(row.results):
        return f"{len(row.results) - len(row.done)} of {len(row.results)} diverged"
    sign = SIGNS.get(filled.verdicts.get((place, metric.id), ""), "")
    published = filled.board.published.get(place, "")
    text = f"{measured(cell)}{' ≈' if within_floor(cell) else ''} {sign}".strip()
    return f"{text} (published {published})" if published else text


def _floors(filled: Filled, metric: Metric) -> list[str]:
    """By column; columns may have different laws."""
    out = []
    for column in filled.board.columns:
        cells = [c for (_, at), row in filled.results.items() if at == column for c in row.cells.values()]
        out.append(next((floor(c) for c in cells if c.metric == metric and c.floor), "–"))
    return out


def grid(filled: Filled, metric: Metric) -> list[list[str]]:
    """Lines of text: the head, the floor, then a line for each row."""
    board = filled.board
    lines = [[f"{metric.label}{f', {board.across}' if board.across else ''}", *board.columns]]
    lines.append(["floor", *_floors(filled, metric)])
    return lines + [[row, *(_cell(filled, (row, c), metric) for c in board.columns)] for row in board.rows]


def board_markdown(filled: Filled) -> str:
    """The question, a table for each metric, and what the cells hold."""
    out = [filled.board.question, ""]
    for metric in filled.board.metrics:
        head, *lines = grid(filled, metric)
        out += [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *(f"| {' | '.join(line)} |" for line in lines), ""]
    sizes = sorted({r.experiment.n for row in filled.results.values() for r in row.results})
    out.append(f"n = {' or '.join(f'{n:,}' for n in sizes)} samples; {legend(filled)}.")
    lost = [f"{row.name}: {note}" for row in filled.results.values() if (note := notes(row))]
    return "\n".join([*out, *(f"\n{note}" for note in lost)]) + "\n"


def board_tables(filled: Filled) -> Sequence[Table]:
    """A rich table for each metric."""
    from rich import box
    from rich.table import Table

    tables = []
    for metric in filled.board.metrics:
        head, *lines = grid(filled, metric)
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, caption=legend(filled), caption_justify="left")
        for title in head:
            table.add_column(title, overflow="fold")
        for line in lines:
            table.add_row(*line)
        tables.append(table)
    return tables


def board_json(filled: Filled) -> dict[str, Any]:
    """Every number of every cell, unrounded."""
    cells = []
    for place, row in filled.results.items():
        by_label = {line["metric"]: line for line in flat([row])}
        for label, cell in row.cells.items():
            verdict = filled.verdicts.get((place, cell.metric.id))
            more = {"row": place[0], "column": place[1], "verdict": verdict}
            line = by_label[label] | more | {"published": filled.board.published.get(place)}
            cells.append({k: finite(v) if isinstance(v, float) else v for k, v in line.items()})
    return {"board": filled.board.name, "question": filled.board.question, "seeds": filled.seeds, "cells": cells}


def board_csv(filled: Filled) -> str:
    """Long form: one line a cell and metric."""
    return csv_text(board_json(filled)["cells"])
