"""A disk that is full, or fails, at its Nth write or sync, for N = 1, 2, 3 ... until none is left to fail.

In process, over the simulated disk, every point is tried; on real servers, under strace, those that the size allows.
What is acknowledged must be there; space that comes back is enough to go on; after an I/O error nothing is trusted.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Callable, Sequence

import apsw
from msgspec import Struct

from jobpipe.core.errors import StorageBroken, StorageError
from jobpipe.runtime.clock import ManualClock
from jobpipe.storage import open_storage
from jobpipe.storage.contract import Storage
from prove.disk import Disk
from prove.history import History
from prove.proof import Figure, Trial, none
from prove.stores import FILE, OFTEN, reopen, scratch, tuned
from prove.users import Users

ROUNDS = 12
FULL_FOR = 7
"""So many writes and syncs fail in a row before there is space again."""
ERRORS: dict[str, tuple[type[apsw.Error], int]] = {
    "ENOSPC": (apsw.FullError, FULL_FOR),
    "EIO": (apsw.IOError, 1),
}


class Point(Struct, frozen=True):
    """One fault: this error from the `first` write or sync on, `count` times."""

    error: str
    first: int
    count: int

    def strike(self, number: int) -> None:
        """Called by the disk before each write and sync."""
        if self.first <= number < self.first + self.count:
            raise ERRORS[self.error][0](f"{self.error} at {number}")


def disk_faults(trial: Trial) -> Sequence[Figure]:
    """Every point of several workloads, for both errors."""
    logging.disable(logging.CRITICAL)
    found: Counter[str] = Counter()
    for workload in range(trial.sized(1, 3, 10)):
        for error, (_, count) in ERRORS.items():
            _all_points(error, count, lambda: trial.source(str(workload)), trial.sized(7, 1, 1), found)  # noqa: B023
    logging.disable(logging.NOTSET)
    return [
        Figure("points: writes and syncs of commits", found["points"]),
        Figure("  that struck before the store was open", found["refused"]),
        Figure("  that a call was told of", found["told"]),
        none("  that nobody was told of", found["hidden"]),
        none("false acknowledgements", found["false"]),
        none("corrupt", found["corrupt"]),
        none("kept counts that are not true", found["counts"]),
        none("full stores that did not go on with space back", found["not healed"]),
        none("I/O errors told of, after which the store was trusted", found["trusted"]),
    ]


def _all_points(
    error: str, count: int, source: Callable[[], random.Random], step: int, found: Counter[str]
) -> None:
    first = 1
    while asyncio.run(_one(Point(error, first, count), source(), found)):
        first += step


async def _one(point: Point, source: random.Random, found: Counter[str]) -> bool:
    """Whether the point struck."""
    with scratch() as folder:
        history = History()
        with Disk() as disk, tuned(OFTEN) as tune:
            disk.fault = point.strike
            store = open_storage(f"sqlite:///{folder / FILE}", capacity=1_000_000, clock=ManualClock())
            users = Users(store, history, disk, source)
            try:
                await store.open()
            except StorageError:
                found["refused"] += 1
            else:
                tune()
                await users.run(ROUNDS)
                await _after(point, store, users, disk, found)
            await store.close()
            if disk.asked < point.first:
                return False
            moment = len(disk.log)
        found["points"] += 1
        verdict = await reopen(folder / FILE)
        found["corrupt"] += verdict.corrupt
        found["counts"] += not verdict.counts_are_true
        found["false"] += bool(history.wrong(verdict.states, moment))
    return True


async def _after(point: Point, store: Storage, users: Users, disk: Disk, found: Counter[str]) -> None:
    """What the store does now that the fault is over, if it struck."""
    if disk.asked < point.first:
        return
    found["told" if users.errors else "hidden"] += 1
    disk.fault = None
    healed = await _takes(store)
    broken = any(isinstance(error, StorageBroken) for error in users.errors)
    found["not healed"] += point.error == "ENOSPC" and not healed
    found["trusted"] += point.error == "EIO" and bool(users.errors) and (healed or not broken)


async def _takes(store: Storage) -> bool:
    """Whether a task could be accepted: taken at once and taken back."""
    try:
        await store.check()
    except StorageError:
        return False
    return True
