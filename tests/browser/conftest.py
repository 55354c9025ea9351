"""A real Chromium before a real server. Each page keeps what went wrong on it: a test ends by looking at that."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, sync_playwright

sys.path.insert(0, str(Path(__file__).parent.parent / "process"))

from programs import Server, until
from tabs import MARKUP, Open, Start, Tab

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = [
    "--disable-background-networking",
    "--no-first-run",
    "--host-resolver-rules=MAP queue.test 127.0.0.1",
]
QUICK = ("--processes", "0", "--workers", "8", "--retry-base", "0.05", "--retry-jitter", "0.01")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.browser)
            item.add_marker(pytest.mark.process)
            item.add_marker(pytest.mark.timeout(120))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """The system's Chromium, without a window.

    For one module: while Playwright is there, its event loop runs in this thread, and no other test may start one.
    """
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        assert not os.environ.get("CI"), "CI has to have a Chromium"
        pytest.skip("there is no Chromium or Chrome on this machine")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=found, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def open_tab(browser: Browser) -> Iterator[Open]:
    """Opens a tab before a server, in a browser of its own or in that of another tab."""
    contexts: list[BrowserContext] = []

    def open_tab(server: Server, beside: Tab | None = None, **options: Any) -> Tab:
        if beside is not None:
            return Tab(beside.page.context, server)
        contexts.append(browser.new_context(**{"viewport": {"width": 1280, "height": 800}} | options))
        return Tab(contexts[-1], server)

    yield open_tab
    for context in contexts:
        context.close()


@pytest.fixture(scope="session")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Starts a server of the shop on a store of its own."""
    started: list[Server] = []

    def start(*args: str) -> Server:
        folder = tmp_path_factory.mktemp("server")
        store = f"sqlite:///{folder / 'jobpipe.db'}"
        started.append(Server(folder, "shop:app", *QUICK, "--store", store, *args))
        return started[-1].up()

    yield start
    for server in started:
        if server.alive():
            server.kill()


def ended(server: Server) -> dict[str, int]:
    counts: dict[str, int] = server.ask("/stats")["counts"]
    return {status: counts[status] for status in ("done", "failed", "cancelled")}


@pytest.fixture(scope="session")
def lively(start: Start) -> Server:
    """A server with tasks in every state, that stay as they are: tests only look at it."""
    server = start()
    server.enqueue(
        *({"id": f"done-{i}", "handler": "works", "payload": {"n": i}, "queue": "mail"} for i in range(60)),
        *(
            {"id": f"broken-{i}", "handler": "fails", "payload": {"order": i}, "max_retries": 0}
            for i in range(4)
        ),
        {"id": "missing", "handler": "misses", "payload": {"name": "ann"}, "max_retries": 0},
        {"id": "at-last", "handler": "works_at_last", "max_retries": 5},
        {"id": MARKUP, "handler": "echoes", "payload": {MARKUP: [MARKUP, {"deep": None}]}, "queue": "markup"},
    )
    until("all have ended", lambda: sum(ended(server).values()) == 67)
    server.enqueue(
        {"id": "long", "handler": "waits"}, {"id": "longer", "handler": "waits", "queue": "reports"}
    )
    server.enqueue(*({"id": f"later-{i}", "handler": "works", "delay": 86400} for i in range(3)))
    server.enqueue({"id": "stopped", "handler": "works", "delay": 86400})
    server.ask("/tasks/stopped/cancel", method="POST")
    until("two of them run", lambda: server.ask("/stats")["counts"]["running"] == 2)
    return server
