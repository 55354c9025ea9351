"""Take the pictures of the dashboard that the docs show, from the real dashboard of a real server.

    python docs/screenshots.py                 # those that the docs use, into docs/images
    python docs/screenshots.py --all FOLDER    # every page, light and dark, wide and phone

The last hour of the shop in `demo.py` is lived through first, on a clock that runs faster; then a server goes on.
Needs a Chromium or Chrome, and Playwright (`pip install -e '.[dev]'`).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

from jobpipe import Client
from jobpipe.core.errors import JobpipeError
from jobpipe.core.lifecycle import Kind, Outcome
from jobpipe.core.task import Claim, NewTask
from jobpipe.engine.queue import TaskQueue
from jobpipe.engine.values import Report
from jobpipe.runtime.clock import ManualClock
from jobpipe.storage import open_storage
from jobpipe.wire import new_id

HERE = Path(__file__).parent
PAGES = {
    "overview": "",
    "tasks": "tasks",
    "task": "tasks/invoice-4711",
    "errors": "errors",
    "queues": "queues",
    "queue": "queues/mail",
    "schedules": "schedules",
    "schedule": "schedules/catalogue",
    "schedule-edit": "schedules/catalogue/edit",
    "workers": "workers",
    "handlers": "handlers",
    "enqueue": "enqueue?from=invoice-4711",
}
LOOKS = {
    "light": {"color_scheme": "light", "viewport": {"width": 1280, "height": 800}},
    "dark": {"color_scheme": "dark", "viewport": {"width": 1280, "height": 800}},
    "phone-light": {"color_scheme": "light", "viewport": {"width": 390, "height": 780}},
    "phone-dark": {"color_scheme": "dark", "viewport": {"width": 390, "height": 780}},
}
USED = [
    ("overview", "light"),
    ("overview", "dark"),
    ("tasks", "light"),
    ("task", "light"),
    ("errors", "dark"),
    ("queue", "light"),
    ("schedule", "light"),
    ("overview", "phone-light"),
]
HOUR = 3600
CYCLE = 2.0
TRACEBACK = """Traceback (most recent call last):
  File "/srv/shop/tasks.py", line {line}, in {function}
    {source}
{error}
"""
SHOP = {
    "card.charge": ("payments", 0.5, "shop.CardDeclined", "order {n}: the bank declined {m} cents", 0.03),
    "mail.send": ("mail", 0.35, "shop.MailboxFull", "mailbox of 'user{n}@example.org' is full", 0.015),
    "image.resize": (
        "media",
        0.15,
        "TimeoutError",
        "storage did not answer within 30 s for /img/{n}.png",
        0.01,
    ),
}
"""Queue, share, error, message and how often it happens, by handler."""


async def live_through(store: str, hours: float) -> None:
    """Fill the store with what a shop does in the last `hours`; half an hour ago its file storage was away."""
    clock = ManualClock(int((time.time() - hours * HOUR) * 1000))
    queue = TaskQueue(open_storage(store, capacity=500, clock=clock), clock=clock)
    await queue.open()
    end = time.time() * 1000 - 2000
    while clock.now() < end:
        ago = (end - clock.now()) / 60_000
        await _cycle(queue, clock, incident=24 < ago < 31)
    await queue.enqueue(
        [NewTask("invoice-4711", "mail.send", json.dumps(INVOICE).encode(), "mail", max_retries=4)]
    )
    for run, wait in ((0.12, 0.4), (0.1, 0.6), (0.31, 1.0), (0.2, 2.1), (0.16, 0)):
        claims = await queue.claim("web-2:118", 50)
        clock.advance(run)
        await queue.settle([_end(claim, False) for claim in claims if claim.task.id != "invoice-4711"])
        await queue.settle(
            [_failed(claim, "mail.send", 4711) for claim in claims if claim.task.id == "invoice-4711"]
        )
        clock.advance(wait)
    await queue.close()


INVOICE = {
    "to": "user4711@example.org",
    "subject": "Your invoice",
    "order": {
        "number": 4711,
        "total": 129.90,
        "items": [{"sku": "A-1007", "count": 2}, {"sku": "C-2040", "count": 1}],
    },
    "attach": ["invoice-4711.pdf"],
    "locale": None,
}


async def _cycle(queue: TaskQueue, clock: ManualClock, *, incident: bool) -> None:
    begun = clock.now()
    wave = 1 + 0.45 * random.random() + (0.6 if (begun // 60_000) % 17 < 6 else 0.0)
    names = random.choices(list(SHOP), [share for _, share, *_ in SHOP.values()], k=round(3 * wave))
    await queue.enqueue(
        [NewTask(new_id(begun), name, b'{"order": 1}', SHOP[name][0], max_retries=2) for name in names]
    )
    clock.advance(random.uniform(1.0, 3.0) if incident else random.uniform(0.01, 0.08))
    claims = await queue.claim(f"web-{random.randint(1, 2)}:118", 60)
    random.shuffle(claims)
    for part in range(3):
        clock.advance(random.uniform(0.03, 0.25) * (1 + part))
        await queue.settle([_end(claim, incident) for claim in claims[part::3]])
    left = CYCLE - (clock.now() - begun) / 1000
    clock.advance(max(0.05, left))


def _end(claim: Claim, incident: bool) -> Report:
    often = 0.6 if incident and claim.task.handler == "image.resize" else SHOP[claim.task.handler][4]
    if random.random() < often:
        return _failed(claim, claim.task.handler, random.randint(1, 9999))
    return Report(claim.task.id, claim.lease_id, Outcome(Kind.DONE, b'{"ok": true}'))


def _failed(claim: Claim, handler: str, n: int) -> Report:
    _, _, error, message, _ = SHOP[handler]
    said = message.format(n=n, m=n * 7 + 100)
    kind = error.rpartition(".")[2]
    trace = TRACEBACK.format(
        line=37, function=handler.replace(".", "_"), source=f"raise {kind}(...)", error=f"{error}: {said}"
    )
    return Report(claim.task.id, claim.lease_id, Outcome(Kind.FAILED, None, kind, said, trace))


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """A server that goes on with the shop, kept busy; its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = [
        "--port",
        str(port),
        "--store",
        "sqlite:///shop.db",
        "--processes",
        "2",
        "--workers",
        "8",
        "--queue-size",
        "100",
    ]
    environ = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE.parent / "src"), str(HERE)])}
    command = [sys.executable, "-m", "jobpipe", "serve", "demo:app", *flags]
    server = subprocess.Popen(command, cwd=folder, env=environ, stderr=subprocess.DEVNULL)
    stop = threading.Event()
    url = f"http://127.0.0.1:{port}"
    feeding = threading.Thread(target=_feed, args=(url, stop))
    try:
        feeding.start()
        yield url
    finally:
        stop.set()
        feeding.join()
        server.terminate()
        server.wait()


