"""Tables: terminal, CSV, Markdown, LaTeX and JSON, from one list of rows.

Every measured value stands with its doubt: its spread over seeds, a 95 % interval (over seeds, or for a single one over
evaluation draws), the floor, which is the 5 % to 95 % range of what a perfect sampler gets under the same protocol, and
the p-value against it.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from moonbed._shown import printable
from moonbed.metrics.significance import spread

if TYPE_CHECKING:
    import pandas
    from rich.table import Table

    from moonbed.experiments.rows import Cell, Row

__all__ = ["to_csv", "to_json", "to_latex", "to_markdown", "to_pandas", "to_terminal"]


WIDE = 6
"""Metrics that a terminal shows side by side; more of them stand below one another."""
MANY = 12
"""Rows that a terminal shows in full; more of them have one line each, with the floors above them all."""
LEADING = 3
"""Metrics that such a line has; the others are in CSV, JSON and the page."""


def number(value: float | None) -> str:
    """Four significant digits at most, as a reader would write it."""
    if value is None:
        return "–"
    if not math.isfinite(value):
        return "∞" if value == math.inf else "not finite"
    if 1000 <= abs(value) < 1e6:
        return f"{value:,.0f}"
    if abs(value) < 1e-15:
        return "0"  # what is left of it is rounding
    return f"{value:.3g}" if abs(value) >= 1e6 or abs(value) < 5e-4 else f"{value:.4f}"


def measured(cell: Cell) -> str:
    """`mean ± sd` over seeds; for one seed the value alone, with its number of seeds said elsewhere."""
    if not cell.values:
        return "–"
    if "text" in cell.details:
        return str(cell.details["text"])
    mean, sd = spread(cell.values)
    return number(mean) if sd is None or not math.isfinite(sd) else f"{number(mean)} ± {number(sd)}"


def interval(cell: Cell) -> str:
    """`low .. high` with 95 % confidence, – where there is none."""
    if cell.interval is None or cell.interval == (-math.inf, math.inf):
        return "–"
    return " .. ".join(number(end) for end in cell.interval)


def floor(cell: Cell) -> str:
    """`5 % .. 95 %` of a perfect sampler."""
    return "–" if cell.floor is None else f"{number(cell.floor.lo)} .. {number(cell.floor.hi)}"


def within_floor(cell: Cell) -> bool:
    """Whether every seed's value lies where 90 % of the perfect sampler's do."""
    return (
        bool(cell.values) and cell.floor is not None and all(cell.floor.lo <= v <= cell.floor.hi for v in cell.values)
    )


def notes(row: Row) -> str:
    """What a reader must know before believing the numbers of a row."""
    out = [r.message for r in row.results if r.status == "diverged"]
    lost = sum(r.exploded for r in row.done)
    if lost:
        out.append(f"{lost:,} of {sum(r.experiment.n for r in row.done):,} samples exploded")
    out += [f"{label} {cell.lacks}" for label, cell in row.cells.items() if cell.lacks]
    return "; ".join(dict.fromkeys(out))


def seconds(row: Row) -> float:
    """Mean training time of the row's runs."""
    return sum(r.training_seconds for r in row.results) / len(row.results)


def caption(rows: Sequence[Row]) -> str:
    """What the numbers are: n, seeds, floor."""
    sizes = " or ".join(f"{n:,}" for n in sorted({r.experiment.n for row in rows for r in row.results}))
    seeds = max(len(row.results) for row in rows)
    draws = max((c.floor.draws for r in rows for c in r.cells.values() if c.floor), default=0)
    over = f"mean ± sd over {seeds} seeds" if seeds > 1 else "one seed"
    doubt = "the mean over seeds (Student's t)" if seeds > 1 else "the value, over evaluation draws"
    censored = any(c.floor and math.isinf(c.floor.hi) for r in rows for c in r.cells.values())
    return (
        f"n = {sizes} samples a run; measured: {over}; interval: 95 % for {doubt}; "
        f"floor: 5 % .. 95 % of {draws} draws of a perfect sampler; ≈ every seed within them; p: against the floor"
        + "; ∞: not told apart by all samples there are"
        * censored
    )


def interval_caption(rows: Sequence[Row]) -> str:
    """What the marks of a figure are: n, seeds, interval, floor."""
    sizes = " or ".join(f"{n:,}" for n in sorted({r.experiment.n for row in rows for r in row.results}))
    counts = sorted({len(row.results) for row in rows})
    seeds = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    doubt = "over evaluation draws" if counts == [1] else "of the mean over seeds (Student's t)"
    draws = max((c.floor.draws for r in rows for c in r.cells.values() if c.floor), default=0)
    floors = f"5 to 95 % of {draws} draws of a perfect sampler" if draws else "none drawn"
    word = "seed" if counts == [1] else "seeds"
    return f"n = {sizes} samples a run; {seeds} {word}; interval: 95 %, {doubt}; floor: {floors}"


