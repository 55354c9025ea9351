"""Where a worker process gets its tasks: a server, over the HTTP lease API that workers in any language use.

It outlives the server: an outage, a restart or a drain is waited out with backoff, outcomes are sent until they are
answered for. Three connections, so that none waits for another: long polls, settles, and the heartbeats' own thread.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Final

import msgspec
from msgspec import UNSET

from jobpipe.client.address import authorization, parse_addresses
from jobpipe.client.blocking import BlockingConnection
from jobpipe.client.claims import Leased, leased
from jobpipe.client.connection import Connection
from jobpipe.client.destination import destinations
from jobpipe.client.errors import bad_answer, error_of
from jobpipe.client.exchange import Answer
from jobpipe.client.heartbeat import Heartbeat
from jobpipe.client.leases import Held, Leases
from jobpipe.client.outage import Outage, pause
from jobpipe.client.settling import Settler
from jobpipe.core.errors import JobpipeError
from jobpipe.core.lifecycle import End, Kind, Outcome
from jobpipe.core.task import LEASE_S, MAX_DELAY_S, Claim
from jobpipe.runtime import randomness
from jobpipe.runtime.clock import Clock, SystemClock
from jobpipe.wire.working import MAX_LEASED, ExtendBody, ExtendLease, LeaseBody

logger = logging.getLogger(__name__)

WAIT_S: Final = 30.0
ANSWER_S: Final = 10.0
"""How much later than asked for the answer to a long poll may come."""

LATE_S: Final = 2.0
"""How long to listen for the answer of a long poll that was given up."""

CLOSE_S: Final = 5.0

CANCELS_APART_S: Final = 0.2
"""The pause between two heartbeats for the sake of cancels: many at once are told by one."""


class RemoteSource:
    """A TaskSource over HTTP, for one event loop. Claims are held under `worker_id` for `lease_s` seconds each and
    extended by a thread until they are settled.

    `url` as for a Client; of several, the next is gone on to when one fails or drains. `timeout_of` gives a handler's
    own timeout in seconds, None when it has none; the server extends no lease much longer than that. `version` is the
    program's, `total` how many tasks it can run at a time and `release` its app's: shown to operators, the latter two
    once a server said that it takes them. With `hears_cancels` a request waits at the server for cancels, which else
    come with the next heartbeat.

    `on_cancel(lease_id)` is called on the event loop when somebody wants the task cancelled, again and again until it
    does not return False; `on_lost(lease_id)` once when the lease is gone or may be. Both are there to be replaced.
    """

    def __init__(
        self,
        url: str,
        worker_id: str,
        *,
        queues: Sequence[str] = ("*",),
        lease_s: float = LEASE_S,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        wait_s: float = WAIT_S,
        timeout_of: Callable[[Claim], float | None] | None = None,
        version: str | None = None,
        hears_cancels: bool = False,
        total: int | None = None,
        release: int | None = None,
        clock: Clock | None = None,
        random: Callable[[], float] = randomness.random,
    ) -> None:
        self.on_cancel: Callable[[str], object] = _nobody
        self.on_lost: Callable[[str], object] = _nobody
        fixed = {"user-agent": "jobpipe-worker", **authorization(key), **(headers or {})}
        self._servers = destinations(parse_addresses(url), fixed)
        self._lease_s = lease_s
        self._wait_s = wait_s
        self._timeout_of = timeout_of or _no_timeout
        self._clock = clock or SystemClock()
        self._random = random
        self._wish = LeaseBody(
            worker_id, [*queues], 1, wait_s, lease_s, socket.gethostname(), os.getpid(), version
        )
        self._optional = {"total": total, "release": release}
        self._leases = Leases()
        self._outage = Outage(str(self._servers), self._clock)
        self._settler = Settler(self._connection(), self._outage, random)
        self._polls = self._connection()
        self._heartbeat = self._new_heartbeat(worker_id)
        self._cancels = self._connection() if hears_cancels else None
        self._nothing_under_way()

    def _nothing_under_way(self) -> None:
        self._polling: asyncio.Task[Answer] | None = None
        self._hearing: asyncio.Task[None] | None = None
        self._late: set[asyncio.Task[None]] = set()
        self._closed = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    # --- TaskSource ---

    async def claim(self, limit: int) -> Sequence[Claim]:
        """Wait for up to `limit` tasks, through any outage; none only when this source is closed.

        Cancelling this call loses no task: what the server gave for it is released. One call at a time.
        """
        self._start()
        failures = 0
        while not self._closed.is_set():
            # The settles go out before the claim. They reach the server together and share one commit there, the
            # settles first, so that a worker which is free here does not run as busy there.
            await self._settler.sent()
            began = self._clock.monotonic()
            try:
                claims = await self._poll(limit, self._wait_s)
            except JobpipeError as error:
                if not self._closed.is_set():
                    await self._pause(self._outage.failed("lease", error), error)
                continue
            self._outage.succeeded("lease")
            if claims:
                self._hold(claims, began)
                return claims
            # Nothing before the time was up: the server drains. The next one may take its address any moment.
            failures = failures + 1 if self._clock.monotonic() - began < self._wait_s / 2 else 0
            if failures:
                self._servers.failed(self._servers.current)
                await self._pause(failures)
        return []

    async def claim_now(self, limit: int) -> Sequence[Claim]:
        """Claim up to `limit` tasks that are due now; none also when the server is away, of which `claim` tells.

        Waits for no settles. Cancelled as `claim` is, and never called beside it.
        """
        self._start()
        began = self._clock.monotonic()
        try:
            claims = [] if self._closed.is_set() else await self._poll(limit, 0.0)
        except JobpipeError as error:
            logger.debug("claiming ahead failed: %s", error)
            return []
        if claims:
            self._hold(claims, began)
        return claims

    def settle(self, ends: Sequence[End]) -> asyncio.Future[None]:
        """Deliver the outcomes, through any outage; ends when the server answered for all of them."""
        lease_ids = [claim.lease_id for claim, _ in ends]
        offered = self._leases.offer(lease_ids)
        if any(held is not None and held.stopped for held in offered):
            ends = [_excused(end, held) for end, held in zip(ends, offered, strict=True)]
        settled = self._settler.settle(ends)
        # Not before the answer: the leases must hold for as long as the outcomes are being sent.
        settled.add_done_callback(partial(self._settled, lease_ids))
        return settled

    def _settled(self, lease_ids: Sequence[str], settled: asyncio.Future[None]) -> None:
        if not settled.cancelled() and settled.exception() is None:
            self._leases.drop(lease_ids)

    async def close(self) -> None:
        """Stop claiming, release what arrives late, send what was handed in, for a few seconds at most. Safe twice."""
        self._closed.set()
        self._give_up_poll()
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                await asyncio.gather(*self._late)
                await self._settler.flush()
        for late in self._late:
            late.cancel()
        self._settler.close()
        self._polls.close()
        if self._hearing is not None and self._cancels is not None:
            self._hearing.cancel()
            self._cancels.close()
        await asyncio.to_thread(self._heartbeat.stop)

    # --- claiming, inside ---

    def _start(self) -> None:
        if self._loop is None and not self._closed.is_set():
            self._loop = asyncio.get_running_loop()
            self._heartbeat.start()
            if self._cancels is not None:
                self._hearing = self._loop.create_task(self._hear_cancels(self._cancels))

    def _look_again(self) -> None:
        """A cancel may have come while nothing waited for it."""
        asyncio.get_running_loop().call_later(CANCELS_APART_S, self._heartbeat.beat_now)

    async def _hear_cancels(self, connection: Connection) -> None:
        """Have a heartbeat, which tells what is to be cancelled, as soon as there is something to tell."""
        body = msgspec.json.encode(ExtendBody(self._wish.worker_id, [], self._lease_s, self._wait_s))
        failures = 0
        while not self._closed.is_set():
            began = self._clock.monotonic()
            try:
                reply = await connection.post("/extend", body, self._wait_s + ANSWER_S, self._look_again)
            except JobpipeError:
                failures += 1
            else:
                if reply.status == 400:
                    return  # a server that does not know of waiting
                failures = 0 if reply.status == 200 else failures + 1
                if reply.status == 200 and self._clock.monotonic() - began < self._wait_s:
                    self._heartbeat.beat_now()
                    await asyncio.sleep(CANCELS_APART_S)
            if failures:
                await self._pause(failures)

    async def _poll(self, limit: int, wait_s: float) -> list[Claim]:
        self._wish.max, self._wish.wait = min(limit, MAX_LEASED), wait_s
        body = msgspec.json.encode(self._wish)
        posting = self._polls.post("/lease", body, wait_s + ANSWER_S)
        polling = self._polling = asyncio.get_running_loop().create_task(posting)
        try:
            answer = await asyncio.shield(polling)
        except asyncio.CancelledError:
            self._give_up_poll()
            raise
        if self._closed.is_set():  # then what came is being released
            return []
        self._polling = None
        self._offer(())  # what refuses a poll may be another server than before
        answered = _read(answer)
        self._offer(answered.features)
        return answered.claims

    def _offer(self, features: Sequence[str]) -> None:
        """Say with the next polls what this server takes, and nothing that it may refuse."""
        for name, value in self._optional.items():
            setattr(self._wish, name, value if name in features and value is not None else UNSET)

    def _hold(self, claims: Sequence[Claim], began: float) -> None:
        now = self._clock.monotonic()
        self._leases.add([Held(self._ref(claim), now) for claim in claims])
        if now - began > self._lease_s / 3:
            # The answer may have lain in the socket while the loop was blocked: nobody knows how old these leases are.
            self._heartbeat.beat_now()

    def _ref(self, claim: Claim) -> ExtendLease:
        timeout = self._timeout_of(claim)
        # What the server would refuse is left out: one such number would cost all leases in the request.
        said = min(timeout, MAX_DELAY_S) if timeout is not None and timeout > 0 else None
        return ExtendLease(claim.task.id, claim.lease_id, said)

    async def _pause(self, failures: int, error: JobpipeError | None = None) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._closed.wait(), pause(failures, self._random, error))

    def _give_up_poll(self) -> None:
        """Leave a long poll to itself; the next one has another connection."""
        polling, self._polling = self._polling, None
        if polling is None:
            return
        connection, self._polls = self._polls, self._connection()
        late = asyncio.get_running_loop().create_task(self._release_late(connection, polling))
        self._late.add(late)
        late.add_done_callback(self._late.discard)

    async def _release_late(self, connection: Connection, polling: asyncio.Task[Answer]) -> None:
        """Release what the server gave before it heard that nobody waits any more.

        A connection cut at once could have the answer on its way; one that is only hung up still delivers it.
        """
        if not polling.done() and not connection.hang_up():
            polling.cancel()
        try:
            await asyncio.wait((polling,), timeout=LATE_S)
        finally:
            connection.close()
        with suppress(JobpipeError, asyncio.CancelledError):
            claims = _read(await polling).claims
            released = Outcome(Kind.RELEASED)
            await self._settler.settle([(claim, released) for claim in claims])

    def _connection(self) -> Connection:
        return Connection(self._servers)

    def _new_heartbeat(self, worker_id: str) -> Heartbeat:
        return Heartbeat(
            BlockingConnection(self._servers),
            worker_id,
            self._lease_s,
            self._leases,
            tell_cancel=lambda held: self._tell(self._cancel, held),
            tell_stop=lambda held: self._tell(self._lose, held),
            outage=self._outage,
            clock=self._clock,
            random=self._random,
        )

    # --- heartbeats, told on the event loop ---

    def _tell(self, callback: Callable[[Held], None], held: Held) -> None:
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop is closed: nothing runs any more
                self._loop.call_soon_threadsafe(callback, held)

    def _cancel(self, held: Held) -> None:
        if not held.told and self.on_cancel(held.ref.lease_id) is not False:
            held.told = True

    def _lose(self, held: Held) -> None:
        self.on_lost(held.ref.lease_id)


def _excused(end: End, held: Held | None) -> End:
    """A run that was stopped for its lease, and whose task nobody cancelled, goes back if the lease holds after all."""
    claim, outcome = end
    if held is None or not held.stopped or held.cancelling or outcome.kind is not Kind.CANCELLED:
        return end
    return claim, Outcome(Kind.RELEASED)


def _read(answer: Answer) -> Leased:
    if answer.status != 200:
        raise error_of(answer.status, answer.body, answer.retry_after)
    try:
        return leased(answer.body)
    except (ValueError, RecursionError):
        raise bad_answer(answer.status, answer.body) from None


def _no_timeout(_: Claim) -> None:
    """The timeout of handlers that have none of their own."""


def _nobody(_: str) -> bool:
    """Stands for a pool that is not there yet."""
    return False
