"""`jobpipe migrate`: the schema of a store, brought up to date before servers of a new version start."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from jobpipe.cli import exits
from jobpipe.cli.output import say
from jobpipe.core.errors import StorageError
from jobpipe.settings.server import Settings, masked, parameter


def migrate_command(
    *,
    store: Annotated[
        str, parameter("store", "The store: sqlite:///file.db or postgresql://...")
    ] = Settings().store,
    quiet: Annotated[bool, Parameter(negative=(), help="Say nothing when all is well.")] = False,
) -> int:
    """Bring the store's schema up to date. A server does so at its start; on PostgreSQL others may serve meanwhile."""
    from jobpipe.care.migrate import migrate

    try:
        migrate(store)
    except StorageError as error:
        say(f"jobpipe: error: {error}")
        return exits.STORE
    if not quiet:
        say(f"the schema of {masked(store)} is up to date")
    return exits.OK
