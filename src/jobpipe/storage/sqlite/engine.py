"""SqliteStorage: the Storage contract over the writing thread and, for a file, a reading one.

This file only carries calls to the right thread. On `memory:` listings run on the writing thread, because two
connections to one in-memory database block each other.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from shutil import disk_usage
from typing import Any

import apsw

from jobpipe.core.admission import Limits
from jobpipe.core.errors import (
    JobpipeError,
    LeaseLost,
    StorageBroken,
    StorageError,
    StorageFull,
    StorageRefused,
)
from jobpipe.core.firing import Schedule
from jobpipe.core.gate import Held
from jobpipe.core.revision import Revision
from jobpipe.core.schedule_edits import Edit, Edited
from jobpipe.core.task import Attempt, NewTask, Status, Task
from jobpipe.core.unique import Known
from jobpipe.runtime.clock import Clock
from jobpipe.storage.base import (
    ANNOUNCED_S,
    Cancelled,
    ClaimAnswer,
    ClaimRequest,
    CommitStats,
    Extended,
    Extension,
    LostClaim,
    Matches,
    Miscount,
    Page,
    QueueCounts,
    Record,
    SettleAnswer,
    Settlement,
    Summary,
    TaskFilter,
    Waiting,
)
from jobpipe.storage.calls import INSERT, READ, SETTLE, STEER, A, T
from jobpipe.storage.flow import Declaration, KeyUse, QueueRules
from jobpipe.storage.schedules import Fired, ScheduleCounts
from jobpipe.storage.sqlite import history, listing, moving
from jobpipe.storage.sqlite.claimlog import ClaimLog
from jobpipe.storage.sqlite.connection import open_reader, open_writer, refuse_foreign_file, translate
from jobpipe.storage.sqlite.files import LOOK_S, OpenFiles
from jobpipe.storage.sqlite.lock import FileLock
from jobpipe.storage.sqlite.store import Store
from jobpipe.storage.sqlite.writer import Writer

log = logging.getLogger("jobpipe.storage")

LEAST_FREE = 256 * 1024
"""Bytes of free space below which the store counts as full before a commit fails: large tasks fail first."""


class SqliteStorage:
    """Tasks in a SQLite file, or in memory when `path` is None. See `storage.base.Storage` for the promises."""

    shared = False
    writes_local_claims_late = True

    def __init__(self, path: str | None, *, capacity: int, max_queues: int, clock: Clock) -> None:
        self._path = path
        # A handler may change the folder; messages name the path as it was given.
        self._absolute = None if path is None else os.path.abspath(path)
        self._limits = Limits(capacity, max_queues)
        self._clock = clock
        self._lock = None if path is None else FileLock(path)
        self._writer = Writer(self._open_store)
        self._commits = CommitStats()
        self._store: Store | None = None
        self._reader: apsw.Connection | None = None
        self._announced: dict[str, tuple[float, bytes]] = {}
        """What was announced by each server, and when (monotonic seconds); in memory, since a file has one server."""
        self._log: ClaimLog | None = None
        self._files: OpenFiles | None = None
        self._looking: asyncio.TimerHandle | None = None
        self._reading = ThreadPoolExecutor(1, thread_name_prefix="jobpipe-reader")

    # --- life ---------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Lock the file, open it, bring its schema up to date. Raises StorageRefused."""
        await self._writer.start()
        if self._path is not None:
            self._reader = await self._read(open_reader, self._path)
            self._look_again()

    async def close(self) -> None:
        """Commit what was handed in, and close."""
        if self._looking is not None:
            self._looking.cancel()
        if self._reader is not None:
            reader, self._reader = self._reader, None
            await self._read(apsw.Connection.close, reader)
        self._reading.shutdown(wait=False)
        await self._writer.stop()
        if self._lock is not None:
            self._lock.release()

    async def wait_broken(self) -> StorageBroken:
        """Sleep until the store must not be trusted any more, and say why; for ever when all is well."""
        if self._writer.broken is None:
            raise StorageError("the store is not open")
        return await asyncio.shield(self._writer.broken)

    def _open_store(self) -> Store:
        if self._path is not None and self._lock is not None:
            refuse_foreign_file(self._path)
            self._lock.acquire()
        try:
            if self._lock is not None:
                self._lock.acquire_database()
            claims = self._log = ClaimLog(None if self._absolute is None else f"{self._absolute}-claims")
            connection = open_writer(self._path)
            store = self._store = Store(connection, self._limits, self._clock, self._commits, claims)
            if self._path is not None and self._lock is not None:
                self._lock.acquire_database()  # which may have been made just now
                self._files = OpenFiles(self._path)
        except BaseException as error:
            if self._lock is not None:
                self._lock.release(untouched=isinstance(error, StorageRefused))
            if isinstance(error, (apsw.Error, OSError)):
                raise StorageRefused(f"cannot open {self._path}: {error}") from error
            raise
        return store

    # --- the contract -------------------------------------------------------------------------------------------

    def insert(self, tasks: Sequence[NewTask], now: int) -> asyncio.Future[list[Task | Known | JobpipeError]]:
        return self._writer.gather(INSERT, Store.insert, (tasks, now), weight=len(tasks))

    def claim(self, request: ClaimRequest, now: int) -> asyncio.Future[ClaimAnswer]:
        return self._writer.claim(
            lambda store: store.runs.hand_out(request, now), lambda store: store.runs.claim(request, now)
        )

    def settle(self, settlements: Sequence[Settlement], now: int) -> asyncio.Future[list[SettleAnswer]]:
        return self._writer.gather(SETTLE, Store.settle, (settlements, now))

    async def extend(self, extensions: Sequence[Extension]) -> list[Extended | LeaseLost]:
        return await self._writer.ask(lambda store: store.runs.extend(extensions))

    async def lost(self, limit: int) -> list[LostClaim]:
        return await self._writer.ask(lambda store: store.lost(limit))

    async def next_expiry(self) -> float | None:
        return await self._writer.ask(lambda store: store.runs.next_expiry())

    async def get(self, ids: Sequence[str]) -> list[Task | None]:
        return await self._writer.gather(READ, Store.get, ids)

    async def attempts(self, id: str) -> list[Attempt] | None:
        return await self._writer.ask(lambda store: store.attempts(id))

    def cancel(self, ids: Sequence[str], now: int) -> asyncio.Future[list[Cancelled | JobpipeError]]:
        return self._writer.call(STEER, lambda store: store.steering.cancel(ids, now))

    def retry(self, ids: Sequence[str], now: int) -> asyncio.Future[list[Task | JobpipeError]]:
        return self._writer.call(STEER, lambda store: store.steering.retry(ids, now))

    def revise(self, id: str, revision: Revision, now: int) -> asyncio.Future[Task | JobpipeError]:
        return self._writer.call(STEER, lambda store: store.steering.revise(id, revision, now))

    def expire(self, now: int, limit: int) -> asyncio.Future[list[Task]]:
        return self._writer.call(STEER, lambda store: store.steering.expire(now, limit))

    async def next_expiring(self) -> int | None:
        return await self._writer.ask(lambda store: store.next_expiring())

    async def delete(self, ids: Sequence[str]) -> list[Task | JobpipeError]:
        return await self._writer.call(STEER, lambda store: store.steering.delete(ids))

    async def page(
        self, where: TaskFilter, limit: int, before_seq: int | None, max_bytes: int | None
    ) -> Page:
        return await self._list(lambda db: listing.page(db, where, limit, before_seq, max_bytes))

    async def match(self, where: TaskFilter, limit: int, before_seq: int | None) -> Matches:
        return await self._list(lambda db: listing.match(db, where, limit, before_seq))

    async def counts(self) -> dict[Status, int]:
        return await self._writer.ask(lambda store: store.counts())

    async def waiting(self, now: int, most: int) -> Waiting:
        return await self._list(lambda db: listing.waiting(db, now, most))

    async def queues(self, now: int) -> list[QueueCounts]:
        return await self._writer.ask(lambda store: store.queues(now))

    async def prune(self, finished_before: int | None, failed_before: int | None, limit: int) -> int:
        return await self._writer.call(
            STEER, lambda store: store.steering.prune(finished_before, failed_before, limit)
        )

    async def audit(self) -> list[Miscount]:
        return await self._writer.call(STEER, lambda store: store.audit.look())

    async def next_prunable(self) -> tuple[int | None, int | None]:
        return await self._writer.ask(lambda store: store.next_prunable())

    async def schedules(self, names: Sequence[str] | None = None) -> list[Schedule]:
        return await self._writer.ask(lambda store: store.schedules.read(names))

    async def edit_schedules(
        self, names: Sequence[str] | None, edit: Edit, now: int
    ) -> Edited | JobpipeError:
        return await self._writer.call(STEER, lambda store: store.schedules.edit(names, edit, now))

    async def fire(self, now: int, limit: int) -> Fired:
        return await self._writer.call(INSERT, lambda store: store.schedules.fire(now, limit))

    async def next_firing(self, now: int) -> int | None:
        return await self._writer.ask(lambda store: store.schedules.next(now))

    async def schedule_counts(self, now: int) -> ScheduleCounts:
        return await self._writer.ask(lambda store: store.schedules.counts(now))

    async def keep_summary(self, summary: Summary, forget_before: int) -> None:
        await self._writer.call(STEER, lambda store: store.keep_summary(summary, forget_before))

    async def summaries(self, since: int, until: int) -> list[Summary]:
        return await self._list(lambda db: history.summaries(db, since, until))

    async def export(self, after_seq: int, limit: int, max_bytes: int) -> list[Record]:
        return await self._list(lambda db: moving.export(db, after_seq, limit, max_bytes))

    async def import_(self, records: Sequence[Record]) -> list[str]:
        return await self._writer.call(INSERT, lambda store: store.intake.import_(records))

    def limited(self) -> frozenset[str]:
        return frozenset() if self._store is None else self._store.flow.ruled

    async def say(
        self, queue: str, key: str | None, change: Mapping[str, Any], now: int, by: str | None
    ) -> JobpipeError | None:
        return await self._writer.call(STEER, lambda store: store.flow.say(queue, key, change, now, by))

    async def unsay(self, queue: str, key: str | None) -> None:
        await self._writer.call(STEER, lambda store: store.flow.unsay(queue, key))

    async def resume(self, queue: str, key: str | None, now: int, by: str | None) -> None:
        await self._writer.call(STEER, lambda store: store.flow.resume(queue, key, now, by))

    async def declare(self, declaration: Declaration, now: int) -> bool:
        return await self._writer.call(STEER, lambda store: store.flow.declare(declaration, now))

    async def apps(self) -> list[tuple[str, bytes]]:
        return await self._writer.ask(lambda store: store.flow.apps())

    async def rules(self, queue: str | None, now: int) -> list[QueueRules]:
        return await self._writer.ask(lambda store: store.flow.all_rules(queue, now))

    async def keys(self, queue: str, limit: int, after: str | None, now: int) -> list[KeyUse]:
        return await self._writer.ask(lambda store: store.flow.keys(queue, limit, after, now))

    async def key(self, queue: str, key: str, now: int) -> KeyUse:
        return await self._writer.ask(lambda store: store.flow.key(queue, key, now))

    async def held(self, tasks: Sequence[Task], now: int) -> list[Held | None]:
        return await self._writer.ask(lambda store: store.flow.held(tasks, now))

    async def announce(self, server: str, data: bytes) -> None:
        self._require_open()
        self._announced[server] = (self._clock.monotonic(), data)

    async def announced(self) -> list[bytes]:
        self._require_open()
        since = self._clock.monotonic() - ANNOUNCED_S
        self._announced = {server: said for server, said in self._announced.items() if said[0] >= since}
        return [data for _, data in self._announced.values()]

    def publish(self, data: bytes) -> None:
        """There is nobody else to tell: a file has one server."""

    def listen(self, tell: Callable[[bytes | None], None]) -> None:
        """There is nobody else to hear of: a file has one server."""

    async def cancelling(self) -> list[Cancelled]:
        self._require_open()
        return []  # a file has one server, which was told

    def clock_step(self) -> float:
        return 0.0

    def commits(self) -> CommitStats:
        return self._commits

    async def check(self) -> None:
        self._look()
        if self._writer.broken is not None and self._writer.broken.done():
            raise self._writer.broken.result()
        if self._absolute is not None and disk_usage(Path(self._absolute).parent).free < LEAST_FREE:
            raise StorageFull(f"less than {LEAST_FREE} bytes are free for the store")
        if self._writer.failing or not self._writer.is_open:
            await self._writer.call(
                STEER, lambda _: None
            )  # the last commit failed: see whether one succeeds now

    def _look_again(self) -> None:
        self._look()
        self._looking = asyncio.get_running_loop().call_later(LOOK_S, self._look_again)

    def _look(self) -> None:
        """Trust no store that the next start would not find, and put back what may be lost."""
        if self._files is None or self._lock is None or not self._writer.is_open:
            return
        if (problem := self._files.problem()) is not None:
            self._writer.distrust(StorageBroken(f"the store is lost: {problem}"))
            return
        try:
            if self._lock.renew():
                log.warning("the lock file of %s was taken away: made again", self._path)
        except StorageRefused as error:
            self._writer.distrust(StorageBroken(f"the store is lost: {error}"))
        if self._log is not None and self._log.gone:
            log.warning("the log of claims beside %s was taken away: made again", self._path)
            self._writer.ask(lambda store: store.renew_log()).add_done_callback(
                lambda done: done.cancelled() or done.exception()
            )

    # --- the threads --------------------------------------------------------------------------------------------

    def _require_open(self) -> None:
        if not self._writer.is_open:
            raise StorageError("the store is not open")

    async def _list(self, look: Callable[[apsw.Connection], T]) -> T:
        if self._path is None:
            return await self._writer.ask(lambda store: store.listed(look))
        if self._reader is None:
            raise StorageError("the store is not open")
        if self._store is not None and self._store.owes:
            with contextlib.suppress(StorageError):  # what cannot be written now is listed as it was
                await self._writer.ask(lambda store: store.written())
        return await self._read(look, self._reader)

    async def _read(self, look: Callable[[A], T], on: A) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._reading, look, on)
        except apsw.Error as error:
            raise translate(error) from error
