"""Where a pool's tasks come from: what the pool needs of it, declared by the pool.

In one process the source is the TaskQueue, in a worker process it is the server over HTTP. A source delivers what it is
given, and sends it again as long as it takes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Protocol

from jobpipe.core.lifecycle import End
from jobpipe.core.task import Claim


class TaskSource(Protocol):
    """The three verbs of working, as a pool sees them."""

    async def claim(self, limit: int) -> Sequence[Claim]:
        """Wait until tasks are due and claim 1 to `limit` of them; none only when the source gives no more (draining).

        Cancelling this call loses no task: what was claimed for it is released.
        """
        ...

    def settle(self, ends: Sequence[End]) -> Awaitable[None]:
        """Deliver outcomes; the answer ends when each is stored, or its claim turned out to be lost.

        When it fails, all of them may be sent again. Settles handed in before a claim reach the store no later than
        it; where claims are answered before they are stored, a task may count as running a little longer than it does.
        """
        ...
