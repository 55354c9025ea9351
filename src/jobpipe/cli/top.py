"""`jobpipe top`: the server live, like htop; one picture of it where nobody watches."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Final

from cyclopts import Parameter

from jobpipe.cli import exits
from jobpipe.cli.arguments import Seconds
from jobpipe.cli.output import Output, Table, put, put_json
from jobpipe.cli.remote import Remote, Target
from jobpipe.cli.server_state import QUEUE_COLUMNS, WORKER_COLUMNS, headline
from jobpipe.cli.snapshot import Snapshot, take
from jobpipe.cli.top_view import RUNNING_COLUMNS, busiest, picture
from jobpipe.core.errors import JobpipeError

MOST: Final = 20
"""Rows of a table where nobody scrolls: `jobpipe queue list` has all."""


def top_command(
    *,
    interval: Annotated[Seconds, Parameter(help="Seconds between two looks, at least 0.2.")] = 1.0,
    output: Output = "table",
    target: Target = Target(),  # noqa: B008 - frozen
) -> int:
    """Counts, rates, queues, workers and running tasks, live; q leaves. In a pipe: once."""
    with target.open() as remote:
        first = take(remote)
        if output != "table":
            _put_json(first, output)
        elif sys.stdout.isatty() and os.environ.get("TERM") != "dumb":
            _live(remote, target.server, first, max(0.2, interval))
        else:
            _put_once(first)
    return exits.OK


def _put_once(snapshot: Snapshot) -> None:
    for line in headline(snapshot.stats):
        put(line)
    for columns, rows in (
        (QUEUE_COLUMNS, busiest(snapshot.queues)),
        (WORKER_COLUMNS, snapshot.workers),
        (RUNNING_COLUMNS, snapshot.running),
    ):
        if rows:
            put("")
            Table(columns).put(rows[:MOST])
        if len(rows) > MOST:
            put(f"... {len(rows) - MOST:,} more")


def _put_json(snapshot: Snapshot, output: Output) -> None:
    import msgspec

    put_json([msgspec.json.encode(snapshot._asdict())], output, many=False)


def _live(remote: Remote, server: str, snapshot: Snapshot, interval: float) -> None:
    from rich.console import Console
    from rich.live import Live

    from jobpipe.cli.keyboard import keyboard

    console = Console()
    with keyboard() as pressed, Live(console=console, screen=True, auto_refresh=False) as live:
        trouble: str | None = None
        while True:
            live.update(picture(snapshot, server, trouble, *reversed(console.size)), refresh=True)
            if pressed(interval) in ("q", "Q", "\x03"):
                return
            try:
                snapshot, trouble = take(remote), None
            except JobpipeError as error:
                trouble = str(error)
