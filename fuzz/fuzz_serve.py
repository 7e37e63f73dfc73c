"""Requests to `moonbed serve` from a hostile page: paths, queries, hosts, methods, headers; in this process."""

from __future__ import annotations

import asyncio

import atheris

with atheris.instrument_imports(include=["moonbed"]):
    import fuzz_store as store
    from common import NOISE, Draw, Wrong, fuzz

    from moonbed.serve import application

APP = application(store.STORE)
DONE, CUT = store.DONE.training.id, store.CUT.id
NAMES = [
    "/",
    "/runs/",
    "/api/runs",
    f"/api/runs/{DONE}",
    f"/api/runs/{CUT}",
    "/report",
    "/live",
    "/static/",
    "engine.js",
    DONE,
    CUT,
    "..",
    "../",
    "%2e%2e%2f",
    "//",
    "\\",
    "%00",
    "/etc/passwd",
    "floors",
    ".lock",
    "localhost",
    "127.0.0.1",
    "[::1]",
    "evil.example",
    "127.0.0.1:8000",
    "127.0.0.1@evil.example",
    "GET",
    "HEAD",
    "POST",
    "OPTIONS",
    "*",
    "if-none-match",
    "range",
    "host",
]
HOSTS = {b"localhost", b"127.0.0.1", b"[::1]", b"::1"}
LOOP = asyncio.new_event_loop()


def one(data: bytes) -> None:
    draw = Draw(data, NAMES)
    path = draw.one_of(["", "/", "/runs/", "/api/runs/", "/static/", "/api/runs"]) + "".join(
        draw.text() for _ in range(draw.below(4))
    )
    path = path.encode("utf-8", "replace").decode()  # a server decodes what it gets so
    host = draw.one_of(["127.0.0.1", "localhost:80", draw.text()]).encode("utf-8", "replace")
    method = draw.one_of(["GET", "GET", "HEAD", draw.text().encode("ascii", "replace").decode()])
    headers = [
        (b"host", host),
        (draw.text().lower().encode("utf-8", "replace"), draw.text().encode("utf-8", "replace")),
    ]
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode("utf-8", "replace"),
        "query_string": draw.text().encode("utf-8", "replace"),
        "root_path": "",
        "headers": headers,
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8000),
    }
    sent = []

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        sent.append(message)

    LOOP.run_until_complete(APP(scope, receive, send))
    status = sent[0]["status"]
    body = b"".join(m.get("body", b"") for m in sent[1:])
    given = dict(sent[0]["headers"])
    if status >= 500:
        raise Wrong(f"{status} for {method} {path!r}")
    if b"content-security-policy" not in given or given.get(b"x-content-type-options") != b"nosniff":
        raise Wrong(f"no headers for {method} {path!r}: {given}")
    if method not in ("GET", "HEAD") and status not in (405, 400):
        raise Wrong(f"{method} {path!r} was answered {status}")
    if host.rsplit(b":", 1)[0] not in HOSTS and host not in HOSTS and status == 200:
        raise Wrong(f"host {host!r} was answered")
    if b"root:x:0" in body:
        raise Wrong(f"{path!r} gave a file away")


if __name__ == "__main__":
    try:
        fuzz(one, (), NOISE)
    finally:
        store.shutil.rmtree(store.ROOT)
