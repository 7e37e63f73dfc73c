"""All figures that the data of some rows allow: SVG text, a caption, and a table for whoever does not see them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from moonbed.report import tables
from moonbed.report.figures import anatomy, curves, detection, saving, sources

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from moonbed.experiments.rows import Row
    from moonbed.experiments.storage.store import Store

__all__ = ["PageFigure", "Table", "for_page"]

Table = tuple[tuple[str, ...], list[tuple[str, ...]]]
PANEL = 3.4


class PageFigure(NamedTuple):
    """A figure of the page: `svg` is one element that may stand in any document, `table` its (head, body) as texts."""

    title: str
    caption: str
    svg: str
    table: Table


def for_page(rows: Sequence[Row], store: Store) -> list[PageFigure]:
    """The figures of some rows, in the order in which they are read; nothing is trained or sampled for them.

    The page's own table draws values on floors and differences of arms. A loss floor that the store does not hold yet
    is computed, and kept there: below a second each.
    """
    if not rows:
        return []
    found = [*_detection(rows), *_trainings(rows, store), *_sweeps(rows, store), *_budgets(rows, store)]
    for _, _, figure, _ in found:
        figure.supxlabel("")  # the caption says it
    return [
        PageFigure(title, caption, saving.svg(figure, title, f"figure{k}"), table)
        for k, (title, caption, figure, table) in enumerate(found)
    ]


Made = tuple[str, str, "Figure", Table]


def _detection(rows: Sequence[Row]) -> Iterator[Made]:
    if cells := [(row.name, cell) for row in rows if (cell := detection.n50_cell(row)) is not None]:
        yield (
            "Samples that tell the model from the truth (N50)",
            "How many samples a test of the exact law needs to reject the model half of the time; perfect: ∞. Line: "
            "95 % interval; dashed: n; band: floor. " + tables.interval_caption(rows),
            detection.n50(rows, PANEL),
            (
                ("row", "N50 [samples]", "95 % interval", "floor"),
                [(name, tables.measured(c), tables.interval(c), tables.floor(c)) for name, c in cells],
            ),
        )


def _trainings(rows: Sequence[Row], store: Store) -> Iterator[Made]:
    found = sources.curves(rows, store)
    if not found:
        return
    body: list[tuple[str, ...]] = []
    for curve in found:
        floor = curve.floor
        text = "–" if floor is None else floor.reason or f"{floor.value:.4g} ± {1.96 * floor.error:.1g}"
        body.append((curve.name, f"{curve.log[-1][0]:,}", f"{curve.log[-1][1]:.4g}", text))
    yield (
        "Training loss above its floor",
        "The floor is what the exact denoiser attains in the same loss: no network gets below it, and the distance "
        "from it is the network's own error. First seed; each point is the mean of 100 steps; the "
        "floor's band: ± 1.96 standard errors.",
        curves.training(found, PANEL),
        (("training", "step", "last loss", "loss floor"), body),
    )


def _sweeps(rows: Sequence[Row], store: Store) -> Iterator[Made]:
    for label, points in sources.sweeps(rows, store):
        body: list[tuple[str, ...]] = [
            (p.series, str(p.nfe), tables.measured(c), tables.interval(c), tables.floor(c))
            for p in sorted(points, key=lambda p: (p.series, p.nfe))
            for c in [p.row.cells[label]]
        ]
        yield (
            f"{label} against network evaluations",
            f"One training, several samplers; band: floor. {tables.interval_caption([p.row for p in points])}.",
            curves.quality(points, label, width=PANEL),
            (("sampler", "evaluations a sample", label, "95 % interval", "floor"), body),
        )


def _budgets(rows: Sequence[Row], store: Store) -> Iterator[Made]:
    for name, found in sources.budgets(rows, store):
        causes = list(anatomy.CAUSES)
        yield (
            f"Error budget of {name}",
            f"What each cause adds above the floor, 95 % intervals; n = {found.experiment.n:,}, {found.repeats} draws",
            anatomy.budget(found, PANEL),
            (
                ("metric", "floor", *causes),
                [
                    (label, *(tables.number(parts[cause].value) for cause in ("floor", *causes)))
                    for label, parts in found.parts.items()
                ],
            ),
        )
    for name, links in sources.errors(rows, store):
        body: list[tuple[str, ...]] = [
            (anatomy.LINKS.get(link, link), f"{s:.3g}", f"{m:.3g}", f"{1.96 * e:.2g}")
            for link, curve in links.items()
            for s, m, e in zip(curve["sigma"], curve["mean"], curve["error"], strict=True)
        ]
        yield (
            f"Score error of {name} by noise level",
            "E |D* − D|²/σ² in nats a unit of log σ: its integral is Girsanov's bound. The exact denoiser has 0.",
            anatomy.score_errors(links, width=PANEL),
            (("model", "σ/α", "error", "± 95 %"), body),
        )
