"""A note of each claim that is answered before it is written (unwritten.py), in a small file beside the store.

It is made before the answer and never synced: it outlives a server that is killed, so that the next start finds every
run that had begun, but not a power cut. The file begins anew again and again, with what still counts. Notes are lines
of JSON; one that is torn is none.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import msgspec
from msgspec import Struct

from jobpipe.core.lifecycle import claimed
from jobpipe.core.task import Claim, Task
from jobpipe.storage.sqlite.beside import open_beside
from jobpipe.storage.sqlite.files import is_at

SIZE = 256 * 1024
"""After so many bytes the file begins anew."""
DIGITS = 16
"""Hexadecimal digits of a lease's random part: 64 bits."""


class Note(Struct, frozen=True, array_like=True):
    """Claims of one answer: by whom, when (milliseconds), under which lease, of which tasks for which attempt each.

    `tokens` are the random parts of their lease ids (runs.py), one behind the other.
    """

    boot: str
    claim: int
    worker: str
    started_at: int
    lease_ms: int | None
    seqs: list[int]
    attempts: list[int]
    tokens: str = ""

    def line(self) -> bytes:
        """As it stands in the file."""
        return msgspec.json.encode(self) + b"\n"

    def lease_ids(self) -> list[str]:
        """The leases of the tasks, in their order."""
        return lease_ids(self.boot, self.claim, self.tokens, self.seqs)

    def before(self, lease_id: str | None) -> bool:
        """Whether a lease that a task's row knows is of this claim, or of a later one of the same server."""
        boot, _, rest = (lease_id or "").partition(".")
        claim = rest.partition(".")[0]
        return boot == self.boot and claim.isdecimal() and int(claim) >= self.claim


def lease_ids(boot: str, claim: int, tokens: str, seqs: list[int]) -> list[str]:
    """`boot.claim.token.seq` for each: new at every claim, not to be guessed from others, and it leads to its row."""
    prefix = f"{boot}.{claim}."
    return [f"{prefix}{tokens[n * DIGITS : n * DIGITS + DIGITS]}.{seq}" for n, seq in enumerate(seqs)]


def note_of(boot: str, claim: int, lease_ms: int | None, tasks: list[Task], tokens: str) -> Note:
    """The note of claimed tasks, at least one."""
    first = tasks[0]
    seqs, attempts = [task.seq for task in tasks], [task.attempts for task in tasks]
    return Note(boot, claim, first.worker or "", first.started_at or 0, lease_ms, seqs, attempts, tokens)


class ClaimLog:
    """The file at `path`; None for a store that ends with its server, which needs none."""

    def __init__(self, path: str | None) -> None:
        self._path = path
        self._fd: int | None = None
        self._at = 0

    def open(self) -> list[Note]:
        """Begin a new log; what the one before says, the latest claim last. Raises StorageRefused and OSError."""
        if self._path is None:
            return []
        self._fd = _open(self._path)
        return _read(self._fd)

    def clear(self) -> None:
        """What was read is in the store."""
        if self._fd is not None:
            os.ftruncate(self._fd, 0)

    def write(self, line: bytes, all_lines: Callable[[], Iterable[bytes]]) -> None:
        """Note a claim; `all_lines` gives the lines that still count, this one among them. Raises OSError."""
        if self._fd is None:
            return
        if self._at + len(line) <= SIZE:
            _write_at(self._fd, line, self._at)
            self._at += len(line)
            return
        data = b"".join(all_lines())
        _write_at(self._fd, data, 0)
        os.ftruncate(self._fd, len(data))  # after it: there is no moment in which what counts is missing
        self._at = len(data)

    @property
    def gone(self) -> bool:
        """Whether somebody took the file away. May be asked from any thread."""
        return self._fd is not None and self._path is not None and not is_at(self._fd, self._path)

    def renew(self, lines: Iterable[bytes]) -> None:
        """Make the file again, with the lines that still count. Raises StorageRefused and OSError;
        then the log is as it was.
        """
        if not self.gone or self._path is None or self._fd is None:
            return
        fd, data = _open(self._path), b"".join(lines)
        try:
            _write_at(fd, data, 0)
            os.ftruncate(fd, len(data))
        except OSError:
            os.close(fd)
            raise
        os.close(self._fd)
        self._fd, self._at = fd, len(data)

    def close(self) -> None:
        """All claims are in the store: nothing is to be found."""
        if self._fd is not None and self._path is not None:
            os.close(self._fd)
            self._fd = None
            with suppress(OSError):
                Path(self._path).unlink()


def unwritten_claims(
    notes: Iterable[Note], rows: dict[int, tuple[Task, str | None]]
) -> list[tuple[Note, Claim]]:
    """The claims that the store does not know: their tasks wait, with the attempts of before. `rows` by seq, with the
    lease that each row knows; the tasks in the answer are as they were claimed.
    """
    found: dict[int, tuple[Note, Claim]] = {}
    for note in notes:
        for seq, attempt, lease in zip(note.seqs, note.attempts, note.lease_ids(), strict=False):
            task, lease_id = rows.get(seq, (None, None))
            if task is not None and task.attempts == attempt - 1 and not note.before(lease_id):
                running = claimed(task, note.started_at, note.worker)
                found[seq] = (note, Claim(running, lease))
    return list(found.values())


def _open(path: str) -> int:
    return open_beside(path.removesuffix("-claims"), path, 0o600)


def _write_at(fd: int, data: bytes, at: int) -> None:
    """As `os.pwrite`, which Windows has not."""
    os.lseek(fd, at, os.SEEK_SET)
    if os.write(fd, data) < len(data):
        raise OSError(errno.ENOSPC, "no space is left for the log of claims")


def _read(fd: int) -> list[Note]:
    notes = []
    with open(fd, "rb", closefd=False) as file:
        lines = file.read().split(b"\n")
    for line in lines:
        with suppress(ValueError):
            notes.append(msgspec.json.decode(line, type=Note))
    return sorted(notes, key=lambda note: note.claim)
