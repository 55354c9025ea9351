"""A shop whose tasks live: quick, slow and failing ones. `docs/screenshots.py` takes the pictures of the dashboard.

jobpipe serve docs.demo:app
python docs/demo.py --incident     # what the dashboard shows when things go wrong, one after the other
"""

from __future__ import annotations

import argparse
import asyncio
import random

from jobpipe import App

app = App()


class CardDeclined(Exception):
    """The bank said no."""


class MailboxFull(Exception):
    """The receiver takes no more."""


@app.handler("card.charge", queue="payments")
async def charge(order: int, cents: int) -> dict[str, object]:
    """Fails now and then, and is tried again."""
    await asyncio.sleep(random.uniform(0.05, 0.4))
    if random.random() < 0.12:
        raise CardDeclined(f"order {order}: the bank declined {cents} cents")
    return {"receipt": f"r-{order}", "cents": cents, "captured": True}


@app.handler("mail.send", queue="mail")
async def send(to: str, subject: str) -> str:
    await asyncio.sleep(random.uniform(0.02, 0.15))
    if "full" in to:
        raise MailboxFull(f"mailbox of '{to}' is full")
    return "sent"


@app.handler("image.resize", queue="media")
async def resize(path: str, widths: list[int]) -> list[str]:
    await asyncio.sleep(random.uniform(0.3, 1.6))
    if random.random() < 0.04:
        raise TimeoutError(f"storage did not answer within 30 s for {path}")
    return [f"{path}@{width}.webp" for width in widths]


@app.handler("report.nightly", queue="reports")
async def report(day: str) -> dict[str, object]:
    """A long one."""
    await asyncio.sleep(240)
    return {"day": day, "rows": 48210}


def main() -> None:
    """Play an incident: see docs/incident.py."""
    parser = argparse.ArgumentParser(description="The shop of the dashboard's pictures.")
    parser.add_argument(
        "--incident", action="store_true", required=True, help="play one, on a server of its own"
    )
    parser.add_argument("--pause", type=float, default=20.0, help="seconds to look around after each act")
    from incident import play

    play(parser.parse_args().pause)


if __name__ == "__main__":
    main()
