"""Schedules on the page: when they come, here and in their zone, what they made, and all that is done to them."""

from __future__ import annotations

import re
import signal
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from accessible import PROBLEMS
from playwright.sync_api import expect
from programs import Server, until
from tabs import Open, Start, settled

NIGHTLY = {
    "cron": "30 2 * * *",
    "timezone": "Europe/Berlin",
    "task": {"handler": "works", "queue": "reports", "payload": {"n": 7}},
}
HERE = {"timezone_id": "America/New_York"}
WIDE = "123456789012345678901234567890"


@pytest.fixture(scope="module")
def clockwork(start: Start) -> Server:
    """A server with schedules that tests look at; each makes its own to change."""
    server = start()
    server.ask("/schedules/nightly", NIGHTLY, "PUT")
    server.ask("/schedules/paused", NIGHTLY | {"paused": True}, "PUT")
    declared = {"cron": "*/15 * * * *", "task": {"handler": "works"}}
    server.ask("/declare", {"app": "shop", "schedules": {"declared": declared}})
    return server


def there(server: Server, name: str) -> bool:
    return any(schedule["name"] == name for schedule in server.ask("/schedules"))


def test_the_list_reads_each_back_in_words(clockwork: Server, open_tab: Open) -> None:
    tab = open_tab(clockwork)
    page = settled(tab.go("#/schedules"))
    for schedule in clockwork.ask("/schedules"):
        row = page.locator(f"[data-schedule={schedule['name']}]")
        expect(row).to_contain_text(schedule["in_words"])
        expect(row).to_contain_text(schedule["cron"] or "every")
    expect(page.locator("[data-schedule=paused]")).to_contain_text("paused")
    page.keyboard.press("/")
    page.keyboard.type("night")
    expect(page.locator("[data-schedule]")).to_have_count(1)
    page.get_by_role("link", name="nightly").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("nightly")
    tab.check()


def test_the_next_times_are_told_here_and_in_the_zone_of_the_schedule(
    clockwork: Server, open_tab: Open
) -> None:
    page = settled(open_tab(clockwork, **HERE).go("#/schedules/nightly"))
    times = [datetime.fromisoformat(time) for time in clockwork.ask("/schedules/nightly")["next"]]
    assert len(times) == 5
    for attribute, zone in (("data-here", "America/New_York"), ("data-there", "Europe/Berlin")):
        shown = page.locator(f"[{attribute}]").all_inner_texts()
        assert [text[-5:] for text in shown] == [
            time.astimezone(ZoneInfo(zone)).strftime("%H:%M") for time in times
        ]
    expect(page.locator("#state")).to_contain_text("At 02:30 every day in Europe/Berlin")


def test_it_is_run_now_paused_and_resumed(clockwork: Server, open_tab: Open) -> None:
    clockwork.ask("/schedules/steered", NIGHTLY, "PUT")
    tab = open_tab(clockwork)
    page = settled(tab.go("#/schedules/steered"))
    page.get_by_role("button", name="Run now").click()
    expect(page.locator("[data-end=done]")).to_have_count(1)
    page.locator("[data-end=done]").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("steered@run-")
    page.get_by_role("link", name="steered", exact=True).click()
    page.get_by_role("button", name="Pause steered").click()
    expect(page.locator("#state")).to_contain_text("Paused")
    assert clockwork.ask("/schedules/steered")["paused"] is True
    page.keyboard.press("p")
    expect(page.locator("#next")).to_be_visible()
    assert clockwork.ask("/schedules/steered")["paused"] is False
    page.goto(f"{clockwork.url}/#/schedules")
    page.get_by_role("button", name="Pause steered").click()
    expect(page.get_by_role("button", name="Resume steered")).to_be_visible()
    tab.check()


def test_its_last_tasks_are_a_strip_of_their_ends(clockwork: Server, open_tab: Open) -> None:
    clockwork.ask("/schedules/strip", {"every": 86400, "task": {"handler": "fails", "max_retries": 0}}, "PUT")
    for ends in ("failed", "done", "failed"):
        task = {"handler": "fails" if ends == "failed" else "works", "max_retries": 0}
        clockwork.ask("/schedules/strip", {"every": 86400, "task": task}, "PUT")
        made = clockwork.ask("/schedules/strip/run", method="POST")["id"]
        clockwork.finished(made)
    page = settled(open_tab(clockwork).go("#/schedules/strip"))
    cells = page.get_by_role("list", name="Its last tasks, the oldest first").get_by_role("link")
    expect(cells).to_have_count(3)
    assert [cell.get_attribute("data-end") for cell in cells.all()] == ["failed", "done", "failed"]
    assert cells.first.get_attribute("aria-label").startswith("failed, for ")  # type: ignore[union-attr]
    page.get_by_role("link", name="All of its tasks").click()
    expect(page.locator("#rows tr")).to_have_count(3)
    page.get_by_role("button", name="Any schedule").click()
    page.wait_for_url("**/#/tasks")


