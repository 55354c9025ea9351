"""How `jobpipe top` looks on a terminal: a value that rich draws, made from a snapshot."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

from jobpipe.cli.output import STATUS, Column, column, printable, time
from jobpipe.cli.server_state import QUEUE_COLUMNS, WORKER_COLUMNS
from jobpipe.cli.snapshot import Row, Snapshot

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

STYLES: Final = {"done": "green", "failed": "red", "running": "cyan", "cancelled": "yellow"}
RUNNING_COLUMNS: Final = (
    column("id"),
    STATUS,
    column("queue"),
    column("handler"),
    Column("attempt", lambda row: str(row["attempts"]), right=True),
    Column("started", lambda row: time(row["started_at"])),
    column("worker"),
)


def headline(stats: Row) -> list[str]:
    """The server in three lines: what it is, what it holds, what it does."""
    counts, rates, workers = stats["counts"], stats["rates"], stats["workers"]
    trouble = f": {printable(stats['trouble'])}" if stats.get("trouble") else ""
    return [
        f"jobpipe {printable(stats['version'])}, {stats['status']}{trouble}, up {duration(stats['uptime_s'])}, "
        f"{printable(stats['store'])}",
        "tasks: " + ", ".join(f"{count:,} {status}" for status, count in counts.items()),
        f"per second: {rates['enqueued_per_s']:.1f} enqueued, {rates['finished_per_s']:.1f} finished, "
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


def picture(snapshot: Snapshot, server: str, trouble: str | None, height: int) -> RenderableType:
    """The whole screen, `height` lines high at most."""
    from rich.console import Group
    from rich.text import Text

    state = f"{server} does not answer: {trouble}; trying again" if trouble else server
    parts: list[RenderableType] = [Text(printable(state), style="bold red" if trouble else "bold")]
    parts += [Text(line, no_wrap=True, overflow="ellipsis") for line in headline(snapshot.stats)]
    left = height - len(parts) - 2
    for columns, rows in (
        (QUEUE_COLUMNS, sorted(snapshot.queues, key=_depth, reverse=True)),
        (WORKER_COLUMNS, snapshot.workers),
        (RUNNING_COLUMNS, snapshot.running),
    ):
        fitting = rows[: max(0, min(left - 3, height // 3))]
        if fitting:
            parts += [Text(""), _table(columns, fitting)]
            left -= len(fitting) + 2
        if 0 < len(fitting) < len(rows):
            parts.append(Text(f"... {len(rows) - len(fitting):,} more", style="dim"))
            left -= 1
    return Group(*parts, Text(""), Text("q leaves", style="dim"))


def _depth(queue: Row) -> tuple[int, int]:
    """The busy queues first: there may be a thousand, and the screen ends."""
    return queue["running"], queue["queued"]


def _table(columns: Sequence[Column], rows: Iterable[Row]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold", expand=False)
    for one in columns:
        table.add_column(one.title.upper(), justify="right" if one.right else "left", no_wrap=True)
    for row in rows:
        style = STYLES.get(str(row.get("status")), "")
        table.add_row(
            *(Text(printable(one.text(row)), style=style if one.title == "status" else "") for one in columns)
        )
    return table
