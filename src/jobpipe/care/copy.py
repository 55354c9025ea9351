"""Moving all tasks from one store to another, in batches, while no server uses the source.

Done again after it was interrupted it goes on: what is there already is left as it is. A task that runs has lost its
server; it is released, as a stop does it, and costs no attempt.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from jobpipe.core.errors import JobpipeError, StorageInUse, StorageRefused
from jobpipe.core.lifecycle import Kind, Outcome, Policy, decide
from jobpipe.core.schedule_edits import moved
from jobpipe.core.task import Status, Task
from jobpipe.runtime import randomness
from jobpipe.runtime.clock import SystemClock
from jobpipe.storage import open_storage
from jobpipe.storage.base import Record
from jobpipe.storage.contract import Storage

BATCH = 2_000
BATCH_BYTES = 8 * 1024 * 1024
LOOK_S = 1.0
"""How often a store that is in use is tried again."""
END = 1 << 40
"""Minutes since the epoch, beyond all."""

Progress = Callable[[int, int], None]
"""Told how many tasks of how many are done."""


class Copied(Struct):
    """What was done: tasks by the status that they have there now, and the ids that other tasks had."""

    new: Counter[Status] = Counter()
    found: Counter[Status] = Counter()
    """There already, from an earlier run."""
    taken: list[str] = []
    released: int = 0
    wrong: list[str] = []
    """What the counts of the two stores say against it, in words."""


def copy(source: str, destination: str, *, progress: Progress, wait: float = 0.0) -> Copied:
    """Copy all tasks, their history, the schedules and the figures of the charts. Raises StorageError.

    For `wait` seconds a store that servers use is tried again: those that were killed are forgotten after a while.
    """
    if source == destination:
        raise StorageRefused("source and destination are the same store")
    if source.startswith("sqlite:///") and not Path(source.removeprefix("sqlite:///")).is_file():
        raise StorageRefused(f"there is no store at {source}")
    if "memory:" in (source, destination):
        raise StorageRefused("memory: lives in its server alone and cannot be copied")
    return asyncio.run(_copy(source, destination, progress, time.monotonic() + wait))


def _make_private(destination: str) -> None:
    """A file that is made for the copy is its owner's alone, as a backup: SQLite would ask the umask."""
    if destination.startswith("sqlite:///"):
        with contextlib.suppress(OSError):  # there already, or told better by who opens it
            os.close(
                os.open(destination.removeprefix("sqlite:///"), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
            )


async def _copy(source: str, destination: str, progress: Progress, until: float) -> Copied:
    async with _opened(source, until, alone=True) as from_:
        _make_private(destination)
        async with _opened(destination, until, alone=False) as to:
            return await _copied(from_, to, progress)


@contextlib.asynccontextmanager
async def _opened(url: str, until: float, *, alone: bool) -> AsyncIterator[Storage]:
    """The store, once it can be opened; `alone`: and read as a whole, because nobody else uses it."""
    while True:
        store = open_storage(url)
        try:
            await store.open()
            if alone:
                await store.export(0, 1, 1)
            break
        except StorageInUse:
            await store.close()
            if time.monotonic() >= until:
                raise
            await asyncio.sleep(LOOK_S)
        except BaseException:
            await store.close()
            raise
    try:
        yield store
    finally:
        await store.close()


async def _copied(source: Storage, destination: Storage, progress: Progress) -> Copied:
    copied = Copied(Counter(), Counter())
    before, total = await destination.counts(), sum((await source.counts()).values())
    seq = done = 0
    while records := await source.export(seq, BATCH, BATCH_BYTES):
        seq = records[-1].task.seq
        at_rest = [_at_rest(record) for record in records]
        copied.released += sum(record.task.status is Status.RUNNING for record in records)
        await _note(copied, destination, at_rest, await destination.import_(at_rest))
        done += len(records)
        progress(done, total)
    await _copy_schedules(source, destination)
    for summary in await source.summaries(0, END):
        await destination.keep_summary(summary, 0)
    _compare(copied, done, total, before, await destination.counts())
    return copied


async def _copy_schedules(source: Storage, destination: Storage) -> None:
    """Those whose names are taken there stay as they are there. Raises JobpipeError when there are too many."""
    answer = await destination.edit_schedules(None, moved(await source.schedules()), SystemClock().now())
    if isinstance(answer, JobpipeError):
        raise answer


async def _note(
    copied: Copied, destination: Storage, records: Sequence[Record], left_out: Sequence[str]
) -> None:
    there = dict(zip(left_out, await destination.get(left_out), strict=True)) if left_out else {}
    for record in records:
        task = record.task
        if task.id not in there:
            copied.new[task.status] += 1
        elif _is_same(task, there[task.id]):
            copied.found[task.status] += 1
        else:
            copied.taken.append(task.id)


def _is_same(task: Task, other: Task | None) -> bool:
    """Whether the one was copied from the other, and may have gone on since."""
    return other is not None and (task.created_at, task.handler, task.queue, task.payload) == (
        other.created_at, other.handler, other.queue, other.payload
    )  # fmt: skip


def _compare(
    copied: Copied, done: int, total: int, before: dict[Status, int], after: dict[Status, int]
) -> None:
    if done != total:
        copied.wrong.append(f"the source counts {total} tasks, and {done} were read")
    for status in Status:
        if (came := after[status] - before[status]) != copied.new[status]:
            copied.wrong.append(
                f"{copied.new[status]} tasks were written as {status}, and {came} more are counted"
            )


def _at_rest(record: Record) -> Record:
    """The record as it can be taken over: a run that is under way is released, or ends as cancelled if so asked."""
    task = record.task
    if task.status is not Status.RUNNING:
        return record
    to = decide(task, Outcome(Kind.RELEASED), SystemClock().now(), Policy(), randomness.random)
    ended = to.status is not Status.QUEUED
    return replace(
        record,
        task=replace(
            task, status=to.status, run_at=task.run_at, attempts=to.attempts, failures=to.failures, lost=to.lost,
            finished_at=to.finished_at, cancel_requested=ended, started_at=task.started_at if ended else None,
            worker=task.worker if ended else None,
        ),
    )  # fmt: skip
