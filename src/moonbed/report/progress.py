"""Progress: bars with rate and loss on a terminal, a line for each finished stage elsewhere, one line in a notebook."""

from __future__ import annotations

import math
import sys
import time
import warnings
from html import escape
from types import TracebackType
from typing import Any, Self

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import Task as RichTask
from rich.text import Text

from moonbed.report.terminal import Terminal

__all__ = ["Bars", "Cell", "bars"]


class _Rate(ProgressColumn):
    def render(self, task: RichTask) -> Text:
        return Text(f"{task.speed:,.0f}/s" if task.speed else "", style="cyan")


class _Console(Terminal):
    """Standard error; where nobody reads it any more, the work goes on without a word."""

    def on_broken_pipe(self) -> None:
        self.quiet = True


class Bars:
    """A bar for each (name, stage) that is under way. With `quiet` it shows nothing."""

    def __init__(self, quiet: bool = False) -> None:
        self.console = _Console(stderr=True, quiet=quiet)
        self._bars: dict[tuple[str, str], TaskID] = {}
        self._started: dict[tuple[str, str], float] = {}
        self._live = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            _Rate(),
            TextColumn("{task.fields[note]}", markup=False),
            TimeRemainingColumn(compact=True),
            console=self.console,
            transient=True,
            disable=quiet or not self.console.is_terminal,
        )

    def __enter__(self) -> Self:
        if not self._live.disable:  # older versions of rich print an empty line all the same
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._live.disable:
            self._live.stop()

    def show(self, name: str, event: Any) -> None:
        """Move the bar of a stage to where a progress event says."""
        key = (name, event.stage)
        if key not in self._bars:
            for other in [k for k in self._bars if k[0] == name]:
                self._live.remove_task(self._bars.pop(other))
            self._bars[key] = self._live.add_task(f"{name}: {event.stage}", total=event.total, note="")
            self._started[key] = time.monotonic()
        self._live.update(self._bars[key], completed=event.done, total=event.total, note=event.note)
        if event.done >= event.total:
            self._live.remove_task(self._bars.pop(key))
            if event.stage in ("train", "floor"):
                spent = time.monotonic() - self._started[key]
                self.say(f"{name}: {event.stage} {event.total:,} in {spent:.0f} s {event.note}".rstrip())

    def say(self, line: str) -> None:
        """Print a line above the bars."""
        self.console.print(line, style="dim", highlight=False, markup=False)


class Cell:
    """The stage that is under way as one line in the output of a notebook's cell; it is gone at the end.

    Drawn anew at most five times a second, by HTML alone: neither ipywidgets nor a script is needed.
    """

    def __init__(self) -> None:
        self._drawn = -math.inf
        self._handle: Any = None

    def __enter__(self) -> Self:
        warnings.filterwarnings("ignore", "IProgress not found")  # of tqdm, which others import: not ours to install
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._handle is not None:
            self._draw("")

    def show(self, name: str, event: Any) -> None:
        """Say where a stage is."""
        if time.monotonic() - self._drawn < 0.2:
            return
        self._drawn = time.monotonic()
        bar = f'<progress max="{event.total}" value="{event.done}" style="vertical-align:middle"></progress>'
        text = f"{escape(name)}: {escape(event.stage)} {event.done:,} of {event.total:,} {escape(event.note)}"
        self._draw(f"{bar} <small>{text}</small>")

    def _draw(self, html: str) -> None:
        from IPython.display import display

        data = {"text/html": html, "text/plain": ""}
        if self._handle is None:
            self._handle = display(data, raw=True, display_id=True)
        else:
            self._handle.update(data, raw=True)


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return getattr(shell, "kernel", None) is not None


def bars(quiet: bool = False) -> Bars | Cell:
    """Progress for a call from Python: in the cell of a notebook, on standard error of a terminal, else nowhere."""
    if in_notebook() and not quiet:
        return Cell()
    return Bars(quiet or not Terminal(stderr=True).is_terminal)
