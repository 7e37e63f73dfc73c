"""TensorBoard, Weights & Biases and MLflow as trackers. Each is an extra: `pip install 'moonbed[tensorboard]'`.

One run of the tool is one experiment, by its id: which steps it holds is asked of the tool's own files, so that a
command that is given again adds what is missing and nothing twice. Nothing is sent anywhere unless it is asked for: W&B
is offline unless its mode is "online", its reports about itself and MLflow's count of its users are turned off.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from moonbed.component import SpecError
from moonbed.experiments.storage.folder import Folder
from moonbed.experiments.trackers import Log, Run, Tracker

__all__ = ["MLflow", "TensorBoard", "WandB"]

FINAL = "final/"
"""What TensorBoard's tags of a run's numbers begin with."""
AT_ONCE = 50
"""Steps that are handed to MLflow together."""


def _installed(package: str, extra: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise SpecError([("track", f"this needs {package}: pip install 'moonbed[{extra}]'")])


class TensorBoard(Tracker):
    """Event files, a folder a run: `tensorboard --logdir tb`."""

    folder: str = "tb"

    def require(self) -> None:
        _installed("tensorboard", "tensorboard")

    def open(self, run: Run) -> Log:
        return _Board(Path(self.folder), run)


class _Board(Log):
    def __init__(self, folder: Path, run: Run) -> None:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        there = sorted(folder.glob(f"*-{run.id}"))
        self.path = there[0] if there else folder / f"{_plain(run.name)}-{run.id}"
        if there:
            found = EventAccumulator(str(self.path), size_guidance={"scalars": 0})
            found.Reload()
            tags = found.Tags()["scalars"]
            self.seen = max((event.step for event in found.Scalars("loss")), default=0) if "loss" in tags else 0
            self.over = any(tag.startswith(FINAL) for tag in tags)
        self._writer: Any = None
        self._run, self._new = run, not there

    @property
    def writer(self) -> Any:
        """The writer, made at the first thing to write: no file for a run that is there already."""
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self.path))
            if self._new:
                lines = "".join(f"    {k}: {v}\n" for k, v in self._run.configuration.items())
                self._writer.add_text("configuration", lines)
        return self._writer

    def step(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def finish(self, values: Mapping[str, float], status: str) -> None:
        for name, value in values.items():
            self.writer.add_scalar(f"{FINAL}{name}", value, 0)
        self.writer.add_text("status", status)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


class WandB(Tracker):
    """Weights & Biases, offline unless said: `wandb sync` sends what is below `folder` when you want it to."""

    project: str = "moonbed"
    mode: Literal["offline", "online"] = "offline"
    folder: str = "."

    def require(self) -> None:
        _installed("wandb", "wandb")

    def open(self, run: Run) -> Log:
        return _Weights(self, run)


class _Weights(Log):
    """What of an offline run is written already is said by a small file beside it: W&B has none that says it."""

    note: ClassVar[str] = "moonbed-{}.json"

    def __init__(self, tracker: WandB, run: Run) -> None:
        self.tracker, self.run = tracker, run
        self.state = Path(tracker.folder) / "wandb" / self.note.format(run.id)
        if self.state.is_file() and list(self.state.parent.glob(f"*run-*-{run.id}")):
            kept = json.loads(self.state.read_text(encoding="utf-8"))
            self.seen, self.over = int(kept["seen"]), bool(kept["over"])
        self._last = self.seen
        self._open: Any = None

    @property
    def open(self) -> Any:
        """The run of W&B, begun at the first thing to write."""
        if self._open is None:
            if self.tracker.mode == "offline":  # else it looks up its server for reports about itself
                os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
            import wandb

            settings = wandb.Settings(
                silent=True, console="off", disable_git=True, save_code=False, x_disable_stats=True, x_disable_meta=True
            )
            self._open = wandb.init(
                project=self.tracker.project,
                dir=self.tracker.folder,
                mode=self.tracker.mode,
                id=self.run.id,
                name=self.run.name,
                config=self.run.configuration,
                resume="allow" if self.tracker.mode == "online" else None,
                reinit="create_new",
                settings=settings,
            )
        return self._open

    def step(self, step: int, values: Mapping[str, float]) -> None:
        self.open.log(dict(values), step=step)
        self._last = step
        self._note()

    def finish(self, values: Mapping[str, float], status: str) -> None:
        self.open.summary.update({**values, "status": status})
        self.over = True

    def close(self) -> None:
        if self._open is not None:
            self._open.finish(exit_code=0)
            self._note()

    def _note(self) -> None:
        Folder(self.state.parent).write(self.state.name, json.dumps({"seen": self._last, "over": self.over}).encode())


class MLflow(Tracker):
    """MLflow, in a file of SQLite unless said, or on a server: `mlflow ui --backend-store-uri sqlite:///mlruns.db`."""

    uri: str = "sqlite:///mlruns.db"
    experiment: str = "moonbed"

    def require(self) -> None:
        _installed("mlflow", "mlflow")

    def open(self, run: Run) -> Log:
        return _Flow(self, run)


class _Flow(Log):
    tag: ClassVar[str] = "moonbed.id"

    def __init__(self, tracker: MLflow, run: Run) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_ENABLE_DB_SDK", "true")
        from mlflow import MlflowClient

        self.client = MlflowClient(tracking_uri=tracker.uri)
        home = self.client.get_experiment_by_name(tracker.experiment)
        place = home.experiment_id if home else self.client.create_experiment(tracker.experiment)
        there = self.client.search_runs([place], f"tags.`{self.tag}` = '{run.id}'", max_results=1)
        if there:
            self.key = there[0].info.run_id
            losses = self.client.get_metric_history(self.key, "loss")
            self.seen = max((metric.step for metric in losses), default=0)
            self.over = there[0].info.status in ("FINISHED", "FAILED")
        else:
            self.key = self.client.create_run(place, tags={self.tag: run.id}, run_name=run.name).info.run_id
            self._write(params=run.configuration)
        self._steps: list[tuple[str, float, int]] = []

    def step(self, step: int, values: Mapping[str, float]) -> None:
        self._steps += [(name, value, step) for name, value in values.items()]
        if len(self._steps) >= AT_ONCE:
            self._flush()

    def finish(self, values: Mapping[str, float], status: str) -> None:
        self._steps += [(_plain(name, " /."), value, 0) for name, value in values.items()]
        self._flush()
        self.client.set_tag(self.key, "status", status)
        self.client.set_terminated(self.key, "FINISHED" if status == "done" else "FAILED")

    def close(self) -> None:
        self._flush()

    def _flush(self) -> None:
        if self._steps:
            self._write(metrics=self._steps)
            self._steps = []

    def _write(self, metrics: Any = (), params: Mapping[str, Any] | None = None) -> None:
        import time

        from mlflow.entities import Metric, Param

        now = int(1000 * time.time())
        listed = [Param(_plain(k, " /."), str(v)[:500]) for k, v in (params or {}).items()]
        for k in range(0, len(listed), 100):
            self.client.log_batch(self.key, params=listed[k : k + 100])
        if metrics:
            self.client.log_batch(self.key, metrics=[Metric(name, value, now, step) for name, value, step in metrics])


def _plain(name: str, also: str = "") -> str:
    """A name without what a file system, or a tool, does not take."""
    return re.sub(rf"[^A-Za-z0-9_=.,{re.escape(also)}-]+", "-", name)[:120].strip("-") or "run"
