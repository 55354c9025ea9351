"""How commands print: an aligned table for people, or JSON as it came from the server for programs.

Data goes to stdout, talk to stderr. A table has no boxes, one line a row and whole values, so that grep, awk and cut
work on it; only on a terminal it is coloured and cut to the width. Nothing that came over the network reaches the
terminal unescaped.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import IO, Annotated, Any, Final, Literal, NamedTuple

from cyclopts import Parameter

from jobpipe.core.errors import JobpipeError

Output = Annotated[
    Literal["table", "json", "ndjson"],
    Parameter(
        name=["--output", "-o"],
        help="A table for people, json, or ndjson: one JSON value a line.",
        negative=(),
    ),
]

BOLD: Final = "1"
DIM: Final = "2"
COLOURS: Final = {"done": "32", "failed": "31", "running": "36", "cancelled": "33", "queued": ""}
"""The colours of the statuses, as numbers of ECMA-48's SGR; the words themselves always stand there too."""


LEAST: Final = 10
"""Cells that a text keeps on a narrow terminal."""


class Column(NamedTuple):
    """A column: its title, and the text of a row's cell. `right` aligns numbers."""

    title: str
    text: Callable[[Mapping[str, Any]], str]
    right: bool = False
    colour: Callable[[Mapping[str, Any]], str] = lambda _: ""


def column(name: str, title: str | None = None, *, right: bool = False) -> Column:
    """The column of a field, shown as it is."""
    return Column(title or name, lambda row: shown(row.get(name)), right)


def shown(value: Any) -> str:
    """A value in a cell: None is a dash, times lose their fraction."""
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3f}".rstrip("0").rstrip(".")
    if isinstance(value, list | tuple):
        return ",".join(map(str, value)) or "-"
    return str(value)


def time(value: str | None) -> str:
    """A time of the wire, to the second."""
    return "-" if value is None else f"{value[:19]}Z"


def when(value: str | None) -> str:
    """A time of the wire as its age on a terminal, where people look, and to the second for programs."""
    from datetime import UTC, datetime

    if value is None or not sys.stdout.isatty():
        return time(value)
    return age((datetime.now(UTC) - datetime.fromisoformat(value)).total_seconds())


def age(seconds: float) -> str:
    """A time span in one unit, as `12 s`; of what is still to come `in 12 s`."""
    size = abs(seconds)
    units = (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1))
    unit, length = next(((unit, length) for unit, length in units if size >= length), units[-1])
    return f"{'in ' if seconds <= -1 else ''}{int(size // length)} {unit}"


def printable(text: str) -> str:
    """The text with everything escaped that could steer a terminal or break the line."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def printable_json(text: str) -> str:
    """JSON that means the same, with everything escaped in it that could steer a terminal."""
    if text.isascii() and "\x7f" not in text:
        return text
    return "".join(c if c.isprintable() or c == "\n" else _escape(c) for c in text)


def _escape(c: str) -> str:
    units = c.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))


def many(count: int, thing: str) -> str:
    """`1 task`, `2,000 tasks`."""
    return f"{count:,} {thing}" + ("" if count == 1 else "s")


def told(error: JobpipeError) -> str:
    """A refusal in words, with the field that it is about."""
    return f"{error.field}: {error}" if error.field else str(error)


def say(line: str) -> None:
    """A line for people, beside the data."""
    print(printable(line), file=sys.stderr)  # noqa: T201


def put(text: str) -> None:
    """A line of data."""
    print(text)  # noqa: T201


def coloured(stream: IO[str]) -> bool:
    """Whether colours may be used: a terminal that can, and nobody said NO_COLOR (no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def paint(text: str, code: str, stream: IO[str] | None = None) -> str:
    """The text in a colour, where there are colours."""
    return f"\x1b[{code}m{text}\x1b[0m" if code and coloured(stream or sys.stdout) else text


def put_json(bodies: Sequence[bytes], output: str, *, many: bool) -> None:
    """JSON values as they came: indented, as one array when `many`; with ndjson each on its line."""
    import msgspec

    if output == "ndjson":
        for body in bodies:
            put(printable_json(msgspec.json.format(bytes(body), indent=-1).decode()))
        return
    whole = b"[%b]" % b",".join(map(bytes, bodies)) if many else bytes(bodies[0])
    put(printable_json(msgspec.json.format(whole, indent=2).decode()))


class Table:
    """Rows as aligned columns; the widths are those of the first rows given, the title stands above them once."""

    def __init__(self, columns: Sequence[Column]) -> None:
        self._columns = columns
        self._widths: list[int] = []

    def put(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Print rows, and before the first the titles."""
        from rich.cells import cell_len

        lines = [(row, [printable(column.text(row)) for column in self._columns]) for row in rows]
        if not self._widths:
            titles = [column.title.upper() for column in self._columns]
            self._widths = [
                max(map(cell_len, cells))
                for cells in zip(titles, *(cells for _, cells in lines), strict=True)
            ]
            if sys.stdout.isatty():
                self._widths = fitted(self._widths, self._columns, shutil.get_terminal_size().columns)
            self._put_line(titles, [BOLD] * len(titles))
        for row, cells in lines:
            self._put_line(cells, [column.colour(row) for column in self._columns])

    def _put_line(self, cells: Sequence[str], colours: Sequence[str]) -> None:
        from rich.cells import cell_len, set_cell_size

        cut = sys.stdout.isatty()
        parts = []
        for cell, width, column, colour in zip(cells, self._widths, self._columns, colours, strict=True):
            if width == 0:
                continue
            blanks = " " * max(0, width - cell_len(cell))
            text = blanks + cell if column.right else cell + blanks
            if cut and cell_len(text) > width:
                text = set_cell_size(text, width - 1) + "\u2026"
            parts.append(paint(text, colour))
        put("  ".join(parts).rstrip())


def fitted(widths: Sequence[int], columns: Sequence[Column], most: int) -> list[int]:
    """The widths that fit into `most` cells together: the widest texts give first, numbers stay whole.

    Where even that is too much, columns at the end get none.
    """
    kept = list(widths)
    while kept and sum(kept) + 2 * (sum(width > 0 for width in kept) - 1) > most:
        over = sum(kept) + 2 * (sum(width > 0 for width in kept) - 1) - most
        texts = [(width, at) for at, width in enumerate(kept) if not columns[at].right and width > LEAST]
        if texts:
            widest, at = max(texts)
            second = max((width for width, other in texts if other != at), default=LEAST)
            kept[at] = max(LEAST, second, widest - over) if second < widest else widest - 1
        else:
            last = max(at for at, width in enumerate(kept) if width)
            kept[last] = 0
    return kept


STATUS: Final = Column(
    "status", lambda row: str(row["status"]), colour=lambda row: COLOURS.get(row["status"], "")
)
