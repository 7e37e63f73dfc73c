"""The layout of a store as a grammar: which names a file in it can have, and what each of them is.

Whatever reads a store as a whole, or takes files from elsewhere into one, goes by this table: a name that it does not
have is no file of ours. Names are relative, with `/`, in ASCII, and of one spelling: no `..`, no upper case, no `./`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = [
    "DATA",
    "LARGEST",
    "Name",
    "in_order",
    "is_beside",
    "is_folder",
    "is_lock",
    "is_search",
    "is_temporary",
    "is_token",
    "read_name",
]

_ID = "[0-9a-f]{16}"
_NUMBER = "0|[1-9][0-9]{0,11}"
_SUM = "(?:[.][0-9a-f]{16})?"
"""A data file may have the beginning of its checksum in its name, where there are no locks."""
_KINDS = {
    "training": rf"(?P<training>{_ID})/training[.]json",
    "weights": rf"(?P<training>{_ID})/weights{_SUM}[.]safetensors",
    "snapshots": rf"(?P<training>{_ID})/snapshots{_SUM}[.]safetensors",
    "log": rf"(?P<training>{_ID})/log{_SUM}[.]jsonl",
    "record": rf"(?P<training>{_ID})/record[.]json",
    "state": rf"(?P<training>{_ID})/checkpoint-(?P<step>{_NUMBER}){_SUM}[.]safetensors",
    "checkpoint": rf"(?P<training>{_ID})/checkpoint[.]json",
    "experiment": rf"(?P<training>{_ID})/(?P<experiment>{_ID})/experiment[.]json",
    "samples": rf"(?P<training>{_ID})/(?P<experiment>{_ID})/samples{_SUM}[.]npy",
    "sampled": rf"(?P<training>{_ID})/(?P<experiment>{_ID})/record[.]json",
    "metric": rf"(?P<training>{_ID})/(?P<experiment>{_ID})/metrics/(?P<id>{_ID})[.]json",
    "anatomy": rf"(?P<training>{_ID})/(?P<experiment>{_ID})/anatomy[.]json",
    "floor": rf"floors/(?P<id>{_ID})[.]json",
    "exact": rf"exact/(?P<id>{_ID})[.]json",
}
_PATTERNS = {kind: re.compile(pattern, re.ASCII) for kind, pattern in _KINDS.items()}
_ORDER = {kind: k for k, kind in enumerate(_KINDS)}
_TEMPORARY = re.compile(r"[.].+[.](?P<process>[0-9]+)[.][0-9a-f]{8}", re.ASCII | re.DOTALL)

DATA = frozenset({"weights", "snapshots", "log", "samples"})
"""Kinds of the files that a record lists."""

LARGEST = {"weights": 4 << 30, "snapshots": 16 << 30, "state": 32 << 30, "samples": 16 << 30, "log": 1 << 28}
"""Kind -> bytes that such a file has at most; 16 MB for the others, which are JSON."""


@dataclass(frozen=True)
class Name:
    """The name of a file of a store, taken apart; parts that its kind does not have are empty."""

    name: str
    kind: str
    training: str = ""
    experiment: str = ""
    id: str = ""

    @property
    def folder(self) -> str:
        """The run that the file is of: `<training>`, `<training>/<experiment>`, `floors` or `exact`."""
        return "/".join(filter(None, (self.training, self.experiment))) or self.name.partition("/")[0]

    @property
    def inner(self) -> str:
        """The name below the folder of its run."""
        return self.name[len(self.folder) + 1 :]

    @property
    def place(self) -> str:
        """What a sealed file says of where it belongs."""
        return f"{self.folder.rpartition('/')[2]}/{self.inner}"

    @property
    def plain(self) -> str:
        """The name without a checksum in it, as records and archives say it; a checkpoint's is that of its pointer."""
        return (
            self.name if self.kind == "state" else re.sub(rf"[.]{_ID}(?=[.](?:safetensors|npy|jsonl)$)", "", self.name)
        )

    @property
    def largest(self) -> int:
        """The most bytes that the file can have."""
        return LARGEST.get(self.kind, 1 << 24)


def read_name(name: str) -> Name | None:
    """What a name is, None where no file of a store has it."""
    for kind, pattern in _PATTERNS.items():
        if (found := pattern.fullmatch(name)) is not None:
            parts = {key: value for key, value in found.groupdict().items() if key != "step"}
            return Name(name, kind, **parts)
    return None


def in_order(names: Iterable[Name]) -> list[Name]:
    """Run by run; the files of one in the order in which they are written, so that its record follows what it lists."""
    return sorted(names, key=lambda n: (n.folder, _ORDER[n.kind], n.name))


def is_temporary(name: str) -> int | None:
    """The number of the process that was writing a file under this last part of a name; None for any other name."""
    found = _TEMPORARY.fullmatch(name)
    return int(found["process"][:12]) if found else None


def is_lock(name: str) -> bool:
    """Whether the last part of a name is that of the lock of a training."""
    return name == ".lock"


def is_search(name: str) -> bool:
    """Whether a name is of a search: a study with a store of its own, or what a trial had on its way."""
    return name.startswith("searches/") or re.fullmatch(rf"{_ID}/{_ID}/rungs[.]json", name, re.ASCII) is not None


def is_beside(name: str) -> bool:
    """Whether a name at the root is that of a file which commands keep beside the runs: a page, the index."""
    return name == "report.html" or name.startswith("index.sqlite") or is_token(name)


def is_token(name: str) -> bool:
    """Whether a name is that of a file by which a distant machine shows that it sees the store."""
    return re.fullmatch(r"[.]seen[.][a-z]+[.][0-9a-f]{8}", name, re.ASCII) is not None


def is_folder(name: str) -> bool:
    """Whether a name that ends in `/` is that of a folder of the layout."""
    return re.fullmatch(rf"(?:{_ID}(?:/{_ID}(?:/metrics)?)?|floors|exact)/", name, re.ASCII) is not None
