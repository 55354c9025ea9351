"""Seeing that the kept counts are true: whoever deletes rows by hand leaves them behind, and a queue full for ever."""

from __future__ import annotations

import logging

from jobpipe.storage.contract import Upkeep

log = logging.getLogger("jobpipe.maintenance")

REFUSED_S = 5.0
"""After a task was not accepted the counts are looked at within so long."""
SHARED_S = 60.0
"""So often where other servers, and other people, write to the same tables."""
_TOLD = 5


class Auditor:
    """Looks when the server starts and after a refusal, and now and then at a store that others use too."""

    def __init__(self, storage: Upkeep) -> None:
        self._storage = storage

    async def run_once(self, now: int) -> float | None:
        """Look once; answer the seconds until the next time, None for not before a refusal."""
        wrong = await self._storage.audit()
        for one in wrong[:_TOLD]:
            log.warning("counts that cannot be: %s; put right. Who else writes to the store?", one)
        if len(wrong) > _TOLD:
            log.warning("%d more counts that cannot be were put right", len(wrong) - _TOLD)
        return SHARED_S if self._storage.shared else None
