"""What is done on the page is done on the server, neither more nor less; and the page outlives its server."""

from __future__ import annotations

import re
import signal
from hashlib import sha256
from typing import Any
from urllib.parse import quote

import pytest
from playwright.sync_api import Page, expect
from programs import Server, until
from tabs import Open, Start, settled


@pytest.fixture(scope="module")
def shop(start: Start) -> Server:
    """A server whose tasks the tests may change, each those of its own queue."""
    return start()


def failed(server: Server, queue: str, count: int) -> list[str]:
    """The ids of as many failed tasks in the queue."""
    ids = [f"{queue}-{i}" for i in range(count)]
    server.enqueue(
        *(
            {"id": id, "handler": "fails", "queue": queue, "payload": {"order": i}, "max_retries": 0}
            for i, id in enumerate(ids)
        )
    )
    until("they failed", lambda: statuses(server, queue) == {"failed"})
    return ids


def tasks_of(server: Server, queue: str) -> dict[str, dict[str, Any]]:
    return {task["id"]: task for task in server.ask(f"/tasks?queue={queue}&limit=1000")}


def statuses(server: Server, queue: str) -> set[str]:
    return {task["status"] for task in tasks_of(server, queue).values()}


def started(server: Server, queue: str) -> dict[str, str]:
    return {id: task["started_at"] for id, task in tasks_of(server, queue).items()}


def agree(page: Page, button: str) -> None:
    page.get_by_role("dialog").get_by_role("button", name=button, exact=True).click()
    expect(page.get_by_role("dialog")).to_have_count(0)


def test_a_bulk_retry_changes_exactly_what_it_counted(shop: Server, open_tab: Open) -> None:
    failed(shop, "bulk", 7)
    shop.enqueue(*({"id": f"fine-{i}", "handler": "works", "queue": "bulk"} for i in range(5)))
    until("they are done", lambda: all(shop.task(f"fine-{i}")["status"] == "done" for i in range(5)))
    others, before = failed(shop, "others", 3), started(shop, "bulk")
    untouched = started(shop, "others")
    tab = open_tab(shop)
    page = settled(tab.go("#/tasks?queue=bulk"))
    page.get_by_role("group", name="Many tasks").get_by_role("button", name="Retry").click()
    expect(page.locator("#bulk-count")).to_have_text("7")
    agree(page, "Retry 7 tasks")
    expect(page.get_by_role("status")).to_contain_text("7 of 7 tasks queued again")
    until("they failed again", lambda: statuses(shop, "bulk") == {"failed", "done"})
    after = started(shop, "bulk")
    assert {id for id in after if after[id] != before[id]} == {id for id in after if id.startswith("bulk-")}
    assert started(shop, "others") == untouched
    assert len(others) == 3
    tab.check()


def test_a_selection_alone_is_deleted_and_only_after_a_yes(shop: Server, open_tab: Open) -> None:
    ids = failed(shop, "picked", 4)
    tab = open_tab(shop)
    page = settled(tab.go("#/tasks?queue=picked"))
    page.get_by_label("Select picked-1").check()
    page.get_by_label("Select picked-3").check()
    expect(page.get_by_text("2 selected")).to_be_visible()
    page.get_by_role("group", name="Many tasks").get_by_role("button", name="Delete").click()
    expect(page.locator("#bulk-count")).to_have_text("2")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    assert sorted(tasks_of(shop, "picked")) == ids
    page.get_by_role("group", name="Many tasks").get_by_role("button", name="Delete").click()
    agree(page, "Delete 2 tasks")
    until("they are gone", lambda: sorted(tasks_of(shop, "picked")) == ["picked-0", "picked-2"])
    expect(page.locator("#rows tr")).to_have_count(2)
    tab.check()


def test_a_group_of_errors_is_retried_together(shop: Server, open_tab: Open) -> None:
    failed(shop, "grouped", 2)
    shop.enqueue(
        {
            "id": "lost-1",
            "handler": "misses",
            "payload": {"name": "bob"},
            "max_retries": 0,
            "queue": "grouped2",
        }
    )
    until("it failed", lambda: shop.task("lost-1")["status"] == "failed")
    before = started(shop, "grouped")
    tab = open_tab(shop)
    page = settled(tab.go("#/errors"))
    page.locator(".group", has_text="LookupError").get_by_role("button", name="Retry all").click()
    expect(page.locator("#bulk-count")).to_have_text("1")
    agree(page, "Retry 1 task")
    expect(page.get_by_role("status")).to_contain_text("1 of 1 task queued again")
    assert started(shop, "grouped") == before
    tab.check()


