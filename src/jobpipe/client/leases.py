"""The leases that a worker holds, and what it knows of each.

Whether a lease still holds is judged by this machine's monotonic clock, from the moment at which its last confirmed
extension was sent: the server cannot have counted from an earlier one.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from typing import Final

from jobpipe.wire.working import ExtendLease

CERTAIN: Final = 0.8
"""The share of a lease after which, without word from the server, its run is stopped: before the server ends it."""


class Held:
    """One lease. `confirmed` is a time on the monotonic clock, the rest are facts that become true and stay so.

    `offered`: its outcome was handed in. `gone`: the server said that it is over. `stopped`: its run was told to stop
    because the lease is gone or may be. `cancelling`: somebody wants its task cancelled; `told`: its run knows.
    """

    __slots__ = ("cancelling", "confirmed", "gone", "offered", "ref", "stopped", "told")

    def __init__(self, ref: ExtendLease, confirmed: float) -> None:
        self.ref = ref
        self.confirmed = confirmed
        self.offered = self.gone = self.stopped = self.cancelling = self.told = False

    def certain_until(self, lease_s: float) -> float:
        """When its run must be stopped unless it was extended again."""
        return self.confirmed + CERTAIN * lease_s


class Leases:
    """All leases that are held. The event loop adds and drops, the heartbeat reads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: dict[str, Held] = {}

    def add(self, held: Iterable[Held]) -> None:
        with self._lock:
            self._held.update((one.ref.lease_id, one) for one in held)

    def get(self, lease_id: str) -> Held | None:
        with self._lock:
            return self._held.get(lease_id)

    def offer(self, lease_ids: Sequence[str]) -> list[Held | None]:
        """The outcomes of these are handed in; what is known of each."""
        with self._lock:
            found = [self._held.get(lease_id) for lease_id in lease_ids]
        for held in found:
            if held is not None:
                held.offered = True
        return found

    def drop(self, lease_ids: Sequence[str]) -> None:
        with self._lock:
            for lease_id in lease_ids:
                self._held.pop(lease_id, None)

    def living(self) -> list[Held]:
        """Those that the server has not declared over."""
        with self._lock:
            return [one for one in self._held.values() if not one.gone]
