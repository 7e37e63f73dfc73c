"""`moonbed plot` and `moonbed table`: stored runs as figures, animations and tables. Nothing is trained or measured."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from moonbed._shown import printable
from moonbed.cli.app import app
from moonbed.cli.options import STORE, QuietOption, StoreOption
from moonbed.cli.output import escape, print_rows, say, warn, write_text
from moonbed.cli.parsing import check_writable, one_of
from moonbed.component import SpecError, split_values

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from moonbed.experiments.rows import Row
    from moonbed.experiments.spec import Experiment
    from moonbed.experiments.storage.store import Store

USUAL = ("verdict", "n50", "training", "quality", "budget", "samples")
FIGURES = (*USUAL, "field")
TABLES = ("text", "csv", "markdown", "latex", "json")
MOST = 16
PARTICLES = 800

MetricsOption = Annotated[
    str | None,
    Parameter(help="Suites or metrics, with commas between them; those that the store holds unless said."),
]


@app.command
def plot(
    *what: str,
    figures: Annotated[
        str, Parameter(help=f"Which, with commas between them: {', '.join(FIGURES)}; all but field unless said.")
    ] = "",
    formats: Annotated[
        str, Parameter(help="png, svg and pdf, with commas between them; gif and webp are animations.")
    ] = "png",
    animation: Annotated[str | None, Parameter(help="gif or webp: particles from noise to data, as well.")] = None,
    width: Annotated[float, Parameter(help="Inches of a figure: 3.4 is a column of a paper, 7 a page.")] = 3.4,
    metrics: MetricsOption = None,
    out: Annotated[Path, Parameter(help="Folder for the files.")] = Path("figures"),
    store: StoreOption = STORE,
    quiet: QuietOption = False,
) -> int:
    """Draw what the store holds: figures for papers as PNG, SVG and PDF, and animations as GIF and WebP.

    Give ids of runs (`moonbed list runs`), presets, `file.py` or `file.py:name`, as to `moonbed report`; without any it
    is every finished run. Runs that are equal up to their seeds are one row. Every figure says its units, floor, n and
    seeds. Nothing is trained.

    For example:

        moonbed plot
        moonbed plot fast residual --figures verdict,n50 --formats pdf,svg
        moonbed plot fast --figures field --animation webp
    """
    from moonbed.experiments.storage.store import Store
    from moonbed.report.figures import FORMATS
    from moonbed.report.figures.animation import KINDS

    kinds = [one_of("--formats", kind, [*FORMATS, *KINDS]) for kind in split_values(formats)]
    if animation is not None:
        kinds.append(one_of("--animation", animation, KINDS))
    if not 2 <= width <= 20:
        raise SpecError([("--width", f"should lie between 2 and 20 inches, given {width:g}")])
    asked = [one_of("--figures", name, FIGURES) for name in split_values(figures)] if figures else []
    where = Store(store)
    rows = _rows(what, metrics, where)
    check_writable(out)
    written = [*_figures(rows, where, asked, [k for k in kinds if k in FORMATS], out, width, quiet)]
    for kind in dict.fromkeys(k for k in kinds if k in KINDS):
        written += [*_animations(rows, where, kind, out, quiet)]
    if not written:
        raise SpecError([("", "these runs have no numbers to draw yet; `moonbed run` measures them")])
    if not quiet:
        say(escape("\n".join(f"{path}, {path.stat().st_size / 1000:,.0f} kB" for path in written)))
    return 0


def _rows(what: Sequence[str], metrics: str | None, store: Store) -> list[Row]:
    from moonbed.cli.reporting import asked_of
    from moonbed.experiments.stored import groups_of, stored_rows

    groups, said = groups_of(what, store, MOST)
    warn(said)
    return stored_rows(groups, asked_of(groups, metrics, store), store)


def _figures(
    rows: Sequence[Row], store: Store, asked: Sequence[str], kinds: Sequence[str], out: Path, width: float, quiet: bool
) -> Iterator[Path]:
    """Write the figures that were asked for, or else all usual ones that the data allow."""
    from moonbed.report.figures import save

    for name in asked or USUAL:
        made = 0
        for file, figure in _made(name, rows, store, width, quiet):
            made += 1
            for kind in kinds:
                path = out / f"{file}.{kind}"
                save(figure, path)
                yield path
        if name in asked and not made:
            raise SpecError([("--figures", f"{name} cannot be drawn of these runs: {LACKS[name]}")])


LACKS = {
    "verdict": "no metric was asked of them; `moonbed run` asks",
    "n50": "N50 was not asked of them; `moonbed run --metrics N50` asks",
    "training": "none of them has a training",
    "quality": "no training was sampled with several numbers of steps; as in `moonbed run fast sampler.steps=8,16,32`",
    "budget": "no error budget was taken; `moonbed anatomy` takes one",
    "samples": "none of them has samples in the plane",
    "field": "none of them has an exact denoiser in the plane",
}


def _made(name: str, rows: Sequence[Row], store: Store, width: float, quiet: bool) -> Iterator[tuple[str, Figure]]:
    """(file name without suffix, figure) of all figures of a kind."""
    from moonbed.report import figures
    from moonbed.report.figures import sources
    from moonbed.report.figures.detection import n50_cell
    from moonbed.report.figures.verdict import shown

    if name == "verdict" and shown(rows):
        yield "verdict", figures.verdict(rows, width=width)
    elif name == "n50" and any(n50_cell(row) for row in rows):
        yield "n50", figures.n50(rows, width)
    elif name == "training" and (found := sources.curves(rows, store)):
        yield "training", figures.training(found, width)
    elif name == "quality":
        for k, (label, points) in enumerate(sources.sweeps(rows, store)):
            yield "quality" + f"-{k + 1}" * (k > 0), figures.quality(points, label, width=width)
    elif name == "budget":
        for row, budget in sources.budgets(rows, store):
            yield f"budget-{_slug(row)}", figures.budget(budget, width)
        for row, errors in sources.errors(rows, store):
            yield f"score-errors-{_slug(row)}", figures.score_errors(errors, width=width)
    elif name == "samples":
        yield from _samples(rows, store, width)
    elif name == "field":
        yield from _fields(rows, store, max(width, 5.0), quiet)


def _samples(rows: Sequence[Row], store: Store, width: float) -> Iterator[tuple[str, Figure]]:
    from moonbed.experiments.evaluate import reference
    from moonbed.report import figures

    drawn = [(row, _first(row), _points(_first(row), store)) for row in rows if row.done]
    drawn = [(row, first, points) for row, first, points in drawn if points.shape[1] > 1]
    for row, first, points in drawn:
        yield f"samples-{_slug(row.name)}", figures.pair(row.name, reference(first), points, width)
    if len({first.law.id for _, first, _ in drawn}) == 1 and len(drawn) > 1:
        named = [(row.name, points) for row, _, points in drawn]
        title = f"Target and generated, n = {len(drawn[0][2]):,}, first seed"
        yield "samples", figures.overview(title, reference(drawn[0][1]), named, max(width, 5.0))


def _first(row: Row) -> Experiment:
    return row.done[0].experiment


def _points(experiment: Experiment, store: Store) -> Any:
    from moonbed.experiments.evaluate import stored_samples

    return stored_samples(store.experiment(experiment), experiment)


def _fields(rows: Sequence[Row], store: Store, width: float, quiet: bool) -> Iterator[tuple[str, Figure]]:
    from moonbed.experiments.fields import LEVELS, Field, fields
    from moonbed.report import figures

    for row in rows:
        if not row.done or not _plane(_first(row)) or not _first(row).has_score:
            continue
        found: list[Field] = [*_followed(f"{row.name}: field", fields(_first(row), store), len(LEVELS), quiet)]
        title = f"{row.name}: learned and exact probability flow"
        yield f"field-{_slug(row.name)}", figures.field(found, title, width)


def _animations(rows: Sequence[Row], store: Store, kind: str, out: Path, quiet: bool) -> Iterator[Path]:
    """Write an animation of each row: whole, at the end, or not at all."""
    from moonbed.experiments.evaluate import reference
    from moonbed.experiments.motion import states
    from moonbed.experiments.storage.folder import Folder
    from moonbed.report.figures import animation

    for row in [row for row in rows if row.done and _plane(_first(row))]:
        first, name = _first(row), f"{row.name}: {kind}"
        way = states(first, store, PARTICLES)
        found = [*_followed(f"{name}, states", way, first.sampler.steps + 1, quiet)]
        points = reference(first)
        title = f"{row.name}: {PARTICLES} particles, exact density in blue"
        pictures = animation.frames(found, points, _density(first, points), title)
        shown = [*_followed(f"{name}, frames", pictures, len(animation.chosen(len(found))), quiet)]
        path = out / f"motion-{_slug(row.name)}.{kind}"
        Folder(out).write(path.name, animation.encode(shown, kind))
        yield path


def _density(experiment: Experiment, points: Any, side: int = 120) -> Any:
    """(side, side) exact density over the extent of the reference; None for a law without one."""
    import torch

    from moonbed.report.figures.samples import limits

    x, y = (torch.linspace(low, high, side, dtype=torch.float64) for low, high in limits(points))
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).reshape(-1, 2)
    found = torch.exp(experiment.law.log_prob(grid)).reshape(side, side)
    return found.clamp(max=float(found[torch.isfinite(found)].quantile(0.995))).numpy()


def _plane(experiment: Experiment) -> bool:
    return experiment.training.target.dim == 2


def _followed(name: str, events: Iterator[Any], total: int, quiet: bool) -> Iterator[Any]:
    """Pass events on, and show on standard error how many of about `total` there were."""
    from moonbed.experiments.engines import Progress
    from moonbed.report.progress import Bars

    with Bars(quiet) as bars:
        for k, event in enumerate(events, 1):
            bars.show(name, Progress("draw", k, max(total, k)))
            yield event


def _slug(name: str) -> str:
    return re.sub(r"[^\w.=]+", "-", name).strip("-")


@app.command
def table(
    *what: str,
    format: Annotated[str, Parameter(help=f"{', '.join(TABLES)}.")] = "text",
    wide: Annotated[
        bool, Parameter(negative="", help="As CSV: one line a row in place of one a row and metric.")
    ] = False,
    metrics: MetricsOption = None,
    out: Annotated[Path | None, Parameter(help="Write it to this file; on standard output unless said.")] = None,
    store: StoreOption = STORE,
) -> int:
    """Print the stored results of runs as a table: text, CSV, Markdown, LaTeX (booktabs) or JSON.

    Give ids of runs, presets or files, as to `moonbed report`; without any it is every finished run. Every value
    stands with its interval, floor, p-value, n and number of seeds. Nothing is computed.

    For example:

        moonbed table
        moonbed table fast residual --format latex --out table.tex
        moonbed table --format csv --wide
    """
    from moonbed.experiments.storage.store import Store
    from moonbed.report import tables

    one_of("--format", format, TABLES)
    if wide and format != "csv":
        raise SpecError([("--wide", f"is a form of CSV, given --format {format}")])
    rows = _rows(what, metrics, Store(store))
    if format in ("text", "json") and out is None:
        print_rows(rows, format == "json")
        return 0
    written: Mapping[str, Any] = {
        "csv": lambda: tables.to_csv(rows, wide),
        "markdown": lambda: tables.to_markdown(rows),
        "latex": lambda: tables.to_latex(rows),
        "json": lambda: tables.json_text(rows),
        "text": lambda: tables.to_text(rows),
    }
    text = written[format]()
    if out is None:
        print(printable(text), end="")
    else:
        check_writable(out.parent)
        write_text(out, text)
    return 0
