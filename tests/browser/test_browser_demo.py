"""The incident of the demo, and what the Overview shows in each of its acts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect
from prove.cluster import missing

DEMO = Path(__file__).parents[2] / "docs" / "demo.py"
SHOWS = {
    "A handler breaks": ("[data-incident=failing]", "mail.send fails"),
    "A queue fills up": ("[data-incident=refusing]", "parcels refuses"),
    "A host vanishes": ("[data-incident=lost]", "1 worker process lost on far"),
    "The server is gone": ("#link", "server away"),
    "The server is back": ("#link", "live"),
}
OF_POSTGRES = {
    "PostgreSQL goes": ("#link", "store down"),
    "PostgreSQL comes back": ("#link", "live"),
}


@pytest.mark.timeout(240)
def test_each_act_of_the_incident_is_seen(browser: Browser) -> None:
    page = browser.new_context().new_page()
    seen = []
    command = [sys.executable, str(DEMO), "--incident", "--pause", "15"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as demo:
        assert demo.stdout is not None
        for line in demo.stdout:
            act, _, _shows = line[line.index("s") + 1 :].strip().partition(": ")
            if act.startswith("A server "):
                page.goto(act.partition(" at ")[2])
                expect(page.locator("#link")).to_have_text("live")
                assert page.locator("[data-incident]").count() == 0
            elif " s  " in line:
                _expect(page, *(SHOWS | OF_POSTGRES)[act])
                seen.append(act)
    assert demo.returncode == 0
    assert seen == [*SHOWS, *([] if missing() else OF_POSTGRES)]


def _expect(page: Page, selector: str, text: str) -> None:
    expect(page.locator(selector)).to_contain_text(text, timeout=14_000)
