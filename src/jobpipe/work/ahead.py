"""Claiming a little before workers are free, so that a busy worker process and its server need not wait for each other.

Only while it cannot hurt: as many tasks wait here as lately ended within a moment, so that what waits begins within
one, and there is a backlog. What has not begun a little later is given back: another process may have free workers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from jobpipe.core.task import Claim
from jobpipe.core.timing import PREFETCHED_S
from jobpipe.work.run import Run

AHEAD_S = 0.005
"""For how long the tasks that wait here keep the workers busy, at the pace of the latest runs."""
FRESH_S = 0.02
"""How long a measured pace is believed, and the longest pause within a measurement, which takes AHEAD_S at least."""
PATIENCE_S = PREFETCHED_S
COOL_S = 2.0
"""For how long after something was given back nothing more is claimed ahead: short runs are mixed with long ones."""
MOST = 1000
"""Tasks that may wait here."""

ClaimNow = Callable[[int], Awaitable[Sequence[Claim]]]


class Ahead:
    """What one pool claimed ahead. `claim_now` claims up to so many tasks that are due now; None: never claim ahead."""

    def __init__(self, claim_now: ClaimNow | None) -> None:
        self._claim_now = claim_now
        self._waiting: dict[str, Run] = {}
        self._pace = 0.0
        self._known_until = self._cool_until = 0.0
        self._ends = 0
        self._since = 0.0

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def most(self) -> int:
        """How many tasks may wait here now."""
        now = asyncio.get_running_loop().time()
        if self._claim_now is None or now > self._known_until or now < self._cool_until:
            return 0
        return min(MOST, int(self._pace * AHEAD_S))

    @property
    def room(self) -> int:
        """How many to claim now; nothing before half of what may wait has begun, so that claims stay large."""
        most = self.most
        return 0 if len(self._waiting) > most // 2 else most - len(self._waiting)

    def stop(self) -> None:
        """Claim no more until the workers have shown their pace anew."""
        self._known_until = 0.0
        self._ends = 0
        self._since = asyncio.get_running_loop().time()

    def ended(self, runs: int) -> None:
        """So many runs ended that had begun."""
        now = asyncio.get_running_loop().time()
        if now - self._since > FRESH_S:  # after a pause: these ends are none of the pace to come
            self._ends, self._since = 0, now
            return
        self._ends += runs
        if now - self._since >= AHEAD_S:
            self._pace = self._ends / (now - self._since)
            self._known_until = now + FRESH_S
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
            self._cool_until = asyncio.get_running_loop().time() + COOL_S
        for run in late:
            run.release()
