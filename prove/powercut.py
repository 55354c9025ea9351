"""Power cuts: the real engine over a simulated disk that forgets what was not synced, opened again after each cut.

One recording of a workload gives many cuts: the disk's log is played to a random event, the power goes, and what is
left is opened by the real engine on the real file system. Commits, checkpoints, pruning, the creation of the store and
its closing are all within the recording.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct

from jobpipe.runtime.clock import ManualClock
from jobpipe.storage import open_storage
from prove.disk import Disk, Event, Platter
from prove.history import History
from prove.proof import Figure, Trial, none
from prove.stores import FILE, OFTEN, put, reopen, scratch, tuned
from prove.users import Users

CUTS_A_RECORDING = 250
ROUNDS = 40


class Recording(Struct):
    """What the disk was asked, and what the users of the store were told, in moments of the disk's log."""

    log: list[Event]
    history: History


def power_cuts(trial: Trial) -> Sequence[Figure]:
    """Cuts of a store as it is, and beside it of one with synchronous=NORMAL, to see that the disk can bite."""
    cuts = trial.sized(300, 4_000, 10_000)
    full = survivors(trial, "FULL", cuts)
    normal = survivors(trial, "NORMAL", max(100, cuts // 10))
    return [
        Figure("power cuts", full["cuts"], at_least=cuts),
        Figure("  while the file was made", full["creating"]),
        Figure("  in or beside a checkpoint", full["checkpoint"]),
        Figure("steps acknowledged before them", full["acknowledged"]),
        none("cuts after which an acknowledged step was lost", full["wrong"]),
        none("corrupt", full["corrupt"]),
        none("kept counts that are not true", full["counts"]),
        Figure("with synchronous=NORMAL: cuts", normal["cuts"]),
        Figure("  after which an acknowledged step was lost", normal["wrong"], at_least=1),
        none("  corrupt", normal["corrupt"]),
    ]


def survivors(trial: Trial, synchronous: str, cuts: int) -> Counter[str]:
    """What was found after so many cuts, by kind."""
    found: Counter[str] = Counter()
    number = 0
    while found["cuts"] < cuts:
        source = trial.source(f"{synchronous}/{number}")
        number += 1
        with scratch() as folder:
            recording = asyncio.run(record(folder, source, synchronous))
            moments = [source.randint(0, len(recording.log)) for _ in range(min(CUTS_A_RECORDING, cuts))]
            asyncio.run(_judge(recording, sorted(moments), folder, source, found))
    return found


async def record(folder: Path, source: random.Random, synchronous: str = "FULL") -> Recording:
    """Open a new store on a remembering disk, use it, close it."""
    with Disk() as disk, tuned(OFTEN, f"PRAGMA synchronous = {synchronous}") as tune:
        history = History()
        store = open_storage(f"sqlite:///{folder / FILE}", capacity=1_000_000, clock=ManualClock())
        await store.open()
        tune()
        await Users(store, history, disk, source).run(ROUNDS)
        await store.close()
        return Recording(disk.log, history)


async def _judge(
    recording: Recording, moments: Sequence[int], folder: Path, source: random.Random, found: Counter[str]
) -> None:
    platter, played = Platter(), 0
    for moment in moments:
        for event in recording.log[played:moment]:
            platter.take(event)
        played = moment
        images = platter.cut(source)
        place = folder / "after"
        put(images, place)
        verdict = await reopen(place / FILE)
        found["cuts"] += 1
        found["creating"] += b"CREATE TABLE" not in images.get(FILE, b"")
        near = recording.log[max(0, moment - 3) : moment + 3]
        found["checkpoint"] += any(event.file == FILE for event in near)
        found["corrupt"] += verdict.corrupt
        found["counts"] += not verdict.counts_are_true
        found["wrong"] += bool(recording.history.wrong(verdict.states, moment))
    found["acknowledged"] += recording.history.known()
