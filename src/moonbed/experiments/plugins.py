"""A researcher's own Python file: its components are registered by being defined, its experiments are collected.

A file with components and no experiment is tried in the preset `fast`: each of its members in the place of its kind,
beside `fast` itself. Running such a file runs its code, with all that this user may do.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import inspect
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType

from moonbed.component import Component, SpecError
from moonbed.experiments.presets import FAST, PRESETS
from moonbed.experiments.spec import Experiment, Training
from moonbed.metrics import Metric

PLACES: Mapping[str, str] = {
    "Target": "training.target",
    "Schedule": "training.schedule",
    "Prediction": "training.prediction",
    "Network": "training.network",
    "Embedding": "training.network.embedding",
    "Objective": "training.objective",
    "Times": "training.objective.times",
    "Weight": "training.objective.weight",
    "Coupling": "training.objective.coupling",
    "Regression": "training.objective.regression",
    "Optimizer": "training.optimizer",
    "LearningRate": "training.learning_rate",
    "Averaging": "training.averaging",
    "Sampler": "sampler",
    "Spacing": "sampler.spacing",
}
"""Name of a kind -> the field of an experiment that takes a member of it."""


def load_file(path: str | Path) -> ModuleType:
    """Import a Python file, once. Raises `SpecError` if it is not there or does not run.

    A module that was imported from it already, by whatever name, is that one: also the script that is running.
    """
    path = Path(path).resolve()
    for known in list(sys.modules.values()):
        file = getattr(known, "__file__", None)
        if file and file.endswith(path.name) and Path(file).resolve() == path:
            return known
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

    A variable holds one experiment, or several in a list or a dict. A file without any is tried in the preset `fast`
    (see `trials`). Raises `SpecError` if it defines no component either.
    """
    found = _written(path) or trials(components_in(path))
    if not found:
        raise SpecError([(str(path), "defines no Experiment, and no component to put into one")])
    return found


def metrics_in(path: str | Path) -> tuple[Metric, ...]:
    """The metrics that a Python file without experiments defines: they are asked of its trials as well."""
    if _written(path):
        return ()
    return tuple(part for part in components_in(path).values() if isinstance(part, Metric))


def components_in(path: str | Path) -> dict[str, Component]:
    """Name -> component that a Python file defines, of any kind but `Experiment` and `Training`.

    The instances in its variables, alone, in a list, a dict or a field of another, and of a class without any the one
    that is built from its defaults. The name is that of the class, or the variable's where a class has several. Raises
    `SpecError` naming every class of which none can be had.
    """
    module, found = load_file(path), dict[Component, tuple[str, Component]]()
    for name, value in vars(module).items():
        if name.startswith("_") or value is PRESETS:
            continue
        for key, inner in _entries(name, value):
            here = [inner, *_inside(inner)] if isinstance(inner, Component) else []
            for part in here:
                mine = type(part).__module__ == module.__name__ or part is value
                if mine and not isinstance(part, Experiment | Training):
                    found.setdefault(part, (key, part))
    built, problems = {type(part) for part in found}, []
    for cls in _defined(module):
        if cls in built:
            continue
        try:
            part = cls()
        except SpecError as error:
            why = "; ".join(f"{place}: {message}" if place else message for place, message in error.problems)
            problems.append((cls.__name__, f"cannot be built from its defaults ({why}); {_instead(cls)}"))
        except TypeError:
            problems.append((cls.__name__, f"has no default for {', '.join(_required(cls))}; {_instead(cls)}"))
        else:
            found[part] = (cls.__name__, part)
    if problems:
        raise SpecError(problems)
    count = [type(part) for part in found]
    return {(type(part).__name__ if count.count(type(part)) == 1 else key): part for key, part in list(found.values())}


