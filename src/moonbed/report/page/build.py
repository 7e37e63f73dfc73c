"""The page put together: style, sections, script and the live models in one file that asks nothing of a network.

The static sections come first and read without a script; behind them stand the models as data, and last the script.
Everything is escaped by the templates but what is made here: style, script, marks and data. A content security policy
holds even for what would get past that: no address but the file itself is ever asked, and no script runs but the one
whose digest it names.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import moonbed
from moonbed.report.page.bundle import ENGINE_FILES, LIVE_FILES, bundle, kernel
from moonbed.report.page.views import (
    comparison_view,
    configuration_view,
    headline,
    labels_of,
    results_view,
    row_views,
)

if TYPE_CHECKING:
    from jinja2 import Environment

    from moonbed.experiments.compare import Comparison
    from moonbed.experiments.rows import Row

__all__ = ["fragment", "page", "script_data"]

STATIC_FILES = ("theme.js", "sort.js", "page.js")


@cache
def environment() -> Environment:
    """The templates of this folder; what they are given is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("moonbed.report.page", "")
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)


def page(
    rows: Sequence[Row],
    *,
    title: str = "Results",
    lead: str = "",
    comparison: Comparison | None = None,
    live: tuple[Mapping[str, Any], bytes] | None = None,
    figures: Sequence[Any] = (),
    command: str = "",
    versions: Mapping[str, str] | None = None,
) -> str:
    """HTML of the results. `live` is what `moonbed.live.document` gives, `figures` have title, caption, svg and table.

    `command` makes the page again, `versions` are those that made the numbers.
    """
    if not rows:
        raise ValueError("a page needs at least one row")
    labels = labels_of(rows)
    script = bundle([*STATIC_FILES, *(LIVE_FILES if live else ())])
    parts = {"verdict": "Verdict", "results": "Results", "live": "Models", "figures": "Figures"}
    parts |= {"configuration": "Configuration", "about": "How to read it"}
    for name, given in (("live", live), ("figures", figures)):
        if not given:
            del parts[name]
    return (
        environment()
        .get_template("template.html.j2")
        .render(
            title=title,
            lead=lead,
            version=moonbed.__version__,
            parts=list(parts.items()),
            comparison=comparison,
            comparison_table=comparison_view(comparison) if comparison else None,
            sentence=_ended(comparison.sentence if comparison else headline(rows, labels)),
            rows=row_views(rows, labels, said=comparison is None and len(rows) == 1),
            results=results_view(rows, labels),
            configuration=configuration_view(rows),
            figures=figures,
            live=None if live is None else _embedded(*live),
            command=command,
            versions=versions or {"moonbed": moonbed.__version__},
            css=style("base.css", "table.css", "verdict.css", *(["live.css"] if live else [])),
            script=script,
            script_hash=f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}",
        )
    )


def fragment(rows: Sequence[Row], comparison: Comparison | None = None) -> str:
    """The table of the page with its marks, to stand in another page: style inside, no script."""
    labels = labels_of(rows)
    return (
        environment()
        .get_template("fragment.html.j2")
        .render(
            sentence=_ended(comparison.sentence) if comparison else "",
            table_view=comparison_view(comparison) if comparison else results_view(rows, labels),
            rows=row_views(rows, labels),
            css=style("table.css", "fragment.css"),
        )
    )


def style(*names: str) -> str:
    """Style sheets of this folder, one after the other."""
    return "\n".join((files("moonbed.report.page") / "css" / name).read_text("utf-8") for name in names)


def script_data(data: Any) -> str:
    """JSON that can stand inside a script element: it holds no `<`, and no line end but `\\n`."""
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")


def _embedded(document: Mapping[str, Any], blob: bytes) -> dict[str, str]:
    return {
        "document": script_data(document),
        "blob": base64.b64encode(blob).decode(),
        "kernel": base64.b64encode(kernel()).decode(),
        "engine": bundle(ENGINE_FILES),
    }


def _ended(sentence: str) -> str:
    return sentence if sentence.endswith((".", "!", "?")) else f"{sentence}."
