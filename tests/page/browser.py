"""A real browser, headless: Debian's chromium, driven by Playwright."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from playwright.async_api import ConsoleMessage, Page, Request, async_playwright

WAIT_MS = 30_000
SCREENSHOTS = Path(__file__).parents[2] / "test-artifacts" / "page"
DESKTOP = {"width": 1280, "height": 900}
PHONE = {"width": 360, "height": 740}


@dataclass
class Visit:
    """A page in the browser, and what it did that it should not."""

    page: Page
    host: str
    complaints: list[str] = field(default_factory=list)
    """Errors and warnings on its console, uncaught exceptions."""
    strayed: list[str] = field(default_factory=list)
    """Requests to anywhere but the relay."""

    def listen(self) -> None:
        self.page.on("console", self._heard)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", self._asked)

    def _heard(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(f"{message.type}: {message.text}")

    def _asked(self, request: Request) -> None:
        if urlsplit(request.url).netloc not in ("", self.host):
            self.strayed.append(request.url)

    async def screenshot(self, name: str) -> None:
        """Kept as an artefact of the test run."""
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        await self.page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)

    def assert_clean(self, *expected: str) -> None:
        """Nothing on the console but complaints that hold one of `expected`; nothing asked of other
        hosts."""
        unexpected = [c for c in self.complaints if not any(words in c for words in expected)]
        assert not unexpected, unexpected
        assert not self.strayed, self.strayed


@asynccontextmanager
async def visiting(
    url: str, *, viewport: dict[str, int] | None = None, **context: Any
) -> AsyncIterator[Visit]:
    """Open the page at `url`; browser and driver have ended afterwards.

    Args:
        context: of the browser's context, e.g. ``color_scheme="dark"``.
    """
    chromium = shutil.which("chromium")
    assert chromium is not None, "these tests need chromium: apt install chromium"
    sandbox = [] if os.getuid() else ["--no-sandbox"]  # as root there is none
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=chromium, args=[*sandbox, "--disable-dev-shm-usage"]
        )
        try:
            opened = await browser.new_context(viewport=viewport or DESKTOP, **context)
            opened.set_default_timeout(WAIT_MS)
            page = await opened.new_page()
            visit = Visit(page, urlsplit(url).netloc)
            visit.listen()
            await page.goto(url)
            yield visit
        finally:
            await browser.close()
