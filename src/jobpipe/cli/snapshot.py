"""What `jobpipe top` shows, fetched at one time; what a server does not have is left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from jobpipe.cli.remote import Remote, fields
from jobpipe.core.errors import JobpipeError

RUNNING: Final = 50
"""How many running tasks are asked for."""

RUNNING_FIELDS: Final = "id,status,queue,handler,attempts,started_at,worker"

Row = Mapping[str, Any]


class Snapshot(NamedTuple):
    """The server's answers; an empty one for a route that it does not have."""

    stats: Row
    queues: Sequence[Row]
    workers: Sequence[Row]
    running: Sequence[Row]


def take(remote: Remote) -> Snapshot:
    """A snapshot. Raises ConnectionFailed or the server's refusal."""
    return Snapshot(
        stats=fields(remote.get("/stats")),
        queues=_rows(remote, "/queues"),
        workers=_rows(remote, "/workers"),
        running=_rows(remote, f"/tasks?status=running&limit={RUNNING}&fields={RUNNING_FIELDS}"),
    )


def _rows(remote: Remote, path: str) -> list[Row]:
    try:
        return [fields(bytes(row), "payload", "result", "tasks") for row in remote.array(path)]
    except JobpipeError as error:
        if error.code != "not_found":
            raise
        return []
