"""The strip of incidents tells what is wrong, leads to its evidence, and is quiet when all is well."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from playwright.sync_api import Route, expect
from programs import Server
from tabs import Open, Start, settled


def answering(value: Any) -> Callable[[Route], None]:
    body = json.dumps(value)
    return lambda route: route.fulfill(body=body, content_type="application/json")


def test_it_is_quiet_when_all_is_well(lively: Server, open_tab: Open) -> None:
    tab = open_tab(lively)
    page = settled(tab.go())
    assert page.locator("[data-incident]").count() == 0
    tab.check()


def test_a_queue_that_refuses_is_told_and_leads_to_it(start: Start, open_tab: Open) -> None:
    server = start("--queue-size", "2")
    tab = open_tab(server)
    page = settled(tab.go())
    tasks = [{"handler": "works", "queue": "narrow", "delay": 86400} for _ in range(9)]
    assert [item["status"] for item in server.ask("/enqueue", tasks)] == [202] * 2 + [503] * 7
    line = page.locator("[data-incident=refusing]")
    expect(line).to_contain_text("narrow refuses")
    expect(page.locator("#refused")).to_contain_text("refused")
    line.get_by_role("link").click()
    expect(page.locator("tbody th")).to_have_text(["narrow"])
    tab.check()


def test_lost_workers_busy_ones_and_handlers_that_began_to_fail_are_told(
    lively: Server, open_tab: Open
) -> None:
    tab = open_tab(lively)
    gone = {"worker_id": "w9", "host": "far", "pid": 1, "version": "1", "queues": ["*"], "busy": 0, "total": 0,
            "last_seen": "2026-01-01T00:00:00Z", "tasks": [], "state": "lost", "release": 3}  # fmt: skip
    sick = {"handler": "pays", "recent": {"runs": 20, "failed": 9}, "failures": {"runs": 1020, "failed": 19}}
    well = {
        "handler": "mails",
        "recent": {"runs": 20, "failed": 2},
        "failures": {"runs": 1020, "failed": 120},
    }
    stats = lively.ask("/stats") | {"workers": {"total": 2, "busy": 2, "processes": 1}}
    queue = lively.ask("/queues")[0] | {"oldest_ready_s": 400.0}
    for path, answer in (
        ("workers", [gone]),
        ("handlers", [sick, well]),
        ("stats", stats),
        ("queues", [queue]),
    ):
        tab.page.route(f"**/{path}", answering(answer))
    page = settled(tab.go())
    expect(page.locator("[data-incident]")).to_have_count(4)
    expect(page.locator("[data-incident=lost]")).to_contain_text("1 worker process lost on far")
    expect(page.locator("[data-incident=failing]")).to_contain_text("pays fails 45 % of its runs")
    expect(page.locator("[data-incident=busy]")).to_contain_text("All 2 workers busy")
    expect(page.locator("[data-incident=late]")).to_contain_text("6 m 40 s")
    tab.check()


def test_a_handler_has_a_page_with_its_figures_and_errors(lively: Server, open_tab: Open) -> None:
    tab = open_tab(lively)
    page = settled(tab.go("#/handlers"))
    row = page.locator("[data-handler=fails]")
    told = lively.ask("/handlers/fails")
    expect(row.locator("td[data-label='24 h']")).to_have_text("100 %")
    row.get_by_role("link", name="fails", exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_have_text("fails")
    expect(page.get_by_role("region", name="Latest errors").locator("tbody tr")).to_have_count(
        len(told["errors"])
    )
    tab.check()
