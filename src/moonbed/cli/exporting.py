"""The command that takes a trained model, or whole runs, out of the house."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from moonbed.cli.app import app
from moonbed.cli.options import STORE, JsonOption, QuietOption, StoreOption
from moonbed.cli.output import escape, last, print_json, say, size_of, warn
from moonbed.cli.parsing import one_of

RESULTS = "results"


@app.command
def export(
    *run: str,
    format: Annotated[
        str | None,
        Parameter(
            help="diffusers: a folder that plain diffusers loads; torch: one .pt2 file of the denoiser; onnx: the "
            "same as ONNX; npy: the samples; results: one .zip of whole runs, for `moonbed import`. Unless said, "
            "results for no run, for several and for an --out that ends in .zip, else diffusers."
        ),
    ] = None,
    out: Annotated[
        Path | None, Parameter(help="Folder or file to write; named after the run, in this folder, unless said.")
    ] = None,
    unfinished: Annotated[
        bool, Parameter(negative="", help="With results: trainings at their last checkpoint too, to go on elsewhere.")
    ] = False,
    force: Annotated[bool, Parameter(negative="", help="Write over what is there.")] = False,
    store: StoreOption = STORE,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> int:
    """Write a trained model, or its samples, for use without Moonbed; or whole runs, for another machine's store.

    The run is named by its id or the beginning of it, or as a preset or `file.py:name` with what was changed. What is
    exported is held against Moonbed's own numbers before it is written. Results may be of several runs, or of all that
    is finished: their folders as they are, with all that they need, in one file without code.

    For example:

        moonbed export 5bf198d9 --format diffusers
        moonbed export "fast training.seed=1" --format torch --out fast.pt2
        moonbed export my_idea.py:base --format onnx
        moonbed export 5bf198d9 --format npy --json
        moonbed export fast residual --out results.zip
        moonbed export --format results
    """
    from moonbed.component import SpecError
    from moonbed.experiments.storage.store import Store
    from moonbed.export import FORMATS, check_free, find_run, write
    from moonbed.export import export as make

    if files := [name for name in run if name.endswith(".zip")]:
        raise SpecError([("RUN", f"{files[0]} is a file and no run; to write it, --out {files[0]}")])
    if format is None:
        whole = len(run) != 1 or unfinished or (out is not None and out.suffix == ".zip")
        format = RESULTS if whole else "diffusers"
    if one_of("--format", format, [*FORMATS, RESULTS]) == RESULTS:
        return _results(run, out or Path("moonbed-results.zip"), unfinished, force, store, json, quiet)
    if len(run) != 1 or unfinished:
        raise SpecError([("--format", f"{format} is of one finished run; results are of several")])
    found = find_run(run[0], Store(store))
    path = out or Path(f"moonbed-{found.experiment.id}{(*FORMATS[format], '')[0]}")
    check_free(path, format, force)
    written = write(make(found, format), format, path, force)
    if json:
        data = {"id": found.experiment.id, "training": found.experiment.training.id, "format": format}
        print_json({**data, "out": str(path), "files": [str(file) for file in written]})
    else:
        say(f"{format} of {found.experiment.id} in [bold]{escape(str(path))}[/]: {len(written)} files")
    return 0


def _results(runs: Sequence[str], out: Path, unfinished: bool, force: bool, store: str, json: bool, quiet: bool) -> int:
    """Write an archive of runs, and say what is in it."""
    from moonbed.component import SpecError
    from moonbed.experiments.engines import Progress
    from moonbed.experiments.selection import Selection, select
    from moonbed.experiments.storage.archive import write_archive
    from moonbed.experiments.storage.files import Stored
    from moonbed.experiments.storage.store import Store

    if out.is_dir():
        raise SpecError([("--out", f"{out} is a folder; name a file")])
    if out.exists() and not force:
        raise SpecError([("--out", f"{out} exists already; --force writes over it")])
    where, chosen = Store(store, readonly=True), Selection()

    def events() -> Iterator[tuple[str, Any]]:
        nonlocal chosen
        for event in select(where, runs, unfinished):
            if isinstance(event, Selection):
                chosen = event
            else:
                yield out.name, event
        if not chosen.names:
            raise SpecError([("", f"no finished run in {store}; `moonbed run` makes one")])
        for done, total in write_archive(out, Stored(where, chosen.names)):
            yield out.name, Progress("write", done, total)

    last(events(), quiet)
    warn(f"left out: {why}" for why in chosen.left_out)
    size = out.stat().st_size
    if json:
        about = {"out": str(out), "bytes": size, "files": [name.plain for name in chosen.names]}
        print_json({"format": RESULTS, **about, "experiments": chosen.experiments, "trainings": chosen.trainings})
    else:
        runs_of = f"{len(chosen.experiments)} experiments, {len(chosen.trainings)} trainings"
        say(f"{runs_of}, {len(chosen.names)} files in [bold]{escape(str(out))}[/], {size_of(size)}")
    return 0
