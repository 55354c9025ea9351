"""Delivers outcomes: one request at a time, and all that is handed in meanwhile goes with the next.

An outcome is sent until the server has answered for it; the same settle sent twice gets the same answer. They are
answered in the order in which they were handed in.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import msgspec
from msgspec import Struct

from jobpipe.client.claims import settle_body
from jobpipe.client.connection import Connection
from jobpipe.client.errors import ConnectionFailed, bad_answer, error_of
from jobpipe.client.outage import Outage, pause
from jobpipe.core.errors import JobpipeError
from jobpipe.core.lifecycle import End, Kind, Outcome
from jobpipe.core.task import Claim

logger = logging.getLogger(__name__)

MOST_ITEMS: Final = 1000
MOST_BYTES: Final = 8 * 1024 * 1024
"""Half of the server's default bound; one that is set lower answers `too_large`, and the request is halved."""

ANSWER_S: Final = 20.0

_REFUSED: Final = frozenset({400, 413})
"""Statuses that mean the request itself: sending the same again would be refused for ever."""

_TOO_LARGE: Final = Outcome(
    Kind.FAILED,
    error_type="result_too_large",
    message="the result is larger than the server takes",
    retryable=False,
)


class _Answer(Struct):
    accepted: bool
    code: str | None = None


_answers: Final = msgspec.json.Decoder(list[_Answer])


class _Handed:
    """Outcomes that were handed in together: `done` is resolved when the server answered for all, `left` are open."""

    __slots__ = ("done", "left")

    def __init__(self, done: asyncio.Future[None], left: int) -> None:
        self.done = done
        self.left = left

    def answered(self) -> None:
        self.left -= 1
        if self.left == 0 and not self.done.done():
            self.done.set_result(None)

    def fail(self, error: Exception) -> None:
        if not self.done.done():
            self.done.set_exception(error)


class _Item:
    """An outcome on its way."""

    __slots__ = ("body", "claim", "handed", "outcome")

    def __init__(self, claim: Claim, outcome: Outcome, handed: _Handed) -> None:
        self.claim = claim
        self.handed = handed
        self.put(outcome)

    def put(self, outcome: Outcome) -> None:
        self.outcome = outcome
        self.body = settle_body(self.claim, outcome)


class Settler:
    """Sends outcomes over `connection`. `sleep` is asyncio's, replaced in tests."""

    def __init__(
        self,
        connection: Connection,
        outage: Outage,
        random: Callable[[], float],
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._connection = connection
        self._outage = outage
        self._random = random
        self._sleep = sleep
        self._waiting: deque[_Item] = deque()
        self._batch: Sequence[_Item] = ()
        self._sender: asyncio.Task[None] | None = None
        self._handed_in = 0
        self._answered = 0
        self._sent = 0
        """How many were written to the server, those answered for included; 0 while the server is away."""
        self._progress = asyncio.Event()
        self._closed = False

    def settle(self, ends: Sequence[End]) -> asyncio.Future[None]:
        """Ends when the server answered for all of them. Cancelling that takes no outcome back."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        if self._closed:
            done.set_exception(ConnectionFailed("closed"))
            return done
        if not ends:
            done.set_result(None)
            return done
        handed = _Handed(done, len(ends))
        self._waiting += [_Item(claim, outcome, handed) for claim, outcome in ends]
        self._handed_in += len(ends)
        if self._sender is None:
            # The sender's first step comes after all that is ready to run now: what ends together goes together.
            self._sender = loop.create_task(self._send(), name="jobpipe-settle")
        return done

    async def sent(self) -> None:
        """Return when all that was handed in before is on its way: written to the server, or answered for."""
        handed_in = self._handed_in
        while max(self._sent, self._answered) < handed_in and not self._closed:
            self._progress.clear()
            await self._progress.wait()

    async def flush(self) -> None:
        """Return when all that was handed in before has been answered for."""
        handed_in = self._handed_in
        while self._answered < handed_in and not self._closed:
            self._progress.clear()
            await self._progress.wait()

    def close(self) -> None:
        """Send nothing more; what was not answered for raises ConnectionFailed where it was handed in."""
        self._closed = True
        if self._sender is not None:
            self._sender.cancel()
        self._fail((*self._batch, *self._waiting), ConnectionFailed("closed", maybe_sent=True))
        self._waiting.clear()
        self._progress.set()
        self._connection.close()

    # --- sending ---

    async def _send(self) -> None:
        while self._waiting:
            batch = self._batch = self._next()
            try:
                await self._deliver(batch)
            except Exception as error:  # whatever breaks here must reach those who wait
                logger.exception("outcomes could not be delivered")
                self._fail(batch, error)
            self._answered += len(batch)
            self._batch = ()
            self._progress.set()
        self._sender = None

    def _next(self) -> list[_Item]:
        batch: list[_Item] = []
        size = 2
        while self._waiting and len(batch) < MOST_ITEMS:
            size += len(self._waiting[0].body) + 1
            if size > MOST_BYTES and batch:
                break
            batch.append(self._waiting.popleft())
        return batch

    async def _deliver(self, items: Sequence[_Item]) -> None:
        """Send until the server answered for each. A request that is refused as such is divided to find the cause."""
        body = b"[%b]" % b",".join([item.body for item in items])
        while True:
            try:
                answers = await self._post(body, len(items))
                break
            except _Refused as refused:
                return await self._divide(items, refused.error)
            except JobpipeError as error:
                self._sent = 0
                await self._sleep(pause(self._outage.failed("settle", error), self._random, error))
        self._outage.succeeded("settle")
        again = [
            item for item, answer in zip(items, answers, strict=True) if self._is_open(item, answer.code)
        ]
        if again:
            await self._deliver(again)
        return None

    async def _post(self, body: bytes, count: int) -> list[_Answer]:
        answer = await self._connection.post("/settle", body, ANSWER_S, self._written)
        if answer.status != 200:
            error = error_of(answer.status, answer.body, answer.retry_after)
            raise _Refused(error) if answer.status in _REFUSED else error
        try:
            answers = _answers.decode(answer.body)
        except ValueError:
            raise bad_answer(answer.status, answer.body) from None
        if len(answers) != count:
            raise bad_answer(answer.status, answer.body)
        return answers

    def _written(self) -> None:
        self._sent = self._answered + len(self._batch)
        self._progress.set()

    async def _divide(self, items: Sequence[_Item], error: JobpipeError) -> None:
        self._outage.succeeded("settle")
        if len(items) > 1:
            middle = len(items) // 2
            await self._deliver(items[:middle])
            await self._deliver(items[middle:])
        elif self._is_open(items[0], error.code):
            await self._deliver(items)

    def _is_open(self, item: _Item, code: str | None) -> bool:
        """Take the answer for an item; True when it must be sent again, as something else."""
        if code == "too_large" and item.outcome.kind is Kind.DONE:
            item.put(_TOO_LARGE)
            return True
        task_id, kind = item.claim.task.id, item.outcome.kind
        if code in ("lease_lost", "not_found"):
            # Also the answer to a settle sent again after the task was claimed anew.
            logger.info("outcome %s of task %s came too late: %s", kind, task_id, code)
        elif code is not None:
            logger.error("outcome %s of task %s was refused: %s", kind, task_id, code)
        item.handed.answered()
        return False

    def _fail(self, items: Sequence[_Item], error: Exception) -> None:
        for item in items:
            item.handed.fail(error)


class _Refused(Exception):
    """The request as a whole was refused for what it holds."""

    def __init__(self, error: JobpipeError) -> None:
        super().__init__(error)
        self.error = error
