"""What is made of a run's files when somebody looks: the live model of its last checkpoint, and its report."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from importlib.resources import files
from typing import Any

from moonbed.experiments.store import Store, StoreError

__all__ = ["Models", "assets"]


def assets() -> dict[str, tuple[str, Callable[[], bytes | str]]]:
    """Name below `/static/` -> its type and what makes it."""
    from moonbed.report.page.bundle import ENGINE_FILES, bundle, kernel

    own, page = files("moonbed.serve"), files("moonbed.report.page")
    found: dict[str, tuple[str, Callable[[], bytes | str]]] = {
        "engine.js": ("text/javascript", lambda: bundle(ENGINE_FILES)),
        "kernel.wasm": ("application/wasm", kernel),
    }
    shared = (page / "css" / "base.css", page / "js" / "theme.js")
    for path in (*(own / "js").iterdir(), *(own / "css").iterdir(), *shared):
        found[path.name] = ("text/javascript" if path.name.endswith(".js") else "text/css", path.read_bytes)
    return found


class Models:
    """What runs become in the browser."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._lock = threading.Lock()

    def live(self, run: Mapping[str, Any]) -> dict[str, Any]:
        raise StoreError("not yet")

    def report(self, run: Mapping[str, Any]) -> str:
        raise StoreError("not yet")
