"""`jobpipe task list`, `show` and `wait`: look at tasks, one or many, and wait for their ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final

from cyclopts import Parameter

from jobpipe.cli import exits
from jobpipe.cli.arguments import Filters, Seconds, Whole
from jobpipe.cli.details import put_task
from jobpipe.cli.output import STATUS, Column, Output, Table, column, put_json, say, when
from jobpipe.cli.remote import Remote, Target, elements, fields, put_rows
from jobpipe.core.errors import JobpipeError, NotFound
from jobpipe.core.task import FINISHED

COLUMNS: Final = (
    column("id"),
    STATUS,
    column("queue"),
    column("handler"),
    column("attempts", right=True),
    Column("created", lambda row: when(row["created_at"])),
    Column("error", lambda row: (row["last_error"] or {}).get("type", "-")),
)
FIELDS: Final = "id,status,queue,handler,attempts,created_at,last_error"
"""What the table shows: payloads and results need not travel for it."""
PAGE: Final = 200


def list_command(
    *,
    filters: Filters = Filters(),  # noqa: B008 - frozen
    limit: Annotated[Whole, Parameter(help="How many at most; 0: all.")] = 100,
    output: Output = "table",
    target: Target = Target(),  # noqa: B008 - frozen
) -> int:
    """Tasks that match, newest first."""
    from urllib.parse import urlencode

    left = limit if limit > 0 else None
    size = PAGE if left is None else min(left, 1000)
    table, kept = Table(COLUMNS), []
    slim = {"fields": FIELDS} if output == "table" else {}
    with target.open() as remote:
        for page in remote.pages(urlencode({"limit": size, **slim, **filters.conditions()})):
            rows = page[:left]
            left = None if left is None else left - len(rows)
            if output == "json":
                kept += rows
            elif output == "ndjson":
                put_json([bytes(row) for row in rows], output, many=True)
            else:
                table.put([fields(bytes(row), "payload", "result") for row in rows])
            if left == 0:
                break
    if output == "json":
        put_json([bytes(row) for row in kept], output, many=True)
    return exits.OK


def show_command(
    id: str,
    /,
    *,
    output: Output = "table",
    target: Target = Target(),  # noqa: B008 - frozen
) -> int:
    """One task: its fields, its payload and result, and what became of its attempts."""
    from jobpipe.client.tasks import path_of

    with target.open() as remote:
        body = remote.get(path_of(id))
        if output == "table":
            put_task(body, _attempts(remote, id))
        else:
            put_json([body], output, many=False)
    return exits.OK


def wait_command(
    ids: Annotated[list[str], Parameter(name="ID", help="The tasks.")],
    /,
    *,
    timeout: Annotated[
        Seconds | None, Parameter(help="How long to wait for them, in all; left out: for ever.")
    ] = None,
    output: Output = "table",
    target: Target = Target(),  # noqa: B008 - frozen
) -> int:
    """Wait until all these tasks have come to their ends. Exit code 1 when one of them is not done."""
    import time as clock

    end = None if timeout is None else clock.monotonic() + timeout
    ended: list[bytes] = []
    worst = exits.OK
    with target.open() as remote:
        for id in ids:
            left = None if end is None else max(0.0, end - clock.monotonic())
            body, code = awaited(remote, id, left)
            ended += [] if body is None else [body]
            worst = worst or code
    put_rows(elements(b"[%b]" % b",".join(ended)), COLUMNS, output)
    return worst


def awaited(remote: Remote, id: str, timeout: float | None) -> tuple[bytes | None, int]:
    """The finished task (None: it is not), and the exit code for it; what went wrong is said."""
    from jobpipe.client.tasks import path_of, wait

    try:
        remote.client.run(wait(remote.caller, id, timeout))
        body = remote.get(path_of(id))
    except TimeoutError as error:
        say(str(error))
        return None, exits.NOT_IN_TIME
    except NotFound as error:
        say(f"task '{id}': {error}")
        return None, exits.NOT_FOUND
    return body, exit_code(fields(body, "payload", "result"))


def exit_code(task: Mapping[str, Any]) -> int:
    """0 for a task that is done, 1 for one that ended otherwise; why it did is said."""
    if task["status"] == "done" or task["status"] not in FINISHED:
        return exits.OK
    error = task["last_error"] if task["status"] == "failed" else None
    why = f": {error['type']}: {error['message']}" if error else ""
    say(f"task '{task['id']}' is {task['status']}{why}")
    return exits.REFUSED


def _attempts(remote: Remote, id: str) -> Sequence[Mapping[str, Any]]:
    """The unsuccessful attempts; none from a server that does not keep them."""
    from jobpipe.client.tasks import path_of

    try:
        return [fields(bytes(row)) for row in remote.array(f"{path_of(id)}/attempts")]
    except JobpipeError as error:
        if error.code not in ("not_found", "method_not_allowed"):
            raise
        return []
