"""Judgements, comparisons and error budgets in words, tables and JSON."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from moonbed.metrics.significance import spread
from moonbed.report.tables import cell_json, csv_text, finite, floor, interval, jsonable, measured, number, within_floor

if TYPE_CHECKING:
    from rich.table import Table

    from moonbed.experiments.anatomy import Anatomy, Part
    from moonbed.experiments.compare import Comparison
    from moonbed.experiments.judge import Judgement

__all__ = [
    "anatomy_about",
    "anatomy_csv",
    "anatomy_json",
    "anatomy_table",
    "comparison_csv",
    "comparison_json",
    "comparison_table",
    "estimates_table",
    "judgement_csv",
    "judgement_json",
    "judgement_table",
]


def _table(*titles: str, caption: str) -> Table:
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    table = Table(caption=escape(caption), caption_justify="left", pad_edge=False, box=box.SIMPLE_HEAD)
    for title in titles:
        table.add_column(escape(title), overflow="fold")
    return table


# Anyone's samples


def judgement_table(found: Judgement) -> Table:
    """A line a metric, with its doubt; the diagnosis below."""
    from rich.markup import escape

    draws = max((c.floor.draws for c in found.cells.values() if c.floor), default=0)
    caption = (
        f"n = {found.n:,} samples, read in {found.coordinates} coordinates, against the exact law of {found.target}; "
        f"interval: 95 % over evaluation draws; floor: 5 % .. 95 % of {draws} draws of a perfect sampler; ≈ within it; "
        "p: against the floor"
    )
    for label, lack in found.lacks.items():
        caption += f"\n{label} {lack}"
    if found.sentence:
        caption += f"\n{found.sentence}"
    table = _table("metric", "value", "interval", "floor", "p", caption=caption)
    for label, cell in found.cells.items():
        mark = " [green]≈[/]" if within_floor(cell) else ""
        doubt = (f"[dim]{interval(cell)}", f"[dim]{floor(cell)}", number(cell.p_value))
        table.add_row(escape(label), f"[bold]{escape(measured(cell))}[/]{mark}", *doubt)
    return table


def estimates_table(found: Judgement) -> Table | None:
    """The panel's estimates, a line a question: how large a defect is, in its unit, and whether it is one."""
    from rich.markup import escape

    estimates = [e for cell in found.cells.values() for e in cell.details.get("estimates", ())]
    if not estimates:
        return None
    caption = "the panel: each a score test of the exact law, in the target's own units; p adjusted by Holm over them"
    table = _table("question", "estimate", "unit", "z", "p", "Holm p", caption=caption)
    for e in estimates:
        name, bold = f"{e['kind']} {e['where']}".strip(), "[bold]" if e["p_holm"] < 0.05 else ""
        numbers = f"{bold}{e['value']:+.3g} ± {e['se']:.2g}", e["unit"], f"{e['z']:+.2f}", f"{e['p']:.2g}"
        table.add_row(f"{bold}{escape(name)}", *numbers, f"{e['p_holm']:.2g}")
    return table


def judgement_json(found: Judgement) -> dict[str, Any]:
    """`{"target", "n", "metrics": {NAME: {"value", "interval", "floor", "p_value"}}, ...}`; not finite is null."""
    return {
        "target": type(found.target).__name__,
        "target_spec": found.target.spec(),
        "n": found.n,
        "coordinates": found.coordinates,
        "sentence": found.sentence,
        "metrics": {label: cell_json(cell) for label, cell in found.cells.items()},
        "lacks": dict(found.lacks),
    }


def judgement_csv(found: Judgement) -> str:
    """One line a metric."""
    return csv_text(
        [
            {
                "metric": label,
                "value": cell.values[0],
                **_ends(cell.interval),
                "floor_mean": cell.floor and cell.floor.mean,
                "floor_lo": cell.floor and cell.floor.lo,
                "floor_hi": cell.floor and cell.floor.hi,
                "floor_draws": cell.floor and cell.floor.draws,
                "p_value": cell.p_value,
                "n": found.n,
                "sentence": found.sentence,
            }
            for label, cell in found.cells.items()
        ]
    )


# Two experiments


def comparison_table(found: Comparison) -> Table:
    """A line a metric; the verdict below."""
    from rich.markup import escape

    caption = (
        f"{found.seeds} paired seeds, mean ± sd over them; difference: B - A in badness (positive: B is worse), with "
        f"its 95 % interval; effect: difference / sd of a pair's; p: paired t, adjusted by Holm over "
        f"{len(found.differences)} metrics; equivalent: p that |effect| >= {found.margin:g}; level {found.level:.3g}\n"
        f"{found.sentence}"
    )
    a, b = found.rows
    arms = (_arm("A", a.name), _arm("B", b.name))
    table = _table("metric", *arms, "floor", "difference", "effect", "p", "equivalent", "B is", caption=caption)
    colour = {"better": "green", "worse": "red", "equivalent": "cyan"}
    for label, d in found.differences.items():
        low, high = d.interval
        doubt = f"{d.mean:.3g} [dim]({low:.3g} .. {high:.3g})[/]" if math.isfinite(high - low) else "–"
        mark = colour.get(d.verdict, "dim")
        cells = (measured_arm(a.cells[label].values), measured_arm(b.cells[label].values), floor(a.cells[label]))
        effect = f"{d.effect:+.2f}" if math.isfinite(d.effect) else "–"
        table.add_row(
            escape(label), *cells, doubt, effect, f"{d.p_holm:.2g}", f"{d.p_equivalent:.2g}", f"[{mark}]{d.verdict}[/]"
        )
    return table