def to_terminal(rows: Sequence[Row], labels: Sequence[str]) -> Table:
    """A rich table: a column for each metric where there are few of them, a line for each where there are many.

    More than `MANY` rows have a line each.
    """
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    lost = "".join(f"\n[red]{escape(f'{row.name}: {note}')}[/]" for row in rows if (note := notes(row)))
    if len(rows) > MANY:
        return short_table(rows, labels, lost)
    said = "".join(f"\n[bold]{escape(row.name)}[/]: {escape(row.sentence)}" for row in rows if row.sentence)
    table = Table(caption=caption(rows) + said + lost, caption_justify="left", pad_edge=False, box=box.SIMPLE_HEAD)
    many = len(labels) > WIDE
    for title in ("row", "metric", "measured", "interval", "floor", "p") if many else ("row", "", *labels):
        table.add_column(escape(title), overflow="fold")
    (_add_lines if many else _add_columns)(table, rows, labels)
    return table


def short_table(rows: Sequence[Row], labels: Sequence[str], lost: str = "") -> Table:
    """A line a row: value and interval of the leading metrics, below their floors where these are the same for all."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    below = caption(rows) + lost
    shown = [label for label in labels if any(row.cells[label].values for row in rows)][:LEADING]
    if left := len(labels) - len(shown):
        below += f"\n{left} more metrics, and each row's diagnosis, are in --csv, --json and the page"
    table = Table(caption=below, caption_justify="left", pad_edge=False, box=box.SIMPLE_HEAD)
    floors = {label: {floor(row.cells[label]) for row in rows} for label in shown}
    common = [f"[dim]{next(iter(found))}[/]" if len(found) == 1 else "[dim]several[/]" for found in floors.values()]
    table.add_column("row", overflow="fold")
    for label in shown:
        table.add_column(escape(label))
    table.add_row("[dim]floor", *common)
    for name, row in zip(brief([row.name for row in rows]), rows, strict=True):
        cells = [row.cells[label] for label in shown]
        texts = [f"[bold]{escape(measured(c))}[/]{' [green]≈[/]' if within_floor(c) else ''}" for c in cells]
        doubts = [f" [dim]{interval(c)}[/]" if c.values else "" for c in cells]
        table.add_row(escape(name), *(text + doubt for text, doubt in zip(texts, doubts, strict=True)))
    return table


def brief(names: Sequence[str]) -> list[str]:
    """Names of a sweep without the words that all share, and with places as short as they can be told apart.

    `ema sampler.steps=8 training.optimizer.lr=0.1` among others of `ema` is `steps=8 lr=0.1`.
    """
    shared = set.intersection(*(set(name.split()) for name in names))
    kept = [[word for word in name.split() if word not in shared] or name.split() for name in names]
    places = {word.partition("=")[0] for words in kept for word in words if "=" in word}
    ends = [place.rpartition(".")[2] for place in places]
    short = {p: p.rpartition(".")[2] if ends.count(p.rpartition(".")[2]) == 1 else p for p in places}
    out = [" ".join(short.get((w := word.partition("="))[0], w[0]) + w[1] + w[2] for word in words) for words in kept]
    return out if len(set(out)) == len(set(names)) else list(names)


def _add_lines(table: Table, rows: Sequence[Row], labels: Sequence[str]) -> None:
    from rich.markup import escape

    for row in rows:
        about = [f"[bold]{escape(row.name)}", f"[dim]{row.results[0].parameters:,} p.", f"[dim]{seconds(row):.0f} s"]
        for head, label in zip_longest(about[: len(labels)], labels, fillvalue=""):
            cell = row.cells[label]
            mark = " [green]≈[/]" if within_floor(cell) else ""
            doubt = (f"[dim]{interval(cell)}", f"[dim]{floor(cell)}", number(cell.p_value))
            table.add_row(head, escape(label), f"[bold]{escape(measured(cell))}[/]{mark}", *doubt)
        table.add_section()


def _add_columns(table: Table, rows: Sequence[Row], labels: Sequence[str]) -> None:
    """For each row a line with the published values, the measured ones, their interval, floor and p-value."""
    from rich.markup import escape

    for row in rows:
        cells = [row.cells[label] for label in labels]
        if any(c.published is not None for c in cells):
            table.add_row(f"[bold]{escape(row.name)}", "published", *(number(c.published) for c in cells))
            head = f"[dim]{row.results[0].parameters:,} p."
        else:
            head = f"[bold]{escape(row.name)}"
        marked = (f"{escape(measured(c))}{' [green]≈[/]' if within_floor(c) else ''}" for c in cells)
        table.add_row(head, "[bold]measured", *(f"[bold]{m}[/]" for m in marked))
        table.add_row(f"[dim]{seconds(row):.0f} s", "[dim]interval", *(f"[dim]{interval(c)}" for c in cells))
        table.add_row("", "[dim]floor", *(f"[dim]{floor(c)}" for c in cells))
        table.add_row("", "[dim]p", *(f"[dim]{number(c.p_value)}" for c in cells))
        table.add_section()


def flat(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """One dict a row and metric, with every number unrounded."""
    out = []
    for row in rows:
        for label, cell in row.cells.items():
            mean, sd = spread(cell.values) if cell.values else (None, None)
            low, high = cell.interval or (None, None)
            out.append(
                {
                    "row": row.name,
                    "change": row.change,
                    "metric": label,
                    "published": cell.published,
                    "mean": mean,
                    "sd": sd,
                    "seeds": len(cell.values),
                    "interval_lo": low,
                    "interval_hi": high,
                    "p_value": cell.p_value,
                    "diverged": len(row.results) - len(row.done),
                    "exploded": sum(r.exploded for r in row.done),
                    "n": row.results[0].experiment.n,
                    "floor_mean": cell.floor.mean if cell.floor else None,
                    "floor_lo": cell.floor.lo if cell.floor else None,
                    "floor_hi": cell.floor.hi if cell.floor else None,
                    "floor_draws": cell.floor.draws if cell.floor else 0,
                    "parameters": row.results[0].parameters,
                    "training_seconds": round(seconds(row), 2),
                    "sentence": row.sentence,
                    "note": notes(row),
                }
            )
    return out


def to_csv(rows: Sequence[Row], wide: bool = False) -> str:
    """Long form: one line a row and metric; or wide: one line a row."""
    return csv_text(broad(rows) if wide else flat(rows))


def broad(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """One dict a row, with every number unrounded: `energy mean`, `energy interval_lo`, `energy floor_hi`, ..."""
    out: dict[str, dict[str, Any]] = {}
    for line in flat(rows):
        about = {name: line[name] for name in ("row", "change", "n", "parameters", "training_seconds", "note")}
        numbers = {f"{line['metric']} {name}": line[name] for name in MEASURED}
        out.setdefault(line["row"], about).update(numbers)
    return list(out.values())


MEASURED = (
    "mean", "sd", "seeds", "interval_lo", "interval_hi", "p_value", "floor_mean", "floor_lo", "floor_hi", "published"
)  # fmt: skip


def to_pandas(rows: Sequence[Row], wide: bool = False) -> pandas.DataFrame:
    """A data frame: a line a row and metric; or wide, a line a row and columns (metric, number).

    Raises `ImportError`, which says what to install, where pandas is not there.
    """
    try:
        import pandas
    except ImportError:
        raise ImportError('a data frame takes pandas: pip install "moonbed[pandas]"') from None
    frame = pandas.DataFrame(flat(rows))
    if not wide:
        return frame
    spread_out = frame.pivot(index="row", columns="metric", values=list(MEASURED)).swaplevel(axis=1)
    order = [(label, name) for label in dict.fromkeys(frame["metric"]) for name in MEASURED]
    return spread_out[order].loc[list(dict.fromkeys(frame["row"]))].infer_objects()


def json_text(rows: Sequence[Row]) -> str:
    """`to_json` as text."""
    return json.dumps(to_json(rows), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def to_text(rows: Sequence[Row]) -> str:
    """What a terminal shows, without colours."""
    from moonbed.report.terminal import text_of

    return text_of(to_terminal(rows, list(rows[0].cells)), 140)


def csv_text(lines: Sequence[Mapping[str, Any]]) -> str:
    """Lines with the same names as CSV, the names first."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=[_plain(name) for name in lines[0]], lineterminator="\n")
    writer.writeheader()
    writer.writerows({_plain(name): _plain(value) for name, value in line.items()} for line in lines)
    return text.getvalue()