def test_missed_times_and_the_last_error_are_told(clockwork: Server, open_tab: Open) -> None:
    clockwork.ask("/queues/full", {"capacity": 1, "paused": True}, "PATCH")
    clockwork.enqueue({"handler": "works", "queue": "full"})
    clockwork.ask("/schedules/refused", {"every": 1, "task": {"handler": "works", "queue": "full"}}, "PUT")
    until("it was refused", lambda: clockwork.ask("/schedules/refused")["last_error"])
    page = settled(open_tab(clockwork).go("#/schedules/refused"))
    error = clockwork.ask("/schedules/refused")["last_error"]
    expect(page.locator(".last-error")).to_contain_text(error)
    expect(page.locator("#missed")).to_have_text(re.compile("[0-9]+"))
    page.goto(f"{clockwork.url}/#/schedules")
    expect(page.locator("[data-schedule=refused]")).to_contain_text(error)
    clockwork.ask("/schedules/refused/pause", method="POST")


def test_a_new_one_is_read_back_while_it_is_typed_and_kept_when_it_is_sent(
    clockwork: Server, open_tab: Open
) -> None:
    page = settled(open_tab(clockwork, **HERE).go("#/schedules"))
    page.get_by_role("link", name="New schedule").click()
    expect(page.get_by_label("Time zone")).to_have_value("America/New_York")
    page.get_by_role("textbox", name="Cron").fill("0 9 * * mon-fri")
    expect(page.locator("#words")).to_have_text("At 09:00 on Monday through Friday")
    expect(page.locator("[data-here]")).to_have_count(5)
    page.get_by_role("textbox", name="Cron").fill("61 9 * * *")
    expect(page.get_by_role("textbox", name="Cron")).to_have_attribute("aria-invalid", "true")
    expect(page.locator("#h-cron")).to_contain_text("is no cron expression")
    expect(page.get_by_role("button", name="Schedule it")).to_be_disabled()
    page.get_by_role("textbox", name="Cron").fill("0 9 * * mon-fri")
    page.get_by_label("Name").fill("fresh")
    page.get_by_label("Handler").fill("works")
    page.get_by_label("While the last one runs").select_option("skip the time")
    page.get_by_label("The rest of the task").fill('{"payload": {"n": ')
    expect(page.locator("#h-more")).to_contain_text("Not JSON yet")
    page.get_by_label("The rest of the task").fill(f'{{"payload": {{"n": {WIDE}}}, "priority": 3}}')
    expect(page.locator("#words")).to_be_visible()
    assert not there(clockwork, "fresh")
    page.get_by_role("button", name="Schedule it").click()
    page.wait_for_url("**/#/schedules/fresh")
    made = clockwork.ask("/schedules/fresh")
    assert (made["cron"], made["timezone"], made["overlap"]) == (
        "0 9 * * mon-fri",
        "America/New_York",
        "skip",
    )
    assert (made["task"]["priority"], made["task"]["payload"]["n"]) == (3, int(WIDE))
    expect(page.locator(".tree")).to_contain_text(WIDE)


def test_a_new_one_does_not_take_the_place_of_another(clockwork: Server, open_tab: Open) -> None:
    before = clockwork.ask("/schedules/nightly")
    page = settled(open_tab(clockwork).go("#/schedules/+"))
    page.get_by_label("Name").fill("nightly")
    page.get_by_role("button", name="Schedule it").click()
    expect(page.locator("#h-name")).to_contain_text("there is a schedule of this name")
    expect(page.get_by_label("Name")).to_be_focused()
    assert clockwork.ask("/schedules/nightly") == before


