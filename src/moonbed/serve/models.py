"""What is made of a run's files when somebody looks: the live model of its last checkpoint, and its report."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.resources import files
from typing import Any

from moonbed.experiments.store import Store, StoreError

__all__ = ["Models", "assets"]


def assets() -> dict[str, tuple[str, Callable[[], bytes | str]]]:
    """Name below `/static/` -> its type and what makes it."""
    own = files("moonbed.serve")
    found: dict[str, tuple[str, Callable[[], bytes | str]]] = {}
    for path in (*(own / "js").iterdir(), *(own / "css").iterdir(), files("moonbed.report.page") / "css" / "base.css"):
        kind = "text/javascript" if path.name.endswith(".js") else "text/css"
        found[path.name] = (kind, path.read_bytes)
    return found


class Models:
    """What runs become in the browser."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def live(self, run: Mapping[str, Any]) -> dict[str, Any]:
        raise StoreError("not yet")

    def report(self, run: Mapping[str, Any]) -> str:
        raise StoreError("not yet")
