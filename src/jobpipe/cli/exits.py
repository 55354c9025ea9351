"""The exit codes of every command: stable, and listed in `jobpipe --help`."""

from __future__ import annotations

from typing import Final

from jobpipe.core.errors import JobpipeError

OK: Final = 0
REFUSED: Final = 1
USAGE: Final = 2
APP: Final = 3
STORE: Final = 4
PORT: Final = 5
BROKEN: Final = 6
NOT_FOUND: Final = 7
UNREACHABLE: Final = 8
UNAUTHORIZED: Final = 9
NOT_IN_TIME: Final = 10
BUSY: Final = 11
INTERRUPTED: Final = 130
PIPE_CLOSED: Final = 141
"""128 and the number of the signal, as a shell reports those that a signal ended."""

MEANINGS: Final = {
    OK: "it is done",
    REFUSED: "the server said no, a task that was waited for did not end as done, or the doctor found a problem",
    USAGE: "a flag, an argument or a setting that cannot be",
    APP: "the app does not import",
    STORE: "the store cannot be served, or not be copied",
    PORT: "the address cannot be listened on",
    BROKEN: "the disk failed while serving, or somebody took the store away",
    NOT_FOUND: "no task has this id, or the server knows no such thing",
    UNREACHABLE: "the server cannot be reached",
    UNAUTHORIZED: "no key was given, or one that may not do this",
    NOT_IN_TIME: "the time that was given for waiting is over",
    BUSY: "the queue is full or the server is stopping: try again later",
    INTERRUPTED: "interrupted by Ctrl+C",
    PIPE_CLOSED: "the reader of the output went away",
}

_CODES: Final = {
    "invalid": USAGE,  # what the server alone can judge of a flag or an argument
    "not_found": NOT_FOUND,
    "unreachable": UNREACHABLE,
    "storage_down": UNREACHABLE,
    "unauthorized": UNAUTHORIZED,
    "forbidden": UNAUTHORIZED,
    "queue_full": BUSY,
    "too_many_queues": BUSY,
    "draining": BUSY,
    "rate_limited": BUSY,
}


def code_of(error: JobpipeError) -> int:
    """The exit code for a refusal."""
    return _CODES.get(error.code, REFUSED)


def listing() -> str:
    """All codes with their meanings, for the help page."""
    return "\n".join(f"{code:>4}  {meaning}" for code, meaning in MEANINGS.items())
