"""`jobpipe config`: each setting as a server would start with it here, and where its value comes from."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable
from typing import Annotated, Any, Literal, NamedTuple

from cyclopts import Parameter

from jobpipe.cli.invocation import current
from jobpipe.cli.output import printable
from jobpipe.settings.kinds import Text
from jobpipe.settings.server import KINDS, Settings
from jobpipe.settings.sources import Sources


class Row(NamedTuple):
    """A setting as it is shown."""

    name: str
    value: str
    source: str


def config_command(
    *,
    output: Annotated[
        Literal["table", "json"], Parameter(name=["--output", "-o"], help="A table for people, or json.")
    ] = "table",
    settings: Settings = Settings(),  # noqa: B008 - frozen, and cyclopts reads the defaults from it
) -> int:
    """Show each setting, its value and where it comes from, and start nothing."""
    sources = current.get().sources
    if output == "json":
        _print_json(settings, sources)
    elif sys.stdout.isatty():
        _print_rich(_rows(settings, sources))
    else:
        _print_plain(_rows(settings, sources))
    return 0


def _rows(settings: Settings, sources: Sources) -> list[Row]:
    return [
        Row(name, kind.show(getattr(settings, name)), sources.origin(name)) for name, kind in KINDS.items()
    ]


def _print_plain(rows: Iterable[Row]) -> None:
    table = [Row("setting", "value", "source"), *rows]
    names = max(len(row.name) for row in table)
    values = max(len(row.value) for row in table)
    for row in table:
        print(printable(f"{row.name:<{names}}  {row.value:<{values}}  {row.source}"))  # noqa: T201


def _print_rich(rows: Iterable[Row]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text as Cell

    table = Table("setting", "value", "source", box=None, pad_edge=False, header_style="bold")
    for row in rows:
        style = "dim" if row.source == "default" else ""
        table.add_row(*map(Cell, row), style=style)
    Console().print(table)


def _print_json(settings: Settings, sources: Sources) -> None:
    shown = {
        name: {"value": _json_value(name, getattr(settings, name)), "source": sources.origin(name)}
        for name in KINDS
    }
    print(json.dumps(shown, indent=2, allow_nan=False))  # noqa: T201


def _json_value(name: str, value: Any) -> Any:
    kind = KINDS[name]
    if isinstance(value, frozenset):
        return sorted(value)
    # JSON has no infinity, and a store may hold a password: both are shown as text.
    if value is None or isinstance(kind, Text) or (isinstance(value, float) and math.isinf(value)):
        return kind.show(value)
    return value
