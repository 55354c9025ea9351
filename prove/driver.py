"""Chooses the steps of a world at random, from a source that repeats them."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import Any

from msgspec import UNSET

from jobpipe.core.lifecycle import Kind
from jobpipe.core.revision import Revision
from jobpipe.core.task import NewTask, Status
from jobpipe.storage.base import TaskFilter
from prove.timely import EVERY, NAMES, TASKS, Wish
from prove.world import IDS, QUEUES, UNIQUE, Held, World

RESTARTS = 0.004
"""This share of the steps is a death of the server, where the store outlives it."""


class Driver:
    """Chooses steps from a source of chance; `step` does one."""

    def __init__(self, world: World, source: random.Random) -> None:
        self._world, self._source = world, source
        self._verbs: list[Callable[[], Awaitable[None]]] = [
            *[self._insert] * 5, *[self._claim] * 5, *[self._settle] * 6, *[self._advance] * 3,
            self._extend, self._extend, self._rescue, self._rescue, self._cancel, self._cancel, self._retry,
            self._delete, self._prune, self._list, self._jump, self._revise, self._expire, self._put_schedule,
            self._pause_schedule, self._delete_schedule, *[self._fire] * 3, world.look,
        ]  # fmt: skip

    async def step(self) -> None:
        """One verb, chosen at random; a restart now and then, or only the connections cut."""
        self._world.steps += 1
        if self._world.can_restart and self._source.random() < RESTARTS:
            await (self._source.choice([self._world.restart, self._world.cut]) if self._world.can_be_cut
                   else self._world.restart)()  # fmt: skip
        else:
            await self._source.choice(self._verbs)()

    async def _insert(self) -> None:
        await self._world.insert([self._new() for _ in range(self._source.choice([1, 1, 1, 2, 5]))])

    def _new(self) -> NewTask:
        pick = self._source.choice
        return NewTask(
            self._id(), pick(["h", "g"]), payload=pick([b"null", b'{"n": 1.10}', b'"\xc3\xa9"']), queue=pick(QUEUES),
            priority=pick([-1, 0, 0, 5]), max_retries=pick([0, 1, 3]), timeout=pick([None, 1.5]),
            run_at=pick([None, None, self._world.clock.now() + 3000, self._world.clock.now() - 500]),
            traceparent=pick([None, "00-x"]), uniqueness=pick(UNIQUE), digest=pick([None, None, None, "1", "2"]),
            expires_at=pick([None, None, None, self._world.clock.now() + 4000]),
        )  # fmt: skip

    def _id(self) -> str:
        return f"t{self._source.randrange(IDS)}"

    def _ids(self) -> list[str]:
        return [self._id() for _ in range(self._source.choice([1, 1, 3]))]

    async def _claim(self) -> None:
        queues = self._source.choice([None, None, frozenset(self._source.sample(QUEUES, 2))])
        lease_s, local = self._source.choice([(None, True), (5.0, False), (9.0, False), (5.0, True)])
        await self._world.claim(self._source.choice([1, 1, 2, 4]), queues, lease_s, local)

    async def _settle(self) -> None:
        kinds = [Kind.DONE, Kind.DONE, Kind.FAILED, Kind.TIMED_OUT, Kind.RELEASED, Kind.CANCELLED]
        pick = self._source.choice
        await self._world.settle([(held, pick(kinds), self._source.random() < 0.3) for held in self._held()])

    async def _extend(self) -> None:
        await self._world.extend([(held, self._source.choice([5.0, 8.0])) for held in self._held()])

    def _held(self) -> list[Held]:
        """Claims, mostly the newest ones."""
        known = self._world.claims[-6:] if self._source.random() < 0.8 else self._world.claims
        return [self._source.choice(known) for _ in range(self._source.choice([1, 1, 3]))] if known else []

    async def _rescue(self) -> None:
        await self._world.rescue(self._source.choice([1, 100]))

    async def _cancel(self) -> None:
        await self._world.cancel(self._ids())

    async def _retry(self) -> None:
        await self._world.retry(self._ids())

    async def _revise(self) -> None:
        pick, now = self._source.choice, self._world.clock.now()
        times = [UNSET, UNSET, None, now + 2000]
        said: dict[str, Any] = {
            "payload": pick([UNSET, b"[2]"]), "priority": pick([UNSET, 0, 7]), "run_at": pick(times),
            "timeout": pick([UNSET, None, 2.5]), "expires_at": pick([*times, now + 5000]),
        }  # fmt: skip
        await self._world.revise(self._id(), Revision(**said))

    async def _expire(self) -> None:
        await self._world.expire(self._source.choice([1, 100]))

    async def _put_schedule(self) -> None:
        pick = self._source.choice
        await self._world.schedule(
            Wish(
                pick(NAMES), pick(EVERY), self._source.randrange(len(TASKS)), pick([False, False, True]),
                pick([True, True, False]), pick([None, None, None, False, True]),
            )
        )  # fmt: skip

    async def _pause_schedule(self) -> None:
        await self._world.pause_schedule(self._source.choice(NAMES), paused=self._source.random() < 0.3)

    async def _delete_schedule(self) -> None:
        if self._source.random() < 0.3:
            await self._world.delete_schedule(self._source.choice(NAMES))

    async def _fire(self) -> None:
        await self._world.advance(self._source.choice([0.0, 30.0, 30.0, 70.0]))
        await self._world.fire(self._source.choice([1, 2, 100]))

    async def _delete(self) -> None:
        await self._world.delete(self._ids())

    async def _prune(self) -> None:
        pick = self._source.choice
        await self._world.prune(pick([None, 0, 4]), pick([None, 0, 4]), pick([1, 100]))

    async def _advance(self) -> None:
        await self._world.advance(self._source.choice([0.001, 0.4, 1.0, 3.0, 6.0]))

    async def _jump(self) -> None:
        await self._world.jump(self._source.choice([-86400, -3600, -1, 1, 3600, 86400]))

    async def _list(self) -> None:
        pick, now = self._source.choice, self._world.stored_now
        where = TaskFilter(
            status=pick([None, None, *Status]), queue=pick([None, None, *QUEUES]), handler=pick([None, None, "h"]),
            error_type=pick([None, None, None, "E0"]), id_prefix=pick([None, None, "t1"]),
            created_after=pick([None, None, now - 5000]), created_before=pick([None, None, now]),
            ids=pick([None, None, tuple(self._ids())]), schedule=pick([None, None, None, *NAMES]),
        )  # fmt: skip
        await self._world.list(where, pick([1, 3, 100]))
