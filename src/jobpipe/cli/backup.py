"""`jobpipe backup` and `jobpipe restore`: copies of a store, also while its server runs."""

from __future__ import annotations

import time
from typing import Annotated

from cyclopts import Parameter

from jobpipe.cli import exits
from jobpipe.cli.output import say
from jobpipe.core.errors import StorageError
from jobpipe.settings.server import Settings, parameter

Store = Annotated[str, parameter("store", "The store: sqlite:///file.db")]
DEFAULT_STORE = Settings().store

REPORT_S = 1.0
PAGE = 4096


def backup_command(
    file: Annotated[str, Parameter(help="Where the copy goes.")],
    /,
    *,
    store: Store = DEFAULT_STORE,
    force: Annotated[bool, Parameter(negative=(), help="Replace a file that is there already.")] = False,
) -> int:
    """Copy the store to a file while its server runs: one state of it, checked, and on disk when this ends."""
    from jobpipe.care.backup import back_up

    try:
        back_up(store, file, replace=force, progress=Reports())
    except StorageError as error:
        return _failed(error)
    say(f"{file} is whole and on disk")
    return exits.OK


def restore_command(
    file: Annotated[str, Parameter(help="A copy that jobpipe backup made.")],
    /,
    *,
    store: Store = DEFAULT_STORE,
) -> int:
    """Make a copy the store, where none is: move the old one out of the way first, its -wal file with it."""
    from jobpipe.care.backup import restore

    try:
        restore(file, store, progress=Reports())
    except StorageError as error:
        return _failed(error)
    say("the store is whole and on disk: start the server")
    return exits.OK


def _failed(error: StorageError) -> int:
    say(f"jobpipe: error: {error}")
    return exits.STORE


class Reports:
    """Says how far it is, once a second."""

    def __init__(self) -> None:
        self._next = time.monotonic() + REPORT_S

    def __call__(self, copied: int, pages: int) -> None:
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + REPORT_S
        say(f"{copied * PAGE // 1024**2} of {pages * PAGE // 1024**2} MiB copied")
