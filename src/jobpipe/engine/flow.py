"""What people and apps say of queues and keys, and what is held. Whoever may start by it is woken here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Raw, json

from jobpipe.core.errors import NotFound
from jobpipe.core.gate import Held
from jobpipe.core.lifecycle import Transition
from jobpipe.core.task import Status, Task
from jobpipe.engine.waiters import ClaimWaiters
from jobpipe.runtime.clock import Clock
from jobpipe.storage.contract import Storage
from jobpipe.storage.flow import Declaration, KeyUse, QueueRules

ALL = 1 << 30
"""More workers than wait anywhere."""


class Flow:
    """The rules of queues and keys; `key` None means the queue itself, `by` is the name of the API key that asks."""

    def __init__(self, storage: Storage, waiters: ClaimWaiters, clock: Clock) -> None:
        self._storage = storage
        self._waiters = waiters
        self._clock = clock

    async def say(self, queue: str, key: str | None, change: Mapping[str, Any], by: str | None) -> None:
        """People change rules: None takes one back. Raises TooManyQueues and Invalid."""
        refused = await self._storage.say(queue, key, change, self._clock.now(), by)
        if refused is not None:
            raise refused
        self._waiters.ready(queue, ALL)

    async def unsay(self, queue: str, key: str | None) -> None:
        """All that people said is taken back; of a queue, that of its keys too."""
        await self._storage.unsay(queue, key)
        self._waiters.ready(queue, ALL)

    async def resume(self, queue: str, by: str | None) -> None:
        """No pause and no hold any more."""
        await self._storage.resume(queue, None, self._clock.now(), by)
        self._waiters.ready(queue, ALL)

    async def declare(self, declaration: Declaration) -> bool:
        """Take the place of what this app declared before, unless that release was higher; whether it did."""
        taken = await self._storage.declare(declaration, self._clock.now())
        self._waiters.wake_all()
        return taken

    async def handlers(self) -> dict[str, tuple[str, bytes]]:
        """The handlers that apps told of: by name the app, and the JSON Schema of the payload as it said it."""
        told = [(app, json.decode(said, type=dict[str, Raw])) for app, said in await self._storage.apps()]
        return {name: (app, bytes(schema)) for app, said in told for name, schema in said.items()}

    async def rules(self) -> dict[str, QueueRules]:
        """What is said of each queue of which anything is."""
        return {rules.queue: rules for rules in await self._storage.rules(None, self._clock.now())}

    async def paused(self) -> int:
        """How many queues are paused; asks the store only where queues have rules at all."""
        if not self._storage.limited():
            return 0
        return sum(rules.rules.paused for rules in (await self.rules()).values())

    async def rules_of(self, queue: str) -> QueueRules | None:
        """The same of one queue."""
        found = await self._storage.rules(queue, self._clock.now())
        return found[0] if found else None

    async def keys(self, queue: str, limit: int, after: str | None) -> list[KeyUse]:
        """Keys that have unfinished tasks or rules, by name. Raises NotFound for a queue without tasks and rules."""
        found = await self._storage.keys(queue, limit, after, self._clock.now())
        if not found and not after and not await self._is_there(queue):
            raise NotFound(f"no queue '{queue}' has tasks or rules")
        return found

    async def key(self, queue: str, key: str) -> KeyUse:
        """One of them, as it is now."""
        return await self._storage.key(queue, key, self._clock.now())

    async def _is_there(self, queue: str) -> bool:
        counted = await self._storage.queues(self._clock.now())
        return any(counts.queue == queue for counts in counted) or await self.rules_of(queue) is not None

    async def held(self, tasks: Sequence[Task]) -> list[Held | None]:
        """Why each due task may not be claimed; asks the store for those of queues with rules alone."""
        limited = self._storage.limited()
        asked = [task for task in tasks if task.status is Status.QUEUED and task.queue in limited]
        if not asked:
            return [None] * len(tasks)
        reasons = dict(
            zip((task.id for task in asked), await self._storage.held(asked, self._clock.now()), strict=True)
        )
        return [reasons.get(task.id) for task in tasks]

    def ended(self, ends: Sequence[tuple[Task, Transition]]) -> None:
        """Runs came to their ends: where a queue has rules, another may start by it."""
        limited = self._storage.limited()
        if limited:
            for task, _ in ends:
                if task.queue in limited:
                    self._waiters.ready(task.queue, 1)
            self._waiters.freed()
