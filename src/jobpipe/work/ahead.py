"""Claiming a little before workers are free, so that a busy worker process and its server need not wait for each other.

Only while it cannot hurt: runs are so short that what waits here begins at once, and there is a backlog. Whatever has
not begun within a moment is given back as if it had never been claimed, for another process may have free workers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from jobpipe.core.task import Claim
from jobpipe.work.run import Run

SWIFT_S = 0.01
"""Within this time as many runs as there are workers must have ended; it proves them swift for as long again."""
PATIENCE_S = 0.015
"""How long a task may wait here. Less than it takes until its claim is stored (storage/sqlite/unwritten.py): what has
not begun is then not in the file as claimed, should the server be killed."""

ClaimNow = Callable[[int], Awaitable[Sequence[Claim]]]


class Ahead:
    """What one pool of `workers` workers claimed ahead. `claim_now` claims up to so many tasks that are due now."""

    def __init__(self, claim_now: ClaimNow | None, workers: int) -> None:
        self._claim_now = claim_now
        self._workers = workers
        self._waiting: dict[str, Run] = {}
        self._swift_until = 0.0
        self._ends = 0
        self._since = 0.0

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def room(self) -> int:
        """How many to claim now; nothing before half of what waits has begun, so that claims stay large."""
        if self._claim_now is None or len(self._waiting) > self._workers // 2:
            return 0
        if asyncio.get_running_loop().time() > self._swift_until:
            return 0
        return self._workers - len(self._waiting)

    def stop(self) -> None:
        """Claim no more until the workers have proved swift again."""
        self._swift_until = 0.0
        self._ends = 0
        self._since = asyncio.get_running_loop().time()

    def ended(self, runs: int) -> None:
        """So many runs ended that had begun."""
        self._ends += runs
        if self._ends >= self._workers:
            now = asyncio.get_running_loop().time()
            self._swift_until = now + SWIFT_S if now - self._since <= SWIFT_S else 0.0
            self._ends, self._since = 0, now

    async def claim(self, limit: int) -> Sequence[Claim]:
        """Claim; none ends the claiming ahead, for then nothing waits. Raises what the source raises."""
        claims = await self._claim_now(limit) if self._claim_now is not None else ()
        if not claims:
            self.stop()
        return claims

    def put(self, runs: Sequence[Run]) -> None:
        """Runs wait to begin, but not for long."""
        if runs:
            self._waiting.update((run.claim.lease_id, run) for run in runs)
            asyncio.get_running_loop().call_later(PATIENCE_S, self._give_back, runs)

    def take(self, most: int) -> list[Run]:
        """Up to `most` runs, in the order of their claims, to begin now."""
        return [self._waiting.pop(lease_id) for lease_id in list(self._waiting)[: max(0, most)]]

    def find(self, lease_id: str) -> Run | None:
        """The run that waits under this lease."""
        return self._waiting.get(lease_id)

    def drop(self, run: Run) -> None:
        """It came to its end without having begun; safe for one that never waited."""
        self._waiting.pop(run.claim.lease_id, None)

    def runs(self) -> list[Run]:
        """All that wait. May be called from any thread."""
        return list(self._waiting.values())

    def release(self) -> None:
        """Give all back."""
        self._give_back(self.runs())

    def _give_back(self, runs: Sequence[Run]) -> None:
        late = [run for run in runs if run.claim.lease_id in self._waiting]
        if late:
            self.stop()
        for run in late:
            run.release()
