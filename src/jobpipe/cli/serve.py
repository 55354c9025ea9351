"""`jobpipe serve`: start a server, with an app of handlers or only with the built-in `simulate`."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from jobpipe.cli.apps import check_spec
from jobpipe.cli.invocation import current
from jobpipe.settings.server import Settings


def serve_command(
    app: Annotated[
        str | None,
        Parameter(help="The handlers: package.module:app. Looked for in --app-dir, or in this folder."),
    ] = None,
    /,
    *,
    settings: Settings = Settings(),  # noqa: B008 - frozen, and cyclopts reads the defaults from it
) -> int:
    """Start a server that takes tasks over HTTP, and worker processes that run them."""
    if app is not None:
        check_spec(app)
    from jobpipe.server.serving import run

    return run(settings, app, current.get().sources.rules)
