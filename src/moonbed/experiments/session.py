"""A training under way and its folder: what is saved meanwhile, and what is written when it is over."""

from __future__ import annotations

import platform
import time
from typing import TYPE_CHECKING, Any

import moonbed
from moonbed._lazy import lazy_import
from moonbed.diffusion import Denoiser
from moonbed.experiments.engines import Progress
from moonbed.experiments.spec import Training
from moonbed.experiments.storage.folder import Folder
from moonbed.experiments.storage.runs import drop_checkpoint, load_checkpoint, resumed, save_checkpoint, save_spec
from moonbed.experiments.train import Diverged, State

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = lazy_import("torch")

__all__ = ["Session", "versions"]

CHECKPOINT_SECONDS = 1.0
"""A training under way is saved about this often, and when it is interrupted: that is what whoever watches it sees."""
CHECKPOINT_SHARE = 0.02
"""Largest share of the time that goes into saving: what takes long to save is saved less often."""


class Session:
    """A training under way and its folder."""

    def __init__(self, folder: Folder, training: Training, device: str, teacher: Denoiser | None) -> None:
        save_spec(folder, training)
        self.folder, self.training, self.device = folder, training, device
        self.state, self._before = State(training, device, teacher), 0.0
        self._resumed = resumed(folder)
        if (kept := load_checkpoint(folder)) is not None:
            tensors, step, log, self._before = kept
            self.state.load(tensors, step, log)
            self._resumed.append(step)
        self._good: tuple[dict[str, Tensor], int, list[dict[str, float]]] | None = None
        self._done = False
        self._clock = self._saved = time.monotonic()
        self._pause = CHECKPOINT_SECONDS

    @property
    def seconds(self) -> float:
        return self._before + time.monotonic() - self._clock

    def block(self) -> Progress:
        """Note that a block is done, and save it now and then."""
        self._good = self.state.snapshot()
        if time.monotonic() - self._saved > self._pause and self.state.step < self.training.steps:
            self.keep()
        loss = self.state.log[-1]["loss"]
        return Progress("train", self.state.step, self.training.steps, f"loss {loss:.4f}", {"loss": loss})

    def keep(self) -> None:
        """Save the last good block: not the state itself, since an interrupt comes in the middle of one."""
        if self._good is not None and not self._done:
            start = time.monotonic()
            save_checkpoint(self.folder, *self._good, self.seconds, self._resumed)
            self._saved = time.monotonic()
            self._pause = CHECKPOINT_SECONDS * max(1.0, (self._saved - start) / CHECKPOINT_SHARE)

    def finish(self, error: Diverged | None = None) -> None:
        """Write what came of it, once."""
        from safetensors.torch import save

        if self._done:
            return
        state = self.state
        status: dict[str, Any] = {"status": "done"}
        if error is not None:
            status = {"status": "diverged", "message": f"{error}; kept the weights of step {state.step:,}"}
        weights = save({k: v.contiguous() for k, v in state.weights_for_sampling().items()})
        lines = "".join(f'{{"step": {line["step"]}, "loss": {line["loss"]!r}}}\n' for line in state.log)
        record = {
            **status,
            "id": self.training.id,
            "step": state.step,
            "parameters": sum(w.numel() for w in state.weights),
            "seconds": self.seconds,
            "resumed": self._resumed,
            "device": self.device,
            "versions": versions(),
        }
        files = {"weights.safetensors": weights, "log.jsonl": lines.encode()}
        if state.snapshots:
            files["snapshots.safetensors"] = save({str(step): rows for step, rows in state.snapshots.items()})
        self.folder.finish(record, files)
        drop_checkpoint(self.folder)
        self._done = True


def versions() -> dict[str, str]:
    """What a record says of the programs that made it."""
    return {"moonbed": moonbed.__version__, "torch": torch.__version__, "python": platform.python_version()}
