"""What the system asks of a process that works: Ctrl-C, and the SIGTERM and SIGHUP of schedulers and closed terminals.

All three end the work in the same way: as a `KeyboardInterrupt`, at which a training keeps its last good block. The
exit status is that of a shell, 128 and the number of the signal. What ignores a signal already, as below `nohup`, goes
on to.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["Stopped", "ignored", "interrupt_once", "interrupting", "status"]

_ENDING = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]


class Stopped(KeyboardInterrupt):
    """A signal other than Ctrl-C asked this process to end."""

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(signal.Signals(number).name)


def status(stop: KeyboardInterrupt) -> int:
    """The exit status of a process that ends by it."""
    return 128 + (stop.number if isinstance(stop, Stopped) else signal.SIGINT)


@contextmanager
def interrupting() -> Iterator[None]:
    """SIGTERM and SIGHUP raise `Stopped` inside; where signals cannot be had, in a thread, nothing changes.

    One that comes while a callback of Python's own runs, as there are many during an import, cannot be raised from
    there: it is sent again a moment later. A second one, while generators are closed after the first, is not.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, *_ENDING)}
    report, raised = sys.unraisablehook, list[int]()

    def stop(number: int, frame: FrameType | None) -> None:
        raised.append(number)
        _stop(number, frame)

    sys.unraisablehook = _sent_again(raised)
    for number, handler in before.items():
        if handler in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, stop)
    try:
        yield
    finally:
        sys.unraisablehook = report
        for number, handler in before.items():
            signal.signal(number, handler)


def interrupt_once() -> None:
    """The first of the signals raises, and those after it are ignored: a terminal and a parent both send one.

    For the rest of this process. As with `interrupting`, one that cannot be raised where it comes is sent again.
    """
    raised = list[int]()

    def first(number: int, frame: FrameType | None) -> None:
        if not raised:
            raised.append(number)
            _stop(number, frame)

    sys.unraisablehook = _sent_again(raised)
    for number in (signal.SIGINT, *_ENDING):
        signal.signal(number, first)


def _sent_again(raised: list[int]) -> Callable[[sys.UnraisableHookArgs], None]:
    """A hook for exceptions that could not be raised: the first signal that was is sent again, and `raised` emptied."""
    report = sys.unraisablehook

    def lost(found: sys.UnraisableHookArgs) -> None:
        if not isinstance(found.exc_value, KeyboardInterrupt):
            report(found)
        elif len(raised) == 1:
            again = threading.Timer(0.05, os.kill, (os.getpid(), raised.pop()))
            again.daemon = True
            again.start()

    return lost


def ignored() -> None:
    """From now on none of the signals ends this process.

    Not by SIG_IGN: of one that has come already, Python would say that it was "ignored due to race condition".
    """
    for number in (signal.SIGINT, *_ENDING):
        signal.signal(number, _nothing)


def _nothing(number: int, frame: FrameType | None) -> None:
    pass


def _stop(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt if number == signal.SIGINT else Stopped(number)
