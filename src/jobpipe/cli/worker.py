"""`jobpipe worker`: work for a server that runs elsewhere, in processes of its own."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from jobpipe.cli.apps import check_spec
from jobpipe.cli.remote import bad_target
from jobpipe.core.errors import Invalid
from jobpipe.settings.worker import WorkerSettings


def worker_command(
    app: Annotated[
        str, Parameter(help="The handlers: package.module:app. Looked for in --app-dir, or in this folder.")
    ],
    /,
    *,
    settings: WorkerSettings = WorkerSettings(),  # noqa: B008 - frozen, and cyclopts reads the defaults from it
) -> int:
    """Run the handlers of an app for tasks of a server. It survives the server's restarts."""
    check_spec(app)
    from jobpipe.client.address import authorization, parse_addresses
    from jobpipe.processes.worker.parent import run

    try:
        parse_addresses(settings.servers)
        authorization(settings.key)
    except Invalid as error:
        raise bad_target(error, settings.servers, settings.key) from error
    return run(settings, app)
