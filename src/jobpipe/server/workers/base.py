"""What a server needs of its own workers, and the server that has none."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Protocol

from jobpipe.engine.values import Heartbeat
from jobpipe.engine.workers import Worker
from jobpipe.storage.base import LostClaim


class OwnWorkers(Protocol):
    """What a server needs of its workers. `sockets` are to be served beside its own, from `open` on."""

    sockets: list[socket.socket]

    async def open(self) -> None:
        """Make sure that the app can run. Raises AppNotFound, LifespanFailed or NotReady with one line for people."""
        ...

    def start(self) -> None:
        """Begin to claim, on the running event loop."""
        ...

    def cancel(self, lease_id: str) -> None:
        """Ask the handler that runs under this lease to stop, if it is one of these workers'."""
        ...

    def rescued(self, claim: LostClaim) -> None:
        """A claim was found lost and settled without its worker."""
        ...

    def vouch(self, claim: LostClaim) -> Heartbeat | None:
        """A heartbeat for a claim whose holder sent none, if the system says that it lives; None else."""
        ...

    async def drain(self, seconds: float) -> None:
        """Claim nothing more, finish what runs within `seconds`, release the rest. Safe twice, or never started."""
        ...

    async def close(self) -> None:
        """Drain at once and leave nothing behind. Safe twice, or never opened."""
        ...

    def owns(self, worker: str) -> bool:
        """Whether this is the id of one of these workers: nobody else may go by it."""
        ...

    def present(self) -> Sequence[Worker]:
        """The processes, or the pool, that stand ready now; what they run is not for them to say."""
        ...

    def trouble(self) -> str | None:
        """Why none of them can work, in one line; None while one can, or soon will."""
        ...


class NoWorkers:
    """A server that only serves tasks to workers elsewhere."""

    def __init__(self) -> None:
        self.sockets: list[socket.socket] = []

    async def open(self) -> None: ...

    def start(self) -> None: ...

    def cancel(self, lease_id: str) -> None: ...

    def rescued(self, claim: LostClaim) -> None: ...

    def vouch(self, claim: LostClaim) -> Heartbeat | None:
        return None

    async def drain(self, seconds: float) -> None: ...

    async def close(self) -> None: ...

    def owns(self, worker: str) -> bool:
        return False

    def present(self) -> Sequence[Worker]:
        return ()

    def trouble(self) -> str | None:
        return None
