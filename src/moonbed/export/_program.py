"""A denoiser as one computation, x_t (n, dim) and t (n,) float64 -> E[x_0 | x_t] (n, dim) for any n: torch's, or ONNX.

`torch.export` runs the denoiser once on symbols and writes down what it does to them. Three things it cannot see are
said to it: the length of a batch, which Python takes for a number; the blocks of rows, which only save time; and the
derivative of a schedule, which autograd computes and is written down first.
"""

from __future__ import annotations

import builtins
import importlib.util
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, TypeAlias
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

from moonbed.component import SpecError
from moonbed.diffusion import Denoiser, Schedule, denoisers

__all__ = ["onnx_bytes", "torch_bytes"]

Slopes: TypeAlias = Callable[[Tensor], tuple[Tensor, Tensor]]
_LARGEST = 2**31  # rows
_EXAMPLE = 5


class Program(nn.Module):
    """The denoiser as a module."""

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.networks = nn.ModuleList(_networks(denoiser))

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        """(n, dim): the estimate of E[x_0 | x_t]."""
        return self.denoiser(x_t, t)


def _networks(denoiser: Denoiser) -> Iterator[nn.Module]:
    for value in vars(denoiser).values():
        if isinstance(value, nn.Module):
            yield value
        elif isinstance(value, Denoiser):
            yield from _networks(value)


def torch_bytes(denoiser: Denoiser, dim: int, about: str) -> bytes:
    """A .pt2 file for `torch.export.load`, with `about` as its extra file moonbed.json."""
    out = io.BytesIO()
    program = _traced(denoiser, dim)
    x, t = torch.linspace(-2, 2, 3 * dim).reshape(3, dim), torch.tensor([0.0, 0.4, 1.0], dtype=torch.float64)
    if not torch.allclose(program.module()(x, t), denoiser(x, t), rtol=1e-6, atol=1e-6):
        raise SpecError([("", "torch wrote the model down wrongly: its program gives other numbers")])
    torch.export.save(program, out, extra_files={"moonbed.json": about})
    return out.getvalue()


def onnx_bytes(denoiser: Denoiser, dim: int, about: str) -> bytes:
    """An .onnx file with the inputs x_t and t and the output x_0, with `about` in its metadata as moonbed."""
    for package in ("onnx", "onnxscript"):
        if importlib.util.find_spec(package) is None:
            message = f"the format onnx needs the package {package}: pip install 'moonbed[onnx]'"
            raise SpecError([("--format", message)])
    with _quiet():
        program = torch.onnx.export(_traced(denoiser, dim), dynamo=True, verbose=False, output_names=["x_0"])
    assert program is not None
    model = program.model_proto
    entry = model.metadata_props.add()
    entry.key, entry.value = "moonbed", about
    return model.SerializeToString()


def _traced(denoiser: Denoiser, dim: int) -> torch.export.ExportedProgram:
    x, t = torch.zeros(_EXAMPLE, dim), torch.linspace(0.1, 0.9, _EXAMPLE, dtype=torch.float64)
    denoiser(x, t)  # what a schedule keeps is kept before the symbols come
    rows = torch.export.Dim("n", max=_LARGEST)
    try:
        with _quiet(), _whole(_slopes(denoiser, t)):
            program = Program(denoiser).eval()
            return torch.export.export(program, (x, t), dynamic_shapes=({0: rows}, {0: rows}), strict=False)
    except Exception as error:
        text = str(error).split("\n")[0]
        raise SpecError([("", f"torch cannot write this model down for any number of rows: {text}")]) from error


def _slopes(denoiser: Denoiser, t: Tensor) -> dict[Schedule, Slopes]:
    """The derivatives of the schedules of a denoiser, written down."""
    out: dict[Schedule, Slopes] = {}
    for value in vars(denoiser).values():
        if isinstance(value, Denoiser):
            out |= _slopes(value, t)
        elif isinstance(value, Schedule):
            out[value] = _slope(value, t)
    return out


def _slope(schedule: Schedule, t: Tensor) -> Slopes:
    def derivatives(t: Tensor) -> tuple[Tensor, Tensor]:
        return schedule.derivatives(t)

    return make_fx(derivatives, tracing_mode="symbolic", _allow_non_fake_inputs=True)(t)


@contextmanager
def _whole(slopes: Mapping[Schedule, Slopes]) -> Iterator[None]:
    """What the tracer cannot see, in a form in which it can."""
    length = builtins.len

    def rows(value: Any) -> int:
        return value.shape[0] if isinstance(value, Tensor) else length(value)

    def derivatives(schedule: Schedule, t: Tensor) -> tuple[Tensor, Tensor]:
        return slopes[schedule](t)

    with ExitStack() as stack:
        stack.enter_context(patch.object(builtins, "len", rows))
        stack.enter_context(patch.object(denoisers, "ROWS", _LARGEST))
        stack.enter_context(patch.object(Schedule, "derivatives", derivatives))
        yield


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporters say of packages that they could use."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)
