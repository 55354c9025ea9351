"""`jobpipe doctor`: what is wrong here, or soon will be."""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import chain
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from jobpipe.cli import exits
from jobpipe.cli.output import paint, printable, put
from jobpipe.cli.remote import Key
from jobpipe.core.errors import Invalid
from jobpipe.settings.server import BadSetting, Settings

if TYPE_CHECKING:
    from jobpipe.care.findings import Finding

_COLOURS = {"ok": "32", "warning": "33", "problem": "31"}


def doctor_command(
    *,
    server: Annotated[
        str | None,
        Parameter(env_var="JOBPIPE_URL", show_default=False, help="Look at this server too, or at several."),
    ] = None,
    key: Key = None,
    full: Annotated[
        bool, Parameter(negative=(), help="Check indexes against tables too: several times as long.")
    ] = False,
    repair: Annotated[
        bool,
        Parameter(
            negative=(), help="Make the store's counts true first; of a SQLite file that no server uses."
        ),
    ] = False,
    output: Annotated[
        Literal["table", "json"], Parameter(name=["--output", "-o"], help="Lines for people, or json.")
    ] = "table",
    settings: Settings = Settings(),  # noqa: B008 - frozen, and cyclopts reads the defaults from it
) -> int:
    """Look at the settings, the store, the machine and a server. Exit code 1: a problem was found.

    Nothing is changed, but with --repair the counts of tasks that are not what the rows say. A running server is not
    disturbed, but a large store takes a while to read.
    """
    from jobpipe.care.doctor import examine
    from jobpipe.care.doctor import repair as mended
    from jobpipe.client.address import authorization, parse_addresses

    try:
        addresses = parse_addresses(server) if server else []
        authorization(key)
    except Invalid as error:
        raise BadSetting(str(error), "key" if error.field == "key" else "server", origin="flag") from error
    mends = mended(settings) if repair else iter(())
    well = _shown(chain(mends, examine(settings, addresses, key or None, whole=full)), output)
    return exits.OK if well else exits.REFUSED


def _shown(findings: Iterable[Finding], output: str) -> bool:
    """Show each as it is found, or all as one JSON object; whether none is a problem."""
    found = []
    for finding in findings:
        found.append(finding)
        if output == "table":
            state = paint(f"{finding.state:<8}", _COLOURS[finding.state])
            put(f"{state} {finding.check}: {printable(finding.text)}")
    well = all(finding.state != "problem" for finding in found)
    if output == "json":
        shown = [{"check": one.check, "state": one.state, "text": one.text} for one in found]
        put(json.dumps({"ok": well, "findings": shown}, indent=2))
    return well
