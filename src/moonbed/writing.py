"""Results as a page: what the store holds, the live models and the figures come together here.

One door for `moonbed report`, `run`, `reproduce`, `compare` and `serve`, and for Python. It trains nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moonbed.experiments.store import Folder, Store

if TYPE_CHECKING:
    from moonbed.experiments.compare import Comparison
    from moonbed.experiments.rows import Row

__all__ = ["html_of", "write_page"]


def write_page(path: str | Path, rows: Sequence[Row], store: Store | str | Path, **about: Any) -> int:
    """Write the page of `html_of` as one file, whole or not at all, and return its size in bytes.

    Raises `StoreError` where it cannot be written.
    """
    path, html = Path(path), html_of(rows, store, **about).encode()
    Folder(path.parent).write(path.name, html)
    return len(html)


def html_of(
    rows: Sequence[Row],
    store: Store | str | Path,
    *,
    title: str = "Results",
    lead: str = "",
    comparison: Comparison | None = None,
    command: str = "",
) -> str:
    """HTML of rows, or of a comparison of two; the first seed of each row lives in it. `command` makes it again."""
    from moonbed.report.figures import for_page
    from moonbed.report.page import page

    store = Store.at(store)
    return page(
        rows,
        title=title,
        lead=lead,
        comparison=comparison,
        live=_live(rows, store),
        figures=for_page(rows, store),
        command=command,
        versions=_versions(rows, store),
    )


def _live(rows: Sequence[Row], store: Store) -> tuple[Mapping[str, Any], bytes] | None:
    from moonbed.live import document

    entries = [(row.name, k, row.done[0].experiment) for k, row in enumerate(rows) if row.done]
    return document(entries, store) if entries else None


def _versions(rows: Sequence[Row], store: Store) -> dict[str, str]:
    """Program -> its version, of what trained and sampled the rows; several where they differ."""
    found: dict[str, dict[str, None]] = {}
    for result in (result for row in rows for result in row.results):
        for folder in (store.training(result.experiment.training), store.experiment(result.experiment)):
            for name, version in ((folder.record() or {}).get("versions") or {}).items():
                found.setdefault(name, {})[str(version)] = None
    return {name: " and ".join(all_of) for name, all_of in found.items()}
