"""Progress on standard error: bars with rate and loss on a terminal, a line for each finished stage elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any, Self

from rich.console import Console
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

__all__ = ["Bars"]


class _Rate(ProgressColumn):
    def render(self, task: RichTask) -> Text:
        return Text(f"{task.speed:,.0f}/s" if task.speed else "", style="cyan")


class Bars:
    """A bar for each (name, stage) that is under way. With `quiet` it shows nothing."""

    def __init__(self, quiet: bool = False) -> None:
        self.console = Console(stderr=True, quiet=quiet)
        self._bars: dict[tuple[str, str], TaskID] = {}
        self._started: dict[tuple[str, str], float] = {}
        self._live = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            _Rate(),
            TextColumn("{task.fields[note]}"),
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