def trials(found: Mapping[str, Component]) -> dict[str, Experiment]:
    """The preset `fast`, and `fast` with each of the components in the place of its kind; metrics change nothing.

    Targets are what all are trained on: `fast` on each of them, and the others there.
    """
    targets = {name: part for name, part in found.items() if part.kind().__name__ == "Target"}
    others = {name: part for name, part in found.items() if name not in targets and not isinstance(part, Metric)}
    homeless = [name for name, part in others.items() if part.kind().__name__ not in PLACES]
    if homeless:
        kinds = {name: found[name].kind().__name__ for name in homeless}
        raise SpecError(
            [(name, f"a {kind} has no place in `fast`: put it into an Experiment") for name, kind in kinds.items()]
        )
    if not found:
        return {}
    bases = {f"fast, {name}": FAST.replace(**{"training.target": part}) for name, part in targets.items()}
    out: dict[str, Experiment] = {}
    for base, experiment in (bases or {"fast": FAST}).items():
        out[base] = experiment
        for name, part in others.items():
            out[f"{base}, {name}"] = experiment.replace(**{PLACES[part.kind().__name__]: part})
    return out


def files_of(components: Iterable[Component]) -> list[str]:
    """The files that define the plug-in classes among components and their fields, for a process that needs them."""
    found: dict[str, None] = {}
    for component in components:
        if component._plugin and (file := getattr(sys.modules.get(type(component).__module__), "__file__", None)):
            found[file] = None
        inner = [getattr(component, f.name) for f in dataclasses.fields(component)]
        found |= dict.fromkeys(files_of(value for value in inner if isinstance(value, Component)))
    return list(found)


def _written(path: str | Path) -> dict[str, Experiment]:
    """The experiments that a file writes out itself."""
    module = vars(load_file(path))
    names = ["experiments"] if "experiments" in module else [name for name in module if not name.startswith("_")]
    values = [(name, module[name]) for name in names if module[name] is not PRESETS]  # which nearly every file imports
    entries = [(k, getattr(v, "base", v)) for name, value in values for k, v in _entries(name, value)]  # of a search
    return {k: v for k, v in entries if isinstance(v, Experiment)}


def _entries(name: str, value: object) -> list[tuple[str, object]]:
    """A variable's value, or the values of a list, a tuple or a dict in it, each with what it is called."""
    if isinstance(value, Mapping):
        return [(str(k), v) for k, v in value.items()]
    if isinstance(value, Iterable) and not isinstance(value, str | bytes | type) and hasattr(value, "__len__"):
        try:
            return [(f"{name}[{k}]", v) for k, v in enumerate(value)]
        except Exception:  # an array without dimensions
            return []
    return [(name, value)]


def _inside(component: Component) -> list[Component]:
    """The components in the fields of a component, and in theirs."""
    inner = [getattr(component, f.name) for f in dataclasses.fields(component)]
    parts = [value for value in inner if isinstance(value, Component)]
    return [*parts, *(deeper for part in parts for deeper in _inside(part))]


def _defined(module: ModuleType) -> list[type[Component]]:
    """The concrete component classes of a module. Raises `SpecError` for one that lacks a method, and is no base."""
    classes = [v for v in vars(module).values() if isinstance(v, type) and issubclass(v, Component)]
    classes = [
        cls for cls in dict.fromkeys(classes) if cls.__module__ == module.__name__ and Component not in cls.__bases__
    ]
    lacking = [cls for cls in classes if inspect.isabstract(cls) and not cls.__subclasses__()]
    if lacking:
        raise SpecError([(cls.__name__, f"lacks {', '.join(sorted(cls.__abstractmethods__))}") for cls in lacking])
    return [cls for cls in classes if not inspect.isabstract(cls)]


def _required(cls: type[Component]) -> list[str]:
    missing = dataclasses.MISSING
    return [f.name for f in dataclasses.fields(cls) if f.default is missing and f.default_factory is missing]


def _instead(cls: type[Component]) -> str:
    values = ", ".join(f"{name}=..." for name in _required(cls) or ["..."])
    return f"put one into a variable of the file, as in `mine = {cls.__name__}({values})`"


def _line(error: BaseException, path: Path) -> int:
    line, frame = 0, error.__traceback__
    while frame is not None:
        if frame.tb_frame.f_code.co_filename == str(path):
            line = frame.tb_lineno
        frame = frame.tb_next
    return line
