"""Results written as a page: what is asked of the store, the live models and the figures come together here.

The one function is called by `moonbed report`, `run`, `reproduce` and `compare`, and from Python. It trains nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from moonbed.experiments.store import Folder, Store

if TYPE_CHECKING:
    from moonbed.experiments.compare import Comparison
    from moonbed.experiments.rows import Row

__all__ = ["write_page"]


def write_page(
    path: str | Path,
    rows: Sequence[Row],
    store: Store | str | Path,
    *,
    title: str = "Results",
    lead: str = "",
    comparison: Comparison | None = None,
    command: str = "",
) -> int:
    """Write rows, or a comparison of two, as one HTML file whose size in bytes is returned.

    The first seed of each row lives in it. Raises `StoreError` where it cannot be written.
    """
    from moonbed.report.page import page

    path, store = Path(path), Store.at(store)
    html = page(
        rows,
        title=title,
        lead=lead,
        comparison=comparison,
        command=command,
        versions=versions(rows, store),
    ).encode()
    Folder(path.parent).write(path.name, html)
    return len(html)


def versions(rows: Sequence[Row], store: Store) -> dict[str, str]:
    """Program -> its version, of what trained and sampled the rows; several where they differ."""
    found: dict[str, dict[str, None]] = {}
    for result in (result for row in rows for result in row.results):
        for folder in (store.training(result.experiment.training), store.experiment(result.experiment)):
            for name, version in ((folder.record() or {}).get("versions") or {}).items():
                found.setdefault(name, {})[str(version)] = None
    return {name: " and ".join(all_of) for name, all_of in found.items()}
