"""`jobpipe openapi`: the contract on the wire, as OpenAPI 3.1."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from jobpipe.cli import exits
from jobpipe.cli.output import put_json
from jobpipe.cli.remote import Key, Target


def openapi_command(
    *,
    server: Annotated[
        str | None, Parameter(help="Ask this server; left out: what this version speaks.", show_default=False)
    ] = None,
    key: Key = None,
) -> int:
    """Print the OpenAPI document of this version, or of a server."""
    if server is None:
        body = _own()
    else:
        with Target(server=server, key=key).open() as remote:
            body = remote.get("/openapi.json")
    put_json([body], "json", many=False)
    return exits.OK


def _own() -> bytes:
    from importlib.metadata import version

    from jobpipe.http.openapi import document
    from jobpipe.settings.server import Settings

    return document(version("jobpipe"), Settings().enqueue_status)
