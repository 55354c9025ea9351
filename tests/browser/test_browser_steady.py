"""Nothing moves under a pointer or a focus, and what a page shows fits on its screen."""

from __future__ import annotations

import json
from typing import Any

import pytest
from playwright.sync_api import Page, Route, expect
from programs import Server, until
from tabs import Open, Start, numbers, settled

NARROW = {"viewport": {"width": 390, "height": 844}, "has_touch": True}
ZOOMED = {"viewport": {"width": 640, "height": 400}}
"""1280 x 800 at 200 %."""


@pytest.fixture(scope="module")
def moving(start: Start) -> Server:
    """A server whose tasks the tests add to."""
    return start()


def top(page: Page, selector: str) -> float:
    found: float = page.locator(selector).first.evaluate("e => e.getBoundingClientRect().top")
    return found


@pytest.mark.parametrize("width", [1280, 1000, 640, 390])
def test_neither_newer_tasks_nor_a_selection_move_the_rows(
    moving: Server, open_tab: Open, width: int
) -> None:
    queue = f"still-{width}"
    moving.enqueue(*({"id": f"{queue}-{i}", "handler": "works", "queue": queue} for i in range(3)))
    page = settled(open_tab(moving, viewport={"width": width, "height": 800}).go(f"#/tasks?queue={queue}"))
    row = page.locator("#rows tr").first
    row.hover()
    before = top(page, "#rows tr")
    moving.enqueue({"id": f"{queue}-new", "handler": "works", "queue": queue})
    expect(page.get_by_role("button", name="1 newer: show")).to_be_attached()
    expect(page.locator("button.fresh")).not_to_have_class("fresh unseen")
    row.get_by_role("checkbox").check()
    expect(page.get_by_text("1 selected")).to_be_attached()
    assert top(page, "#rows tr") == before


def group(name: str, count: int) -> dict[str, Any]:
    at = "2026-01-01T00:00:00.000Z"
    return {
        "group": name * 16, "handler": "h", "type": f"Error{name}", "message": name, "count": count,
        "first_seen": at, "last_seen": at, "example_id": name, "trend": [0] * 23 + [count],
    }  # fmt: skip


def test_errors_stay_in_their_order_until_they_are_put_in_order(moving: Server, open_tab: Open) -> None:
    answers = [
        [group("a", 9), group("b", 5)],
        [group("b", 20), group("a", 9), group("c", 7)],
        [group("b", 21)],
    ]
    now = {"at": 0}

    def answer(route: Route) -> None:
        route.fulfill(body=json.dumps(answers[now["at"]]), content_type="application/json")

    tab = open_tab(moving)
    tab.page.route("**/errors?*", answer)
    page = settled(tab.go("#/errors"))
    shapes = page.locator(".groups .shape")
    expect(shapes).to_have_text(["a", "b"])
    now["at"] = 1
    moving.enqueue({"handler": "works"})
    expect(shapes).to_have_text(["a", "b", "c"])
    expect(page.locator("[data-group=bbbbbbbbbbbbbbbb] .big")).to_have_text("20")
    now["at"] = 2
    moving.enqueue({"handler": "works"})
    expect(page.locator("[data-group=aaaaaaaaaaaaaaaa].gone")).to_be_visible()
    expect(shapes).to_have_text(["a", "b", "c"])
    page.get_by_role("button", name="put in order").click()
    expect(shapes).to_have_text(["b"])
    tab.check()


def test_queues_stay_in_their_order_too(moving: Server, open_tab: Open) -> None:
    for name, depth in (("order-a", 5), ("order-b", 2)):
        moving.enqueue(*({"handler": "works", "queue": name, "delay": 86400} for _ in range(depth)))
    tab = open_tab(moving)
    page = settled(tab.go("#/queues?find=order-"))
    rows = page.locator("tbody th")
    expect(rows).to_have_text(["order-a", "order-b"])
    moving.enqueue(*({"handler": "works", "queue": "order-b", "delay": 86400} for _ in range(9)))
    moving.enqueue({"handler": "works", "queue": "order-c", "delay": 86400})
    expect(page.locator("[data-queue=order-b] [data-count=queued]")).to_have_text("11")
    expect(rows).to_have_text(["order-a", "order-b", "order-c"])
    page.get_by_role("button", name="put in order").click()
    expect(rows).to_have_text(["order-b", "order-a", "order-c"])
    tab.check()


def test_the_buttons_of_a_task_keep_their_places_whatever_becomes_of_it(
    moving: Server, open_tab: Open
) -> None:
    moving.enqueue({"id": "placed", "handler": "works", "delay": 86400})
    page = settled(open_tab(moving).go("#/tasks/placed"))
    bar = page.get_by_role("group", name="This task").get_by_role("button")
    places = "buttons => buttons.map(button => button.getBoundingClientRect().x)"
    before = bar.evaluate_all(places)
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator(".task-head .badge")).to_have_text("cancelled")
    expect(page.get_by_role("button", name="Cancel")).to_be_disabled()
    assert bar.evaluate_all(places) == before


