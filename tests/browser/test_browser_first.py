"""The first task of an empty server, and a form that is made of what handlers say of their payloads."""

from __future__ import annotations

from playwright.sync_api import expect
from programs import Server
from tabs import Open, Start, settled


def test_an_empty_server_leads_through_its_first_task(start: Start, open_tab: Open) -> None:
    server = start()
    tab = open_tab(server, permissions=["clipboard-read", "clipboard-write"])
    page = settled(tab.go())
    panel = page.get_by_role("region", name="The first task")
    for handler in ("works", "echoes", "waits"):
        expect(panel.get_by_role("button", name=handler, exact=True)).to_be_visible()
    panel.get_by_role("button", name="works", exact=True).click()
    panel.get_by_role("button", name="Copy the command").click()
    assert '"handler": "works"' in page.evaluate("navigator.clipboard.readText()")
    panel.get_by_role("button", name="Send it from here").click()
    page.wait_for_url("**/#/tasks/*")
    expect(page.locator(".task-head .badge")).to_have_text("done")
    page.goto(f"{server.url}/#/")
    expect(page.locator(".pipe")).to_be_visible()
    expect(panel).to_have_count(0)
    tab.check()


def test_a_task_is_enqueued_by_the_fields_that_its_handler_tells(lively: Server, open_tab: Open) -> None:
    tab = open_tab(lively)
    page = settled(tab.go("#/enqueue"))
    page.get_by_label("Handler").fill("misses")
    field = page.get_by_label("name")
    field.fill('ann "the" first')
    page.get_by_role("button", name="As JSON").click()
    expect(page.get_by_label("Payload")).to_have_value('{\n  "name": "ann \\"the\\" first"\n}')
    page.get_by_role("button", name="By its fields").click()
    expect(field).to_have_value('ann "the" first')
    page.get_by_label("Handler").fill("works")
    page.get_by_label("n", exact=True).fill("12345678901234567890")
    page.locator("#f-id").fill("by-fields")
    page.get_by_label("Delay").fill("3600")
    page.get_by_role("button", name="As JSON").click()
    page.get_by_label("Payload").fill('{"n": 12345678901234567890}')
    page.get_by_role("button", name="Enqueue", exact=True).click()
    page.wait_for_url("**/#/tasks/by-fields")
    assert lively.task("by-fields")["payload"] == {"n": 12345678901234567890}
    lively.ask("/tasks/by-fields/cancel", method="POST")
    tab.check()


def test_a_handler_that_nobody_has_is_said_before_it_is_sent(lively: Server, open_tab: Open) -> None:
    page = settled(open_tab(lively).go("#/enqueue"))
    page.get_by_label("Handler").fill("wroks")
    expect(page.locator("#unknown-handler")).to_contain_text("No app has told of this handler")
    page.get_by_label("Handler").fill("works")
    expect(page.locator("#unknown-handler")).to_have_count(0)
