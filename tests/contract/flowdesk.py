"""Rules of queues and keys, in the few verbs that their tests are written in."""

from __future__ import annotations

from typing import Any

from desk import DONE, Desk, expect

from jobpipe.core.errors import JobpipeError
from jobpipe.core.rates import Rate, parse_rate
from jobpipe.core.task import Claim
from jobpipe.storage.base import Settled
from jobpipe.storage.flow import Declaration, KeyUse, QueueRules


class FlowDesk(Desk):
    """A desk with the verbs of rules."""

    async def rule(self, queue: str = "q", key: str | None = None, **change: Any) -> None:
        """What must be taken; rates may be written short."""
        said = {name: parse_rate(v) if isinstance(v, str) and "/" in v else v for name, v in change.items()}
        if (refused := await self.say(queue, key, said)) is not None:
            raise refused

    async def say(self, queue: str, key: str | None, change: dict[str, Any]) -> JobpipeError | None:
        return await self.store.say(queue, key, change, self.now, "ann")

    async def declare(self, app: str, release: int = 0, **queues: Any) -> bool:
        return await self.store.declare(Declaration(app, release, queues), self.now)

    async def rules_of(self, queue: str = "q") -> QueueRules:
        (found,) = await self.store.rules(queue, self.now)
        return found

    async def keys_of(self, queue: str = "q", limit: int = 100, after: str | None = None) -> list[KeyUse]:
        return await self.store.keys(queue, limit, after, self.now)

    async def held(self, id: str) -> str | None:
        (reason,) = await self.store.held([await self.get(id)], self.now)
        return reason

    async def end(self, *claims: Claim) -> None:
        for claim in claims:
            expect(Settled, await self.settle(claim, DONE))


def rate(limit: int, period: float, burst: int | None = None) -> Rate:
    return Rate(limit, period, burst)
