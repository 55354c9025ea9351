"""Flow on the page: what is paused is seen everywhere, rules are told and set as the server keeps them, keys alone."""

from __future__ import annotations

import re
import signal
from hashlib import sha256
from typing import Any

import pytest
from accessible import PROBLEMS
from playwright.sync_api import Page, expect
from programs import Server, until
from tabs import Open, Start, settled

DECLARED = {"app": "shop", "queues": {"mail": {"concurrency": 5, "rate": "100/m", "key_concurrency": 2}}}


@pytest.fixture(scope="module")
def flow(start: Start) -> Server:
    """A server with a queue `mail` of four tenants, each with five tasks that wait or run for ever."""
    server = start()
    server.ask("/declare", DECLARED)
    server.ask("/queues/mail", {"concurrency": 3}, "PATCH")
    tenants = ("acme", "globex", "initech", "a/b c")
    server.enqueue(
        *(
            {"id": f"{tenant[-1]}-{i}", "handler": "waits", "queue": "mail", "key": tenant}
            for i in range(5)
            for tenant in tenants
        )
    )
    until("three run", lambda: server.ask("/stats")["counts"]["running"] == 3)
    return server


def queue_of(server: Server, name: str) -> Any:
    return server.ask(f"/queues/{name}")


def rule(page: Page, name: str) -> Any:
    return page.locator(f"[data-rule={name}]")


@pytest.mark.parametrize("place", ["#/queues", "#/queues/pausing"])
def test_a_queue_is_paused_and_resumed_where_it_is_seen(flow: Server, open_tab: Open, place: str) -> None:
    flow.ask("/queues/pausing", {"concurrency": 5}, "PATCH")
    tab = open_tab(flow)
    page = settled(tab.go(place))
    page.get_by_role("button", name="Pause pausing").click()
    expect(page.get_by_role("button", name="Resume pausing")).to_be_visible()
    assert queue_of(flow, "pausing")["paused"] is True
    page.get_by_role("button", name="Resume pausing").click()
    expect(page.get_by_role("button", name="Pause pausing")).to_be_visible()
    assert queue_of(flow, "pausing")["paused"] is False
    tab.check()


def test_a_paused_queue_is_told_on_every_page(flow: Server, open_tab: Open) -> None:
    flow.ask("/queues/loud", {"concurrency": 5}, "PATCH")
    tab = open_tab(flow)
    page = settled(tab.go("#/queues/loud"))
    page.keyboard.press("p")
    expect(page.locator("#state")).to_contain_text("Paused")
    for place in ("", "tasks", "errors", "workers", "handlers", "enqueue"):
        page.goto(f"{flow.url}/#/{place}")
        expect(page.get_by_role("link", name=re.compile("Queues 1 paused"))).to_be_visible()
    page.goto(f"{flow.url}/#/")
    page.get_by_role("link", name=re.compile("loud is paused")).click()
    page.wait_for_url("**/#/queues/loud")
    page.goto(f"{flow.url}/#/queues")
    expect(page.locator(".facts")).to_contain_text("1 queue paused")
    expect(page.locator("[data-queue]").first).to_have_attribute("data-queue", "loud")
    page.locator("[data-queue=loud]").get_by_role("button", name="Resume loud").click()
    expect(page.locator("#paused-queues")).to_have_count(0)
    tab.check()


def test_the_page_tells_what_is_declared_beside_what_is_set_and_what_is_in_force(
    flow: Server, open_tab: Open
) -> None:
    page = settled(open_tab(flow).go("#/queues/mail"))
    rules = queue_of(flow, "mail")["rules"]
    assert rules == {"concurrency": 3, "rate": "100/m", "key_concurrency": 2}
    for name, value in rules.items():
        expect(page.locator(f"[data-force={name}]")).to_have_text(str(value))
        expect(rule(page, name)).to_contain_text(f"{DECLARED['queues']['mail'][name]} shop")  # type: ignore[index]
    expect(page.get_by_label("Set concurrency", exact=True)).to_have_value("3")
    expect(page.get_by_label("Set rate", exact=True)).to_have_value("")
    expect(page.locator("#set-by")).to_contain_text("set")


