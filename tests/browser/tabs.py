"""A tab of the browser before a server, and what the tests call things."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from playwright.sync_api import BrowserContext, Page, expect
from programs import Server

MARKUP = "<img src=x onerror=alert(1)><script>alert(2)</script>"
PLAIN = "The Cross-Origin-Opener-Policy header has been ignored"
"""What a browser says of every page that comes over plain HTTP from elsewhere."""

Start = Callable[..., Server]
Open = Callable[..., "Tab"]


class Tab:
    """A page of the dashboard. `complaints` and `elsewhere` fill themselves: errors, and requests to other places."""

    def __init__(self, context: BrowserContext, server: Server) -> None:
        self.server = server
        self.page: Page = context.new_page()
        self.page.set_default_timeout(10_000)
        self.asked: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("console", self._heard)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def _heard(self, message: Any) -> None:
        if message.type in ("error", "warning") and not message.text.startswith(PLAIN):
            self.complaints.append(message.text)

    def go(self, place: str = "#/") -> Page:
        self.page.goto(f"{self.server.url}/{place}")
        self.page.locator("#link.live").wait_for()
        return self.page

    def asked_for(self, path: str) -> int:
        return sum(url.startswith(f"{self.server.url}{path}") for url in self.asked)

    def check(self) -> None:
        """Nothing was complained of, nothing left the server."""
        assert self.complaints == []
        assert [url for url in self.asked if not url.startswith(f"{self.server.url}/")] == []


def settled(page: Page) -> Page:
    """Once nothing on the page waits for its first answer."""
    expect(page.locator("[aria-busy=true]")).to_have_count(0)
    return page


def numbers(page: Page, within: str = "body") -> dict[str, int]:
    """The counts that the page shows there, once it does, by what they count."""
    page.locator(within).locator("[data-count]").first.wait_for(state="attached")
    found: dict[str, str] = page.evaluate(
        "within => Object.fromEntries([...document.querySelector(within).querySelectorAll('[data-count]')]"
        ".map(e => [e.dataset.count, e.textContent]))",
        within,
    )
    return {name: int(text.replace(",", "")) for name, text in found.items()}
