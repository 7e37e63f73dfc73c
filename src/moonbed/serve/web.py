"""The store over HTTP, for reading only.

Only GET and HEAD are answered. What a path names is looked up in the list of the store's runs and never joined to a
folder. Every answer forbids to be kept, framed and guessed at, and scripts come from this server alone; on a loopback
address a request must name that address as its host, since otherwise a page from elsewhere could have its own name
point here (DNS rebinding) and read the store.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import re
from collections.abc import Callable, Set
from typing import TYPE_CHECKING, Any

from moonbed.component import SpecError
from moonbed.experiments.storage.folder import Folder, StoreError
from moonbed.experiments.storage.store import Store
from moonbed.serve.detail import detail
from moonbed.serve.index import Index, patiently
from moonbed.serve.models import Models, assets, nothing

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["application", "is_loopback"]

STRICT = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self'; style-src 'self'; "
    "img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
REPORT = (
    "default-src 'none'; script-src 'unsafe-inline' 'wasm-unsafe-eval' blob:; worker-src blob:; "
    "style-src 'unsafe-inline'; img-src data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
"""The report is one file with its scripts inside."""
HEADERS = {
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def application(store: Store, host: str = "127.0.0.1") -> Starlette:
    """The server's application for a store, as it is reached under `host`."""
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.routing import Route

    site = _Site(store)
    routes = [
        Route("/", site.list_page),
        Route("/runs/{key}", site.run_page),
        Route("/runs/{key}/report", site.report),
        Route("/api/runs", site.runs),
        Route("/api/runs/{key}", site.run),
        Route("/api/runs/{key}/live", site.live),
        Route("/static/{name}", site.static),
    ]
    layers = [Middleware(_ReadOnly)]
    if is_loopback(host):
        names = {"localhost", "127.0.0.1", "[::1]", f"[{host}]" if ":" in host else host}
        layers.append(Middleware(_Named, names=names))
    return Starlette(routes=routes, middleware=layers, exception_handlers={404: site.missing})


class _Named:
    """Refuses requests to a host that is none of `names`. Starlette's own knows no IPv6 in its older releases."""

    def __init__(self, app: ASGIApp, names: Set[str]) -> None:
        self.app, self.names = app, names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        from starlette.datastructures import Headers
        from starlette.responses import PlainTextResponse

        host = Headers(scope=scope).get("host", "") if scope["type"] == "http" else ""
        name = re.sub(r":\d*$", "", host)
        known = scope["type"] == "lifespan" or name in self.names
        await (self.app if known else PlainTextResponse("Invalid host header", status_code=400))(scope, receive, send)


class _ReadOnly:
    """Refuses all methods but GET and HEAD, and puts the headers on every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def dressed(message: Message) -> None:
            if message["type"] == "http.response.start":
                there = {key for key, _ in message["headers"]}
                for key, value in {**HEADERS, "content-security-policy": STRICT}.items():
                    if key.encode() not in there:
                        message["headers"].append((key.encode(), value.encode()))
            await send(message)

        if scope["type"] == "http" and scope["method"] not in ("GET", "HEAD"):
            from starlette.responses import PlainTextResponse

            refusal = PlainTextResponse("this server only reads", 405, {"allow": "GET, HEAD"})
            await refusal(scope, receive, dressed)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await self.app(scope, receive, dressed)


class _Site:
    """What each address answers. Plain functions: the framework runs them in threads."""

    def __init__(self, store: Store) -> None:
        from jinja2 import Environment, PackageLoader, StrictUndefined

        store = Store(store.root, readonly=True)
        self.index, self.models = Index(store), Models(store)
        loader = PackageLoader("moonbed.serve", "templates")
        self.pages = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
        self.assets = assets()

    def list_page(self, request: Request) -> Response:
        return self._page("list.html.j2", store=str(self.index.store.root))

    def run_page(self, request: Request) -> Response:
        run = self.index.run(request.path_params["key"])
        if run is None:
            return self.missing(request)
        return self._page("run.html.j2", run=run, store=str(self.index.store.root))

    def missing(self, request: Request, error: Exception | None = None) -> Response:
        from starlette.responses import JSONResponse

        if request.url.path.startswith(("/api/", "/static/")):
            return JSONResponse({"error": "the store holds no such run"}, 404)
        return self._page("missing.html.j2", 404, store=str(self.index.store.root))

    def runs(self, request: Request) -> Response:
        try:
            return _json(request, {"store": str(self.index.store.root), "runs": self.index.runs()})
        except StoreError as error:
            return _json(request, {"error": str(error)}, 500)

    def run(self, request: Request) -> Response:
        found = detail(self.index, request.path_params["key"])
        return self.missing(request) if found is None else _json(request, found)

    def live(self, request: Request) -> Response:
        return self._made(request, lambda folder: _json(request, self.models.live(folder)))

    def report(self, request: Request) -> Response:
        from starlette.responses import HTMLResponse

        headers = {"content-security-policy": REPORT}
        return self._made(request, lambda folder: HTMLResponse(self.models.report(folder), headers=headers))

    def _made(self, request: Request, make: Callable[[Folder], Response]) -> Response:
        """What is made of a run's files, or why it cannot be: no failure, since a run may have no model yet."""
        folder = self.index.folder(request.path_params["key"])
        if folder is None:
            return self.missing(request)
        try:
            return patiently(lambda: make(folder))
        except (StoreError, SpecError) as error:
            message = str(error)
        except Exception as error:  # a class of somebody's own may fail in any way
            message = f"{type(error).__name__}: {error}"
        if request.url.path.startswith("/api/"):
            return _json(request, nothing(message))
        return self._page("missing.html.j2", 409, store=str(self.index.store.root), message=message)

    def static(self, request: Request) -> Response:
        from starlette.responses import Response

        name = request.path_params["name"]
        if name not in self.assets:
            return self.missing(request)
        kind, make = self.assets[name]
        return Response(make(), media_type=kind)

    def _page(self, name: str, status: int = 200, **values: Any) -> Response:
        from starlette.responses import HTMLResponse

        return HTMLResponse(self.pages.get_template(name).render(values), status)


def _json(request: Request, data: Any, status: int = 200) -> Response:
    """JSON with a tag by which whoever has it already is told so."""
    from starlette.responses import Response

    body = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode()
    tag = f'"{hashlib.sha256(body).hexdigest()[:16]}"'
    if status == 200 and request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers={"etag": tag})
    return Response(body, status, {"etag": tag}, "application/json")