def test_rules_are_set_in_place_and_taken_back(flow: Server, open_tab: Open) -> None:
    flow.ask("/declare", {"app": "other", "queues": {"edited": {"concurrency": 7, "fair": True}}})
    tab = open_tab(flow)
    page = settled(tab.go("#/queues/edited"))
    save, undo = page.get_by_role("button", name="Save"), page.get_by_role("button", name="Undo")
    expect(save).to_be_disabled()
    page.get_by_label("Set concurrency", exact=True).fill("4")
    page.get_by_label("Set rate", exact=True).fill("10/90 s burst 4")
    page.get_by_label("Set in turns").select_option("no")
    page.get_by_label("Set capacity").fill("9")
    undo.click()
    expect(page.get_by_label("Set capacity")).to_have_value("")
    assert queue_of(flow, "edited")["set"] is None
    page.get_by_label("Set rate", exact=True).fill("10/90 s burst 4")
    page.get_by_label("Set in turns").select_option("no")
    page.get_by_label("Set concurrency", exact=True).fill("none")
    page.get_by_label("Set concurrency", exact=True).press("Enter")
    expect(page.locator("[data-force=rate]")).to_have_text("10/90 s burst 4")
    told = queue_of(flow, "edited")
    assert told["rules"] == {"rate": {"limit": 10, "period": 90, "burst": 4}}
    assert (told["set"]["concurrency"], told["capacity"]) == ("none", 64)
    expect(page.locator("[data-force=concurrency]")).not_to_have_text(re.compile("[0-9]"))
    page.get_by_label("Set concurrency", exact=True).fill("")
    save.click()
    expect(page.locator("[data-force=concurrency]")).to_have_text("7")
    page.get_by_role("button", name="Take all back").click()
    page.get_by_role("dialog").get_by_role("button", name="Take all back").click()
    expect(page.locator("#set-by")).to_have_text("nothing is set here")
    assert queue_of(flow, "edited")["rules"] == {"concurrency": 7, "fair": True}
    tab.check()


def test_a_rule_that_cannot_be_stays_where_it_was_typed_with_the_reason(flow: Server, open_tab: Open) -> None:
    page = settled(open_tab(flow).go("#/queues/wrong"))
    field = page.get_by_label("Set rate", exact=True)
    field.fill("ten a minute")
    page.get_by_role("button", name="Save").click()
    expect(page.locator("#rule-problem")).to_contain_text("Rate: must look like 100/m")
    expect(field).to_have_attribute("aria-invalid", "true")
    expect(field).to_have_value("ten a minute")
    expect(page.get_by_text("holds neither tasks nor rules")).to_be_visible()
    field.fill("9/s")
    expect(page.locator("#rule-problem")).to_be_empty()


def test_keys_show_their_fill_and_are_steered_one_by_one(flow: Server, open_tab: Open) -> None:
    tab = open_tab(flow)
    page = settled(tab.go("#/queues/mail"))
    for use in flow.ask("/queues/mail/keys"):
        row = page.locator(f'[data-key="{use["key"]}"]')
        expect(row.locator("[data-count=running]")).to_have_text(str(use["running"]))
        expect(row.locator("[data-count=queued]")).to_have_text(str(use["queued"]))
        expect(row).to_contain_text("of 2")
    page.get_by_role("button", name="Pause a/b c").click()
    expect(page.get_by_role("button", name="Resume a/b c")).to_be_visible()
    assert flow.ask("/queues/mail/keys/a%2Fb%20c")["rules"]["paused"] is True
    page.get_by_role("button", name="Rules of a/b c").click()
    dialog = page.get_by_role("dialog", name="Rules of a/b c")
    dialog.get_by_label("Set concurrency").fill("10")
    dialog.get_by_role("button", name="Save").click()
    expect(dialog).to_have_count(0)
    expect(page.locator('[data-key="a/b c"]')).to_contain_text("of 10")
    assert flow.ask("/queues/mail/keys/a%2Fb%20c")["set"]["concurrency"] == 10
    page.get_by_role("button", name="Resume a/b c").click()
    expect(page.get_by_role("button", name="Pause a/b c")).to_be_visible()
    tab.check()


def test_a_key_among_many_is_found_and_the_pages_of_keys_are_turned(flow: Server, open_tab: Open) -> None:
    flow.enqueue(
        *({"handler": "works", "queue": "crowd", "key": f"t{i:03}", "delay": 86400} for i in range(60))
    )
    tab = open_tab(flow)
    page = settled(tab.go("#/queues/crowd"))
    rows = page.locator("[data-key]")
    expect(rows).to_have_count(50)
    page.get_by_role("button", name="Next").click()
    expect(rows).to_have_count(10)
    page.get_by_role("button", name="Before").click()
    expect(rows).to_have_count(50)
    page.keyboard.press("/")
    page.keyboard.type("t057")
    page.keyboard.press("Enter")
    expect(rows.first).to_have_attribute("data-key", "t057")
    tab.check()


