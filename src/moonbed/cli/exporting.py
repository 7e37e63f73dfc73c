"""The command that takes a trained model out of the house."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from moonbed.cli.app import STORE, JsonOption, StoreOption, app
from moonbed.cli.output import escape, print_json, say
from moonbed.cli.parsing import one_of


@app.command
def export(
    run: str,
    /,
    *,
    format: Annotated[
        str,
        Parameter(
            help="diffusers: a folder that plain diffusers loads; torch: one .pt2 file of the denoiser; onnx: the "
            "same as ONNX; npy: the samples."
        ),
    ] = "diffusers",
    out: Annotated[
        Path | None, Parameter(help="Folder or file to write; named after the run, in this folder, unless said.")
    ] = None,
    force: Annotated[bool, Parameter(negative="", help="Write over what is there.")] = False,
    store: StoreOption = STORE,
    json: JsonOption = False,
) -> int:
    """Write a trained model, or its samples, for use without Moonbed.

    The run is named by its id or the beginning of it, or as a preset or `file.py:name` with what was changed. What is
    exported is held against Moonbed's own numbers before it is written.

    For example:

        moonbed export 5bf198d9 --format diffusers
        moonbed export "fast training.seed=1" --format torch --out fast.pt2
        moonbed export my_idea.py:base --format onnx
        moonbed export 5bf198d9 --format npy --json
    """
    from moonbed.experiments.store import Store
    from moonbed.export import FORMATS, check_free, find_run, write
    from moonbed.export import export as make

    one_of("--format", format, FORMATS)
    found = find_run(run, Store(store))
    path = out or Path(f"moonbed-{found.experiment.id}{(*FORMATS[format], '')[0]}")
    check_free(path, format, force)
    written = write(make(found, format), format, path, force)
    if json:
        data = {"id": found.experiment.id, "training": found.experiment.training.id, "format": format}
        print_json({**data, "out": str(path), "files": [str(file) for file in written]})
    else:
        say(f"{format} of {found.experiment.id} in [bold]{escape(str(path))}[/]: {len(written)} files")
    return 0
