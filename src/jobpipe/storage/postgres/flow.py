"""Rules of queues and keys are not kept on PostgreSQL: whoever sets one is told so, and none is ignored silently."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jobpipe.core.errors import Invalid, JobpipeError
from jobpipe.core.gate import Held
from jobpipe.core.rules import NO_RULES, NOTHING_SAID
from jobpipe.core.task import Task
from jobpipe.storage.flow import Declaration, KeyUse, QueueRules

REFUSED = "rules of queues and keys need the store sqlite: or memory:, this server's is PostgreSQL"


class NoFlow:
    """See `storage.flow.FlowRules` for what an engine with rules promises."""

    async def get(self, ids: Sequence[str]) -> list[Task | None]:
        """As Reading.get promises: raises StorageError where the store cannot be asked."""
        raise NotImplementedError

    def limited(self) -> frozenset[str]:
        return frozenset()

    async def say(
        self, queue: str, key: str | None, change: Mapping[str, Any], now: int, by: str | None
    ) -> JobpipeError | None:
        await self.get([])
        return Invalid(REFUSED)

    async def unsay(self, queue: str, key: str | None) -> None:
        """There is nothing to take back."""
        await self.get([])

    async def resume(self, queue: str, key: str | None, now: int, by: str | None) -> None:
        """Nothing is paused or held."""
        await self.get([])

    async def declare(self, declaration: Declaration, now: int) -> bool:
        await self.get([])
        if any(said != NOTHING_SAID for said in declaration.queues.values()):
            raise Invalid(REFUSED, field="queues")
        return True

    async def rules(self, queue: str | None, now: int) -> list[QueueRules]:
        await self.get([])
        return []

    async def keys(self, queue: str, limit: int, after: str | None, now: int) -> list[KeyUse]:
        await self.get([])
        return []

    async def key(self, queue: str, key: str, now: int) -> KeyUse:
        await self.get([])
        return KeyUse(key, 0, 0, NO_RULES)

    async def held(self, tasks: Sequence[Task], now: int) -> list[Held | None]:
        await self.get([])
        return [None] * len(tasks)
