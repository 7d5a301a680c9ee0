"""A real browser: pages opened in it, and everything that goes wrong there."""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from playwright.sync_api import sync_playwright

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Browser, Page

_CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_PATIENCE = 30_000
"""Milliseconds; against hanging alone."""
_QUIET = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--disable-extensions", "--disable-dev-shm-usage"),
)
in_a_browser = [
    pytest.mark.skipif(_CHROMIUM is None, reason="no Chromium on this machine"),
    pytest.mark.blocks,
]


class Opened(NamedTuple):
    """A page, and everything that went wrong in it."""

    page: Page
    asked: list[str]
    """URLs it fetched."""
    said: list[str]
    """Errors and warnings in its console."""

    def cards(self) -> list[str]:
        """The captions that can be seen, in their order on the screen."""
        return self.page.evaluate(  # type: ignore[no-any-return]
            "[...document.querySelectorAll('.cell')]"
            ".sort((a, b) => a.ariaPosInSet - b.ariaPosInSet)"
            ".map((cell) => cell.querySelector('.prompt').textContent)"
        )

    def found(self) -> str:
        return self.page.locator("#found").inner_text()

    def violations(self) -> list[str]:
        return self.page.evaluate("window.violations")  # type: ignore[no-any-return]


@contextmanager
def launched() -> Iterator[Browser]:
    """The machine's own Chromium."""
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=_CHROMIUM, args=[*_QUIET])
        yield chromium
        chromium.close()


@contextmanager
def shown(browser: Browser, path: Path, **options: Any) -> Iterator[Opened]:
    """A page in a window of its own; in the end nothing has gone wrong in it."""
    context = browser.new_context(
        **{"viewport": {"width": 1280, "height": 900}, "device_scale_factor": 0.5, **options}
    )
    page = context.new_page()
    page.set_default_timeout(_PATIENCE)
    asked: list[str] = []
    said: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("dialog", lambda dialog: dialog.dismiss())
    page.on("dialog", lambda dialog: said.append(f"a dialog: {dialog.message}"))
    page.add_init_script(
        "window.violations = [];"
        "addEventListener('securitypolicyviolation', (event) => violations.push(event.blockedURI));"
    )
    page.goto(path.as_uri())
    page.wait_for_selector("html[data-ready]", state="attached")
    found = Opened(page, asked, said)
    yield found
    assert found.violations() == []
    assert said == []
    assert {url.partition(":")[0] for url in asked} <= {"file", "data", "blob"}, (
        "nothing comes from elsewhere"
    )
    context.close()
