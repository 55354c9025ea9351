"""`jobpipe serve`: start a server, with an app of handlers or only with the built-in `simulate`."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from jobpipe.settings import BadSetting, Settings


def serve_command(
    app: Annotated[
        str | None, Parameter(help="The handlers: package.module:app. Looked for in this folder first.")
    ] = None,
    /,
    *,
    settings: Settings = Settings(),  # noqa: B008 - frozen, and cyclopts reads the defaults from it
) -> int:
    """Start a server that takes tasks over HTTP and works on them."""
    if app is not None:
        _check_spec(app)
    from jobpipe.server import run

    return run(settings, app)


def _check_spec(spec: str) -> None:
    module, colon, name = spec.partition(":")
    parts = [*module.split("."), *name.split(".")]
    if not colon or not all(part.isidentifier() for part in parts):
        raise BadSetting("must look like package.module:app", "app", spec, "argument")
