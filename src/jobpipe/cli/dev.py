"""`jobpipe dev`: `jobpipe serve` for those who write handlers, started again whenever the code changes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from jobpipe.cli.apps import check_spec
from jobpipe.cli.invocation import current
from jobpipe.interpreter import python
from jobpipe.settings import Settings
from jobpipe.settings_sources import DEFAULT

SERVER = python("jobpipe.cli.reloaded")


def dev_command(
    app: Annotated[str, Parameter(help="The handlers: package.module:app. Looked for in this folder first.")],
    /,
    *,
    settings: Settings = Settings(),  # noqa: B008 - frozen, and cyclopts reads the defaults from it
) -> int:
    """Serve, and start anew whenever a Python file in this folder changes. Takes the flags of serve.

    Running tasks get 2 seconds to finish in at a restart, unless --shutdown-grace is given.
    """
    check_spec(app)
    from jobpipe.dev.reload import GRACE_S
    from jobpipe.logs import configure

    configure(settings.log_level, settings.log_format)
    tokens, sources = current.get()
    # Each start of the server reads the arguments itself, as they were given.
    command = [*SERVER, str(os.getpid()), "serve", *tokens[1:]]
    if sources.origin("shutdown_grace") != DEFAULT:
        return _watch(app, command, settings.shutdown_grace)
    return _watch(app, [*command, "--shutdown-grace", str(GRACE_S)], GRACE_S)


def _watch(app: str, command: Sequence[str], grace: float) -> int:
    import asyncio

    from jobpipe.dev.reload import Reloader, log
    from jobpipe.dev.watch import Watcher, roots_of

    here = Path.cwd()
    roots = roots_of(app, here)
    log.info("watching the Python files in %s; Ctrl+C ends", " and ".join(map(str, roots)))
    return asyncio.run(Reloader(command, grace, Watcher(roots), here).run())
