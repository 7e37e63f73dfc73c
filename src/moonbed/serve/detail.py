"""One run in full: configuration, losses, and what its experiments measured, as plain JSON values."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from moonbed.component import SpecError
from moonbed.experiments.rows import floor_of
from moonbed.experiments.spec import Experiment
from moonbed.experiments.storage.folder import Folder, StoreError
from moonbed.experiments.storage.store import Store
from moonbed.metrics import Metric
from moonbed.serve.index import Index, losses, patiently, thinned

__all__ = ["detail"]

POINTS = 1_000
"""Points of the loss curve."""


def detail(index: Index, key: str) -> dict[str, Any] | None:
    """The run's line in the list, with `spec`, `log` and the metrics of its experiments; None for an unknown id."""
    run, folder = index.run(key), index.folder(key)
    if run is None or folder is None:
        return None
    try:
        more: dict[str, Any] = patiently(lambda: _more(index.store, folder, run))
    except Exception as error:  # damaged, or written by something else: said in the page, which stays
        message = str(error) if isinstance(error, StoreError) else f"{type(error).__name__}: {error}"
        return {**run, "status": "damaged", "message": run["message"] or message, "spec": None, "log": []}
    return {**run, **more}


def _more(store: Store, folder: Folder, run: Mapping[str, Any]) -> dict[str, Any]:
    found, record = folder.read_json("training.json"), folder.record()
    inner = [folder.inner(e["id"]) for e in run["experiments"]]
    configurations = [e.read_json("experiment.json") or {"spec": {}} for e in inner]
    spec = found["spec"] if found else configurations[0]["spec"]["training"] if configurations else None
    log = losses(folder, record, folder.read_json("checkpoint.json")) if found else []
    experiments = []
    for line, kept, configuration in zip(run["experiments"], inner, configurations, strict=True):
        own = {key: value for key, value in configuration["spec"].items() if key != "training"}
        experiments.append({**line, "spec": own, "values": _values(store, kept, configuration["spec"])})
    versions = (record or {}).get("versions", {})
    return {"spec": spec, "log": thinned(log, POINTS), "experiments": experiments, "versions": versions}


def _values(store: Store, folder: Folder, spec: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The stored values with their doubt: interval over evaluation draws, and the floor where the store has one."""
    try:
        experiment: Experiment | None = Experiment.parse(spec)
    except SpecError:  # of a class that is not known here
        experiment = None
    out = []
    for file in folder.names("metrics/*.json"):
        stored = folder.read_json(file)
        if stored is None:
            continue
        label, floor = str(stored["metric"]["type"]), None
        try:
            metric = Metric.parse(stored["metric"])
            label = metric.label
            floor = floor_of(store, experiment.law, metric, experiment.n) if experiment else None
        except SpecError:
            pass
        ends = [_number(end) for end in stored.get("interval") or []]
        text = stored.get("details", {}).get("text") or stored.get("details", {}).get("sentence")
        out.append(
            {
                "metric": label,
                "value": _number(stored["value"]),
                "interval": ends or None,
                "floor": [_number(floor.lo), _number(floor.hi)] if floor else None,
                "draws": floor.draws if floor else 0,
                "text": text if isinstance(text, str) else "",
            }
        )
    return sorted(out, key=lambda value: json.dumps(value["metric"]))


def _number(value: Any) -> float | str:
    """A number that JSON has, or the name of one that it has not."""
    value = float(value)
    return value if math.isfinite(value) else str(value)
