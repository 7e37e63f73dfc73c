"""The commands that move results between stores, and look after one: `import`, `gc`, `verify`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from moonbed.cli.app import app
from moonbed.cli.options import STORE, JsonOption, QuietOption, StoreOption
from moonbed.cli.output import escape, last, print_json, say, size_of, warn

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moonbed.experiments.storage.collect import Garbage
    from moonbed.experiments.storage.transfer import Arrival

DryOption = Annotated[bool, Parameter(negative="", help="Say what would be done, and do nothing.")]


@app.command(name="import")
def import_(
    source: Path,
    /,
    *,
    replace: Annotated[
        bool, Parameter(negative="", help="Take the imported results where others have the same id.")
    ] = False,
    dry_run: DryOption = False,
    store: StoreOption = STORE,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> int:
    """Take results from an archive that `moonbed export` wrote, or from the folder of another store.

    The file may be a stranger's: everything in it is looked at before the first byte is written, names, sizes,
    checksums, ids and shapes, and nothing is taken of one that is not what it says. An archive holds no code, and none
    is run. What is there already stays. A run with a class of somebody's file comes in too; to see it, give that file.

    For example:

        moonbed import results.zip
        moonbed import results.zip --dry-run
        moonbed import other/runs --store runs --replace
    """
    from moonbed.experiments.storage.store import Store

    arrivals: list[Arrival] = []
    notes: list[str] = []
    last(_received(source, Store(store), replace, dry_run, arrivals, notes), quiet)
    counts = Counter((a.kind, a.what) for a in arrivals)
    warn(notes)
    if json:
        runs = [{"kind": a.kind, "id": a.id, "what": a.what, "message": a.message} for a in arrivals]
        print_json({"store": store, "dry_run": dry_run, "arrivals": runs, "left_out": notes})
        return 0
    for kind in ("training", "experiment", "floor", "exact"):
        found = [f"{n} {what}" for (of, what), n in counts.items() if of == kind]
        if found:
            say(f"{_PLURAL[kind]}: {', '.join(found)}")
    for a in arrivals:
        if a.message and a.what not in ("there",):
            say(f"  {a.what:<8}  {a.id}  [dim]{escape(a.message)}[/]")
    if dry_run:
        say("[dim]nothing was written: --dry-run[/]")
    return 0


_PLURAL = {"training": "trainings", "experiment": "experiments", "floor": "floors", "exact": "exact values"}


def _received(
    path: Path, store: Any, replace: bool, dry_run: bool, arrivals: list[Arrival], notes: list[str]
) -> Iterator[tuple[str, Any]]:
    """Named progress, while the arrivals are gathered."""
    from moonbed.component import SpecError
    from moonbed.experiments.selection import Selection, select
    from moonbed.experiments.storage.archive import Archive
    from moonbed.experiments.storage.files import Stored
    from moonbed.experiments.storage.store import Store
    from moonbed.experiments.storage.transfer import Arrival, receive

    def taken(source: Any) -> Iterator[tuple[str, Any]]:
        for event in receive(source, store, replace=replace, dry_run=dry_run):
            if isinstance(event, Arrival):
                arrivals.append(event)
            else:
                yield path.name, event

    if not path.exists():
        raise SpecError([("", f"no file or folder {path}")])
    if not path.is_dir():
        with Archive(path) as archive:
            yield from taken(archive)
        return
    other = Store(path, readonly=True)
    if str(path.resolve()) == str(store.root.resolve()):
        raise SpecError([("", f"{path} is the store itself")])
    for event in select(other):
        if isinstance(event, Selection):
            notes += event.left_out
            yield from taken(Stored(other, event.names))
        else:
            yield path.name, event


@app.command
def gc(
    *,
    runs: Annotated[
        list[str] | None,
        Parameter(help="Remove this run too, by the beginning of its id; a training goes with its experiments."),
    ] = None,
    diverged: Annotated[bool, Parameter(negative="", help="Remove trainings that diverged too.")] = False,
    unfinished: Annotated[
        bool, Parameter(negative="", help="Remove trainings and samples that are not finished too.")
    ] = False,
    trainings: Annotated[
        bool, Parameter(negative="", help="Remove finished trainings without an experiment too.")
    ] = False,
    older_than: Annotated[float, Parameter(help="Remove only what was written so many days ago.")] = 0.0,
    dry_run: DryOption = False,
    store: StoreOption = STORE,
    json: JsonOption = False,
) -> int:
    """Remove what nothing needs: files of killed writers, checkpoints of finished trainings, damaged floors.

    Finished results stay unless they are asked for. What another process works on is left alone. A writer's file has to
    be an hour old.

    For example:

        moonbed gc --dry-run
        moonbed gc --unfinished --older-than 30
        moonbed gc --runs 5bf198d9 --runs 0c38d6a2
    """
    from moonbed.cli.parsing import not_negative
    from moonbed.experiments.storage.collect import Wanted, collect
    from moonbed.experiments.storage.store import Store

    not_negative("--older-than", older_than)
    wanted = Wanted(tuple(runs or ()), diverged, unfinished, trainings, older_than)
    found = list(collect(Store(store), wanted, dry_run))
    gone, kept = [g for g in found if not g.kept], [g for g in found if g.kept]
    if json:
        files = [{"name": g.name, "bytes": g.size, "why": g.why, "kept": g.kept} for g in found]
        print_json({"store": store, "dry_run": dry_run, "bytes": sum(g.size for g in gone), "files": files})
        return 0
    _print_garbage(gone)
    for home in dict.fromkeys(g.name.partition("/")[0] for g in kept):
        say(f"  [dim]left alone:[/] {home}  [dim]{kept[0].kept}[/]")
    did = "would be freed" if dry_run else "freed"
    say(f"{size_of(sum(g.size for g in gone))} {did}, {len(gone)} files and folders")
    return 0


def _print_garbage(gone: list[Garbage]) -> None:
    for garbage in gone:
        say(f"  {escape(garbage.name)}  [dim]{garbage.why}, {size_of(garbage.size)}[/]")


@app.command
def verify(
    *run: str,
    store: StoreOption = STORE,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> int:
    """Hold every file of the store, or of some runs, against its checksum, its seal, its id and its shape.

    Exit status 1 if anything is damaged; each such file is listed with what mends it. Files that are not ours are named
    and not looked at. Numbers are not computed again.

    For example:

        moonbed verify
        moonbed verify 5bf198d9
        moonbed verify --json --store other/runs
    """
    from moonbed.component import SpecError
    from moonbed.experiments.engines import Progress
    from moonbed.experiments.selection import remedy
    from moonbed.experiments.selection import verify as look
    from moonbed.experiments.storage.contents import in_a_line
    from moonbed.experiments.storage.inspection import Finding
    from moonbed.experiments.storage.store import Store

    where = Store(store, readonly=True)
    if not where.root.is_dir():
        raise SpecError([("--store", f"no folder {store}")])
    found: list[Finding] = []
    done = Progress("verify", 0, 0)

    def events() -> Iterator[tuple[str, Any]]:
        nonlocal done
        for event in look(where, run):
            if isinstance(event, Finding):
                found.append(event)
            else:
                done = event
                yield store, event

    last(events(), quiet)
    damaged = [f for f in found if f.what == "damaged"]
    if json:
        findings = [{"name": f.name, "what": f.what, "message": f.message, "remedy": remedy(f)} for f in found]
        print_json({"store": store, "files": done.done, "intact": not damaged, "findings": findings})
        return 1 if damaged else 0
    for finding in found:
        mark = "[bold red]damaged[/]" if finding.what == "damaged" else f"[dim]{finding.what}[/]"
        say(f"  {mark}  {escape(in_a_line(finding.name))}  {escape(finding.message)}")
        if text := remedy(finding):
            say(f"    [dim]{escape(text)}[/]")
    say(f"{done.done} files, {len(damaged)} damaged" if damaged else f"{done.done} files, none damaged")
    return 1 if damaged else 0