def test_on_a_phone_every_task_shows_its_handler_and_no_cell_is_cut(lively: Server, open_tab: Open) -> None:
    page = settled(open_tab(lively, **NARROW).go("#/tasks"))
    rows = page.locator("#rows tr")
    assert rows.count() == 50
    for row in rows.all():
        expect(row.locator("td[data-label=handler]")).to_be_visible()
    cut = page.evaluate(
        "[...document.querySelectorAll('#rows td, #rows th')]"
        ".filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.textContent)"
    )
    assert cut == []


def test_at_200_percent_a_row_is_above_the_fold(lively: Server, open_tab: Open) -> None:
    page = settled(open_tab(lively, **ZOOMED).go("#/tasks"))
    box = page.locator("#rows tr").first.bounding_box()
    bar = page.locator("#nav").bounding_box()
    assert box is not None
    assert bar is not None
    assert box["y"] + box["height"] <= bar["y"]


def test_hundreds_of_queues_are_drawn_as_far_as_they_are_seen(start: Start, open_tab: Open) -> None:
    server = start()
    server.enqueue(*({"handler": "works", "queue": f"q{i:03}", "delay": 86400} for i in range(209)))
    tab = open_tab(server)
    page = settled(tab.go("#/queues"))
    rows = page.locator("tbody tr")
    expect(page.locator("#shown")).to_have_text("209 of 209 shown")
    assert rows.count() < 130
    assert page.evaluate("document.documentElement.scrollHeight") < 8000
    for _ in range(8):
        page.mouse.wheel(0, 3000)
        page.wait_for_timeout(60)
    expect(rows).to_have_count(209)
    page.get_by_label("Find a queue").fill("q20")
    expect(rows).to_have_count(9)
    assert numbers(page, "[data-queue=q200]")["queued"] == 1
    page.reload()
    expect(rows).to_have_count(9)
    tab.check()
    phone = settled(open_tab(server, **NARROW).go("#/queues"))
    expect(phone.locator("#shown")).to_have_text("209 of 209 shown")
    assert phone.evaluate("document.documentElement.scrollHeight") < 16000


def test_the_table_of_tasks_asks_for_neither_payloads_nor_results(moving: Server, open_tab: Open) -> None:
    moving.enqueue(
        {"id": "heavy", "handler": "works", "queue": "heavy", "payload": "x" * 200_000, "delay": 86400}
    )
    tab = open_tab(moving)
    sizes: list[int] = []
    tab.page.on("response", lambda answer: "/tasks?" in answer.url and sizes.append(len(answer.body())))
    settled(tab.go("#/tasks?queue=heavy"))
    assert sizes
    assert max(sizes) < 2000


def test_a_row_that_fails_again_keeps_the_message_of_its_error(moving: Server, open_tab: Open) -> None:
    failing = {
        "id": "fails-now",
        "handler": "fails",
        "queue": "message",
        "payload": {"order": 7},
        "max_retries": 0,
    }
    tab = open_tab(moving)
    page = settled(tab.go("#/tasks?queue=message"))
    moving.enqueue({"id": "told", "handler": "works", "queue": "message", "delay": 0.5})
    page.locator("#rows tr").first.wait_for()
    page.locator("#rows tr").first.hover()  # from now on rows change by the stream alone
    moving.enqueue(failing)
    until("it failed", lambda: moving.task("fails-now")["status"] == "failed")
    page.mouse.move(5, 5)
    row = page.locator("tr[data-id=fails-now] .note")
    expect(row).to_contain_text("ValueError")
    page.locator("#rows tr").first.hover()
    moving.ask("/tasks/fails-now/retry", method="POST")
    expect(row).to_contain_text(str(moving.task("fails-now")["last_error"]["message"])[:20])


def test_a_day_is_named_once_on_the_charts_of_24_hours(lively: Server, open_tab: Open) -> None:
    for width in (1280, 390):
        page = settled(open_tab(lively, viewport={"width": width, "height": 800}).go("#/?range=24h"))
        page.locator(".plot svg").first.wait_for()
        for chart in page.locator(".plot svg").all():
            ticks = chart.locator("g.tick text[text-anchor=middle]").all_text_contents()
            assert len(ticks) == len(set(ticks)), ticks


def test_nothing_on_the_overview_leaves_its_panel_and_legends_move_no_plot(
    lively: Server, open_tab: Open
) -> None:
    for width in (1280, 1100, 820):
        page = settled(open_tab(lively, viewport={"width": width, "height": 800}).go())
        page.locator(".plot svg").first.wait_for()
        out = page.evaluate(
            "[...document.querySelectorAll('.three .panel')].flatMap(p => [...p.querySelectorAll('td, th')]"
            ".filter(e => e.getBoundingClientRect().right > p.getBoundingClientRect().right + 0.5"
            " || (e.classList.contains('num') && e.scrollWidth > e.clientWidth + 1)).map(e => e.textContent))"
        )
        assert out == [], width
        places = "plots => plots.map(plot => plot.getBoundingClientRect().top + scrollY)"
        before = page.locator(".plot").evaluate_all(places)
        for chart in page.locator(".plot svg").all():
            chart.hover()
        assert page.locator(".plot").evaluate_all(places) == before
