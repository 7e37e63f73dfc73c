"""A researcher's own Python file: its components are registered by being defined, its experiments are collected.

Running such a file runs its code, with all that this user may do.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType

from moonbed.component import Component, SpecError
from moonbed.experiments.presets import PRESETS
from moonbed.experiments.spec import Experiment


def load_file(path: str | Path) -> ModuleType:
    """Import a Python file, once. Raises `SpecError` if it is not there or does not run."""
    path = Path(path).resolve()
    name = f"moonbed_file_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise SpecError([("", f"no Python file {path}")])
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        line = getattr(error, "lineno", None) or _line(error, path)
        message = str(error) if isinstance(error, SpecError) else f"{type(error).__name__}: {error}"
        raise SpecError([(f"{path.name}:{line}", message)]) from error
    return module


def experiments_in(path: str | Path) -> dict[str, Experiment]:
    """Name -> experiment of a Python file: those of its variable `experiments`, or else of all its variables.

    A variable holds one experiment, or several in a list or a dict. Raises `SpecError` if there are none.
    """
    module = vars(load_file(path))
    names = ["experiments"] if "experiments" in module else [name for name in module if not name.startswith("_")]
    found: dict[str, Experiment] = {}
    for name in names:
        value = module[name]
        if value is PRESETS:  # what nearly every such file imports
            continue
        if isinstance(value, Experiment):
            found[name] = value
        elif isinstance(value, Mapping):
            found |= {str(k): v for k, v in value.items() if isinstance(v, Experiment)}
        elif isinstance(value, Iterable) and not isinstance(value, str | bytes) and hasattr(value, "__len__"):
            found |= {f"{name}[{k}]": v for k, v in enumerate(value) if isinstance(v, Experiment)}
    if not found:
        raise SpecError([(str(path), "defines no Experiment")])
    return found


def files_of(components: Iterable[Component]) -> list[str]:
    """The files that define the plug-in classes among components and their fields, for a process that needs them."""
    found: dict[str, None] = {}
    for component in components:
        if component._plugin and (file := getattr(sys.modules.get(type(component).__module__), "__file__", None)):
            found[file] = None
        inner = [getattr(component, f.name) for f in dataclasses.fields(component)]
        found |= dict.fromkeys(files_of(value for value in inner if isinstance(value, Component)))
    return list(found)


def _line(error: BaseException, path: Path) -> int:
    line, frame = 0, error.__traceback__
    while frame is not None:
        if frame.tb_frame.f_code.co_filename == str(path):
            line = frame.tb_lineno
        frame = frame.tb_next
    return line
