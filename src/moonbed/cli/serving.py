"""The command that shows the store in a browser."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from moonbed.cli.app import app
from moonbed.cli.options import STORE, StoreOption


@app.command
def serve(
    *files: Annotated[Path, Parameter(help="Python files whose classes stored runs use; their code is run.")],
    host: Annotated[str, Parameter(help="Address to answer on; only this machine reaches the one unless said.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, Parameter(help="Port to answer on; 0 takes a free one.")] = 8000,
    open: Annotated[bool, Parameter(negative="", help="Open the address in a browser.")] = False,
    store: StoreOption = STORE,
) -> int:
    """Show the store's runs in a browser, live while they train: progress, loss, samples so far.

    The store is only read, and needs no rights to write. The first line on standard output is the address. Ctrl-C ends
    it.

    For example:

        moonbed serve
        moonbed serve --store runs --port 0 --open
        moonbed serve my_idea.py
    """
    from moonbed.component import SpecError
    from moonbed.experiments.plugins import load_file
    from moonbed.experiments.storage.places import remote
    from moonbed.experiments.storage.store import Store
    from moonbed.serve import is_loopback
    from moonbed.serve import serve as answer

    where = Store(store, readonly=True)
    if not remote(where.root) and where.root.exists() and not where.root.is_dir():
        raise SpecError([("--store", f"{store} is no folder")])
    for file in files:
        load_file(file)

    def begun(address: str) -> None:
        print(f"serving {store} on {address}", flush=True)
        if not is_loopback(host):
            sys.stderr.write(f"moonbed: whoever can reach {host} on the network can read all of {store}\n")
        if open:
            import webbrowser

            webbrowser.open(address)

    try:
        answer(where, host, port, begun)
    except KeyboardInterrupt:
        sys.stderr.write("moonbed: ended\n")
    return 0
