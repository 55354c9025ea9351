"""What the HTTP edge is told at its start, and what its routes share."""

from __future__ import annotations

from msgspec import Struct

from jobpipe.core.keys import Key, Scope
from jobpipe.engine.feed import Feed
from jobpipe.engine.queue import TaskQueue
from jobpipe.http.keys import Keyring
from jobpipe.http.meter import Meter
from jobpipe.runtime.clock import Clock, SystemClock
from jobpipe.wire import Defaults


class HttpConfig(Struct, frozen=True):
    """The settings of the edge. Sizes are bytes; `store` is shown to people, its password already masked.

    `lease` (seconds) is for workers that do not say. By `local_token` the server knows its own worker processes.
    Without `keys` whoever reaches the server may use it.
    """

    version: str = "0"
    store: str = "memory:"
    max_body: int = 1024 * 1024
    max_batch_body: int = 16 * 1024 * 1024
    enqueue_status: int = 202
    default_handler: str = "default"
    max_retries: int = 3
    allowed_hosts: frozenset[str] = frozenset()
    queue_size: int = 64
    lease: float = 30.0
    local_token: str | None = None
    keys: Keyring | None = None
    fast_lane: bool = True
    clock: Clock = SystemClock()


class Api:
    """What every route needs: the queue and its live changes, the settings, and when the edge was made."""

    def __init__(self, queue: TaskQueue, config: HttpConfig, feed: Feed) -> None:
        self.queue = queue
        self.feed = feed
        self.config = config
        self.meter = Meter()
        self.now = config.clock.now
        self.started = config.clock.monotonic()
        self.defaults = Defaults(
            handler=config.default_handler, max_retries=config.max_retries, max_body=config.max_body
        )

    def key_name(self, head: dict[bytes, bytes]) -> str:
        """The name of the key that a request was sent with; "" where none is needed."""
        owner = self._owner(head)
        return "" if owner is None else owner.name

    def may_read(self, head: dict[bytes, bytes]) -> bool:
        """Whether the request's key opens what tasks say."""
        owner = self._owner(head)
        return self.config.keys is None or (owner is not None and owner.reaches(Scope.READ))

    def _owner(self, head: dict[bytes, bytes]) -> Key | None:
        return None if self.config.keys is None else self.config.keys.owner(head.get(b"authorization"))
