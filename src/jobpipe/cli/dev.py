"""`jobpipe dev`: `jobpipe serve` for those who write handlers, started again whenever the code changes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from jobpipe.cli.apps import check_spec
from jobpipe.cli.invocation import current
from jobpipe.runtime.interpreter import python
from jobpipe.settings.server import Settings
from jobpipe.settings.sources import DEFAULT

SERVER = python("jobpipe.cli.reloaded")


def dev_command(
    app: Annotated[
        str, Parameter(help="The handlers: package.module:app. Looked for in --app-dir, or in this folder.")
    ],
    /,
    *,
    exclude: Annotated[
        list[str] | None,
        Parameter(help="Files that are not looked at: names or paths, * stands for any; may be repeated."),
    ] = None,
    settings: Settings = Settings(),  # noqa: B008 - frozen, and cyclopts reads the defaults from it
) -> int:
    """Serve, and start anew whenever a Python file in this folder changes. Takes the flags of serve.

    Running tasks get 2 seconds to finish in at a restart, unless --shutdown-grace is given.
    """
    check_spec(app)
    from jobpipe.processes.dev.reload import GRACE_S
    from jobpipe.runtime.logs import configure

    configure(settings.log_level, settings.log_format)
    tokens, sources = current.get()
    # Each start of the server reads the arguments itself, as they were given.
    command = [*SERVER, str(os.getpid()), "serve", *_without(tokens[1:], "--exclude")]
    if sources.origin("shutdown_grace") != DEFAULT:
        return _watch(app, settings, exclude or [], command, settings.shutdown_grace)
    return _watch(app, settings, exclude or [], [*command, "--shutdown-grace", str(GRACE_S)], GRACE_S)


def _without(tokens: Sequence[str], flag: str) -> list[str]:
    """The arguments but for each `flag VALUE` and `flag=VALUE`."""
    return [
        token
        for before, token in zip(["", *tokens], tokens, strict=False)
        if flag not in (before, token) and not token.startswith(f"{flag}=")
    ]


def _watch(app: str, settings: Settings, exclude: Sequence[str], command: Sequence[str], grace: float) -> int:
    import asyncio

    from jobpipe.processes.dev.probe import answers
    from jobpipe.processes.dev.reload import Reloader, log
    from jobpipe.processes.dev.watch import Watcher, roots_of

    here = Path.cwd()
    roots = roots_of(app, here, Path(settings.app_dir).absolute() if settings.app_dir else None)
    log.info("watching the Python files in %s; Ctrl+C ends", " and ".join(map(str, roots)))
    serving = partial(answers, settings.host, settings.port)
    return asyncio.run(Reloader(command, grace, Watcher(roots, exclude), here, serving).run())
