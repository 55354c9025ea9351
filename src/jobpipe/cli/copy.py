"""`jobpipe copy`: all tasks of a store into another one, of whatever engine."""

from __future__ import annotations

import sys
import time
from typing import Annotated, Final

from cyclopts import Parameter

from jobpipe.cli import exits
from jobpipe.cli.arguments import Seconds
from jobpipe.cli.output import many, say
from jobpipe.core.errors import StorageError
from jobpipe.settings.server import masked

REPORT_S: Final = 1.0
SHOWN: Final = 5


def copy_command(
    source: Annotated[str, Parameter(help="The store to copy from: sqlite:///file.db or postgresql://...")],
    destination: Annotated[str, Parameter(help="The store to copy to.")],
    /,
    *,
    wait: Annotated[
        Seconds,
        Parameter(help="Seconds to wait for servers that use a store still, or were killed just now."),
    ] = 0.0,
) -> int:
    """Copy all tasks, their history and the charts while no server uses the stores; checked, and may be run again."""
    from jobpipe.care.copy import copy

    try:
        with Bar() as bar:
            copied = copy(source, destination, progress=bar.show, wait=wait)
    except StorageError as error:
        say(f"jobpipe: error: {error}")
        return exits.STORE
    say(f"{many(copied.new.total(), 'task')} copied, {many(copied.found.total(), 'task')} there already")
    if copied.released:
        say(f"{many(copied.released, 'task')} ran when the server ended: released")
    for line in copied.wrong:
        say(f"jobpipe: error: {line}")
    if copied.taken:
        names = ", ".join(copied.taken[:SHOWN])
        say(f"jobpipe: error: other tasks have {many(len(copied.taken), 'id')}, not copied: {names} ...")
    if copied.wrong or copied.taken:
        return exits.STORE
    say(f"{masked(destination)} holds all of {masked(source)}")
    return exits.OK


class Bar:
    """How far it is, on stderr: a bar on a terminal, else a line a second."""

    def __init__(self) -> None:
        self._next = 0.0
        self._bar = None
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

            self._bar = Progress(
                BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=Console(stderr=True)
            )
            self._task = self._bar.add_task("copy", total=None)

    def __enter__(self) -> Bar:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, done: int, total: int) -> None:
        """So many tasks of so many are copied."""
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=total)
        elif time.monotonic() >= self._next:
            self._next = time.monotonic() + REPORT_S
            say(f"{done:,} of {many(total, 'task')}")
