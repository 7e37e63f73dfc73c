"""A socket and uvicorn on it.

The socket is opened first, so that a port that is taken is an error before anything starts, and port 0 has its number.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable

from moonbed.component import SpecError
from moonbed.experiments.storage.store import Store
from moonbed.serve.web import application

__all__ = ["listen", "serve"]

_NO_ADDRESS = (errno.EADDRNOTAVAIL, errno.EINVAL)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there; port 0 takes a free one. Raises `SpecError` where that cannot be."""
    if not 0 <= port <= 65_535:
        raise SpecError([("--port", f"should be 0 to 65535, given {port}")])
    try:
        family, kind, number, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        raise SpecError([("--host", f"{host!r} is no address of this machine: {error}")]) from None
    found = socket.socket(family, kind, number)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
        found.listen(128)
    except OSError as error:
        found.close()
        what = "--port" if error.errno not in _NO_ADDRESS else "--host"
        message = f"cannot listen on {host}, port {port}: {error.strerror or error}; --port 0 takes a free one"
        raise SpecError([(what, message)]) from None
    return found


def serve(store: Store, host: str, port: int, begun: Callable[[str], None]) -> None:
    """Answer until interrupted; `begun` is told the address once it can be asked."""
    import uvicorn

    with listen(host, port) as found:
        number = found.getsockname()[1]
        settings = uvicorn.Config(
            application(store, host),
            log_level="critical",
            access_log=False,
            server_header=False,
            lifespan="off",
            timeout_graceful_shutdown=1,
        )
        begun(f"http://{f'[{host}]' if ':' in host else host}:{number}")
        uvicorn.Server(settings).run(sockets=[found])