def _plain(value: Any) -> Any:
    """A text as a spreadsheet takes it for one: what would begin a formula gets an apostrophe before it."""
    if not isinstance(value, str):
        return value
    text = printable(value)
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t")) else text


def markdown_line(cells: Sequence[str]) -> str:
    """A line of a Markdown table: what would be a link, an image or HTML in a cell is text."""
    return f"| {' | '.join(map(markdown_text, cells))} |\n"


def markdown_text(text: str) -> str:
    """One line in which nothing is Markdown or HTML that was not made here."""
    text = _MARKS.sub(r"\\\g<0>", printable(" ".join(text.split())).replace("&", "&amp;"))
    return text.replace("<", "&lt;").replace("javascript:", "javascript&#58;")


_MARKS = re.compile(r"[\\`|]|\[|\](?=\()|!(?=\[)")


def _wide(rows: Sequence[Row], labels: Sequence[str]) -> list[list[str]]:
    out = []
    for row in rows:
        cells = [row.cells[label] for label in labels]
        about = [f"{row.results[0].parameters:,}", f"{seconds(row):.0f}", notes(row)]
        if any(c.published is not None for c in cells):
            out.append([row.name, "published", *(number(c.published) for c in cells), "", "", ""])
        out.append([row.name, "measured", *(measured(c) + " ≈" * within_floor(c) for c in cells), *about])
        out.append([row.name, "interval", *(interval(c) for c in cells), "", "", ""])
        out.append([row.name, "floor", *(floor(c) for c in cells), "", "", ""])
        out.append([row.name, "p", *(number(c.p_value) for c in cells), "", "", ""])
    return out


