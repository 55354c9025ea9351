"""Everybody who uses a store, for proofs at the level of the engine: what they asked and were told is their history."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Iterable, Sequence

from jobpipe.core.errors import StorageError
from jobpipe.core.lifecycle import Kind, Outcome, Policy, decide
from jobpipe.core.task import Claim, NewTask, Status
from jobpipe.storage.base import ClaimRequest, Settlement
from jobpipe.storage.contract import Storage
from prove.disk import Disk
from prove.history import GONE, RUNNING, History, Step


class Users:
    """Several calls at a time, never two about one task. Calls that fail leave their steps unanswered."""

    def __init__(self, store: Storage, history: History, disk: Disk, source: random.Random) -> None:
        self._store, self._history, self._disk, self._source = store, history, disk, source
        self._now = 1_700_000_000_000
        self._made = 0
        self._finished: list[str] = []
        self.errors: list[StorageError] = []
        """What the store refused, in order."""

    async def run(self, rounds: int) -> None:
        """So many rounds of everybody at once."""
        for _ in range(rounds):
            self._now += 1000
            inserts = (self._insert() for _ in range(self._source.randint(1, 4)))
            await asyncio.gather(*inserts, self._work(), self._prune())

    async def _insert(self) -> None:
        count = self._source.choice([1, 1, 2, 5])
        tasks = [
            NewTask(f"t{self._made + n}", "h", payload=self._payload(), queue=f"q{n % 3}", priority=n % 2)
            for n in range(count)
        ]
        self._made += count
        steps = self._history.ask([task.id for task in tasks], Status.QUEUED, self._moment())
        await self._told(self._store.insert(tasks, self._now), steps)

    async def _work(self) -> None:
        settlements: list[Settlement] = []
        steps: list[Step] = []
        done: list[str] = []
        for claim in await self._claim():
            outcome = Outcome(
                self._source.choice([Kind.DONE, Kind.DONE, Kind.FAILED]), result=self._payload()
            )
            to = decide(claim.task, outcome, self._now, Policy(), self._source.random)
            settlements.append(Settlement(claim.task.id, claim.lease_id, to))
            steps += self._history.ask([claim.task.id], to.status, self._moment())
            done += [claim.task.id] if to.status is Status.DONE else []
        if self._source.random() < 0.9 and await self._told(
            self._store.settle(settlements, self._now), steps
        ):
            self._finished += done

    async def _claim(self) -> Sequence[Claim]:
        # Which tasks a claim takes is known only from its answer, but it was asked for before.
        before, local = self._moment(), self._source.random() < 0.7
        request = ClaimRequest(self._source.randint(1, 6), "w", lease_s=None if local else 60.0, local=local)
        try:
            answer = await self._store.claim(request, self._now)
            if local and self._source.random() < 0.5:
                local = False
                await self._store.get([claim.task.id for claim in answer.claims])
        except StorageError as error:
            self.errors.append(error)
            self._history.ask(self._history.latest(Status.QUEUED), RUNNING, before)
            return []
        steps = self._history.ask([claim.task.id for claim in answer.claims], RUNNING, before)
        # A claim of the server's own is in the file a little later, but before anybody reads it.
        if not local:
            self._history.know(steps, self._moment())
        return answer.claims

    async def _prune(self) -> None:
        if self._source.random() < 0.2:
            doomed, self._finished = self._finished, []
            steps = self._history.ask(doomed, GONE, self._moment())
            if not await self._told(self._store.prune(self._now, None, len(doomed)), steps):
                self._finished = doomed + self._finished  # they are still the oldest ones

    async def _told(self, call: Awaitable[object], steps: Iterable[Step]) -> bool:
        """Whether the call was answered; then its steps are known."""
        try:
            await call
        except StorageError as error:
            self.errors.append(error)
            return False
        self._history.know(steps, self._moment())
        return True

    def _payload(self) -> bytes:
        return b'"' + b"x" * self._source.choice([1, 50, 500, 5000]) + b'"'

    def _moment(self) -> int:
        return len(self._disk.log)
