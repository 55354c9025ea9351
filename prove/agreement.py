"""Engines agree: millions of random steps over every engine beside the model, and crashes in between."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from jobpipe.clock import ManualClock
from jobpipe.storage import open_storage
from jobpipe.storage.base import Storage
from prove.proof import Figure, Trial, none
from prove.stores import scratch
from prove.world import CAPACITY, MAX_QUEUES, Difference, Driver, World

STEPS_A_WORLD = 2_000


def agreement(trial: Trial) -> Sequence[Figure]:
    """Every engine, each from many fresh stores; a difference is told with the seed that repeats it."""
    steps = trial.sized(20_000, 200_000, 1_000_000)
    counts: dict[str, int] = {}
    differences: list[str] = []
    restarts = 0
    began = time.monotonic()
    share = {"memory": steps // 2, "sqlite": steps - steps // 2}
    for engine, wanted in share.items():
        counts[engine] = 0
        number = 0
        while counts[engine] < wanted:
            with scratch() as folder:
                done, difference, again = asyncio.run(_one(trial, engine, number, folder))
            counts[engine] += done
            restarts += again
            differences += [f"{engine}/{number}: {difference}"] if difference else []
            number += 1
    for difference in differences[:3]:
        print(difference)  # which step differed is what a person needs
    return [
        Figure("steps", sum(counts.values()), at_least=steps),
        *(Figure(f"  on {engine}", done) for engine, done in counts.items()),
        Figure("crashes and restarts among them", restarts),
        none("differences", len(differences)),
        Figure("steps a second", sum(counts.values()) / (time.monotonic() - began)),
    ]


async def _one(trial: Trial, engine: str, number: int, folder: Path) -> tuple[int, str | None, int]:
    """Steps done, the difference that ended them, and restarts."""
    clock = ManualClock()
    crashes = Crashes(folder, clock)
    store = open_store("memory:" if engine == "memory" else crashes.url, clock)
    await store.open()
    world = World(store, clock, None if engine == "memory" else crashes.reopen)
    driver = Driver(world, trial.source(f"{engine}/{number}"))
    difference = None
    try:
        for _ in range(STEPS_A_WORLD):
            await driver.step()
        await world.look()
    except Difference as error:
        difference = str(error)
    finally:
        await world.store.close()
    return world.steps, difference, crashes.count


def open_store(url: str, clock: ManualClock) -> Storage:
    """A store with the bounds of the world."""
    return open_storage(url, capacity=CAPACITY, max_queues=MAX_QUEUES, clock=clock)


class Crashes:
    """SQLite files that are left as a killed server leaves them: copied while their server still has them open."""

    def __init__(self, folder: Path, clock: ManualClock) -> None:
        self._folder, self._clock = folder, clock
        self.count = 0
        (folder / "0").mkdir()

    @property
    def url(self) -> str:
        """Where the store is now."""
        return f"sqlite:///{self._folder / str(self.count) / 'jobpipe.db'}"

    async def reopen(self, store: Storage) -> Storage:
        """The server on a copy of what it had on the disk."""
        before = self._folder / str(self.count)
        self.count += 1
        after = self._folder / str(self.count)
        after.mkdir()
        for name in ("jobpipe.db", "jobpipe.db-wal"):
            if (before / name).exists():
                shutil.copyfile(before / name, after / name)
        await store.close()
        shutil.rmtree(before)
        fresh = open_store(self.url, self._clock)
        await fresh.open()
        return fresh
