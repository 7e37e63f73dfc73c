"""Results as a page: what the store holds, the live models and the figures come together here.

One door for `moonbed report`, `run`, `reproduce`, `compare` and `serve`, and for Python. It trains nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moonbed.experiments.engines import Failure, Local, Task
from moonbed.experiments.lossfloor import loss_floor
from moonbed.experiments.plugins import files_of
from moonbed.experiments.spec import Experiment
from moonbed.experiments.storage.folder import Folder
from moonbed.experiments.storage.store import Store
from moonbed.live import document

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
    jobs: int = 1,
) -> str:
    """HTML of rows, or of a comparison of two; the first seed of each row lives in it. `command` makes it again.

    With several `jobs` the models and the loss floors are made at the same time, in processes that have torch already.
    """
    from moonbed.report.figures import for_page
    from moonbed.report.page import page

    store = Store.at(store)
    return page(
        rows,
        title=title,
        lead=lead,
        comparison=comparison,
        live=_live(rows, store, jobs),
        figures=for_page(rows, store),
        command=command,
        versions=_versions(rows, store),
    )


def _live(rows: Sequence[Row], store: Store, jobs: int) -> tuple[Mapping[str, Any], bytes] | None:
    firsts = [(row.name, k, row.done[0].experiment) for k, row in enumerate(rows) if row.done]
    if not firsts:
        return None
    beside = _beside(firsts, store) if store.processes(jobs) > 1 and not store.readonly else None
    return beside or document(firsts, store)


def _beside(firsts: Sequence[tuple[str, int, Experiment]], store: Store) -> tuple[dict[str, Any], bytes] | None:
    """The live models, made in another process, and the loss floors, put into the store by a third; None if it failed.

    A class that only this process knows, as one of a notebook's cell, is none that another could be told.
    """
    specs = [(name, k, experiment.spec()) for name, k, experiment in firsts]
    files = files_of([experiment for *_, experiment in firsts])
    tasks = [Task(work, (specs, str(store.root)), files) for work in (_models, _floors)]
    found = dict(Local(jobs=len(tasks)).run(tasks))
    return None if isinstance(found.get(0), Failure) else found.get(0)


def _models(specs: Sequence[tuple[str, int, dict[str, Any]]], root: str) -> Iterator[tuple[dict[str, Any], bytes]]:
    yield document([(name, k, Experiment.parse(spec)) for name, k, spec in specs], root)


def _floors(specs: Sequence[tuple[str, int, dict[str, Any]]], root: str) -> Iterator[None]:
    for *_, spec in specs:
        loss_floor(Experiment.parse(spec).training, Store(root))
    yield None


def _versions(rows: Sequence[Row], store: Store) -> dict[str, str]:
    """Program -> its version, of what trained and sampled the rows; several where they differ."""
    found: dict[str, dict[str, None]] = {}
    for result in (result for row in rows for result in row.results):
        for folder in (store.training(result.experiment.training), store.experiment(result.experiment)):
            for name, version in ((folder.record() or {}).get("versions") or {}).items():
                found.setdefault(name, {})[str(version)] = None
    return {name: " and ".join(all_of) for name, all_of in found.items()}