def test_one_task_is_cancelled_retried_and_deleted(shop: Server, open_tab: Open) -> None:
    shop.enqueue({"id": "one", "handler": "waits", "queue": "single"})
    tab = open_tab(shop)
    page = settled(tab.go("#/tasks/one"))
    badge = page.locator(".task-head .badge")
    expect(badge).to_have_text("running")
    page.get_by_role("button", name="Cancel").click()
    expect(badge).to_have_text("cancelled")
    page.keyboard.press("r")
    expect(badge).to_have_text("running")
    page.keyboard.press("c")
    expect(badge).to_have_text("cancelled")
    page.get_by_role("button", name="Delete").click()
    agree(page, "Delete")
    page.wait_for_url("**/#/tasks")
    assert tasks_of(shop, "single") == {}
    tab.check()


def test_a_clone_keeps_every_digit_of_the_payload(shop: Server, open_tab: Open) -> None:
    wide = "123456789012345678901234567890"
    data = f'{{"id": "wide", "handler": "echoes", "priority": 3, "payload": {{"n": {wide}, "x": 1e999}}}}'
    tab = open_tab(shop, permissions=["clipboard-read", "clipboard-write"])
    page = settled(tab.go("#/enqueue"))
    posted = page.evaluate("async (body) => (await fetch('enqueue', {method: 'POST', body})).status", data)
    assert posted == 202
    page.goto(f"{shop.url}/#/tasks/wide")
    expect(page.locator(".value .tree").first).to_contain_text(wide)
    page.get_by_role("button", name="Python").click()
    expect(page.get_by_role("status")).to_contain_text("Python copied")
    program = page.evaluate("navigator.clipboard.readText()")
    compile(program, "copied", "exec")
    assert f'"n": {wide}' in program
    page.get_by_role("link", name="Clone and edit").click()
    expect(page.get_by_label("Priority")).to_have_value("3")
    page.get_by_label("Payload").fill('{"n": ')
    expect(page.get_by_role("button", name="Enqueue")).to_be_disabled()
    page.get_by_label("Payload").fill(f'{{"n": {wide}, "y": [1.0]}}')
    page.locator("#f-id").fill("wider")
    page.get_by_role("button", name="Enqueue").click()
    page.wait_for_url("**/#/tasks/wider")
    assert shop.task("wider")["payload"] == {"n": int(wide), "y": [1.0]}
    page.goto(f"{shop.url}/#/enqueue?from=wide")
    page.locator("#f-id").fill("wider")
    page.get_by_role("button", name="Enqueue").click()
    expect(page.locator("#f-id")).to_be_focused()
    expect(page.get_by_text("a task with id 'wider' exists")).to_be_visible()
    assert [text for text in tab.complaints if "409" not in text] == []


def test_new_tasks_appear_by_themselves_but_move_nothing_under_the_pointer(
    shop: Server, open_tab: Open
) -> None:
    shop.enqueue({"id": "live-1", "handler": "works", "queue": "live"})
    tab = open_tab(shop)
    page = settled(tab.go("#/tasks?queue=live"))
    rows = page.locator("#rows tr a.id")
    page.mouse.move(5, 5)
    shop.enqueue({"id": "live-2", "handler": "works", "queue": "live"})
    expect(rows).to_have_text(["live-2", "live-1"])
    page.locator("#rows tr").first.hover()
    shop.enqueue({"id": "live-3", "handler": "works", "queue": "live", "delay": 0.7})
    page.get_by_role("button", name="1 newer: show").wait_for()
    shop.finished("live-3")  # it is told of again when it runs, and is one task all the same
    page.wait_for_timeout(500)
    expect(rows).to_have_text(["live-2", "live-1"])
    page.get_by_role("button", name="1 newer: show").click()
    expect(rows).to_have_text(["live-3", "live-2", "live-1"])
    tab.check()


