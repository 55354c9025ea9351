"""Power cuts: the real engine over a simulated disk that forgets what was not synced, opened again after each cut.

One recording of a workload gives many cuts: the disk's log is played to a random event, the power goes, and what is
left is opened by the real engine on the real file system. Commits, checkpoints, pruning, the creation of the store and
its closing are all within the recording.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import apsw
from msgspec import Struct

from jobpipe.clock import ManualClock
from jobpipe.core.errors import StorageError
from jobpipe.core.lifecycle import Kind, Outcome, Policy, decide
from jobpipe.core.task import NewTask, Status, Task
from jobpipe.storage import open_storage
from jobpipe.storage.base import ClaimRequest, Settlement, Storage, TaskFilter
from prove.disk import Disk, Event, Platter
from prove.history import GONE, RUNNING, History
from prove.proof import Figure, Trial, none

FILE = "jobpipe.db"
CUTS_A_RECORDING = 250
ROUNDS = 40
CHECKPOINT_PAGES = 60
"""Far fewer than the engine's own, so that a short recording has many checkpoints in it."""


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


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder in memory where there is one: the real disk's own syncs prove nothing here."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(
        prefix="jobpipe-prove-", dir=memory if memory.is_dir() else None
    ) as folder:
        yield Path(folder)


async def record(folder: Path, source: random.Random, synchronous: str = "FULL") -> Recording:
    """Open a new store on a remembering disk, use it, close it."""
    with (
        Disk() as disk,
        _settings(
            f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}", f"PRAGMA synchronous = {synchronous}"
        ) as opened,
    ):
        history = History()
        store = open_storage(f"sqlite:///{folder / FILE}", capacity=1_000_000, clock=ManualClock())
        await store.open()
        opened()
        await _Users(store, history, disk, source).run()
        await store.close()
        return Recording(disk.log, history)


@contextlib.contextmanager
def _settings(*pragmas: str) -> Iterator[Callable[[], None]]:
    """What is given sets `pragmas` on the connections that were made meanwhile, while their store is idle."""
    connections: list[apsw.Connection] = []
    apsw.connection_hooks.append(connections.append)

    def change() -> None:
        for connection in connections:
            for pragma in pragmas:
                connection.execute(pragma).fetchall()

    try:
        yield change
    finally:
        apsw.connection_hooks.remove(connections.append)


class _Users:
    """Everybody who uses the store: several calls at a time, never two about one task."""

    def __init__(self, store: Storage, history: History, disk: Disk, source: random.Random) -> None:
        self._store, self._history, self._disk, self._source = store, history, disk, source
        self._now = 1_700_000_000_000
        self._made = 0
        self._finished: list[str] = []

    async def run(self) -> None:
        for _ in range(ROUNDS):
            self._now += 1000
            await asyncio.gather(
                *(self._insert() for _ in range(self._source.randint(1, 4))), self._work(), self._prune()
            )

    async def _insert(self) -> None:
        count = self._source.choice([1, 1, 2, 5])
        tasks = [
            NewTask(f"t{self._made + n}", "h", payload=self._payload(), queue=f"q{n % 3}", priority=n % 2)
            for n in range(count)
        ]
        self._made += count
        steps = self._history.ask([task.id for task in tasks], Status.QUEUED, self._moment())
        await self._store.insert(tasks, self._now)
        self._history.know(steps, self._moment())

    async def _work(self) -> None:
        # Which tasks a claim takes is known only from its answer, so their step is asked for before, for all.
        before = self._moment()
        claims = (await self._store.claim(ClaimRequest(self._source.randint(1, 6), "w"), self._now)).claims
        steps = self._history.ask([claim.task.id for claim in claims], RUNNING, before)
        self._history.know(steps, self._moment())
        settlements, asked = [], []
        for claim in claims:
            outcome = Outcome(
                self._source.choice([Kind.DONE, Kind.DONE, Kind.FAILED]), result=self._payload()
            )
            to = decide(claim.task, outcome, self._now, Policy(), self._source.random)
            settlements.append(Settlement(claim.task.id, claim.lease_id, to))
            asked += self._history.ask([claim.task.id], to.status, self._moment())
            if to.status is Status.DONE:
                self._finished.append(claim.task.id)
        if self._source.random() < 0.9:
            await self._store.settle(settlements, self._now)
            self._history.know(asked, self._moment())
        else:
            self._finished = [id_ for id_ in self._finished if id_ not in {s.id for s in settlements}]

    async def _prune(self) -> None:
        if self._source.random() > 0.2:
            return
        doomed, self._finished = self._finished, []
        steps = self._history.ask(doomed, GONE, self._moment())
        await self._store.prune(self._now, None, len(doomed))
        self._history.know(steps, self._moment())

    def _payload(self) -> bytes:
        return b'"' + b"x" * self._source.choice([1, 50, 500, 5000]) + b'"'

    def _moment(self) -> int:
        return len(self._disk.log)


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


def put(images: Mapping[str, bytes], place: Path) -> None:
    """The files of a disk after a cut, in an empty folder."""
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    for name, data in images.items():
        (place / name).write_bytes(data)


class Reopened(Struct):
    """What a new server found: whether the file is sound, the state of each task, whether the kept counts are true."""

    corrupt: bool
    states: dict[str, str] = {}
    counts_are_true: bool = True


async def reopen(path: Path) -> Reopened:
    """Open a store as a server's start does, read all of it, close it, and check the file."""
    store = open_storage(f"sqlite:///{path}", capacity=1_000_000, clock=ManualClock())
    try:
        await store.open()
        tasks = await everything(store)
        counts = await store.counts()
        await store.close()
    except StorageError:
        return Reopened(corrupt=True)
    recounted = Counter(task.status for task in tasks)
    return Reopened(
        corrupt=_unsound(path),
        states={task.id: task.status.value for task in tasks},
        counts_are_true=all(counts[status] == recounted[status] for status in Status),
    )


async def everything(store: Storage) -> list[Task]:
    """All tasks of a store."""
    tasks: list[Task] = []
    before: int | None = None
    while True:
        page = await store.page(TaskFilter(), 1000, before, 1 << 40)
        tasks += page.tasks
        before = page.next_seq
        if before is None:
            return tasks


def _unsound(path: Path) -> bool:
    with contextlib.closing(apsw.Connection(str(path))) as connection:
        return bool(connection.execute("PRAGMA integrity_check").get != "ok")
