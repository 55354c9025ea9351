"""No page trusts what is old: one line tells how it stands, what is from before is grey and steers nothing."""

from __future__ import annotations

import json

import pytest
from playwright.sync_api import Page, Route, expect
from programs import Server
from tabs import Open, Start, Tab, settled

PAGES = ("", "tasks", "tasks/broken-1", "errors", "queues", "workers", "enqueue")
STORE_DOWN = {
    "status": 503,
    "code": "storage_down",
    "error": "the storage is down",
    "detail": "no connection",
}
STEERING = "main button:has(.icon use[href*='#i-re']), main button[type=submit]"


def no_store(route: Route) -> None:
    route.fulfill(status=503, content_type="application/problem+json", body=json.dumps(STORE_DOWN))


def lose_store(page: Page) -> None:
    """All that asks the store is refused; the stream stays open, as it does when PostgreSQL is gone."""
    for path in ("stats", "tasks**", "tasks/**", "queues", "workers", "errors**", "series**", "handlers**"):
        page.route(f"**/{path}", no_store)


def grown_up(tab: Tab) -> None:
    """Nothing but the refusals was complained of."""
    assert [text for text in tab.complaints if "503" not in text and "ERR_" not in text] == []


@pytest.mark.parametrize("place", PAGES)
def test_without_its_store_every_page_says_so_greys_out_and_heals(
    lively: Server, open_tab: Open, place: str
) -> None:
    tab = open_tab(lively)
    page = settled(tab.go(f"#/{place}"))
    lose_store(page)
    expect(page.locator("#link")).to_have_text("store down")
    expect(page.get_by_role("alert")).to_contain_text("The store does not answer.")
    expect(page.get_by_role("alert")).to_contain_text("no connection")
    expect(page.locator("main")).to_have_class("old")
    for button in page.locator(STEERING).all():
        expect(button).to_be_disabled()
    page.unroute_all()
    expect(page.locator("#link")).to_have_text("live")
    expect(page.locator("main")).not_to_have_class("old")
    expect(page.get_by_role("alert")).to_be_empty()
    grown_up(tab)


def test_one_part_that_fails_makes_the_page_stale_since_its_last_answer(
    lively: Server, open_tab: Open
) -> None:
    tab = open_tab(lively)
    page = settled(tab.go("#/queues"))
    page.route("**/queues", lambda route: route.abort())
    expect(page.locator("#link")).to_contain_text("stale since")
    expect(page.get_by_role("alert")).to_contain_text("Part of this page cannot be asked for.")
    page.unroute_all()
    expect(page.locator("#link")).to_have_text("live")
    grown_up(tab)


def test_a_server_that_drains_or_is_slow_is_told_on_every_page(lively: Server, open_tab: Open) -> None:
    tab = open_tab(lively)
    page = settled(tab.go("#/workers"))
    draining = json.dumps(lively.ask("/stats") | {"status": "draining"})
    page.route("**/stats", lambda route: route.fulfill(body=draining, content_type="application/json"))
    expect(page.locator("#link")).to_have_text("draining")
    expect(page.get_by_role("alert")).to_contain_text("It takes no new tasks")
    page.unroute_all()
    expect(page.locator("#link")).to_have_text("live")
    held: list[Route] = []

    def hold(route: Route) -> None:
        held.append(route)

    page.route("**/stats", hold)
    expect(page.locator("#link")).to_contain_text("behind", timeout=15_000)
    for route in held:
        route.continue_()
    page.unroute_all()
    expect(page.locator("#link")).to_have_text("live")
    grown_up(tab)


def test_a_page_opened_while_the_server_is_away_does_not_load_for_ever(start: Start, open_tab: Open) -> None:
    server = start()
    tab = open_tab(server)
    page = settled(tab.go())
    server.kill()
    expect(page.locator("#link")).to_have_text("server away")
    page.goto(f"{server.url}/#/queues")
    expect(page.get_by_role("heading", level=1)).to_have_text("Queues")
    expect(page.locator("main")).to_contain_text("No answer from the server")
    assert page.get_by_text("Loading").count() == 0
    # What says that the server is away is no banner in the line of the tools.
    assert page.locator("#link").evaluate("e => getComputedStyle(e).backgroundColor") == "rgba(0, 0, 0, 0)"
    assert page.locator("#link").evaluate("e => e.getBoundingClientRect().height") < 32
    again = server.again()
    expect(page.locator("#link")).to_have_text("live")
    expect(page.locator("main")).to_contain_text("No queue holds tasks.")
    again.kill()
    grown_up(tab)