def _feed(url: str, stop: threading.Event) -> None:
    with Client(url, retries=20) as client:
        for day in (20, 21):
            client.enqueue(
                "report.nightly", {"day": f"2026-11-{day}"}, queue="reports", id=f"report-2026-11-{day}"
            )
        for n in range(6):
            client.enqueue(
                "mail.send", {"to": f"user{n}@example.org", "subject": "A reminder"}, queue="mail", delay=HOUR
            )
        _rule(client)
        n = 20_000
        while not stop.wait(0.3):
            n += 1
            with contextlib.suppress(JobpipeError):
                client.enqueue(
                    "card.charge", {"order": n, "cents": 100 + n % 9000}, queue="payments", id=f"order-{n}"
                )
                if n % 2:
                    client.enqueue(
                        "mail.send", {"to": f"user{n}@example.org", "subject": "Thanks"}, queue="mail"
                    )
                for image in range(5 if n % 6 == 0 else 0):
                    client.enqueue(
                        "image.resize", {"path": f"/img/{n}-{image}.png", "widths": [320, 640]}, queue="media"
                    )


def _rule(client: Client) -> None:
    """Limits, tenants, a paused queue, and schedules."""
    client.rule_queue(
        "mail", concurrency=4, rate={"limit": 600, "period": 60, "burst": 20}, key_concurrency=1
    )
    client.rule_key("mail", "globex", concurrency=3)
    client.pause_queue("exports")
    for n in range(24):
        client.enqueue(
            "mail.send",
            {"to": f"user{n}@example.org", "subject": "News"},
            queue="mail",
            key=("acme", "globex", "initech")[n % 3],
            delay=4,
        )
        client.enqueue("image.resize", {"path": f"/export/{n}", "widths": [64]}, queue="exports")
    task = {
        "handler": "image.resize",
        "queue": "media",
        "payload": {"path": "/catalogue.png", "widths": [1280]},
    }
    client.schedules.put("catalogue", task, every=2)
    client.schedules.put("nightly-report", {"handler": "report.nightly", "queue": "reports"}, cron="30 2 * * *",
                         timezone="Europe/Berlin", overlap="skip")  # fmt: skip
    client.schedules.put("weekly-digest", {"handler": "mail.send"}, cron="0 8 * * mon", paused=True)


def take(browser: Browser, url: str, page_name: str, look: str, folder: Path) -> None:
    """One picture."""
    context = browser.new_context(**LOOKS[look])
    page = context.new_page()
    page.goto(f"{url}/#/{PAGES[page_name]}")
    page.locator("#link.live").wait_for()
    page.locator("[aria-busy=true]").first.wait_for(state="detached")
    page.wait_for_timeout(
        6000 if page_name == "queues" else 1500
    )  # the sparklines of depth grow while they are looked at
    page.screenshot(path=folder / f"{page_name}-{look}.png")
    context.close()


def photograph(chromium: str, shop: Path, pictures: list[tuple[str, str]], folder: Path) -> None:
    """All pictures, of a server on the store in the folder `shop`."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium, args=["--disable-background-networking"]
        )
        with served(shop) as url:
            time.sleep(12)  # of the live shop
            for page, look in pictures:
                take(browser, url, page, look, folder)
        browser.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--all", type=Path, metavar="FOLDER", help="take every page in every look")
    chosen = parser.parse_args().all
    folder = chosen or HERE / "images"
    folder.mkdir(exist_ok=True)
    pictures = [(page, look) for page in PAGES for look in LOOKS] if chosen else USED
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        parser.error("there is no Chromium or Chrome on this machine")
    with tempfile.TemporaryDirectory() as shop:
        asyncio.run(live_through(f"sqlite:///{shop}/shop.db", 1.3))
        photograph(chromium, Path(shop), pictures, folder)


if __name__ == "__main__":
    main()
