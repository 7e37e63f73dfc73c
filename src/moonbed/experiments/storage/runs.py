"""The folder of a run: its configuration, the state of a training under way, its log; whether it is what it says.

The pointer to a state, `checkpoint.json`, is written after the file that it points to, and the state before is dropped
after that: whenever a process is killed, one of the two is whole.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from moonbed.component import Component, SpecError
from moonbed.experiments.storage import formats
from moonbed.experiments.storage.folder import Folder, StoreError, addressed

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "drop_checkpoint",
    "load_checkpoint",
    "load_spec",
    "log_of",
    "resumed",
    "save_checkpoint",
    "save_spec",
    "verify_done",
    "verify_run",
]


def save_spec(folder: Folder, component: Component) -> None:
    """Write the configuration of a training or an experiment into its folder."""
    folder.write_json(f"{type(component).__name__.lower()}.json", {"id": component.id, "spec": component.spec()})


def verify_done(folder: Folder, component: Component) -> None:
    """Hold a finished folder against its checksums; a configuration that it lacks is written again."""
    if not folder.readonly and f"{type(component).__name__.lower()}.json" not in folder.names("*.json"):
        save_spec(folder, component)
    verify_run(folder)


def load_spec(folder: Folder, kind: type[Component]) -> Component:
    """The configuration in a folder. Raises `StoreError` where its id is not the folder's name."""
    name = f"{kind.__name__.lower()}.json"
    data = folder.read_json(name)
    if data is None:
        raise StoreError(f"{folder.path / name} is missing")
    try:
        component = kind.parse(data["spec"])
    except SpecError as error:
        raise StoreError(f"{folder.path / name} cannot be read by this version: {error}") from None
    if component.id != folder.path.name:
        raise StoreError(f"{folder.path / name} is not what its folder is named for: its id is now {component.id}")
    return component


def verify_run(folder: Folder) -> None:
    """Hold the JSON files against their seals, and the files of record and checkpoint against their checksums.

    Raises `StoreError`, which names the first that differs, or the configuration that a finished folder lacks.
    """
    found = folder.names("*.json", "metrics/*.json")
    for name in found:
        folder.read_json(name)
    record = folder.record()
    if record is None:
        _verify_checkpoint(folder)
        return
    for name, sha256 in record["files"].items():
        folder.listed(name, sha256)
    if "id" in record and not {"training.json", "experiment.json"} & set(found):
        spec = folder.path / ("experiment.json" if "training" in record else "training.json")
        raise StoreError(f"{spec} is missing; the command that made it writes it again")


def save_checkpoint(
    folder: Folder,
    tensors: dict[str, Tensor],
    step: int,
    log: list[dict[str, float]],
    seconds: float,
    resumed: Sequence[int] = (),
) -> None:
    """Keep the state of a training, and drop the one kept before; `resumed`: where processes went on with it."""
    from safetensors.torch import save

    name, data = f"checkpoint-{step}.safetensors", save({k: v.contiguous() for k, v in tensors.items()})
    name = name if folder.alone else addressed(name, hashlib.sha256(data).hexdigest())
    pointer = {"file": name, "sha256": folder.write(name, data), "step": step, "log": log, "seconds": seconds}
    folder.write_json("checkpoint.json", pointer | {"resumed": list(resumed)})
    _drop(folder, keep=name)


def load_checkpoint(folder: Folder) -> tuple[dict[str, Tensor], int, list[dict[str, float]], float] | None:
    """(tensors, step, log, seconds) of the last checkpoint, None where there is none."""
    pointer = folder.read_json("checkpoint.json")
    if pointer is None:
        return None
    try:
        tensors = folder.loaded(pointer["file"], folder.read(pointer["file"], pointer["sha256"]))
    except StoreError:
        if folder.alone:
            raise
        return None  # another, who trains the same, has dropped it: then from the beginning
    return tensors, pointer["step"], pointer["log"], pointer["seconds"]


def _verify_checkpoint(folder: Folder) -> None:
    """Read the state of a training as it is now: a process at work may replace it meanwhile."""
    while (pointer := folder.read_json("checkpoint.json")) is not None:
        try:
            folder.read(pointer["file"], pointer["sha256"])
            return
        except StoreError:
            if folder.read_json("checkpoint.json") == pointer:
                raise


def resumed(folder: Folder) -> list[int]:
    """The steps at which a process went on with the training from a checkpoint, those of a finished one too."""
    held = folder.record() or folder.read_json("checkpoint.json") or {}
    return [int(step) for step in held.get("resumed", [])]


def log_of(folder: Folder) -> list[tuple[int, float]]:
    """(step, mean loss) of a training: by its log where it is done, by its last checkpoint while it is not."""
    if folder.record() is None:
        return formats.points((folder.read_json("checkpoint.json") or {"log": []})["log"])
    try:
        return formats.log_lines(folder.file("log.jsonl"))
    except ValueError as error:
        raise StoreError(f"{folder.path / 'log.jsonl'} {error}") from None


def drop_checkpoint(folder: Folder) -> None:
    """Forget the state of a training that is done."""
    folder.remove("checkpoint.json")
    _drop(folder, keep=None)


def _drop(folder: Folder, keep: str | None) -> None:
    for name in folder.names("checkpoint-*.safetensors"):
        if name != keep:
            folder.remove(name)
