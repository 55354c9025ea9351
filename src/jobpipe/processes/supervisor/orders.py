"""What a parent and its worker process say to each other: lines over two pipes, and exit codes.

To the child's stdin: first its Orders as one line of JSON, then `cancel LEASE` and `drain SECONDS`. The end of that
pipe means that the parent is gone. From the child's stdout: `ready WORKER` once its app is imported, or `error LINE`;
then `begin RUN ...` before the handlers of these claims start, `end LEASE ...` after their outcomes were delivered, and
`leave WHY` when it takes nothing new any more, and another shall take its place. A RUN is `LEASE`, `LEASE=TIMEOUT` or
`LEASE=TIMEOUT=ID`, the id of the task as in a URL. `late LEASE TIMEOUT PAUSE` says that a run timed out after TIMEOUT
seconds and that only the end of the process will end it; the next attempt waits for PAUSE seconds (`-`: as the server
says). `lost N`: N more lines of its log could not be written.
"""

from __future__ import annotations

import time
from typing import Final
from urllib.parse import quote, unquote

import msgspec
from msgspec import Struct

from jobpipe.core.task import LEASE_S
from jobpipe.runtime.loop import AUTO

EXIT_APP: Final = 3
"""The app does not import."""
EXIT_ORPHANED: Final = 70
"""The parent is gone."""
EXIT_REPLACE: Final = 71
"""The process leaves on purpose, and another shall take its place."""

READY: Final = "ready"
ERROR: Final = "error"
BEGIN: Final = "begin"
END: Final = "end"
LOST: Final = "lost"
CANCEL: Final = "cancel"
DRAIN: Final = "drain"
LEAVE: Final = "leave"
LATE: Final = "late"

CLEANUP_S: Final = 1.0
"""How long a handler that was told to stop may take to end."""


class Orders(Struct, frozen=True):
    """All that a worker process is told at its start. Durations are seconds, sizes bytes; None is no limit.

    `token` is the secret by which a server knows its own worker processes, `key` the key for a server elsewhere. Both
    travel here and not in the environment, which a handler's own subprocesses would inherit. `parent` is a process id.
    `ahead` allows to claim a little before workers are free; `named` asks for the ids of the tasks that begin.
    """

    app: str | None
    url: str
    parent: int
    app_dir: str = ""
    workers: int = 1
    queues: frozenset[str] | None = None
    lease: float = LEASE_S
    timeout: float | None = 3600.0
    grace: float = 25.0
    max_result: int = 1024**2
    max_tasks: int = 0
    ahead: bool = False
    named: bool = False
    simulate: tuple[float, float, float] = (0.1, 0.5, 0.2)
    key: str | None = None
    token: str | None = None
    log_level: str = "INFO"
    log_format: str = "text"
    otel: bool = False
    loop: str = AUTO

    def line(self) -> bytes:
        """The Orders as the first line of the child's stdin."""
        return msgspec.json.encode(self) + b"\n"

    @staticmethod
    def parse(line: bytes) -> Orders:
        """The Orders of a line. Raises msgspec.DecodeError."""
        return msgspec.json.decode(line, type=Orders)


def order(*words: object) -> bytes:
    """One line: words with blanks between them."""
    return (" ".join(map(str, words)) + "\n").encode()


class Begun(Struct, frozen=True):
    """A run that is open: its task where that was told, its timeout in seconds where it is not the server's, and when
    this was heard, in monotonic seconds."""

    at: float
    timeout: float | None = None
    task_id: str | None = None


def run_word(lease_id: str, timeout: float | None, task_id: str | None) -> str:
    """A run that begins, as one word."""
    if timeout is None and task_id is None:
        return lease_id
    word = f"{lease_id}={'' if timeout is None else timeout}"
    return word if task_id is None else f"{word}={quote(task_id, safe='')}"


def run_of(word: str) -> tuple[str, Begun]:
    """The lease id and the run that a word tells of."""
    lease_id, _, rest = word.partition("=")
    timeout, named, task_id = rest.partition("=")
    return lease_id, Begun(
        time.monotonic(), float(timeout) if timeout else None, unquote(task_id) if named else None
    )


class Lines:
    """Cuts what arrives on a pipe into lines."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[list[str]]:
        """The words of each line that is complete now."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [line.decode(errors="replace").split(" ") for line in lines if line]


def shares(workers: int, processes: int) -> list[int]:
    """`workers` shared out among `processes` as evenly as it goes, at least one each."""
    base, more = divmod(workers, processes)
    return [max(1, base + (i < more)) for i in range(processes)]