def test_everything_can_be_reached_by_keyboard(shop: Server, open_tab: Open) -> None:
    shop.enqueue(*({"id": f"key-{i}", "handler": "works", "queue": "keys"} for i in range(3)))
    tab = open_tab(shop)
    page = settled(tab.go())
    page.keyboard.press("g")
    page.keyboard.press("t")
    page.wait_for_url("**/#/tasks")
    expect(page.get_by_role("heading", level=1)).to_be_focused()
    settled(page).locator("#rows tr").first.wait_for()
    page.keyboard.press("j")
    page.keyboard.press("x")
    expect(page.get_by_text("1 selected")).to_be_visible()
    page.keyboard.press("Enter")
    page.wait_for_url("**/#/tasks/*")
    page.keyboard.press("?")
    dialog = page.get_by_role("dialog", name="Keyboard")
    expect(dialog).to_be_visible()
    for _ in range(6):  # round the dialog, and out of the page at most
        page.keyboard.press("Tab")
        assert page.evaluate(
            "document.activeElement === document.body || Boolean(document.activeElement.closest('dialog'))"
        )
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    page.get_by_role("heading", level=1).focus()
    page.keyboard.press("d")
    expect(page.locator("html")).to_have_attribute("data-theme", "light")
    page.reload()
    expect(page.locator("html")).to_have_attribute("data-theme", "light")
    tab.check()


def test_a_page_says_that_its_server_is_away_and_recovers_by_itself(start: Start, open_tab: Open) -> None:
    server = start()
    tab = open_tab(server)
    page = settled(tab.go("#/queues"))
    server.kill()
    expect(page.get_by_role("alert")).to_contain_text("The server is away, trying again.")
    again = server.again()
    expect(page.get_by_role("alert").get_by_text("away")).to_have_count(0)
    expect(page.locator("#link")).to_have_text("live")
    again.enqueue({"id": "after", "handler": "works", "queue": "afterwards"})
    expect(page.locator("[data-queue=afterwards] [data-count=done]")).to_have_text("1")
    assert [text for text in tab.complaints if "ERR_" not in text] == []
    again.signal(signal.SIGTERM)
    assert again.ended() == 0


STEERING = re.compile("Retry|Cancel|Delete")
KEYS = {"boss": "admin", "guest": "read"}
"""Name and scope; a key is its name, five times."""


def test_with_keys_the_page_asks_for_one_and_a_reader_sees_no_buttons(
    start: Start, open_tab: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [f"{name}:{scope}:{sha256((name * 5).encode()).hexdigest()}" for name, scope in KEYS.items()]
    monkeypatch.setenv("JOBPIPE_API_KEYS", ";".join(lines))
    server = start()
    tab = open_tab(server)
    page = tab.page
    page.goto(f"{server.url}/#/tasks")
    enter(page, "wrong" * 4)
    expect(page.get_by_text("The server does not know this key.")).to_be_visible()
    enter(page, "boss" * 5)
    page.locator("#link.live").wait_for()
    page.goto(f"{server.url}/#/enqueue")
    page.get_by_label("Handler").fill("fails")
    page.get_by_label("Retries allowed").fill("0")
    page.locator("#f-id").fill("guarded")
    page.get_by_role("button", name="Enqueue").click()
    expect(page.locator(".task-head .badge")).to_have_text("failed")
    page.reload()
    expect(page.get_by_role("button", name="Retry")).to_be_visible()

    reader = open_tab(server)
    reader.page.goto(f"{server.url}/#/tasks/guarded")
    enter(reader.page, "guest" * 5)
    for place in ("tasks/guarded", "tasks", "errors"):
        reader.page.goto(f"{server.url}/#/{place}")
        settled(reader.page)
        expect(reader.page.locator("main")).to_contain_text("ValueError")
        assert reader.page.locator("main").get_by_role("button", name=STEERING).count() == 0
        assert reader.page.get_by_role("link", name="Clone and edit").count() == 0
        assert reader.page.locator("main input[type=checkbox]").count() == 0
    reader.page.goto(f"{server.url}/#/enqueue")
    expect(reader.page.get_by_text("This key may not enqueue.")).to_be_visible()
    assert "guest" not in reader.page.evaluate("JSON.stringify(localStorage)")
    for opened in (tab, reader):
        assert [text for text in opened.complaints if "401" not in text] == []


def enter(page: Page, key: str) -> None:
    page.get_by_label("API key").fill(key)
    page.get_by_role("button", name="Use it").click()


def test_an_id_of_any_text_is_opened(shop: Server, open_tab: Open) -> None:
    odd = "a/b?c=d#e%41 é"
    shop.enqueue({"id": odd, "handler": "works", "queue": "odd"})
    page = settled(open_tab(shop).go("#/tasks?queue=odd"))
    page.locator("#rows a.id").click()
    expect(page.get_by_role("heading", level=1)).to_have_text(odd)
    expect(page.locator(".task-head .badge")).to_have_text("done")
    assert quote(odd, safe="") in page.url.replace("é", "%C3%A9")