def to_markdown(rows: Sequence[Row], labels: Sequence[str] | None = None) -> str:
    """A Markdown table of these metrics (all unless said), its caption above."""
    labels = list(rows[0].cells) if labels is None else labels
    head = ["row", "", *labels, "parameters", "training s", "note"]
    first, *lines = [markdown_line(line) for line in (head, *_wide(rows, labels))]
    return caption(rows) + "\n\n" + first + f"| {' | '.join('---' for _ in head)} |\n" + "".join(lines)


_TEX = {"&": r"\&", "%": r"\%", "_": r"\_", "#": r"\#", "$": r"\$", "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}"}
_TEX |= {"^": r"\textasciicircum{}", "\\": r"\textbackslash{}", "±": r"$\pm$", "≈": r"$\approx$", "–": "--"}
_TEX |= {"²": r"$^2$", "|": r"$|$", "∞": r"$\infty$", "<": r"$<$", ">": r"$>$", "≤": r"$\leq$"}


def _tex(text: str) -> str:
    return "".join(_TEX.get(char, char) for char in printable(" ".join(text.split())))


def to_latex(rows: Sequence[Row], labels: Sequence[str] | None = None) -> str:
    """A `tabular` of these metrics (all unless said) for booktabs, its caption as a comment."""
    labels = list(rows[0].cells) if labels is None else labels
    head = ["row", "", *labels, "parameters", "training s", "note"]
    body, last = [], rows[0].name
    for line in _wide(rows, labels):
        if line[0] != last:
            body.append(r"\midrule")
            last = line[0]
        body.append(" & ".join(map(_tex, line)) + r" \\")
    lines = [
        f"% {caption(rows)}",
        rf"\begin{{tabular}}{{ll{'r' * (len(head) - 3)}l}}",
        r"\toprule",
        " & ".join(map(_tex, head)) + r" \\",
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def cell_json(cell: Cell) -> dict[str, Any]:
    """A cell with its doubt; what is not finite is null."""
    return {
        "value": finite(spread(cell.values).mean) if cell.values else None,
        "interval": [finite(end) for end in cell.interval or (None, None)],
        "floor": cell.floor
        and {
            "mean": finite(cell.floor.mean),
            "lo": finite(cell.floor.lo),
            "hi": finite(cell.floor.hi),
            "draws": cell.floor.draws,
        },
        "p_value": cell.p_value,
        **({"details": jsonable(cell.details)} if cell.details else {}),
        **({"lacks": cell.lacks} if cell.lacks else {}),
    }


def to_json(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """One object a row; a number that is not finite is null."""
    out = []
    for row in rows:
        metrics = {
            label: {**cell_json(cell), "values": [finite(v) for v in cell.values], "published": cell.published}
            for label, cell in row.cells.items()
        }
        runs = [
            {
                "id": r.experiment.id,
                "training": r.experiment.training.id,
                "seed": r.experiment.training.seed,
                "n": r.experiment.n,
                "status": r.status,
                "message": r.message,
                "exploded": r.exploded,
                "parameters": r.parameters,
                "training_seconds": r.training_seconds,
                "sampling_seconds": r.sampling_seconds,
                "folder": r.folder,
                "sentence": r.sentence,
            }
            for r in row.results
        ]
        out.append({"name": row.name, "change": row.change, "metrics": metrics, "runs": runs})
    return out


def jsonable(data: Any) -> Any:
    """The same without numbers that JSON has not: null in their place."""
    if isinstance(data, Mapping):
        return {key: jsonable(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [jsonable(value) for value in data]
    return finite(data) if isinstance(data, float) else data


def finite(value: float | None) -> float | None:
    """The number, None where JSON has none for it."""
    return value if value is not None and math.isfinite(value) else None
