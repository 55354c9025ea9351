"""How `jobpipe top` looks on a terminal: a value that rich draws, made from a snapshot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Literal

from jobpipe.cli.output import STATUS, Column, column, fitted, printable, when
from jobpipe.cli.server_state import QUEUE_COLUMNS, WORKER_COLUMNS, headline
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
    Column("started", lambda row: when(row["started_at"])),
    column("worker"),
)


def picture(
    snapshot: Snapshot, server: str, trouble: str | None, height: int, width: int = 80
) -> RenderableType:
    """The whole screen, at most `height` lines high and `width` cells wide: what is too long is folded or left out,
    and no number is cut."""
    from rich.console import Group
    from rich.text import Text

    state = f"{server} does not answer: {trouble}; trying again" if trouble else server
    parts: list[RenderableType] = [Text(printable(state), style="bold red" if trouble else "bold")]
    lines = headline(snapshot.stats)
    parts += [Text(line) for line in lines]
    left = height - 3 - sum(-(-len(line) // width) for line in lines)
    for columns, rows in (
        (QUEUE_COLUMNS, busiest(snapshot.queues)),
        (WORKER_COLUMNS, snapshot.workers),
        (RUNNING_COLUMNS, snapshot.running),
    ):
        fitting = rows[: max(0, min(left - 3, height // 3))]
        if fitting:
            parts += [Text(""), _table(columns, fitting, width)]
            left -= len(fitting) + 2
        if 0 < len(fitting) < len(rows):
            parts.append(Text(f"... {len(rows) - len(fitting):,} more", style="dim"))
            left -= 1
    return Group(*parts, Text(""), Text("q leaves", style="dim"))


def busiest(queues: Sequence[Row]) -> list[Row]:
    """The busy queues first: there may be a thousand, and the screen ends."""
    return sorted(queues, key=lambda queue: (queue["running"], queue["queued"]), reverse=True)


def _table(columns: Sequence[Column], rows: Sequence[Row], width: int) -> Table:
    from rich.cells import cell_len
    from rich.table import Table
    from rich.text import Text

    cells = [[printable(one.text(row)) for one in columns] for row in rows]
    natural = [max(cell_len(line[at]) for line in (*cells, _titles(columns))) for at in range(len(columns))]
    widths = fitted(natural, columns, width)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold", expand=False)
    for one, cell in zip(columns, widths, strict=True):
        if cell:
            side: Literal["left", "right"] = "right" if one.right else "left"
            table.add_column(one.title.upper(), justify=side, no_wrap=True, width=cell, overflow="ellipsis")
    for row, line in zip(rows, cells, strict=True):
        style = STYLES.get(str(row.get("status")), "")
        shown = [
            Text(text, style=style if one.title == "status" else "")
            for text, one, cell in zip(line, columns, widths, strict=True)
            if cell
        ]
        table.add_row(*shown)
    return table


def _titles(columns: Sequence[Column]) -> list[str]:
    return [one.title for one in columns]
