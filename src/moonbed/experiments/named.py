"""What a user calls an experiment: a preset, one of a Python file, or a stored run by the beginning of its id."""

from __future__ import annotations

from moonbed.component import SpecError, nearest, parse_overrides
from moonbed.experiments.plugins import experiments_in
from moonbed.experiments.presets import PRESETS
from moonbed.experiments.spec import Experiment
from moonbed.experiments.storage.folder import Folder, StoreError
from moonbed.experiments.storage.runs import load_spec
from moonbed.experiments.storage.store import Store

__all__ = ["find_experiment"]


def find_experiment(text: str, store: Store) -> tuple[str, Experiment]:
    """Name and experiment of `preset`, `file.py`, `file.py:name` or an id, each with changes behind it if wanted.

    `"ema sampler.steps=64"` is the preset `ema` with one field changed. Raises `SpecError` for what is not there, with
    the nearest valid name, and for what could be several.
    """
    words = text.split()
    if not words:
        raise SpecError([("", f"name a preset, a file.py:name or the id of a run, given {text!r}")])
    combinations = parse_overrides(words[1:])
    if len(combinations) > 1:
        raise SpecError([(text, "names several experiments; give one value a field")])
    return text, _plain(words[0], store).replace(**combinations[0])


def _plain(name: str, store: Store) -> Experiment:
    if name in PRESETS:
        return PRESETS[name]
    path, _, key = name.rpartition(":") if ".py:" in name else (name, "", "")
    if path.endswith(".py"):
        found = experiments_in(path)
        if not key and len(found) == 1:
            return next(iter(found.values()))
        key = next((name for name in found if name.rpartition(", ")[2] == key), key)  # `Heun3` is "fast, Heun3"
        if key not in found:
            given = f"no experiment {key!r}" if key else f"{len(found)} experiments; say which, as {path}:NAME"
            raise SpecError([("", f"{path} has {given}; {nearest(key, found)}")])
        return found[key]
    hits = store.find(name) if len(name) >= 4 and name.isalnum() else []
    folders = {folder.path for kind, folder in hits if kind == "Experiment"}
    for kind, folder in hits:
        if kind == "Training":
            folders |= {folder.path / name.split("/")[0] for name in folder.names("*/experiment.json")}
    if len(folders) > 1:
        ids = ", ".join(sorted(path.name for path in folders))
        raise SpecError([("", f"{name!r} could be {len(folders)} experiments: {ids}")])
    if not folders:
        raise SpecError([("", f"no preset, file or run in {store.root} is called {name!r}; {nearest(name, PRESETS)}")])
    folder = Folder(folders.pop(), store.readonly)
    try:
        return Experiment.parse(load_spec(folder, Experiment))
    except StoreError as error:
        raise SpecError([("", str(error))]) from None