def test_an_edit_changes_what_was_changed_alone(clockwork: Server, open_tab: Open) -> None:
    whole = {
        "every": 7200, "starts": "2030-01-01T00:00:00.123Z", "ends": "2040-01-01T00:00:00Z", "jitter": 2.5,
        "catch_up": "none", "overlap": "skip", "paused": True,
        "task": {"handler": "works", "queue": "reports", "payload": {"n": 1.10}, "unique": "weekly", "expires": 60},
    }  # fmt: skip
    clockwork.ask("/schedules/whole", whole, "PUT")
    before = clockwork.ask("/schedules/whole")
    tab = open_tab(clockwork, **HERE)
    page = settled(tab.go("#/schedules/whole"))
    page.get_by_role("link", name="Edit").click()
    expect(page.locator("#words")).to_have_text("Every 2 hours")
    page.get_by_label("Every, in seconds").fill("3600")
    expect(page.locator("#words")).to_have_text("Every hour")
    assert clockwork.ask("/schedules/whole")["every"] == 7200
    page.get_by_role("button", name="Save").click()
    page.wait_for_url("**/#/schedules/whole")
    after = clockwork.ask("/schedules/whole")
    differ = {name for name in before if before[name] != after[name]}
    assert differ == {"every", "in_words", "changed_at"}
    tab.check()


def test_a_schedule_is_deleted_after_a_yes_alone(clockwork: Server, open_tab: Open) -> None:
    clockwork.ask("/schedules/doomed", NIGHTLY, "PUT")
    page = settled(open_tab(clockwork).go("#/schedules/doomed"))
    page.get_by_role("button", name="Delete").click()
    page.keyboard.press("Escape")
    assert there(clockwork, "doomed")
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete", exact=True).click()
    page.wait_for_url("**/#/schedules")
    assert not there(clockwork, "doomed")
    page.goto(f"{clockwork.url}/#/schedules/declared")
    page.get_by_role("button", name="Delete").click()
    expect(page.get_by_role("dialog")).to_contain_text("comes back when shop declares it again")


LOOKS: dict[str, dict[str, Any]] = {
    "light": {},
    "dark": {"color_scheme": "dark"},
    "phone": {"viewport": {"width": 390, "height": 844}, "has_touch": True},
    "zoomed": {"viewport": {"width": 640, "height": 400}},
}


@pytest.mark.parametrize("look", LOOKS)
def test_the_pages_of_schedules_are_for_everybody(clockwork: Server, open_tab: Open, look: str) -> None:
    clockwork.ask("/schedules/nightly/run", method="POST")
    tab = open_tab(clockwork, **LOOKS[look])
    page = tab.go()
    for place, title in (
        ("schedules", "Schedules"), ("schedules/nightly", "nightly"), ("schedules/paused", "paused"),
        ("schedules/+", "New schedule"), ("schedules/nightly/edit", "Edit nightly"),
    ):  # fmt: skip
        page.goto(f"{clockwork.url}/#/{place}")
        expect(page.get_by_role("heading", level=1)).to_have_text(title)
        settled(page)
        if "edit" in place or "+" in place:
            page.locator("#words").wait_for()
        assert page.evaluate(PROBLEMS) == [], place
        wider = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wider <= 0, place
    tab.check()


def test_nothing_moves_while_a_form_is_typed_in(clockwork: Server, open_tab: Open) -> None:
    page = settled(open_tab(clockwork).go("#/schedules/+"))
    page.locator("#words").wait_for()
    places = "fields => fields.map(field => field.getBoundingClientRect().y + scrollY)"
    fields = page.locator("form.schedule :is(input, select, textarea)")
    before = fields.evaluate_all(places)
    page.get_by_role("textbox", name="Cron").fill("5")
    expect(page.get_by_role("textbox", name="Cron")).to_have_attribute("aria-invalid", "true")
    assert fields.evaluate_all(places) == before


def test_no_schedule_is_steered_while_the_server_is_away(start: Start, open_tab: Open) -> None:
    server = start()
    server.ask("/schedules/nightly", NIGHTLY, "PUT")
    page = settled(open_tab(server).go("#/schedules/nightly"))
    edit = settled(open_tab(server).go("#/schedules/nightly/edit"))
    edit.locator("#words").wait_for()
    server.kill()
    for name in ("Run now", "Pause nightly", "Delete"):
        expect(page.get_by_role("button", name=name)).to_be_disabled()
    expect(edit.get_by_role("button", name="Save")).to_be_disabled()
    again = server.again()
    expect(page.get_by_role("button", name="Run now")).to_be_enabled()
    again.signal(signal.SIGTERM)
    assert again.ended() == 0


def test_a_task_tells_its_schedule_and_its_time(clockwork: Server, open_tab: Open) -> None:
    clockwork.ask("/schedules/origin", NIGHTLY | {"task": {"handler": "works", "unique": "one"}}, "PUT")
    task = clockwork.ask("/schedules/origin/run", method="POST")
    page = settled(open_tab(clockwork).go(f"#/tasks/{task['id']}"))
    facts = page.locator("dl.grid")
    expect(facts.get_by_role("link", name="origin")).to_be_visible()
    expect(facts).to_contain_text("one until its end, return")
