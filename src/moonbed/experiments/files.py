"""The files of a store as a whole, by relative name: what a look over all of it goes through."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from moonbed.experiments.layout import Name, in_order, read_name
from moonbed.experiments.store import Folder, Store

__all__ = ["Stored"]

DEPTH = 4
"""Parts of the longest name in a store: training, experiment, `metrics`, file."""


class Stored:
    """The files of a store, or some of them: an `inspection.Source`."""

    def __init__(self, store: Store, names: Sequence[Name] | None = None) -> None:
        self._root, self._folder, self._names = store.root, Folder(store.root, readonly=True), names

    def every(self) -> list[str]:
        """Names of all files, those that are not ours too, sorted; of folders without files the name with a `/`."""
        return sorted(self._below(self._root, "", DEPTH)) if self._root.is_dir() else []

    def names(self) -> Sequence[Name]:
        """Every file that has a name of the layout, run by run."""
        if self._names is not None:
            return self._names
        return in_order(name for text in self.every() if (name := read_name(text)) is not None)

    def read(self, name: Name) -> bytes:
        """The bytes of a file; `StoreError` where there are none."""
        return self._folder.read(name.name)

    def order(self) -> Sequence[str]:
        """`<training>/<experiment>` of the finished experiments, by the time of their record."""
        records = [name for name in self.names() if name.kind == "sampled"]
        return [n.folder for n in sorted(records, key=lambda n: (self._root / n.name).stat().st_mtime)]

    def _below(self, folder: Path, before: str, depth: int) -> Iterator[str]:
        try:
            paths = list(folder.iterdir())
        except FileNotFoundError:  # removed meanwhile
            return
        for path in paths:
            if path.is_dir() and depth > 1:
                inner = list(self._below(path, f"{before}{path.name}/", depth - 1))
                yield from inner or [f"{before}{path.name}/"]
            else:
                yield before + path.name
