"""What the commands print and write: tables, JSON, pictures, progress, and what went wrong."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moonbed._shown import printable
from moonbed.component import Component, SpecError

if TYPE_CHECKING:
    from moonbed.experiments.engines import Failure, Progress
    from moonbed.experiments.results import Result
    from moonbed.experiments.rows import Row


def say(text: str) -> None:
    """Print text with rich's markup."""
    from moonbed.report.terminal import Terminal

    Terminal(highlight=False, soft_wrap=True).print(text)


def escape(text: str) -> str:
    """Text without meaning for rich's markup."""
    from rich.markup import escape

    return escape(text)


def print_json(data: Any) -> None:
    """Print data as JSON; it must hold no NaN and no infinity."""
    sys.stdout.write(printable(json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False)) + "\n")


def show_component(component: Component, record: Mapping[str, Any], as_json: bool) -> int:
    """Print a configuration with its id and record."""
    if as_json:
        print_json({"id": component.id, "spec": component.spec(), **({"record": record} if record else {})})
    else:
        print(printable(str(component)))
        print(f"# id {component.id}")
        for key, value in record.items():
            print(printable(f"# {key}: {' '.join(str(value).split())}"))
    return 0


def show_member(member: type[Component], as_json: bool) -> int:
    """Print a member's docstring and an example of it."""
    import inspect

    try:
        example: Component | None = member()
    except SpecError:
        example = None
    if as_json:
        print_json(
            {"type": member.__name__, "doc": inspect.getdoc(member), "spec": example.spec() if example else None}
        )
    else:
        print(f"{member.kind().__name__} {member.__name__}\n\n{inspect.getdoc(member)}\n")
        print(example if example else f"{member.__name__}(...)")
    return 0


def print_rows(table: Sequence[Row], as_json: bool) -> None:
    """Print results as a table, or as JSON."""
    from moonbed.report import tables

    if as_json:
        print_json(tables.to_json(table))
    elif table:
        labels = list(table[0].cells)
        if any(cell.published is not None for row in table for cell in row.cells.values()):
            labels = labels[: tables.WIDE]  # the published ones
        print_table(tables.to_terminal(table, labels))


def say_size(path: Path, size: int) -> None:
    """Say where a file is, and how large."""
    say(escape(f"{path}, {size_of(size)}"))


def size_of(size: int) -> str:
    """A number of bytes in words."""
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB" if size >= 1e3 else f"{size} bytes"


def warn(lines: Iterable[str]) -> None:
    """Say on standard error what a reader should know, a line each."""
    with suppress(BrokenPipeError):
        sys.stderr.write("".join(f"moonbed: {' '.join(line.split())}\n" for line in lines))


@contextmanager
def said() -> Iterator[None]:
    """Warnings of ours within the block are lines on standard error."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always", UserWarning)
        yield
    warn(str(w.message) for w in found)


def print_table(table: Any) -> None:
    """Print a table of rich, as wide as the terminal, or 140 where there is none."""
    from moonbed.report.terminal import Terminal

    console = Terminal()
    Terminal(width=max(console.width if console.is_terminal else 140, 60)).print(table)


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all; `StoreError` where it cannot be written."""
    from moonbed.experiments.storage.folder import Folder

    Folder(path.parent).write(path.name, text.encode())


def write_report(
    path: Path | None, table: Sequence[Row], store: Any, quiet: bool, title: str, lead: str = "", comparison: Any = None
) -> None:
    """Write rows as a page, if one is wanted and there are any, and say where it is."""
    if path is None or not table:
        return
    size = written(path, table, store, quiet, title=title, lead=lead, comparison=comparison)
    if not quiet:
        say_size(path, size)


def written(path: Path, table: Sequence[Row], store: Any, quiet: bool, **about: Any) -> int:
    """The size of a page that is written now, which takes seconds: that it is under way is shown on a terminal."""
    from moonbed.cli.app import command_line
    from moonbed.experiments.engines import cores, warm_up
    from moonbed.report.terminal import Terminal
    from moonbed.writing import write_page

    jobs = cores()
    if jobs > 1:
        warm_up()
    console = Terminal(stderr=True, quiet=quiet)
    with console.status("page: models and figures") if console.is_terminal else nullcontext():
        return write_page(path, table, store, command=command_line(), jobs=jobs, **about)


def write_rows(table: Sequence[Row], out: Path, store: Any) -> list[str]:
    """Tables and pictures of a reproduction."""
    from moonbed.experiments.evaluate import reference, stored_samples
    from moonbed.report import figures, tables

    labels = list(table[0].cells)
    files = {
        "table.csv": tables.to_csv(table),
        "table.md": tables.to_markdown(table, labels),
        "table.tex": tables.to_latex(table, labels),
    }
    for name, text in files.items():
        write_text(out / name, text)
    drawn = []
    for row in table:
        if row.done:
            first = row.done[0].experiment
            samples = stored_samples(store.experiment(first), first)
            figures.save(figures.pair(f"{row.name}: {row.change}", reference(first), samples), out / f"{row.name}.png")
            drawn.append((row.name, samples, first))
    if drawn:
        title = f"Target and generated, n = {len(drawn[0][1]):,}, first seed"
        figure = figures.overview(title, reference(drawn[0][2]), [(name, samples) for name, samples, _ in drawn])
        figures.save(figure, out / "all.png")
    return [*files, *(f"{name}.png" for name, *_ in drawn), *(["all.png"] if drawn else [])]


def follow_runs(
    events: Iterable[tuple[str, Progress | Result | Failure]], quiet: bool
) -> tuple[dict[str, Result], list[tuple[str, Failure]]]:
    """Show the progress of a job; gather its results by experiment id, and its failures."""
    from moonbed.experiments.engines import Failure
    from moonbed.experiments.results import Result
    from moonbed.report.progress import Bars

    results: dict[str, Result] = {}
    failures: list[tuple[str, Failure]] = []
    with Bars(quiet) as bars:
        for name, event in events:
            if isinstance(event, Result):
                results[event.experiment.id] = event
            elif isinstance(event, Failure):
                failures.append((name, event))
            else:
                bars.show(name, event)
    return results, failures


def last(events: Iterable[tuple[str, Any]], quiet: bool) -> tuple[Any, list[tuple[str, Failure]]]:
    """Show the progress of a job that ends with what was wanted; that, None where it failed, and the failures."""
    from moonbed.experiments.engines import Failure, Progress
    from moonbed.report.progress import Bars

    found, failures = None, []
    with Bars(quiet) as bars:
        for name, event in events:
            if isinstance(event, Progress):
                bars.show(name, event)
            elif isinstance(event, Failure):
                failures.append((name, event))
            else:
                found = event
    return found, failures


def print_found(found: Any, table: Callable[[Any], Any], as_json: Callable[[Any], dict[str, Any]], json: bool) -> None:
    """Print what was found as a table, or as JSON."""
    if json:
        print_json(as_json(found))
    else:
        print_table(table(found))


def status(table: Sequence[Row], failures: Sequence[tuple[str, Failure]]) -> int:
    """Say on standard error what went wrong; 2 if anything did."""
    lines = [f"{row.name}: {r.message}" for row in table for r in row.results if r.status == "diverged"]
    for name, failure in failures:
        lines.append(f"{name}: {failure.message}")
        if failure.trace:
            sys.stderr.write(printable(failure.trace))
    warn(dict.fromkeys(lines))
    return 2 if lines else 0
