"""Tensors from a file held against the network that a configuration builds, before they are used for anything.

The network is built without memory for its weights (torch's device `meta`), and no further than the file has tensors
for: a configuration may ask for a billion layers. A density's masks cannot be made like that; it is built as it is if
its sizes are small enough.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from moonbed._lazy import lazy_import
from moonbed.component import SpecError
from moonbed.experiments.spec import Training

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
else:
    torch = lazy_import("torch")

__all__ = ["WrongTensors", "check_checkpoint", "check_snapshots", "check_weights"]

SMALL = 1 << 14
"""Sum of the sizes in a configuration whose network may be built with all that belongs to it."""


class WrongTensors(ValueError):
    """Tensors that are not those of the network; the message says which."""


def check_weights(data: bytes, training: Training | None) -> None:
    """Hold weights against the network of a training, where it is known."""
    found = _tensors(data)
    if training is not None and (network := _network(training, len(found))) is not None:
        _compare(found, network.state_dict())


def check_snapshots(data: bytes, training: Training) -> None:
    """Hold averages by step against the number of weights and of averages."""
    found = _tensors(data)
    steps = [int(name) for name in found if name.isascii() and name.isdecimal() and len(name) < 13]
    if len(steps) != len(found) or any(step > training.steps for step in steps) or training.averaging is None:
        raise WrongTensors("holds no averages by step of this training")
    shapes = {tuple(v.shape) for v in found.values()}
    if len(shapes) > 1 or any(len(s) != 2 or s[0] != training.averaging.count for s in shapes):
        raise WrongTensors(f"should hold {training.averaging.count} averages a step, and has {sorted(shapes)}")
    for _, weights in shapes:
        if (network := _network(training, weights)) is not None:
            count = sum(w.numel() for w in network.parameters() if w.requires_grad)
            if count != weights:
                raise WrongTensors(f"should hold averages of {count} weights, and has {weights}")


def check_checkpoint(data: bytes, training: Training | None) -> None:
    """Hold the state of a training under way against its network."""
    found = _tensors(data)
    inner = {name.removeprefix("network."): v for name, v in found.items() if name.startswith("network.")}
    known = ("network.", "optimizer.", "snapshot.", "averages")
    if strange := [name for name in found if not name.startswith(known)]:
        raise WrongTensors(f"holds {strange[0]!r}, which is no part of a training's state")
    if training is not None and (network := _network(training, len(inner))) is not None:
        _compare(inner, network.state_dict())


def _tensors(data: bytes) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return load(data)
    except (SafetensorError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise WrongTensors(f"is no safetensors file: {error}") from None


def _compare(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    for name in [*wanted, *found]:
        if name not in found or name not in wanted:
            raise WrongTensors(f"{'lacks' if name in wanted else 'has'} the tensor {name!r}, against its configuration")
        is_, should = ((tuple(t[name].shape), t[name].dtype) for t in (found, wanted))
        if is_ != should:
            raise WrongTensors(f"{name} should be {should[0]} {should[1]}, and is {is_[0]} {is_[1]}")


def _network(training: Training, tensors: int) -> nn.Module | None:
    """The network with no more tensors than these, None where its dimensions are those of data that are elsewhere."""
    try:
        training.target.dim  # noqa: B018  (it is what may be missing)
    except SpecError:
        return None
    with _at_most(tensors):
        try:
            with torch.device("meta"):
                return training.build()
        except NotImplementedError:
            pass
        if sum(_sizes([training.network.spec(), training.target.dim])) > SMALL:
            raise WrongTensors("belongs to a network that is too large to be built for a look")
        return training.build()


@contextmanager
def _at_most(tensors: int) -> Iterator[None]:
    count = 0

    def counted(module: Any, name: str, parameter: Any) -> None:
        nonlocal count
        count += parameter is not None
        if count > tensors:
            raise WrongTensors(f"holds {tensors} tensors, fewer than its configuration builds")

    handle = torch.nn.modules.module.register_module_parameter_registration_hook(counted)
    try:
        yield
    finally:
        handle.remove()


def _sizes(spec: Any) -> Iterator[int]:
    if isinstance(spec, int) and not isinstance(spec, bool):
        yield abs(spec)
    for part in spec.values() if isinstance(spec, dict) else spec if isinstance(spec, list) else ():
        yield from _sizes(part)
