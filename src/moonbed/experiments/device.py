"""The device has its one door here: what `auto`, `cpu`, `cuda` and `mps` are on this machine and under an engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moonbed._lazy import lazy_import
from moonbed.component import SpecError, nearest
from moonbed.experiments.engines import Engine

if TYPE_CHECKING:
    import torch
else:
    torch = lazy_import("torch")

__all__ = ["DEVICES", "choose_device", "device_on"]

DEVICES = ("auto", "cpu", "cuda", "mps")


def choose_device(name: str = "auto") -> str:
    """The torch device for `auto`, `cpu`, `cuda` or `mps`. Raises `SpecError` for other names and missing devices."""
    found = ["cpu"]
    if name not in DEVICES:
        raise SpecError([("device", f"no device is called {name!r}; {nearest(name, DEVICES)}")])
    if name != "cpu":
        found += ["cuda"] * torch.cuda.is_available() + ["mps"] * torch.backends.mps.is_available()
    if name == "auto":
        return found[-1]
    if name not in found:
        raise SpecError([("device", f"{name!r} was asked for, but this machine has only: {', '.join(found)}")])
    return name


def device_on(engine: Engine, name: str) -> str:
    """The device of tasks under an engine: of this machine, or what a distant engine gives them."""
    if not engine.distant:
        return choose_device(name)
    if name == "auto":
        return "cuda" if engine.share else "cpu"
    if name not in ("cpu", "cuda"):
        known = nearest(name, ["auto", "cpu", "cuda"])
        raise SpecError([("device", f"no device of other machines is called {name!r}; {known}")])
    if name == "cuda" and not engine.share:
        raise SpecError([("device", f"'cuda' was asked for, but {engine} gives no task a part of a GPU: say its gpus")])
    return name
