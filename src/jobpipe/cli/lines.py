"""Tasks from stdin, one a line: sent in batches, waiting for room where a queue is full, each refusal told.

Memory does not grow with the number of lines. An answer is looked at before the next lines are read, so that whoever
writes them is slowed down to what the server takes.
"""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

from jobpipe.cli import exits
from jobpipe.cli.output import Output, many, printable, put, put_json, say, told
from jobpipe.core.errors import JobpipeError, TaskExists

if TYPE_CHECKING:
    from msgspec import Raw

    from jobpipe.cli.remote import Remote
    from jobpipe.client.values import NewTask, Task

BATCH: Final = 1000
SHOWN: Final = 20
"""How many refusals are told one by one."""


class BadLine(Exception):
    """A line that is not what it should be; completes the sentence "the line is"."""


class Line(NamedTuple):
    """A task and where it stood."""

    number: int
    task: NewTask


def raw_json(data: bytes) -> Raw:
    """One JSON value, kept as it came. Raises BadLine."""
    import msgspec

    try:
        data.decode()
        return msgspec.json.decode(data, type=msgspec.Raw)
    except UnicodeDecodeError:
        raise BadLine("not UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise BadLine(f"not JSON: {error}") from None


class Manner(NamedTuple):
    """How lines are taken: as `whole` tasks or as payloads, which may be `text`; and what is done about conflicts.

    `patience` is in seconds.
    """

    whole: bool
    text: bool
    if_absent: bool
    patience: float


def enqueue_lines(remote: Remote, given: dict[str, Any], manner: Manner, output: Output) -> int:
    """Enqueue a task for each line of stdin; `given` are the fields that they share. The exit code."""
    report = Report(output)

    def task_of(line: bytes) -> NewTask:
        if manner.text and not manner.whole:
            return cast("NewTask", {**given, "payload": line.rstrip(b"\r\n").decode(errors="strict")})
        value = raw_json(line)
        return cast("NewTask", {**given, **(_members(value) if manner.whole else {"payload": value})})

    with _progress() as advance:
        numbered = enumerate(_watched(sys.stdin.buffer, advance), 1)
        try:
            while lines := list(islice(numbered, BATCH)):
                _send(remote, _parsed(lines, task_of, report), manner, report)
        finally:
            report.end()
    return report.code


class Report:
    """What became of the lines so far: ids on stdout, refusals on stderr."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._taken = 0
        self._codes: list[int] = []

    @property
    def code(self) -> int:
        """0, or what stands for the refusals: the worse one where they differ."""
        return min(self._codes) if self._codes else exits.OK

    def taken(self, task: Task) -> None:
        """A line that is a task now."""
        self._taken += 1
        if self._output == "table":
            put(printable(task.id))
        elif self._output == "ndjson":
            self._put_line({"id": task.id, "status": task.status})

    def refused(self, number: int, why: str, code: int) -> None:
        """A line that is none."""
        self._codes.append(code)
        if len(self._codes) <= SHOWN:
            say(f"line {number}: {why}")

    def end(self) -> None:
        """All in all."""
        refused = len(self._codes)
        if refused > SHOWN:
            say(f"... and {many(refused - SHOWN, 'more line')}")
        say(
            f"{many(self._taken, 'task')} enqueued"
            + (f", {many(refused, 'line')} refused" if refused else "")
        )
        if self._output == "json":
            self._put_line({"enqueued": self._taken, "refused": refused})

    def _put_line(self, value: dict[str, Any]) -> None:
        import msgspec

        put_json([msgspec.json.encode(value)], "ndjson", many=False)


def _members(value: Raw) -> dict[str, Any]:
    """The fields as they came, but for the id: the client tells by it whose answer it reads."""
    import msgspec

    try:
        members: dict[str, Any] = msgspec.json.decode(value, type=dict[str, msgspec.Raw])
        return members | {"id": msgspec.json.decode(members["id"])} if "id" in members else members
    except (ValueError, RecursionError):
        raise BadLine("no task object") from None


def _parsed(
    lines: Iterable[tuple[int, bytes]], task_of: Callable[[bytes], NewTask], report: Report
) -> list[Line]:
    parsed = []
    for number, line in lines:
        if not line.strip():
            continue
        try:
            parsed.append(Line(number, task_of(line)))
        except (BadLine, UnicodeDecodeError) as error:
            why = str(error) if isinstance(error, BadLine) else "not UTF-8"
            report.refused(number, why, exits.REFUSED)
    return parsed


def _send(remote: Remote, lines: Sequence[Line], manner: Manner, report: Report) -> None:
    """Send until each is taken, refused for good, or `patience` seconds went by without room for any."""
    from jobpipe.client.enqueue import enqueue_many

    answers = remote.client.run(enqueue_many(remote.caller, [line.task for line in lines], manner.patience))
    for line, answer in zip(lines, answers, strict=True):
        there = manner.if_absent and isinstance(answer, TaskExists)
        became = _present(remote, line) if there else answer
        if isinstance(became, JobpipeError):
            code = exits.code_of(became)
            # A line is neither a flag nor an argument.
            report.refused(line.number, told(became), exits.REFUSED if code == exits.USAGE else code)
        else:
            report.taken(became)


def _present(remote: Remote, line: Line) -> Task | JobpipeError:
    """The task that was there already."""
    from jobpipe.client.tasks import get

    try:
        return remote.client.run(get(remote.caller, str(line.task["id"])))
    except JobpipeError as error:  # deleted meanwhile, or a key that may not read
        return error


def _watched(lines: Iterable[bytes], advance: Callable[[int], None]) -> Iterator[bytes]:
    for line in lines:
        advance(len(line))
        yield line


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[int], None]]:
    """A bar on stderr where it is a terminal; what is called with the number of bytes read."""
    if not sys.stderr.isatty() or sys.stdin.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn

    status = os.fstat(sys.stdin.fileno())
    total = status.st_size if stat.S_ISREG(status.st_mode) else None
    columns = (TextColumn("enqueueing"), BarColumn(), DownloadColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("enqueueing", total=total)
        yield lambda read: progress.advance(bar, read)
