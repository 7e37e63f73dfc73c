"""The application and its entry point."""

from __future__ import annotations

import errno
import io
import os
import shlex
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NoReturn

from cyclopts import App, CycloptsError

import moonbed
from moonbed import signals
from moonbed._shown import printable
from moonbed.component import SpecError

app = App(
    name="moonbed",
    version=moonbed.__version__,
    help="A test bed for diffusion and flow models on distributions whose exact law is known.",
    help_epilogue="Configurations are named by an id; what `runs/` holds is not computed again. Exit status: 0 done, "
    "1 a law is broken (`check`) or a file damaged (`verify`), 2 bad input or a run that diverged, 130 interrupted, "
    "143 or 129 ended by SIGTERM or SIGHUP (the same command goes on).",
    suppress_keyboard_interrupt=False,
)

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
