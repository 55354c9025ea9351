"""`jobpipe watch`: a line for every change of a task, as it happens, over the server's event stream.

A stream that ends is taken up again where it stood; what was missed meanwhile is said.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Annotated, Any, Final, Literal, NamedTuple, NoReturn

from cyclopts import Parameter
from msgspec import Raw, Struct

from jobpipe.cli.output import COLOURS, paint, printable, printable_json, say, shown
from jobpipe.cli.remote import Remote, Target, fields
from jobpipe.client.errors import ConnectionFailed

SILENCE_S: Final = 45.0
"""The server says something at least every 15 seconds: after three times that it is gone."""

LONGEST_PAUSE_S: Final = 5.0

WatchOutput = Annotated[
    Literal["table", "ndjson"],
    Parameter(name=["--output", "-o"], help="A line for people, or ndjson: each change as JSON."),
]


class Delta(Struct):
    """What is read of a `delta`."""

    tasks: list[Raw] = []
    dropped: int = 0


class Event(NamedTuple):
    """A server-sent event (WHATWG HTML, 9.2)."""

    id: str | None
    name: str
    data: bytes


class Watched(NamedTuple):
    """Which changes are shown: all conditions that are given must hold."""

    status: str | None = None
    queue: str | None = None
    handler: str | None = None

    def takes(self, task: Mapping[str, Any]) -> bool:
        """Whether the change is one of these."""
        return all(wanted in (None, task[name]) for name, wanted in self._asdict().items())


ALL: Final = Watched()


def watch_command(
    *,
    status: Annotated[
        Literal["queued", "running", "done", "failed", "cancelled"] | None, Parameter(help="Only these.")
    ] = None,
    queue: Annotated[str | None, Parameter(help="Only tasks of this queue.")] = None,
    handler: Annotated[str | None, Parameter(help="Only tasks of this handler.")] = None,
    output: WatchOutput = "table",
    target: Target = Target(),  # noqa: B008 - frozen
) -> int:
    """Follow the tasks as they change, until Ctrl+C."""
    with target.open() as remote:
        Follower(remote, output, Watched(status, queue, handler)).run()


class Follower:
    """One stream after another, each from where the one before ended."""

    def __init__(self, remote: Remote, output: str, watched: Watched = ALL) -> None:
        self._remote = remote
        self._watched = watched
        self._output = output
        self._last: str | None = None
        self._connected = False
        self._pause = 0.0

    def run(self) -> NoReturn:
        """Follow for ever. Raises ConnectionFailed when the server was never there, else the server's refusal."""
        while True:
            try:
                self._follow()
            except ConnectionFailed as error:
                if not self._connected:
                    raise
                if not self._pause:
                    say(f"{error}; trying again")
            self._pause = min(LONGEST_PAUSE_S, self._pause * 2 or 0.25)
            time.sleep(self._pause)

    def _follow(self) -> None:
        headers = {"accept": "text/event-stream"} | ({"last-event-id": self._last} if self._last else {})
        for event in events(self._remote.client.lines("/events", headers, SILENCE_S)):
            if self._pause:
                say(
                    "connected again" + (", what happened meanwhile is lost" if event.name == "reset" else "")
                )
            self._pause, self._connected = 0.0, True
            self._last = event.id or self._last
            if event.name == "delta":
                self._put(event.data)

    def _put(self, data: bytes) -> None:
        import msgspec

        delta = msgspec.json.decode(data, type=Delta)
        for change in delta.tasks:
            task = fields(bytes(change))
            if not self._watched.takes(task):
                continue
            raw = self._output == "ndjson"
            line = printable_json(bytes(change).decode()) if raw else _line(task)
            print(line, flush=True)  # noqa: T201
        if delta.dropped:
            of_all = "" if self._watched == ALL else " of all queues and handlers"
            say(f"{delta.dropped:,} more changes{of_all}, not shown")


def events(lines: Iterable[bytes]) -> Iterator[Event]:
    """The events in the lines of a stream; comments and empty events are left out."""
    id, name, data = None, "message", list[bytes]()
    for line in lines:
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if line == b"":
            if data:
                yield Event(id, name, b"\n".join(data))
            name, data = "message", []
        elif field == b"id":
            id = value.decode(errors="replace")
        elif field == b"event":
            name = value.decode(errors="replace")
        elif field == b"data":
            data.append(value)


def _line(task: Mapping[str, Any]) -> str:
    status = paint(f"{task['status']:<9}", COLOURS.get(task["status"], ""))
    attempt = f"attempt {task['attempts']}" if task["attempts"] else None
    rest = [task["queue"], task["handler"], attempt, task.get("error_type")]
    words = "  ".join(printable(shown(part)) for part in [task["id"], *rest] if part is not None)
    return f"{datetime.now().astimezone():%H:%M:%S}  {status}  {words}"
