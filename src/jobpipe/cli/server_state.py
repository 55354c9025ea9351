"""`jobpipe stats`, `queue list`, `workers list`, `errors list`: the server at a glance, as tables or as JSON."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Annotated, Any, Final

from cyclopts import App, Parameter

from jobpipe.cli import exits
from jobpipe.cli.arguments import Moment, Whole
from jobpipe.cli.output import Column, Output, column, printable, put, put_json, shown, when
from jobpipe.cli.remote import Target, fields, put_rows

QUEUE_COLUMNS: Final = (
    column("queue"),
    *(column(name, right=True) for name in ("queued", "running", "done", "failed", "cancelled", "capacity")),
    column("oldest_ready_s", "oldest s", right=True),
)
WORKER_COLUMNS: Final = (
    column("worker_id", "worker"),
    column("host"),
    column("pid", right=True),
    column("version"),
    column("queues"),
    Column("busy", lambda row: f"{row['busy']}/{row['total']}", right=True),
    Column("state", lambda row: shown(row.get("state"))),
    Column("last seen", lambda row: when(row["last_seen"])),
    Column("note", lambda row: _note(row)),  # noqa: PLW0108 - it stands below
)
ERROR_COLUMNS: Final = (
    column("group"),
    column("count", right=True),
    Column("last seen", lambda row: when(row["last_seen"])),
    column("handler"),
    column("type"),
    column("message"),
    column("example_id", "example"),
)


def _note(row: Mapping[str, Any]) -> str:
    """Why a worker process takes nothing new, else whose place it took."""
    if why := row.get("leaving"):
        return f"leaves: it {why}"
    replaced = row.get("replaced")
    return f"for one that {replaced['reason']}" if replaced else ""


def headline(stats: Mapping[str, Any]) -> list[str]:
    """The server in words: what it is, what it holds, what it does."""
    counts, rates, workers = stats["counts"], stats["rates"], stats["workers"]
    trouble = f": {printable(stats['trouble'])}" if stats.get("trouble") else ""
    refused = f", {rates['refused_per_s']:.1f} refused" if rates.get("refused_per_s") else ""
    return [
        f"jobpipe {printable(stats['version'])}, {stats['status']}{trouble}, up {duration(stats['uptime_s'])}, "
        f"{printable(stats['store'])}",
        "tasks: " + ", ".join(f"{count:,} {status}" for status, count in counts.items()),
        f"per second: {rates['enqueued_per_s']:.1f} enqueued{refused}, {rates['finished_per_s']:.1f} finished, "
        f"{rates['failed_per_s']:.1f} failed; workers: {workers['busy']} of {workers['total']} busy",
    ]


def duration(seconds: float) -> str:
    """A time span in its two largest units."""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f"{days} d {hour} h"
    if hours:
        return f"{hour} h {minute} min"
    return f"{minute} min {second} s" if minute else f"{second} s"


queue_app = App(name="queue", help="The queues.")
workers_app = App(name="workers", help="The workers.")
errors_app = App(name="errors", help="The errors, grouped by what they look like.")


@queue_app.command(name="list")
def queue_list_command(
    *,
    output: Output = "table",
    target: Target = Target(),  # noqa: B008 - frozen
) -> int:
    """The queues that hold tasks: their counts, their capacity, and how long the oldest due task waits."""
    with target.open() as remote:
        put_rows(remote.array("/queues"), QUEUE_COLUMNS, output)
    return exits.OK


@workers_app.command(name="list")
def workers_list_command(
    *,
    output: Output = "table",
    target: Target = Target(),  # noqa: B008 - frozen
) -> int:
    """The pools and processes that work for the server, and how busy they are."""
    with target.open() as remote:
        put_rows(remote.array("/workers"), WORKER_COLUMNS, output)
    return exits.OK


@errors_app.command(name="list")
def errors_list_command(
    *,
    since: Annotated[
        Moment | None, Parameter(help="Since this time, or 2h ago; left out: one day.", show_default=False)
    ] = None,
    limit: Annotated[Whole, Parameter(help="How many groups at most.")] = 50,
    output: Output = "table",
    target: Target = Target(),  # noqa: B008 - frozen
) -> int:
    """Failures grouped by handler, error type and shape of the message, the latest first.

    A group is retried by `jobpipe task retry --status failed --error-group GROUP`.
    """
    from urllib.parse import urlencode

    query = urlencode({"limit": limit} | ({} if since is None else {"since": since}))
    with target.open() as remote:
        put_rows(remote.array(f"/errors?{query}"), ERROR_COLUMNS, output)
    return exits.OK


def stats_command(
    *,
    output: Output = "table",
    target: Target = Target(),  # noqa: B008 - frozen
) -> int:
    """The server at a glance: its store, its counts, its rates over the last minute, its workers."""
    with target.open() as remote:
        body = remote.get("/stats")
    if output != "table":
        put_json([body], output, many=False)
        return exits.OK
    if sys.stdout.isatty():
        for line in headline(fields(body)):
            put(line)
        return exits.OK
    lines = {
        f"{name}.{part}" if part else name: text
        for name, value in fields(body).items()
        for part, text in (value.items() if isinstance(value, dict) else [("", value)])
    }
    width = max(map(len, lines))
    for name, text in lines.items():
        put(f"{name:<{width}}  {printable(shown(text))}")
    return exits.OK
