"""Moonbed: a test bed for diffusion and flow models on distributions whose exact law is known.

The names below are imported at their first use; `import moonbed` itself imports neither torch nor diffusers.
"""

from __future__ import annotations

import importlib
from typing import Any

from moonbed import _shown
from moonbed._lazy import lazy_import

__version__ = "0.1.0"

_HOMES = {
    "Component": "component",
    "SpecError": "component",
    "Rng": "rng",
    "Target": "targets",
    "Network": "networks",
    "Schedule": "diffusion",
    "Prediction": "diffusion",
    "Objective": "diffusion",
    "Sampler": "diffusion",
    "Metric": "metrics",
    "Training": "experiments",
    "Experiment": "experiments",
    "Store": "experiments",
    "PRESETS": "experiments",
    "run": "experiments",
    "grid": "experiments.grid",
    "Search": "experiments.spaces",
    "measure": "calls",
    "compare": "calls",
    "anatomy": "calls",
    "write_report": "calls",
    "table": "report",
}
__all__ = ["__version__", *_HOMES]

_shown.face = lazy_import("moonbed.report.notebook")


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'moonbed' has no attribute {name!r}")
    return getattr(importlib.import_module(f"moonbed.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
