"""`jobpipe worker`: work for a server that runs elsewhere, in processes of its own."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from jobpipe.cli.apps import check_spec
from jobpipe.core.errors import Invalid
from jobpipe.settings import BadSetting
from jobpipe.settings_worker import WorkerSettings


def worker_command(
    app: Annotated[str, Parameter(help="The handlers: package.module:app. Looked for in this folder first.")],
    /,
    *,
    settings: WorkerSettings = WorkerSettings(),  # noqa: B008 - frozen, and cyclopts reads the defaults from it
) -> int:
    """Run the handlers of an app for tasks of a server. It survives the server's restarts."""
    check_spec(app)
    from jobpipe.client.address import authorization, parse_address
    from jobpipe.worker.parent import run

    try:
        parse_address(settings.server)
    except Invalid as error:
        raise BadSetting(str(error), "server", origin="flag") from error
    try:
        authorization(settings.key)
    except Invalid as error:
        raise BadSetting(str(error), "key", origin="flag") from error
    return run(settings, app)
