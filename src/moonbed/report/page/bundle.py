"""The page's JavaScript modules as one plain script.

A file that is opened from disk may not load modules, so they are put one after the other: imports of one line and the
word `export` go away, and names at the top level are unique over all files (a test holds that).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.resources import files

__all__ = ["ENGINE_FILES", "LIVE_FILES", "bundle", "kernel"]

ENGINE_FILES = (
    "codec.js",
    "random.js",
    "special.js",
    "kernel.js",
    "tape.js",
    "laws.js",
    "plans.js",
    "fields.js",
    "quality.js",
    "engine.js",
    "worker.js",
)
"""What runs trained models, in the order of their use; the last one answers a worker's messages."""

LIVE_FILES = (
    "codec.js",
    "menu.js",
    "state.js",
    "client.js",
    "camera.js",
    "picture.js",
    "readings.js",
    "asking.js",
    "ground.js",
    "raster.js",
    "canvas.js",
    "scenery.js",
    "track.js",
    "panels.js",
    "player.js",
    "words.js",
    "chart.js",
    "curves.js",
    "controls.js",
    "squares.js",
    "live.js",
    "main.js",
)
"""What shows them, in the order of their use; the last one starts the panel."""

_IMPORT = re.compile(r"^import .*;\n", re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(?:async )?(?:function|const|let|class)\b)", re.MULTILINE)


def bundle(names: Sequence[str]) -> str:
    """The named files of `js/` in that order, as one strict script without imports and exports."""
    sources = [(files("moonbed.report.page") / "js" / name).read_text("utf-8") for name in names]
    return '"use strict";\n' + "\n".join(_EXPORT.sub("", _IMPORT.sub("", source)) for source in sources)


def kernel() -> bytes:
    """The WebAssembly kernel of the engine, compiled from `kernel.c`."""
    return (files("moonbed.report.page") / "kernel.wasm").read_bytes()
