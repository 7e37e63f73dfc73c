"""The files of a store as a whole, by relative name: what a look over all of it goes through."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from moonbed.experiments.storage.layout import Name, in_order, read_name
from moonbed.experiments.storage.places import Found, remote
from moonbed.experiments.storage.store import Store

__all__ = ["Stored"]

DEPTH = 4
"""Parts of the longest name in a store: training, experiment, `metrics`, file."""


class Stored:
    """The files of a store, or some of them: an `inspection.Source`."""

    def __init__(self, store: Store, names: Sequence[Name] | None = None) -> None:
        self._root, self._folder, self._names = store.root, store.folder(), names

    def every(self, below: str = "") -> dict[str, Found | None]:
        """Name -> stamp and time, of all files, those that are not ours too, or of those of one folder; sorted.

        Folders without anything in them have a name that ends in `/`, and no stamp.
        """
        before = f"{below}/" if below else ""
        patterns = [before + "/".join("*" * k) for k in range(1, DEPTH + 1 - bool(below))]
        found: dict[str, Found | None] = dict(self._folder.names(*patterns))
        if not remote(self._root):
            found |= dict.fromkeys(self._empty(self._root / below, before))
        return dict(sorted(found.items()))

    def names(self) -> Sequence[Name]:
        """Every file that has a name of the layout, run by run."""
        if self._names is not None:
            return self._names
        return in_order(name for text in self.every() if (name := read_name(text)) is not None)

    def read(self, name: Name) -> bytes:
        """The bytes of a file; `StoreError` where there are none."""
        return self._folder.read(name.name)

    def finished(self) -> Mapping[str, int]:
        """`<training>/<experiment>` -> microseconds since 1970, of the records of experiments."""
        found, wanted = self._folder.names("*/*/record.json"), {name.name for name in self.names()}
        times = {name: round(1e6 * seen.time) for name, seen in found.items() if name in wanted}
        return {name.removesuffix("/record.json"): time for name, time in times.items()}

    def _empty(self, folder: Path, before: str) -> Iterator[str]:
        try:
            paths = list(folder.iterdir())
        except (FileNotFoundError, NotADirectoryError):  # removed meanwhile
            return
        if not paths and before:
            yield before
        for path in paths:
            if before.count("/") < DEPTH - 1 and path.is_dir():
                yield from self._empty(path, f"{before}{path.name}/")
