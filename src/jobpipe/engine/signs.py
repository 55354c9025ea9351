"""Signs of life of workers that call: what each said of itself, when it was heard, what follows from silence."""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct
from msgspec.structs import replace

KEPT_S = 90.0
"""How long a silent worker is remembered: longer than the longest poll; or two of its leases, if that is more."""
MOST_REMEMBERED = 5_000
MOST_QUEUES = 20
"""Of the queues that a worker names, so many are remembered: what one call may name would else be kept for all."""


class State(StrEnum):
    """How it stands with a worker. `stopping` takes nothing new; `lost` gave no sign for a whole lease."""

    ACTIVE = "active"
    STOPPING = "stopping"
    LOST = "lost"


class Sign(Struct, frozen=True):
    """What a worker says about itself when it asks for up to `wants` tasks under leases of `lease_s`.

    `total` is how many it can run at a time and `release` its app's, None where it does not say.
    """

    worker_id: str
    wants: int
    lease_s: float
    queues: tuple[str, ...] | None = None
    host: str | None = None
    pid: int | None = None
    version: str | None = None
    total: int | None = None
    release: int | None = None


class Known:
    """A worker that calls: its latest words, the most it ever wanted, and its latest call by both clocks.

    `own`: one of this server's, of which only the signs are kept here.
    """

    __slots__ = ("asking", "at", "heard", "left", "most", "own", "sign")

    def __init__(self, sign: Sign, own: bool = False) -> None:
        self.sign = sign
        self.own = own
        self.most = 0
        self.at = 0
        self.heard = 0.0
        self.left = False
        self.asking = 0

    def asks(self, sign: Sign) -> None:
        """It waits for tasks from now on."""
        many = sign.queues is not None and len(sign.queues) > MOST_QUEUES
        self.sign = replace(sign, queues=(sign.queues or ())[:MOST_QUEUES]) if many else sign
        self.most = max(self.most, sign.wants)
        self.left = False
        self.asking += 1

    def slots(self, busy: int) -> int:
        """How many tasks it runs at a time: as it says, else as far as it showed."""
        return self.sign.total if self.sign.total is not None else max(self.most, busy)

    def state(self, now: float) -> State:
        """A worker whose poll is open is there as far as anybody can know."""
        if not self.asking and now - self.heard > self.sign.lease_s:
            return State.LOST
        return State.STOPPING if self.left else State.ACTIVE

    def forgotten(self, now: float) -> bool:
        """Whether it was silent for so long that it is gone."""
        return not self.asking and now - self.heard > max(KEPT_S, 2 * self.sign.lease_s)


class Signs:
    """Who called, the longest silent first."""

    def __init__(self) -> None:
        self.known: dict[str, Known] = {}

    def hear(self, known: Known, now: int, monotonic: float) -> None:
        """A call of this worker came; it is the latest to have called."""
        known.at, known.heard = now, monotonic
        self.known.pop(known.sign.worker_id, None)
        self.known[known.sign.worker_id] = known

    def of(self, sign: Sign, own: bool, monotonic: float) -> Known:
        """What is known of the worker; a new one gets its place from one that is gone or, at the bound, long silent."""
        known = self.known.get(sign.worker_id)
        if known is None or known.own is not own:
            self._make_room(monotonic)
            known = Known(sign, own)
        return known

    def _make_room(self, now: float) -> None:
        while self.known:
            worker_id, known = next(iter(self.known.items()))
            if len(self.known) < MOST_REMEMBERED and not known.forgotten(now):
                return
            del self.known[worker_id]
