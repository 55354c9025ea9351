"""What workers tell the queue, and what it tells about itself."""

from __future__ import annotations

from msgspec import Struct

from jobpipe.core.lifecycle import Outcome


class Report(Struct, frozen=True, gc=False):
    """The outcome of a claim, as its holder tells it."""

    id: str
    lease_id: str
    outcome: Outcome


class Heartbeat(Struct, frozen=True, gc=False):
    """A claim's holder lives: prolong its lease to `lease_s` seconds. `timeout` is the handler's own, in seconds."""

    id: str
    lease_id: str
    lease_s: float
    timeout: float | None = None


class Rates(Struct, frozen=True):
    """What this server did in the last minute, per second."""

    enqueued: float
    finished: float
    failed: float
    refused: float = 0.0
