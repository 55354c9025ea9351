"""Each page says what the API says, in any theme and width, to anybody, and asks nobody but its server."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable
from hashlib import sha256
from typing import Any
from urllib.parse import quote

import pytest
from accessible import PROBLEMS
from playwright.sync_api import Page, expect
from programs import Server, until
from tabs import MARKUP, Open, Start, numbers, settled

PAGES = {
    "": "Overview",
    "tasks": "Tasks",
    "tasks?status=failed": "Tasks",
    "tasks/at-last": "at-last",
    "tasks/broken-1": "broken-1",
    f"tasks/{quote(MARKUP, safe='')}": MARKUP,
    "errors": "Errors",
    "queues": "Queues",
    "queues/mail": "mail",
    "schedules": "Schedules",
    "schedules/+": "New schedule",
    "workers": "Workers",
    "handlers": "Handlers",
    "handlers/fails": "fails",
    "errors?handler=fails": "Errors",
    "queues?sort=failed&find=mail&only=work": "Queues",
    "enqueue": "Enqueue",
    "enqueue?from=at-last": "Enqueue",
}
LOOKS = {
    "light": {"color_scheme": "light"},
    "dark": {"color_scheme": "dark"},
    "phone": {"color_scheme": "light", "viewport": {"width": 360, "height": 740}, "has_touch": True},
}


@pytest.mark.parametrize("look", LOOKS)
def test_every_page_opens_is_accessible_and_asks_only_its_server(
    lively: Server, open_tab: Open, look: str
) -> None:
    tab = open_tab(lively, **LOOKS[look])
    page = tab.go()
    for place, title in PAGES.items():
        page.goto(f"{lively.url}/#/{place}")
        expect(page.get_by_role("heading", level=1)).to_have_text(title)
        settled(page)
        assert page.title() == f"{title} · Jobpipe"
        assert page.evaluate(PROBLEMS) == [], place
        wider = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wider <= 0, f"{place} is wider than the screen"
    tab.check()


def test_the_overview_counts_what_the_server_counts(lively: Server, open_tab: Open) -> None:
    page = settled(open_tab(lively).go())
    stats = lively.ask("/stats")
    for status, count in stats["counts"].items():
        expect(
            page.locator(f".pipe > * > .big[data-count={status}], .outlet [data-count={status}]")
        ).to_have_text(str(count))
    expect(page.locator("#busy")).to_have_text(f"{stats['workers']['busy']} of {stats['workers']['total']}")
    longest = [row["id"] for worker in lively.ask("/workers") for row in worker["tasks"]]
    assert sorted(page.locator("section:has(h2:text('Running longest')) td a").all_inner_texts()) == sorted(
        longest
    )


def test_the_charts_tell_what_the_series_adds_up_to(lively: Server, open_tab: Open) -> None:
    page = settled(open_tab(lively).go())
    series = lively.ask("/series")
    for name in ("enqueued", "done", "failed", "retried"):
        shown = page.locator(".chart").first.locator(".item", has_text=name).locator("b")
        expect(shown).to_have_text(f"{sum(minute[name] for minute in series):,}")
    plot = page.get_by_role("img", name="Throughput")
    plot.focus()
    page.keyboard.press("ArrowLeft")
    expect(page.locator(".chart").first.locator("b").first).to_contain_text("/min")


def test_tasks_are_counted_filtered_and_paged_by_the_address(lively: Server, open_tab: Open) -> None:
    tab = open_tab(lively)
    page = settled(tab.go("#/tasks"))
    stats = lively.ask("/stats")
    assert numbers(page, ".statuses") == stats["counts"] | stats["waiting"]
    assert page.locator("#rows tr").count() == 50
    first = page.locator("#rows tr a.id").all_inner_texts()
    page.get_by_role("link", name="Older").click()
    page.get_by_role("link", name="Newest").wait_for()
    second = page.locator("#rows tr a.id").all_inner_texts()
    assert first + second == [task["id"] for task in lively.ask("/tasks?limit=1000")]

    page.get_by_role("link", name="failed").click()
    expect(page.locator("#rows tr")).to_have_count(5)
    page.get_by_label("Id begins with").fill("broken")
    page.keyboard.press("Enter")
    expect(page.locator("#rows tr")).to_have_count(4)
    assert page.url.endswith("#/tasks?status=failed&id_prefix=broken")
    page.reload()
    expect(page.locator("#rows tr")).to_have_count(4)
    page.go_back()
    expect(page.locator("#rows tr")).to_have_count(5)
    page.goto(f"{lively.url}/#/tasks?handler=nobody")
    expect(page.get_by_text("No task matches.")).to_be_visible()
    tab.check()


def test_a_task_shows_each_attempt_and_its_error(lively: Server, open_tab: Open) -> None:
    tab = open_tab(lively)
    page = settled(tab.go("#/tasks/at-last"))
    rows = page.get_by_role("region", name="Attempts").locator("tbody tr")
    assert [text.split()[:2] for text in rows.locator("th").all_inner_texts()] == [
        ["1", "failed"],
        ["2", "failed"],
        ["3", "done"],
    ]
    page.get_by_role("button", name="2 failed").click()
    expect(page.locator(".detail pre")).to_contain_text("the other side hung up on attempt 2")
    expect(page.locator(".value .tree").last).to_have_text('"at last"')
    tab.check()


def test_markup_in_ids_payloads_and_results_stays_text(lively: Server, open_tab: Open) -> None:
    tab = open_tab(lively)
    dialogs: list[Any] = []
    tab.page.on("dialog", lambda dialog: dialogs.append(dialog.message))
    page = settled(tab.go(f"#/tasks/{quote(MARKUP, safe='')}"))
    for tree in page.locator(".value .tree").all():
        assert tree.inner_text().count(MARKUP) == 2
    page.goto(f"{lively.url}/#/tasks?queue=markup")
    expect(page.locator("#rows a.id")).to_have_text(MARKUP)
    assert page.locator("img, main script").count() == 0
    assert dialogs == []
    tab.check()


def test_errors_are_those_of_the_server_and_lead_to_their_tasks(lively: Server, open_tab: Open) -> None:
    page = settled(open_tab(lively).go("#/errors"))
    for group in lively.ask("/errors"):
        shown = page.locator(f"[data-group='{group['group']}']")
        assert numbers(page, f"[data-group='{group['group']}']") == {"group": group["count"]}
        expect(shown).to_contain_text(group["type"])
        expect(shown.locator(".shape")).to_have_text(group["message"])
    page.locator(".group", has_text="ValueError").get_by_role("link", name="Tasks").click()
    expect(page.locator("#rows tr")).to_have_count(4)


def test_queues_and_workers_are_those_of_the_server(lively: Server, open_tab: Open) -> None:
    page = settled(open_tab(lively).go("#/queues"))
    for queue in lively.ask("/queues"):
        expected = {status: queue[status] for status in ("queued", "running", "done", "failed", "cancelled")}
        assert numbers(page, f"[data-queue='{queue['queue']}']") == expected
    page.goto(f"{lively.url}/#/workers")
    for worker in lively.ask("/workers"):
        card = page.locator(f"[data-worker='{worker['worker_id']}']")
        expect(card).to_contain_text(f"{worker['busy']} of {worker['total']} busy")
        expect(card).to_contain_text(str(worker["pid"]))
        assert sorted(card.locator("li a").all_inner_texts()) == sorted(
            task["id"] for task in worker["tasks"]
        )


def test_what_is_empty_says_so(start: Start, open_tab: Open) -> None:
    server = start()
    tab = open_tab(server)
    page = tab.go()
    for place, words in {
        "": "Nothing failed in the last 24 hours.",
        "tasks": "No tasks yet.",
        "errors": "Nothing failed in the last 24 h.",
        "queues": "No queue holds tasks.",
        "workers": "Idle",
    }.items():
        page.goto(f"{server.url}/#/{place}")
        expect(page.get_by_text(words).first).to_be_visible()
    tab.check()
    page.goto(f"{server.url}/#/tasks/nobody")
    expect(page.get_by_text("There is no such task")).to_be_visible()
    server.stop()


def test_one_tab_reads_the_stream_for_all_and_a_hidden_one_asks_for_nothing(
    lively: Server, open_tab: Open
) -> None:
    first = open_tab(lively)
    first.go()
    second = open_tab(lively, beside=first)
    second.go()
    assert (first.asked_for("/events"), second.asked_for("/events")) == (1, 0)
    first.page.close()
    until(
        "the second tab reads the stream",
        lambda: second.page.wait_for_timeout(20) or second.asked_for("/events") == 1,
    )
    second.page.evaluate(
        "() => { Object.defineProperty(document, 'hidden', {value: true, configurable: true});"
        "document.dispatchEvent(new Event('visibilitychange')); }"
    )
    second.page.wait_for_timeout(300)
    asked = len(second.asked)
    second.page.wait_for_timeout(1500)  # longer than any page goes without asking while something changes
    assert len(second.asked) == asked


AFAR = "queue.test"
"""A name for this machine that a browser does not take for secure: it has neither locks nor hashes there."""


@pytest.fixture
def afar(start: Start, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Server]:
    """A server as it is seen over plain HTTP from elsewhere; with a number, with so many keys k0, k1 ..."""

    def afar(keys: int = 0) -> Server:
        lines = [f"k{n}:admin:{sha256(f'k{n}'.encode()).hexdigest()}" for n in range(keys)]
        monkeypatch.setenv("JOBPIPE_API_KEYS", ";".join(lines))
        server = start("--allowed-hosts", AFAR)
        server.url = f"http://{AFAR}:{server.port}"
        return server

    return afar


def shows(page: Page, id: str) -> None:
    expect(page.get_by_role("link", name=id, exact=True).first).to_be_visible()


def test_eight_windows_over_plain_http_share_one_stream_and_all_are_live(
    afar: Callable[..., Server], open_tab: Open
) -> None:
    server = afar()
    tabs = [open_tab(server)]
    tabs += [open_tab(server, beside=tabs[0]) for _ in range(7)]
    for tab in tabs:
        tab.go("#/tasks")
    assert tabs[0].page.evaluate("[isSecureContext, navigator.locks === undefined]") == [False, True]
    assert sum(tab.asked_for("/events") for tab in tabs) == 1
    send(server, {"id": "seen-by-all", "handler": "works"})
    for tab in tabs:
        shows(tab.page, "seen-by-all")
    (reader,) = (tab for tab in tabs if tab.asked_for("/events"))
    reader.page.close()
    left = [tab for tab in tabs if tab is not reader]
    until(
        "another window reads the stream",
        lambda: left[0].page.wait_for_timeout(20) or sum(tab.asked_for("/events") for tab in left) == 1,
    )
    send(server, {"id": "seen-by-the-rest", "handler": "works"})
    for tab in left:
        shows(tab.page, "seen-by-the-rest")
        tab.check()


def test_eight_windows_with_keys_of_their_own_leave_each_other_connections(
    afar: Callable[..., Server], open_tab: Open
) -> None:
    server = afar(keys=8)
    tabs = [open_tab(server)]
    tabs += [open_tab(server, beside=tabs[0]) for _ in range(7)]
    for n, tab in enumerate(tabs):
        tab.page.add_init_script(f"sessionStorage.setItem('jobpipe.key', 'k{n}')")
        tab.page.goto(f"{server.url}/#/tasks")
        tab.page.locator("#link.live, #link.asking").wait_for()
    states = sorted(tab.page.locator("#link").inner_text() for tab in tabs)
    assert states == ["asking"] * 5 + ["live"] * 3
    send(server, {"id": "seen-by-all", "handler": "works"}, "k0")
    for tab in tabs:
        shows(tab.page, "seen-by-all")
        tab.check()


def send(server: Server, task: dict[str, Any], key: str = "") -> None:
    """Enqueue at the address that needs no name service."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{server.port}/enqueue",
        json.dumps(task).encode(),
        {"Authorization": f"Bearer {key}"},
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert answer.status == 202


def test_a_task_shows_its_unique_key_and_when_it_expires(lively: Server, open_tab: Open) -> None:
    lively.ask(
        "/enqueue",
        {"id": "once", "delay": 3000, "expires": 3600, "unique": {"key": "doc-1", "until": "start"}},
    )
    page = settled(open_tab(lively).go("#/tasks/once"))
    expect(page.locator("dl.panel")).to_contain_text("doc-1 until its start, return")
    expect(page.locator("dl.panel")).to_contain_text("Expires")
