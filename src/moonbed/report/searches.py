"""What a search found: the best trials with their doubt, what came of all, and what the best is worth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from moonbed.experiments.spaces import words
from moonbed.report.tables import jsonable, short_table, to_json, to_terminal

if TYPE_CHECKING:
    from rich.table import Table

    from moonbed.experiments.search import Searched

__all__ = ["search_json", "search_lines", "search_tables"]


def search_tables(found: Searched) -> dict[str, Table]:
    """Title -> table: the best trials, a line each, and the base and the best with fresh seeds."""
    tables = {}
    if found.best:
        title = f"The best {len(found.best)} of {len(found.trials)} trials, as the search saw them"
        tables[title] = short_table(found.best, list(found.best[0].cells))
    if found.confirmed:
        title = "Again, with seeds that the search has not seen"
        tables[title] = to_terminal(found.confirmed, list(found.confirmed[0].cells))
    return tables


def search_lines(found: Searched) -> list[str]:
    """What a reader should know of the tables."""
    lines = [found.sentence]
    if found.importance:
        told = ", ".join(f"{place} {share:.0%}" for place, share in found.importance.items())
        lines.append(f"share in the variance of the finished trials (fANOVA): {told}")
    if found.command:
        lines.append(f"is it really better? {found.command}")
    elif found.best:
        lines.append("the base itself is the best of them" if len(found.confirmed) < 2 else "")
    return [line for line in lines if line]


def search_json(found: Searched) -> dict[str, Any]:
    """All of it as plain JSON."""
    trials = [
        {
            "number": t.number,
            "changes": {place: getattr(value, "spec", lambda v=value: v)() for place, value in t.changes.items()},
            "name": words(t.changes),
            "status": t.status,
            "value": t.value,
            "message": t.message,
            "rungs": {f"{mark / 1000:g}": value for mark, value in t.rungs.items()},
        }
        for t in found.trials
    ]
    return jsonable(
        {
            "id": found.search.id,
            "folder": found.folder,
            "sentence": found.sentence,
            "trials": trials,
            "best": to_json(found.best),
            "confirmed": to_json(found.confirmed),
            "importance": dict(found.importance),
            "command": found.command,
        }
    )
