"""What a server is made of, without a listener of its own: storage, queue, upkeep, workers and the ASGI application.

`serving` adds sockets and signals to it, `embed` gives it to other people's programs. The calls come in the order
`prepare`, `open`, `start`, `drain`, `close`; the last may come after any of them, and twice.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from jobpipe.binding.declaring import declare_here, declare_toml
from jobpipe.core.errors import StorageBroken, StorageFull
from jobpipe.core.keys import BadKeys, parse_entries
from jobpipe.core.lifecycle import Policy
from jobpipe.core.retry import RetryPolicy
from jobpipe.core.rules import Said
from jobpipe.engine.audit import REFUSED_S, Auditor
from jobpipe.engine.expiry import expiry_alarm
from jobpipe.engine.feed import Feed
from jobpipe.engine.firing import firing_alarm
from jobpipe.engine.maintenance import Alarm, Pruner, Rescuer
from jobpipe.engine.queue import TaskQueue
from jobpipe.engine.sharing import Sharing
from jobpipe.http.app import create_app
from jobpipe.http.config import HttpConfig
from jobpipe.http.keys import Keyring
from jobpipe.runtime.clock import Clock, SystemClock
from jobpipe.server.workers import new_token, own_workers
from jobpipe.settings.server import BadSetting, Settings, masked
from jobpipe.storage import open_storage
from jobpipe.wire import Defaults
from jobpipe.work.app import App


class Parts:
    """`app` is an App to run in this process, or the name of one to run in worker processes.

    None serves the built-in `simulate` alone. `rules` of queues are those of the file of settings, None where nothing
    reads it. Raises BadSetting when the file of API keys cannot be used.
    """

    def __init__(
        self,
        settings: Settings,
        app: App | str | None,
        clock: Clock | None = None,
        rules: Mapping[str, Said] | None = None,
    ) -> None:
        self.settings = settings
        self._app = app
        self._rules = rules
        clock = clock or SystemClock()
        token = new_token()
        keys = _keyring(settings, clock, token)
        self._storage = open_storage(
            settings.store, capacity=settings.queue_size, max_queues=settings.max_queues, clock=clock
        )
        retry = RetryPolicy(settings.retry_base, settings.retry_jitter, settings.retry_cap)
        self.queue = TaskQueue(
            self._storage,
            policy=Policy(retry, settings.max_lost, settings.handler_wait),
            default_timeout=settings.timeout,
            clock=clock,
        )
        rescuer = Rescuer(self.queue, self._storage)
        pruner = Pruner(self._storage, settings.retention, settings.retention_failed)
        self._make_alarms(rescuer, pruner, clock)
        self.workers = own_workers(settings, app, self.queue, clock, token)
        rescuer.on_rescue = self.workers.rescued
        rescuer.vouch = self.workers.vouch
        self.queue.workers.own = self.workers.present
        self.queue.workers.owns = self.workers.owns
        self.queue.workers.trouble = self.workers.trouble
        self._feed = Feed(self.queue)
        self._sharing = Sharing(self.queue, self._storage, self._feed, clock)
        pruner.on_prune = self._feed.touch
        config = _http_config(settings, app is not None, clock, token, keys)
        self._clock, self._defaults = clock, Defaults(max_retries=settings.max_retries)
        self.asgi = create_app(self.queue, config, self._feed)

    def _make_alarms(self, rescuer: Rescuer, pruner: Pruner, clock: Clock) -> None:
        self._rescue = Alarm("rescuer", rescuer.run_once, clock)
        self._prune = Alarm("pruner", pruner.run_once, clock)
        self._audit = Alarm("auditor", Auditor(self._storage).run_once, clock)
        self._expire = expiry_alarm(self.queue, self._storage, clock)
        self._fire = firing_alarm(self.queue, self._storage, clock)
        self._keep = Alarm("history", self.queue.history.run_once, clock)

    async def prepare(self) -> None:
        """Have the app loaded where it is going to run. Raises AppNotFound, LifespanFailed or NotReady."""
        await self.workers.open()

    async def open(self) -> None:
        """Open the storage. Raises StorageRefused."""
        await self.queue.open()
        if self._rules is not None:
            await declare_toml(self.queue.flow, dict(self._rules))
        if isinstance(self._app, App):
            await declare_here(self.queue, self._app, self._defaults, self._clock.now())

    def start(self) -> None:
        """Start the upkeep and the workers."""
        self._rescue.start()
        self._prune.start()
        self._audit.start()
        self._expire.start()
        self._fire.start()
        self._keep.start()
        self._sharing.start()
        self.queue.history.on_begin = self._keep.ring_within
        self.queue.on_lease = self._rescue.ring_within
        self.queue.on_refusal = lambda: self._audit.ring_within(REFUSED_S)
        keep = min(self.settings.retention, self.settings.retention_failed)
        if keep != float("inf"):
            self.queue.listen_to_ends(lambda: self._prune.ring_within(keep + 1.0 if keep else 0.0))
        self.queue.listen_to_cancels(lambda _task_id, lease_id: self.workers.cancel(lease_id))
        self.workers.start()

    async def wait_broken(self) -> StorageBroken:
        """Sleep until the store must not be trusted any more, and say why; for ever while all is well."""
        return await self._storage.wait_broken()

    async def look_at_store(self) -> None:
        """Raise StorageBroken when the store is not there any more, or not to be trusted."""
        if not self._storage.shared:
            with contextlib.suppress(StorageFull):
                await self._storage.check()

    async def drain(self, seconds: float) -> None:
        """Take nothing new, finish what runs within `seconds`, release the rest, end the streams of live changes.

        The earliest deadline holds.
        """
        self.queue.drain()
        await self.workers.drain(seconds)
        await self._feed.end()

    async def close(self) -> None:
        """Close all that was opened, in reverse. Raises LifespanFailed, at the end, when the app's did not end."""
        try:
            await self.workers.close()
        finally:
            await self._feed.end()
            await self._sharing.stop()
            await self._rescue.stop()
            await self._prune.stop()
            await self._audit.stop()
            await self._expire.stop()
            await self._fire.stop()
            await self._keep.stop()
            await self.queue.close()


def _keyring(settings: Settings, clock: Clock, token: str) -> Keyring | None:
    """The API keys that the settings name; None when they name none."""
    if not (settings.api_keys or settings.api_keys_file):
        return None
    name = "api_keys_file" if settings.api_keys_file else "api_keys"
    rate = None if settings.key_rate == float("inf") else settings.key_rate
    path = Path(settings.api_keys_file) if settings.api_keys_file else None
    try:
        return Keyring(parse_entries(settings.api_keys), path, clock=clock, rate=rate, local=token)
    except BadKeys as error:
        raise BadSetting(f"must hold API keys ({error})", name, getattr(settings, name)) from error


def _http_config(
    settings: Settings, has_app: bool, clock: Clock, token: str, keys: Keyring | None
) -> HttpConfig:
    return HttpConfig(
        version=version("jobpipe"),
        store=masked(settings.store),
        max_body=settings.max_body,
        max_batch_body=settings.max_batch_body,
        enqueue_status=settings.enqueue_status,
        default_handler="simulate" if settings.pool and not has_app else "default",
        max_retries=settings.max_retries,
        allowed_hosts=settings.allowed_hosts,
        queue_size=settings.queue_size,
        lease=settings.lease,
        local_token=token,
        keys=keys,
        fast_lane=settings.fast_lane,
        clock=clock,
    )
