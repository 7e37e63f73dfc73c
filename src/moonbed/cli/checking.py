"""`moonbed check`: components, anyone's or our own, held against the laws that our own members pass."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from moonbed.cli.app import app
from moonbed.cli.options import JsonOption, QuietOption
from moonbed.cli.output import escape, print_json, print_table, say
from moonbed.cli.parsing import all_kinds
from moonbed.component import Component, SpecError, members, nearest

if TYPE_CHECKING:
    from moonbed.laws import Verdict


@app.command
def check(*what: str, json: JsonOption = False, quiet: QuietOption = False) -> int:
    """Hold components against the laws of their kind: all that a Python file defines, or our own by name.

    Says in words what holds, what is broken, and by how much; exit status 1 if anything is. Of a class the instances in
    the file's variables are checked, and without any the one that its defaults build. The file's code is run, with all
    that you may do.

    For example:

        moonbed check my_idea.py
        moonbed check Heun TwoMoons
        moonbed check my_idea.py --json
    """
    found = _components(what)
    verdicts = [(name, member, _verdicts(name, member, quiet)) for name, member in found]
    holds = all(verdict.holds for *_, group in verdicts for verdict in group)
    if json:
        checks = [
            {"kind": member.kind().__name__, "member": name, "law": v.law, "holds": v.holds, "message": v.message}
            for name, member, group in verdicts
            for v in group
        ]
        print_json({"checks": checks, "holds": holds})
    else:
        print_table(_table(verdicts))
        every = [verdict for _, _, group in verdicts for verdict in group]
        broken = sum(not verdict.holds for verdict in every)
        say(f"{len(every)} laws, {broken} broken" if broken else f"{len(every)} laws hold")
    return 0 if holds else 1


def _components(what: Sequence[str]) -> list[tuple[str, Component]]:
    """Name and component of what was named, in that order."""
    from moonbed.experiments.plugins import components_in

    if not what:
        raise SpecError([("", "name a Python file, or members, as in `moonbed check my_idea.py` or `check Heun`")])
    known = {name: cls for kind in all_kinds().values() for name, cls in members(kind).items()}
    out: list[tuple[str, Component]] = []
    for text in what:
        if text.endswith(".py"):
            found = components_in(text)
            if not found:
                raise SpecError([(text, "defines no component: no subclass of Target, Schedule, Sampler, Metric, ...")])
            out += found.items()
        elif text not in known:
            raise SpecError([("", f"no component is called {text!r}; {nearest(text, known)}")])
        else:
            out.append((text, known[text]()))
    return out


def _verdicts(name: str, member: Component, quiet: bool) -> list[Verdict]:
    """Every law of the member, with a bar on standard error, and a line there after what took over a second."""
    from moonbed import laws
    from moonbed.experiments.engines import Progress
    from moonbed.report.progress import Bars

    held, out, started = laws.laws_of(member), [], time.monotonic()
    with Bars(quiet) as bars:
        for k, law in enumerate(held):
            bars.show(name, Progress("check", k, len(held), laws.in_words(law)))
            out.append(laws.verdict(law, member))
        if (spent := time.monotonic() - started) > 1:
            bars.say(f"{name}: {len(held)} laws in {spent:.0f} s")
    return out


def _table(verdicts: Sequence[tuple[str, Component, Sequence[Verdict]]]) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("component", "law", ""):
        table.add_column(title, ratio=None if title != "law" else 1)
    for name, member, group in verdicts:
        title = f"{escape(name)} [dim]{member.kind().__name__}[/]"
        if not group:
            table.add_row(title, "[dim]no laws are known for this[/]", "")
        for k, verdict in enumerate(group):
            law = escape(verdict.law) + ("" if verdict.holds else f"\n[red]{escape(verdict.message)}[/]")
            table.add_row("" if k else title, law, "holds" if verdict.holds else "[bold red]broken[/]")
    return table
