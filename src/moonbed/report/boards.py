"""Boards as pivot tables: a table for each metric, with the floor, the spread over seeds and a verdict in each cell."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from moonbed.metrics.significance import spread
from moonbed.report.tables import (
    csv_text,
    finite,
    flat,
    floor,
    markdown_line,
    markdown_text,
    notes,
    number,
    within_floor,
)

if TYPE_CHECKING:
    from rich.table import Table

    from moonbed.component import Component
    from moonbed.experiments.board import Filled, Place
    from moonbed.experiments.rows import Cell
    from moonbed.laws.samplers import OrderRow
    from moonbed.metrics import Metric

__all__ = ["board_csv", "board_json", "board_markdown", "board_tables"]

SIGNS = {"better": "▲", "worse": "▼", "equivalent": "=", "cannot tell yet": "?", "mixed": "±"}


def legend(filled: Filled) -> str:
    """What a cell holds."""
    board = filled.board
    text = f"mean ± sd over {filled.seeds} seeds" if filled.seeds > 1 else "one seed"
    text += "; ≈ every seed within the floor, the 5 % to 95 % of exact samples"
    if filled.verdicts:
        text += f"; against {board.reference} in the same column (paired t, of logarithms if positive; Holm): "
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
    published = filled.board.published.get(place, "") if metric == filled.board.metrics[0] else ""
    text = f"{_short(cell)}{' ≈' if within_floor(cell) else ''} {sign}".strip()
    return f"{text} (published {published})" if published else text


def _short(cell: Cell) -> str:
    """`mean ± sd` to three digits and two."""
    mean, sd = spread(cell.values)
    if not math.isfinite(mean):
        return number(mean)
    doubt = "" if sd is None or not math.isfinite(sd) else f" ± {sd:,.0f}" if sd >= 100 else f" ± {sd:.2g}"
    return f"{mean:.3g}{doubt}" if abs(mean) < 1000 else f"{mean:,.0f}{doubt}"


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
        out += [markdown_line(head).rstrip(), f"|{'---|' * len(head)}"]
        out += [*(markdown_line(line).rstrip() for line in lines), ""]
    sizes = sorted({r.experiment.n for row in filled.results.values() for r in row.results})
    out.append(f"n = {' or '.join(f'{n:,}' for n in sizes)} samples; {legend(filled)}.")
    lost = [markdown_text(f"{row.name}: {note}") for row in filled.results.values() if (note := notes(row))]
    return "\n".join([*out, *(f"\n{note}" for note in lost)]) + "\n"


def board_tables(filled: Filled) -> Sequence[Table]:
    """A rich table for each metric."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    tables = []
    for metric in filled.board.metrics:
        head, *lines = grid(filled, metric)
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, caption=legend(filled), caption_justify="left")
        for title in head:
            table.add_column(escape(title), overflow="fold")
        for line in lines:
            table.add_row(*map(escape, line))
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


def order_lines(rows: Iterable[OrderRow]) -> list[dict[str, Any]]:
    """One dict a sampler, with every number unrounded."""
    return [
        {
            "sampler": named(row.sampler),
            "kind": "weak" if row.weak else "deterministic",
            "order": row.order,
            "measured": row.measured,
            "evaluations_a_step": row.evaluations,
            "difference_from_diffusers": row.difference,
            "diffusers": row.words,
        }
        for row in rows
    ]


def named(component: Component) -> str:
    """The name of a component, and what of it is not the default."""
    usual, name = type(component)().spec(), type(component).__name__
    changed = [f"{k}={v}" for k, v in component.spec().items() if v != usual.get(k)]
    return f"{name} {', '.join(changed)}".strip()


_ORDER = ("sampler", "", "order", "measured", "evaluations a step", "from diffusers", "counterpart")


def _order_cells(line: dict[str, Any]) -> list[str]:
    sampler, kind, order, measured, evaluations, difference, words = line.values()
    numbers = ["–" if v is None else f"{v:g}" for v in (order, evaluations)]
    found = "–" if measured is None else f"{measured:.2f}"
    far = "–" if difference is None else f"{difference:.1e}"
    return [sampler, kind, numbers[0], found, numbers[1], far, words]


def order_markdown(lines: Iterable[dict[str, Any]]) -> str:
    """A Markdown table."""
    out = [f"| {' | '.join(_ORDER)} |", f"|{'---|' * len(_ORDER)}"]
    return "\n".join([*out, *(markdown_line(_order_cells(line)).rstrip() for line in lines)]) + "\n"


def order_rich(lines: Iterable[dict[str, Any]]) -> Table:
    """A rich table."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in _ORDER:
        table.add_column(title, overflow="fold")
    for line in lines:
        table.add_row(*map(escape, _order_cells(line)))
    return table