def test_a_task_says_why_it_is_held_on_its_page_and_in_the_list(flow: Server, open_tab: Open) -> None:
    tab = open_tab(flow)
    held = next(task for task in flow.ask("/tasks?queue=mail&limit=100") if task.get("held"))
    assert held["held"] == "concurrency"
    page = settled(tab.go(f"#/tasks/{held['id']}"))
    expect(page.locator("#held")).to_have_text("held: its queue runs as many as it may")
    page.locator("#held").click()
    page.wait_for_url(re.compile("#/queues/mail"))
    page.goto(f"{flow.url}/#/tasks?queue=mail")
    expect(page.locator(f"tr[data-id='{held['id']}'] .note")).to_have_text(
        "held: its queue runs as many as it may"
    )
    page.goto(f"{flow.url}/#/tasks?queue=mail&key=acme")
    expect(page.locator("#rows tr")).to_have_count(5)
    tab.check()


LOOKS: dict[str, dict[str, Any]] = {
    "dark": {"color_scheme": "dark"},
    "phone": {"viewport": {"width": 390, "height": 844}, "has_touch": True},
    "zoomed": {"viewport": {"width": 640, "height": 400}},
}


@pytest.mark.parametrize("look", LOOKS)
def test_the_page_of_a_queue_is_for_everybody(flow: Server, open_tab: Open, look: str) -> None:
    tab = open_tab(flow, **LOOKS[look])
    for place in ("#/queues/mail", "#/queues"):
        page = settled(tab.go(place))
        page.locator("tbody tr").first.wait_for()
        assert page.evaluate(PROBLEMS) == [], place
        wider = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wider <= 0, place
    tab.check()


def test_what_others_change_moves_nothing_and_keeps_what_is_typed(flow: Server, open_tab: Open) -> None:
    page = settled(open_tab(flow).go("#/queues/calm"))
    field = page.get_by_label("Set rate", exact=True)
    field.fill("5/m")
    before = field.bounding_box()
    flow.ask("/queues/calm/pause", method="POST")
    flow.ask("/queues/calm", {"concurrency": 2}, "PATCH")
    flow.enqueue({"handler": "works", "queue": "calm", "key": "k"})
    expect(page.locator("#state")).to_contain_text("Paused")
    expect(page.get_by_label("Set concurrency", exact=True)).to_have_value("2")
    expect(field).to_have_value("5/m")
    assert field.bounding_box() == before
    flow.ask("/queues/calm/resume", method="POST")


def test_with_keys_it_tells_who_changed_a_rule_and_a_reader_changes_none(
    start: Start, open_tab: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [
        f"{name}:{scope}:{sha256((name * 5).encode()).hexdigest()}"
        for name, scope in (("boss", "admin"), ("guest", "read"))
    ]
    monkeypatch.setenv("JOBPIPE_API_KEYS", ";".join(lines))
    server = start()
    boss = open_tab(server).page
    enter(boss, server, "boss" * 5)
    boss.get_by_label("Set concurrency", exact=True).fill("6")
    boss.get_by_role("button", name="Save").click()
    expect(boss.locator("#set-by")).to_contain_text("by boss")
    boss.get_by_role("button", name="Pause mail").click()
    expect(boss.locator("#state")).to_contain_text("Paused by boss")
    guest = open_tab(server).page
    enter(guest, server, "guest" * 5)
    expect(guest.locator("#state")).to_contain_text("Paused by boss")
    expect(guest.locator("[data-force=concurrency]")).to_have_text("6")
    assert guest.locator("main").get_by_role("button", name=re.compile("Pause|Resume|Save|Take")).count() == 0
    assert guest.locator("[data-rule] input").count() == 0


def enter(page: Page, server: Server, key: str) -> None:
    page.goto(f"{server.url}/#/queues/mail")
    page.get_by_label("API key").fill(key)
    page.get_by_role("button", name="Use it").click()
    settled(page).locator("#state").wait_for()


def test_nothing_is_steered_while_the_server_is_away(start: Start, open_tab: Open) -> None:
    server = start()
    server.ask("/queues/mail", {"concurrency": 3}, "PATCH")
    server.enqueue({"handler": "works", "queue": "mail", "key": "acme", "delay": 86400})
    page = settled(open_tab(server).go("#/queues/mail"))
    page.get_by_label("Set rate", exact=True).fill("5/m")
    page.locator("[data-key=acme]").wait_for()
    server.kill()
    for name in ("Save", "Pause mail", "Pause acme", "Rules of acme", "Take all back"):
        expect(page.get_by_role("button", name=name)).to_be_disabled()
    again = server.again()
    expect(page.get_by_role("button", name="Save")).to_be_enabled()
    page.get_by_role("button", name="Save").click()
    expect(page.locator("[data-force=rate]")).to_have_text("5/m")
    again.signal(signal.SIGTERM)
    assert again.ended() == 0
