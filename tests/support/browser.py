"""A real browser, the machine's Chromium, driven by Playwright; and axe, which finds barriers for people with
disabilities.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Dialog,
    FrameLocator,
    Page,
    ViewportSize,
    sync_playwright,
)

PATIENCE_MS = 20_000
_CHROMIUMS = ("chromium", "chromium-browser", "google-chrome")
# The browser reaches only loopback.
_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
_WIDTH, _HEIGHT = 1360, 860


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start a browser."""
    found = os.environ.get("DAGBUMP_CHROMIUM") or next(filter(None, map(shutil.which, _CHROMIUMS)), None)
    assert found, (
        "the tests of the page need a Chromium: on Debian, apt-get install chromium; or name one in DAGBUMP_CHROMIUM"
    )
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=_ARGUMENTS)
        yield browser
        browser.close()


@dataclass
class Visitor:
    """Somebody with a browser of their own.

    Attributes:
        context: the cookies and storage.
        page: the tab.
        complaints: warnings and errors of the browser's console, and scripts that have failed.
    """

    context: BrowserContext
    page: Page
    complaints: list[str] = field(default_factory=list)

    @property
    def in_frame(self) -> FrameLocator:
        """Return the frame in Airflow's UI that shows the page."""
        return self.page.frame_locator("iframe")

    def listen(self) -> None:
        """Begin to collect complaints."""

        def dismiss(dialog: Dialog) -> None:
            self.complaints.append(f"dialog: {dialog.message}")
            dialog.dismiss()

        def read(message: ConsoleMessage) -> None:
            if "Content Security Policy" in message.text:
                self.complaints.append(message.text)

        self.page.on("pageerror", lambda error: self.complaints.append(f"script: {error}"))
        self.page.on("console", read)
        self.page.on("dialog", dismiss)

    def log_in(self, airflow: str, name: str) -> None:
        """Log in on Airflow's login page, of any auth manager."""
        self.page.goto(f"{airflow}/")
        self.page.locator("input[name=username]").fill(name)
        self.page.locator("input[name=password]").fill(name)
        self.page.locator("button[type=submit], input[type=submit]").first.click()
        self.page.wait_for_url(lambda url: "/login" not in url)
        self.page.get_by_text("Docs", exact=True).first.wait_for()

    def accessibility_problems(self) -> list[str]:
        """Return the accessibility problems that axe finds."""
        found = Axe().run(self.page).response["violations"]
        return [f"{one['id']}: {one['help']}: {[node['html'][:200] for node in one['nodes']][:3]}" for one in found]


@contextmanager
def visitor(browser: Browser, *, dark: bool = False, width: int = _WIDTH) -> Iterator[Visitor]:
    """Open a browser window of somebody's own."""
    viewport: ViewportSize = {"width": width, "height": _HEIGHT}
    context = browser.new_context(viewport=viewport, color_scheme="dark" if dark else "light")
    context.set_default_timeout(PATIENCE_MS)
    # As Airflow's own switch does.
    context.add_init_script(f'localStorage.setItem("theme", "{"dark" if dark else "light"}")')
    page = context.new_page()
    visitor = Visitor(context, page)
    visitor.listen()
    yield visitor
    context.close()
