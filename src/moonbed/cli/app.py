"""The application, the options that several commands share, and the entry point."""

from __future__ import annotations

import errno
import io
import os
import shlex
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

from cyclopts import App, CycloptsError, Parameter

import moonbed
from moonbed import signals
from moonbed._shown import printable
from moonbed.component import SpecError

if TYPE_CHECKING:
    from moonbed.experiments.engines import Engine

app = App(
    name="moonbed",
    version=moonbed.__version__,
    help="A test bed for diffusion and flow models on distributions whose exact law is known.",
    help_epilogue="Configurations are named by an id; what `runs/` holds is not computed again. Exit status: 0 done, "
    "1 a law is broken (`check`) or a file damaged (`verify`), 2 bad input or a run that diverged, 130 interrupted, "
    "143 or 129 ended by SIGTERM or SIGHUP (the same command goes on).",
    suppress_keyboard_interrupt=False,
)

StoreOption = Annotated[
    str,
    Parameter(
        help="Folder of the runs, or a URL (s3://bucket/runs); the environment variable MOONBED_STORE names another."
    ),
]
DeviceOption = Annotated[str, Parameter(help="cpu, cuda, mps, or auto for the fastest of them here.")]
QuietOption = Annotated[bool, Parameter(negative="", help="No progress on standard error.")]
CsvOption = Annotated[Path | None, Parameter(name="--csv", help="Write the table as CSV to this file as well.")]
TrackOption = Annotated[
    str | None,
    Parameter(help="Who hears of the runs: TensorBoard, WandB, MLflow; names or JSON, with commas."),
]
JsonOption = Annotated[bool, Parameter(name="--json", negative="", help="Print JSON on standard output.")]


@Parameter(name="*")
@dataclass(frozen=True)
class EngineOptions:
    """Where the work is done. Results do not depend on it."""

    jobs: Annotated[
        int | None, Parameter(help="Tasks at once; one a core unless said, or as many as a cluster has room for.")
    ] = None
    engine: Annotated[str, Parameter(help="local: processes of this machine; ray; slurm. By name or as JSON.")] = (
        "local"
    )
    address: Annotated[
        str | None, Parameter(help="A running Ray: auto, or host:port; one of its own on this machine unless said.")
    ] = None
    cpus: Annotated[float | None, Parameter(help="Cores a task, on a cluster.")] = None
    gpus: Annotated[float | None, Parameter(help="GPUs a task, on a cluster; under Ray also a part of one.")] = None

    def make(self) -> Engine:
        """The engine. Raises `SpecError` for an unknown name, and for an option that the engine does not have."""
        from moonbed.experiments.engines import cores, engine_of

        if self.jobs is not None and self.jobs < 1:
            raise SpecError([("--jobs", f"should be at least 1, given {self.jobs}")])
        here = self.engine.lower() == "local" and self.jobs is None
        given = {"address": self.address, "cpus": self.cpus, "gpus": self.gpus}
        try:
            return engine_of(self.engine, cores() if here else self.jobs, **given)
        except SpecError as error:
            raise SpecError([(f"--{place}" if place else "--engine", why) for place, why in error.problems]) from None


LOCAL = EngineOptions()
STORE = os.environ.get("MOONBED_STORE", "runs")

_given: list[str] = []


def command_line() -> str:
    """The command as it was given, to be given again."""
    return shlex.join(["moonbed", *_given])


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Entry point of the `moonbed` command."""
    _open_streams()
    _given[:] = sys.argv[1:] if arguments is None else arguments
    try:
        with signals.interrupting():
            code = app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
            sys.stdout.flush()
    except CycloptsError as error:
        code = _tell(2, str(error))
    except SpecError as error:
        code = _tell(2, *(f"{place}: {message}" if place else message for place, message in error.problems))
    except KeyboardInterrupt as stop:
        text = "interrupted; what was done is kept, and the same command goes on from there"
        code = _tell(signals.status(stop), text)
    except RuntimeError as error:
        if type(error).__name__ != "StoreError":
            raise
        code = _tell(2, str(error))
    except OSError as error:
        if error.filename is not None or error.errno not in _FULL:
            raise
        code = _unread(_tell(2, f"cannot write the output: {error.strerror}"))
    sys.exit(code or 0)


class _Stream(io.FileIO):
    """An output of this process. When its reader has seen enough, as `head` has, the rest goes nowhere: the command
    does its work, and its exit status is that of the work.
    """

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            _unread(0, self.fileno())
            return len(data)


def _open_streams() -> None:
    """Standard output and error that may lose their readers, or had none from the beginning (`>&-`)."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115, PTH123
        elif stream is getattr(sys, f"__{name}__"):
            stream.flush()
            raw, lines = _Stream(stream.fileno(), "w", closefd=False), stream.line_buffering
            text = io.TextIOWrapper(io.BufferedWriter(raw), stream.encoding, stream.errors, line_buffering=lines)
            setattr(sys, name, text)


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG)


def _tell(code: int, *lines: str) -> int:
    """Say on standard error what went wrong, if somebody still reads it; the exit status, as it is given."""
    with suppress(OSError):
        sys.stderr.write("".join(f"moonbed: {printable(' '.join(line.split()))}\n" for line in lines))
        sys.stderr.flush()
    return code


def _unread(code: int, number: int = 1) -> int:
    """Let what is still to be printed go nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, number)
    os.close(nowhere)
    return code