def _arm(letter: str, name: str) -> str:
    return letter if name == letter else f"{letter}: {name.removeprefix(f'{letter}: ')}"


def measured_arm(values: tuple[float, ...]) -> str:
    """`mean ± sd` over seeds."""
    if not values:
        return "–"
    mean, sd = spread(values)
    return f"{mean:.3g}" if sd is None or not math.isfinite(sd) else f"{mean:.3g} ± {sd:.2g}"


def comparison_json(found: Comparison) -> dict[str, Any]:
    """The verdict, and per metric both arms by seed with difference, interval, p-values and floor."""
    metrics = {}
    for label, d in found.differences.items():
        metrics[label] = {
            "verdict": d.verdict,
            "a": [finite(v) for v in d.a],
            "b": [finite(v) for v in d.b],
            "difference": finite(d.mean),
            "interval": [finite(end) for end in d.interval],
            "effect": finite(d.effect),
            "p_value": d.p,
            "p_holm": d.p_holm,
            "p_equivalent": d.p_equivalent,
            "floor": cell_json(found.rows[0].cells[label])["floor"],
        }
    return {
        "a": found.a,
        "b": found.b,
        "verdict": found.verdict,
        "sentence": found.sentence,
        "seeds": found.seeds,
        "more_seeds": found.more,
        "level": found.level,
        "margin": found.margin,
        "metrics": metrics,
    }


def comparison_csv(found: Comparison) -> str:
    """One line a metric."""
    return csv_text(
        [
            {
                "metric": label,
                "verdict": d.verdict,
                "a_mean": spread(d.a).mean,
                "b_mean": spread(d.b).mean,
                "difference": d.mean,
                **_ends(d.interval),
                "effect": d.effect,
                "p_value": d.p,
                "p_holm": d.p_holm,
                "p_equivalent": d.p_equivalent,
                "floor_lo": d.floor and d.floor.lo,
                "floor_hi": d.floor and d.floor.hi,
                "seeds": found.seeds,
                "sentence": found.sentence,
            }
            for label, d in found.differences.items()
        ]
    )


# The error budget


def _part(part: Part) -> str:
    low, high = part.interval
    doubt = f" [dim]({number(low)} .. {number(high)})[/]" if math.isfinite(high - low) else ""
    return f"{number(part.value)}{doubt}"


def anatomy_about(found: Anatomy) -> str:
    """What the numbers of an error budget are."""
    over = (
        f"{found.seeds} trainings from different seeds"
        if found.seeds > 1
        else f"{found.repeats} draws of samples and reference; one training, so nothing is said of other seeds"
    )
    return (
        f"n = {found.experiment.n:,} samples; what each cause adds, in the metric's units, mean and 95 % interval over "
        f"{over}\nfloor: exact samples; sampler: exact denoiser, same sampler and steps; capacity: same network on the "
        "exact regression target, same training steps; estimation: the rest; total: all above the floor"
    )


def anatomy_table(found: Anatomy) -> Table:
    """A line a metric: what each cause of error adds to it."""
    from rich.markup import escape

    titles = ("metric", "floor", "sampler", "capacity", "estimation", "total")
    table = _table(*titles, caption=anatomy_about(found))
    for label, parts in found.parts.items():
        table.add_row(escape(label), *(_part(part) for part in parts.values()))
    return table


def anatomy_json(found: Anatomy) -> dict[str, Any]:
    """Parts with intervals, and the values behind them."""
    return {
        "id": found.experiment.id,
        "training": found.experiment.training.id,
        "n": found.experiment.n,
        "repeats": found.repeats,
        "seeds": found.seeds,
        "metrics": {
            label: {
                name: {"value": finite(part.value), "interval": [finite(end) for end in part.interval]}
                for name, part in parts.items()
            }
            for label, parts in found.parts.items()
        },
        "values": {
            label: {link: [finite(v) for v in values] for link, values in links.items()}
            for label, links in found.values.items()
        },
        "score_error": jsonable(found.score_error),
    }


def anatomy_csv(found: Anatomy) -> str:
    """Long form: one line a metric and part."""
    about = {"n": found.experiment.n, "repeats": found.repeats, "seeds": found.seeds}
    return csv_text(
        [
            {"metric": label, "part": name, "value": part.value, **_ends(part.interval), **about}
            for label, parts in found.parts.items()
            for name, part in parts.items()
        ]
    )


def _ends(interval: tuple[float, float] | None) -> dict[str, float | None]:
    low, high = interval or (None, None)
    return {"interval_lo": low, "interval_hi": high}
