"""`jobpipe enqueue`: one task from the arguments, or one a line from stdin.

One task: its id on stdout, or with --wait its result. Lines: the ids of those that were taken, in order; those that
were not are told by their line numbers, and the exit code says so.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Annotated, Any, Final, cast
from urllib.parse import quote

from cyclopts import Parameter

from jobpipe.cli import exits
from jobpipe.cli.arguments import Expiry, Seconds, Time, Whole
from jobpipe.cli.known import warn_unknown
from jobpipe.cli.output import Output, printable, printable_json, put, put_json, say
from jobpipe.cli.remote import Remote, Target
from jobpipe.cli.remote import fields as fields_of
from jobpipe.settings.server import BadSetting

if TYPE_CHECKING:
    from jobpipe.client.values import OneTask

STDIN: Final = "-"
_NUMBER: Final = re.compile(r"-[0-9].*")


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True, slots=True)
class TaskFlags:
    """How the task is to be run; what is left out is the server's to choose."""

    id: Annotated[str | None, Parameter(help="Its id; taken ones are refused.", show_default=False)] = None
    queue: Annotated[str | None, Parameter(help="The queue that it waits in.", show_default=False)] = None
    priority: Annotated[int | None, Parameter(help="-100 to 100, higher first.", show_default=False)] = None
    delay: Annotated[
        Seconds | None, Parameter(help="Run it so much later: seconds, 5m, 2h, 1d.", show_default=False)
    ] = None
    run_at: Annotated[Time | None, Parameter(help="Run it then: RFC 3339.", show_default=False)] = None
    max_retries: Annotated[Whole | None, Parameter(help="Retries after failures.", show_default=False)] = None
    timeout: Annotated[Seconds | None, Parameter(help="How long one run may take.", show_default=False)] = (
        None
    )
    key: Annotated[
        str | None,
        Parameter(name="--task-key", help="What it belongs to within its queue.", show_default=False),
    ] = None
    unique: Annotated[
        str | None,
        Parameter(
            help="A key that one living task of the handler has, or JSON with its rules.", show_default=False
        ),
    ] = None
    expires: Annotated[
        Expiry | None,
        Parameter(
            help="Cancel it when no worker took it by then: seconds, 5m, or RFC 3339.", show_default=False
        ),
    ] = None
    idempotency_key: Annotated[
        str | None,
        Parameter(help="Your name of this request: sent again, it makes no second task.", show_default=False),
    ] = None

    def given(self) -> dict[str, Any]:
        """Those that were given."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        given = {name: value for name, value in values.items() if value is not None}
        return given | ({"unique": _rules(self.unique)} if self.unique is not None else {})


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True, slots=True)
class InputFlags:
    """What the payload is, and where it comes from."""

    text: Annotated[bool, Parameter(negative=(), help="The payload is a string, not JSON.")] = False
    ndjson: Annotated[
        bool, Parameter(negative=(), help="Each line of stdin is the payload of a task of its own.")
    ] = False
    tasks: Annotated[
        bool,
        Parameter(negative=(), help="Each line of stdin is a whole task; flags fill in what it leaves out."),
    ] = False
    patience: Annotated[
        Seconds, Parameter(help="How long lines wait for room in a full queue before they are given up.")
    ] = 30.0

    @property
    def lines(self) -> bool:
        """Whether there is a task a line."""
        return self.ndjson or self.tasks


def enqueue_command(
    handler: str | None = None,
    payload: Annotated[
        str | None, Parameter(help="JSON; - reads it from stdin; none: null.", allow_leading_hyphen=True)
    ] = None,
    /,
    *,
    task: TaskFlags = TaskFlags(),
    source: InputFlags = InputFlags(),
    if_absent: Annotated[
        bool,
        Parameter(
            negative=(),
            help="With --id or --tasks: a task that is there already is as good as a new one.",
        ),
    ] = False,
    wait: Annotated[
        bool | float, Parameter(negative=(), help="Wait for its end, at most so many seconds if given.")
    ] = False,
    output: Output = "table",
    target: Target = Target(),  # noqa: B008 - frozen
) -> int:
    """Enqueue a task, or with --ndjson or --tasks one for each line of stdin.

    Prints the task's id, or with --wait its result.
    """
    _check(handler, payload, source, task, wait)
    if if_absent and task.id is None and not source.tasks:
        raise BadSetting("--if-absent needs --id, or --tasks whose lines have ids")
    given = task.given() | ({} if handler is None else {"handler": handler})
    if source.lines:
        from jobpipe.cli.lines import Manner, enqueue_lines

        manner = Manner(source.tasks, source.text, if_absent, source.patience)
        with target.open() as remote:
            code = enqueue_lines(remote, given, manner, output)
            if handler is not None:
                warn_unknown(remote, handler)
            return code
    given |= {"payload": _payload(payload, text=source.text)}
    with target.open() as remote:
        return _enqueue(remote, cast("OneTask", given), wait, output, if_absent)


def _check(
    handler: str | None, payload: str | None, source: InputFlags, task: TaskFlags, wait: bool | float
) -> None:
    if handler is None and not source.tasks:
        raise BadSetting("say which handler: jobpipe enqueue HANDLER [PAYLOAD]")
    if payload is not None and payload.startswith("--"):
        raise BadSetting(f"unknown option {payload}")
    if source.ndjson and source.tasks:
        raise BadSetting("--ndjson and --tasks exclude each other")
    if source.lines and payload not in (None, STDIN):
        raise BadSetting("the lines are read from stdin: give no payload")
    if source.lines and (wait is not False or task.id is not None or task.idempotency_key is not None):
        raise BadSetting("--wait, --id and --idempotency-key are for one task, not for lines")


def _payload(payload: str | None, *, text: bool) -> Any:
    """The payload as JSON that stays as it came, or as a string."""
    if payload == STDIN:
        data = sys.stdin.buffer.read()
    else:
        data = b"null" if payload is None else payload.encode(errors="surrogateescape")
    if text and payload is not None:
        try:
            return data.decode()
        except UnicodeDecodeError:
            raise BadSetting("the payload is not UTF-8 text") from None
    from jobpipe.cli.lines import BadLine, raw_json

    try:
        return raw_json(data)
    except BadLine as error:
        raise BadSetting(f"the payload is {error}; for a string say --text") from None


def _rules(unique: str) -> Any:
    """The unique key, with its rules when it is a JSON object."""
    from jobpipe.cli.lines import BadLine, raw_json

    if not unique.startswith("{"):
        return unique
    try:
        return raw_json(unique.encode(errors="surrogateescape"))
    except BadLine as error:
        raise BadSetting(f"--unique is {error}") from None


def _enqueue(remote: Remote, task: OneTask, wait: bool | float, output: Output, if_absent: bool) -> int:
    from jobpipe.client.enqueue import enqueue_for_answer
    from jobpipe.core.errors import TaskExists

    try:
        body = remote.client.run(enqueue_for_answer(remote.caller, task)).body
    except TaskExists:
        if not if_absent:
            raise
        body = remote.get(f"/tasks/{quote(str(task.get('id')), safe='')}")
    told = fields_of(body, "payload", "result")
    id = told["id"]
    if told.get("deduplicated") or told.get("replaced"):
        say(f"task '{id}' has the unique key" + (": changed" if told.get("replaced") else ""))
    warn_unknown(remote, told["handler"])
    if wait is not False:
        return _wait(remote, id, None if wait is True else wait, output)
    if output == "table":
        put(printable(id))
    else:
        put_json([body], output, many=False)
    return exits.OK


def _wait(remote: Remote, id: str, seconds: float | None, output: Output) -> int:
    import msgspec

    from jobpipe.cli.tasks import awaited

    say(f"enqueued {id}, waiting for its end")
    body, code = awaited(remote, id, seconds)
    if body is None:
        return code
    if output == "table":
        if code == exits.OK:
            result = msgspec.json.decode(body, type=dict[str, msgspec.Raw])["result"]
            put(printable_json(bytes(result).decode()))
    else:
        put_json([body], output, many=False)
    return code
