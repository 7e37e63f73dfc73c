"""A real Chromium for the tests of the page: one browser a file of tests, a fresh page a test.

A page fails its test on a console error, on an uncaught exception, and on any request that leaves the machine's disk.
A file, and not the session, because Playwright holds the thread's event loop while its browser is open, and other
tests run loops of their own.
"""

from __future__ import annotations

import base64
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from moonbed.report.page.bundle import ENGINE_FILES, bundle, kernel

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

LOCAL = ("file:", "blob:", "data:", "about:")
_NAMES = ("chromium", "chromium-browser", "google-chrome")


def chromium() -> str | None:
    """The program: `MOONBED_CHROMIUM`, or the first on the path."""
    return os.environ.get("MOONBED_CHROMIUM") or next(filter(None, map(shutil.which, _NAMES)), None)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = chromium()
    if program is None:
        reason = f"no Chromium: install {' or '.join(_NAMES)}, or set MOONBED_CHROMIUM to the program"
        if os.environ.get("MOONBED_BROWSER") == "required":
            pytest.fail(reason)
        pytest.skip(reason)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page of 1280 x 800 that may read files only."""
    with watched(browser) as page:
        yield page


@contextmanager
def watched(browser: Browser, allowed: tuple[str, ...] = (), **context: Any) -> Iterator[Page]:
    """A page in a context of its own; `allowed`: beginnings of further addresses, such as that of a test's server.

    Keywords go to Playwright's `new_context`: `viewport`, `color_scheme`, `reduced_motion`, `java_script_enabled`.
    """
    troubles: list[str] = []

    def request(url: str) -> None:
        if not url.startswith((*LOCAL, *allowed)):
            troubles.append(f"request to {url}")

    with browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **context}) as surroundings:
        page = surroundings.new_page()
        page.on("console", lambda m: troubles.append(f"console: {m.text}") if m.type == "error" else None)
        page.on("pageerror", lambda e: troubles.append(f"uncaught: {e}"))
        page.on("request", lambda r: request(r.url))
        page.on("websocket", lambda w: request(w.url))
        yield page
    assert not troubles, "\n".join(troubles)


def engine_in(page: Page, given: dict[str, Any] | None = None) -> None:
    """The engine's script in a page, and as `given` what a test has for it, with the kernel's bytes as `given.wasm`."""
    page.add_script_tag(content=bundle(ENGINE_FILES))
    wasm = base64.b64encode(kernel()).decode()
    page.evaluate("([given, wasm]) => { window.given = { ...given, wasm: bytesOfBase64(wasm) }; }", [given or {}, wasm])
