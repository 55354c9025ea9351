"""Lists and what is opened from them: a task knows its neighbours, a selection and a view are found again."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Page, expect
from programs import Server, until
from tabs import Open, Start, Tab, settled


@pytest.fixture(scope="module")
def desk(start: Start) -> Server:
    """A server whose tasks the tests add to, each in queues of its own."""
    return start()


def broken(server: Server, queue: str, count: int) -> list[str]:
    """The ids of failed tasks, in the order of the table: the newest first."""
    ids = [f"{queue}-{i}" for i in range(count)]
    server.enqueue(*({"id": id, "handler": "fails", "queue": queue, "max_retries": 0} for id in ids))
    server.all_finished(ids)
    return ids[::-1]


def test_a_task_leads_to_its_neighbours_in_the_list_and_back_to_it(desk: Server, open_tab: Open) -> None:
    ids = broken(desk, "beside", 3)
    tab = open_tab(desk)
    page = settled(tab.go("#/tasks?queue=beside"))
    page.get_by_role("link", name=ids[1], exact=True).click()
    title = page.get_by_role("heading", level=1)
    expect(page.get_by_role("navigation", name="The list it was opened from")).to_contain_text("2 of 3")
    page.get_by_role("link", name="Task after").click()
    expect(title).to_have_text(ids[2])
    page.keyboard.press("j")  # there is none
    page.keyboard.press("k")
    page.keyboard.press("k")
    expect(title).to_have_text(ids[0])
    page.locator(".crumb a").click()
    page.wait_for_url("**/#/tasks?queue=beside")
    tab.check()


def test_a_task_that_failed_leads_to_all_that_failed_alike(desk: Server, open_tab: Open) -> None:
    ids = broken(desk, "alike", 3)
    desk.enqueue({"id": "other", "handler": "misses", "queue": "alike", "max_retries": 0})
    desk.finished("other")
    page = settled(open_tab(desk).go(f"#/tasks/{ids[0]}"))
    page.get_by_role("link", name="Others with this error").click()
    page.locator("#rows tr").first.wait_for()
    shown = page.locator("#rows a.id").all_inner_texts()
    assert set(ids) <= set(shown)
    assert "other" not in shown


def test_a_done_task_runs_again_as_a_new_one_and_stays_as_it_was(desk: Server, open_tab: Open) -> None:
    number = 12345678901234567890123
    desk.enqueue(
        {"id": "first", "handler": "echoes", "queue": "anew", "payload": {"n": number}, "priority": 4}
    )
    before = desk.finished("first")
    tab = open_tab(desk)
    page = settled(tab.go("#/tasks/first"))
    page.get_by_role("button", name="Run again as new").click()
    expect(page.get_by_role("heading", level=1)).not_to_have_text("first")
    made = [task for task in desk.ask("/tasks?queue=anew") if task["id"] != "first"]
    assert [(task["payload"], task["priority"]) for task in made] == [({"n": number}, 4)]
    assert desk.task("first") == before
    tab.check()


def test_a_long_text_is_folded_and_unfolds_whole(desk: Server, open_tab: Open) -> None:
    text = "x" * 30_000 + "the end"
    desk.enqueue({"id": "big", "handler": "works", "queue": "big", "payload": {"text": text}, "delay": 3600})
    page = settled(open_tab(desk).go("#/tasks/big"))
    tree = page.locator(".value .tree").first
    assert len(tree.inner_text()) < 2000
    page.get_by_role("button", name="all 30,009 characters").click()
    expect(tree).to_contain_text("the end")


def test_a_selection_is_found_again_after_a_look_at_a_task(desk: Server, open_tab: Open) -> None:
    ids = broken(desk, "kept", 4)
    tab = open_tab(desk)
    page = settled(tab.go("#/tasks?queue=kept"))
    page.get_by_label(f"Select {ids[0]}").check()
    page.get_by_label(f"Select {ids[2]}").check()
    page.get_by_role("link", name=ids[1], exact=True).click()
    page.locator(".task-head").wait_for()
    page.go_back()
    expect(page.get_by_label(f"Select {ids[2]}")).to_be_checked()
    page.reload()
    expect(page.get_by_text("2 selected")).to_be_visible()
    page.goto(f"{desk.url}/#/tasks?queue=another")
    expect(page.get_by_text("2 selected")).to_have_count(0)  # one of another filter is not mixed in
    page.goto(f"{desk.url}/#/tasks?queue=kept")
    page.get_by_role("group", name="Many tasks").get_by_role("button", name="Delete").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete 2 tasks").click()
    until("they are gone", lambda: {t["id"] for t in desk.ask("/tasks?queue=kept")} == {ids[1], ids[3]})
    expect(page.get_by_text("2 selected")).to_have_count(0)
    tab.check()


def test_everything_is_deleted_only_after_its_number_was_typed(start: Start, open_tab: Open) -> None:
    server = start()
    ids = broken(server, "doomed", 12)
    page = settled(open_tab(server).go("#/tasks"))
    page.get_by_role("group", name="Many tasks").get_by_role("button", name="Delete").click()
    confirm = page.get_by_role("dialog").get_by_role("button", name="Delete 12 tasks")
    expect(confirm).to_be_disabled()
    page.get_by_label("Type the number of tasks").fill("11")
    expect(confirm).to_be_disabled()
    page.get_by_label("Type the number of tasks").fill("12")
    confirm.click()
    until("all are gone", lambda: server.ask("/tasks") == [])
    assert len(ids) == 12


def test_the_longest_runs_and_waits_come_first_when_asked(desk: Server, open_tab: Open) -> None:
    desk.enqueue({"id": "runs-long", "handler": "waits", "queue": "long"})
    until("it runs", lambda: desk.task("runs-long")["status"] == "running")
    page = open_tab(desk).page
    page.wait_for_timeout(1200)
    desk.enqueue(*({"id": f"short-{i}", "handler": "works", "queue": "long"} for i in range(3)))
    desk.finished("short-2")
    desk.enqueue({"id": "not-yet", "handler": "works", "queue": "long", "delay": 3600})
    page.goto(f"{desk.url}/#/tasks?queue=long")
    rows = page.locator("#rows a.id")
    expect(rows.first).to_have_text("not-yet")
    page.get_by_role("link", name="Ran", exact=True).click()
    page.wait_for_url("**sort=ran")
    expect(rows.first).to_have_text("runs-long")
    expect(rows).to_have_count(4)  # what has not run has no duration
    expect(page.locator("#main")).to_contain_text("of all 5 that match")
    page.get_by_role("link", name="Waited", exact=True).click()
    page.wait_for_url("**sort=waited")
    expect(rows).to_have_count(4)
    desk.ask("/tasks/runs-long/cancel", method="POST")


def test_scheduled_and_retrying_tasks_are_filtered_like_a_status(desk: Server, open_tab: Open) -> None:
    desk.enqueue(
        {"id": "in-an-hour", "handler": "works", "queue": "times", "delay": 3600},
        {"id": "was-done", "handler": "works", "queue": "times"},
    )
    desk.finished("was-done")
    page = settled(open_tab(desk).go("#/tasks?queue=times&status=scheduled"))
    expect(page.locator("#rows a.id")).to_have_text(["in-an-hour"])
    page.get_by_role("group", name="Many tasks").get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("dialog")).to_contain_text("1 scheduled")
    page.get_by_role("dialog").get_by_role("button", name="Cancel 1 task").click()
    expect(page.locator("#main")).to_contain_text("No task matches.")
    assert desk.task("in-an-hour")["status"] == "cancelled"


def test_a_view_is_kept_under_a_name_and_forgotten(desk: Server, open_tab: Open) -> None:
    broken(desk, "viewed", 1)
    page = settled(open_tab(desk).go("#/tasks?status=failed&queue=viewed"))
    page.get_by_role("button", name="Keep this view").click()
    page.get_by_label("Name").fill("what broke")
    page.get_by_role("button", name="Keep", exact=True).click()
    page.goto(f"{desk.url}/#/tasks")
    page.get_by_role("link", name="what broke").click()
    page.wait_for_url("**/#/tasks?status=failed&queue=viewed")
    page.get_by_role("button", name="Forget this view").click()
    expect(page.get_by_role("link", name="what broke")).to_have_count(0)


@pytest.mark.parametrize("place", ["", "tasks", "errors", "queues", "workers", "handlers"])
def test_rows_are_walked_by_j_and_k_on_every_page(lively: Server, open_tab: Open, place: str) -> None:
    page = settled(open_tab(lively).go(f"#/{place}"))
    focused = "document.activeElement.textContent"
    page.keyboard.press("j")
    page.wait_for_timeout(50)
    assert page.evaluate("document.activeElement.closest('main tbody tr, .group, .worker') !== null")
    first = page.evaluate(focused)
    page.keyboard.press("j")
    page.keyboard.press("k")
    assert page.evaluate(focused) == first
    find(page)


def find(page: Page) -> None:
    page.keyboard.press("/")
    expect(page.locator("#find")).to_be_focused()


def test_errors_are_sorted_found_and_told_apart_from_their_tasks(start: Start, open_tab: Open) -> None:
    server = start()
    server.enqueue(
        *({"id": f"twice-{i}", "handler": "fails", "max_retries": 1} for i in range(3)),
        *(
            {"id": f"late-{i}", "handler": "misses", "max_retries": 0, "payload": {"name": "x"}}
            for i in range(2)
        ),
    )
    server.all_finished([*(f"twice-{i}" for i in range(3)), *(f"late-{i}" for i in range(2))])
    tab = open_tab(server)
    page = settled(tab.go("#/errors"))
    titles = page.locator(".group h2")
    expect(titles).to_have_text(["ValueError", "LookupError"])
    first = page.locator(".group").first
    expect(first).to_contain_text("6attempts")
    expect(first).to_contain_text("3 tasks: 3 failed")
    page.get_by_role("link", name="By handler").click()
    page.get_by_label("Find an error").fill("misses")
    expect(titles).to_have_text(["LookupError"])
    page.reload()
    expect(titles).to_have_text(["LookupError"])
    page.get_by_label("Find an error").fill("")
    page.get_by_role("link", name="fails", exact=True).click()
    expect(titles).to_have_text(["ValueError"])
    assert "handler=fails" in page.url
    tab.check()


def test_a_group_of_errors_is_cancelled_together(start: Start, open_tab: Open) -> None:
    server = start()
    server.enqueue(
        *({"id": f"again-{i}", "handler": "fails", "max_retries": 99} for i in range(3)),
        {"id": "others", "handler": "misses", "max_retries": 99},
    )
    until("their pauses are long", lambda: all(task["failures"] >= 7 for task in server.ask("/tasks")))
    page = settled(open_tab(server).go("#/errors"))
    page.keyboard.press("j")
    page.keyboard.press("c")
    page.get_by_role("dialog").get_by_role("button", name="Cancel 3 tasks").click()
    until("they are cancelled", lambda: len(server.ask("/tasks?status=cancelled")) == 3)
    assert server.task("others")["status"] == "queued"


def test_a_search_in_words_is_completed_and_stands_for_the_filter(desk: Server, open_tab: Open) -> None:
    ids = broken(desk, "worded", 2)
    tab = open_tab(desk)
    page = settled(tab.go("#/tasks"))
    page.keyboard.press("/")
    page.keyboard.type("st")
    expect(page.get_by_role("option")).to_have_text(["status:"])
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.keyboard.type("fai")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Tab")
    page.keyboard.type("queue:wor")
    page.get_by_role("option", name="queue:worded").click()
    expect(page.get_by_label("Search")).to_have_value("status:failed queue:worded ")
    page.keyboard.press("Enter")
    page.wait_for_url("**/#/tasks?status=failed&queue=worded")
    expect(page.locator("#rows a.id")).to_have_text(ids)
    page.get_by_label("Search").fill(f"queue:worded {ids[0]}")
    page.keyboard.press("Enter")
    expect(page.locator("#rows a.id")).to_have_text(ids[:1])
    page.get_by_label("Search").fill("colour:red")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert").get_by_text("There is no colour:")).to_be_visible()
    expect(page.locator("#rows a.id")).to_have_text(ids[:1])
    tab.check()


def test_errors_that_were_not_seen_before_an_hour_ago_are_found_alone(desk: Server, open_tab: Open) -> None:
    now = datetime.now(UTC)
    groups = [
        {
            "group": digit * 16, "handler": "h", "type": f"Error{digit}", "message": "", "count": 3, "example_id": "x",
            "first_seen": (now - timedelta(hours=hours)).isoformat(), "last_seen": now.isoformat(), "trend": [0] * 24,
        }
        for digit, hours in (("a", 0.5), ("b", 20), ("c", 100))
    ]  # fmt: skip
    tab = open_tab(desk)
    tab.page.route("**/errors?*", lambda route: route.fulfill(json=groups))
    page = settled(tab.go("#/errors"))
    titles = page.locator(".group h2")
    expect(titles).to_have_text(["Errora", "Errorb", "Errorc"])
    page.get_by_role("link", name="New in 1 h").click()
    expect(titles).to_have_text(["Errora"])
    page.get_by_role("link", name="New in 24 h").click()
    expect(titles).to_have_text(["Errora", "Errorb"])
    since = parse_qs(urlsplit(last(tab, "/errors?")).query)["since"][0]
    assert now - datetime.fromisoformat(since) > timedelta(days=6)
    tab.check()


def last(tab: Tab, what: str) -> str:
    return next(url for url in reversed(tab.asked) if what in url)
