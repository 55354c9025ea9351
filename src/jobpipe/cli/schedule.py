"""`jobpipe schedule`: the stored rules that make tasks at times."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Final

from cyclopts import App, Parameter

from jobpipe.cli import exits
from jobpipe.cli.output import (
    Column,
    Output,
    column,
    printable,
    printable_json,
    put,
    put_json,
    say,
    shown,
    time,
)
from jobpipe.cli.remote import Target, fields, put_rows
from jobpipe.cli.steering import agreed
from jobpipe.settings.server import BadSetting

COLUMNS: Final = (
    column("name"),
    Column("when", lambda row: row["cron"] or f"every {row['every']} s"),
    column("timezone"),
    column("paused"),
    Column("next", lambda row: time(row["next_at"])),
    Column("last", lambda row: time(row["last_at"])),
    column("missed", right=True),
    column("last_error", "last error"),
)
Name = Annotated[str, Parameter(help="The schedule.")]

app = App(name="schedule", help="Schedules: stored rules that make tasks at times.")


@app.command(name="list")
def list_command(
    *,
    output: Output = "table",
    target: Target = Target(),  # noqa: B008 - frozen
) -> int:
    """The schedules, when they come next, and what they missed."""
    with target.open() as remote:
        put_rows(remote.array("/schedules"), COLUMNS, output)
    return exits.OK


@app.command(name="show")
def show_command(
    name: Name,
    *,
    output: Output = "table",
    target: Target = Target(),  # noqa: B008 - frozen
) -> int:
    """One schedule, with its next five times."""
    from jobpipe.client.schedules import schedule_path

    with target.open() as remote:
        _put(remote.get(schedule_path(name)), output)
    return exits.OK


@app.command(name="put")
def put_command(
    name: Name,
    definition: Annotated[
        Path, Parameter(help="A file with its JSON; - is the standard input.", allow_leading_hyphen=True)
    ],
    *,
    output: Output = "table",
    target: Target = Target(),  # noqa: B008 - frozen
) -> int:
    """Make a schedule, or change it whole, as JSON says: what `show -o json` gives can be put again.

    `{"cron": "30 2 * * *", "timezone": "Europe/Berlin", "task": {"handler": "report"}}`
    """
    from jobpipe.client.exchange import Request
    from jobpipe.client.schedules import schedule_path

    request = Request("PUT", schedule_path(name), _read(definition), repeatable=True)
    with target.open() as remote:
        _put(remote.call(request).body, output)
    return exits.OK


@app.command(name="pause")
def pause_command(
    name: Name,
    *,
    output: Output = "table",
    target: Target = Target(),  # noqa: B008 - frozen
) -> int:
    """Make no tasks of it; times that pass meanwhile are not missed."""
    return _steer(name, "pause", output, target)


@app.command(name="resume")
def resume_command(
    name: Name,
    *,
    output: Output = "table",
    target: Target = Target(),  # noqa: B008 - frozen
) -> int:
    """Let it go on."""
    return _steer(name, "resume", output, target)


@app.command(name="run")
def run_command(
    name: Name,
    *,
    output: Output = "table",
    target: Target = Target(),  # noqa: B008 - frozen
) -> int:
    """Make a task of it now, whatever is paused or overlaps; prints the task's id."""
    from jobpipe.client.exchange import Request
    from jobpipe.client.schedules import schedule_path

    with target.open() as remote:
        body = remote.call(Request("POST", f"{schedule_path(name)}/run")).body
    if output == "table":
        put(printable(fields(body, "payload")["id"]))
    else:
        put_json([body], output, many=False)
    return exits.OK


@app.command(name="delete")
def delete_command(
    name: Name,
    *,
    yes: Annotated[bool, Parameter(help="Do not ask.", negative=())] = False,
    target: Target = Target(),  # noqa: B008 - frozen
) -> int:
    """Forget it; the tasks that it made stay. One that an app declares comes back with it: pause that instead."""
    from jobpipe.client.exchange import Request
    from jobpipe.client.schedules import schedule_path

    path = schedule_path(name)
    if not agreed(f"Delete the schedule '{name}'?", yes):
        return exits.REFUSED
    with target.open() as remote:
        remote.call(Request("DELETE", path))
    say(f"schedule '{name}' deleted")
    return exits.OK


def _steer(name: str, verb: str, output: Output, target: Target) -> int:
    from jobpipe.client.exchange import Request
    from jobpipe.client.schedules import schedule_path

    with target.open() as remote:
        request = Request("POST", f"{schedule_path(name)}/{verb}", repeatable=True)
        _put(remote.call(request).body, output)
    return exits.OK


def _read(definition: Path) -> bytes:
    if str(definition) == "-":
        return sys.stdin.buffer.read()
    try:
        return definition.read_bytes()
    except OSError as error:
        raise BadSetting(f"cannot read {definition}: {error.strerror}") from error


def _put(body: bytes, output: Output) -> None:
    if output != "table":
        put_json([body], output, many=False)
        return
    schedule: dict[str, Any] = fields(body, "task")
    width = max(map(len, schedule))
    for name, value in schedule.items():
        put(f"{name:<{width}}  {printable(shown(value))}")
    _put_task(body)


def _put_task(body: bytes) -> None:
    import msgspec

    task = msgspec.json.decode(body, type=dict[str, msgspec.Raw])["task"]
    put("")
    put("task")
    for line in printable_json(msgspec.json.format(bytes(task), indent=2).decode()).splitlines():
        put(f"  {line}")
