"""Calls as values: what to send, what to do with the answer, when to send it again. No I/O here.

A Flow is a generator that yields a Request (and is sent its Answer, or has ConnectionFailed thrown in) or a Pause, and
returns the result. `Client` and `AsyncClient` carry out the steps of the same flows, each in its own colour.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, TypeAlias, TypeVar

import msgspec
from msgspec import Struct

from jobpipe import randomness
from jobpipe.client.errors import ConnectionFailed, bad_answer, error_of
from jobpipe.client.exchange import Answer, Request
from jobpipe.clock import Clock, SystemClock
from jobpipe.core.errors import JobpipeError
from jobpipe.core.retry import RetryPolicy

T = TypeVar("T")

REFUSED = frozenset({"queue_full", "too_many_queues", "draining", "rate_limited"})
"""Codes that say: nothing was done, come again. After these any request may be sent again."""

UNSURE = frozenset({502, 503, 504})
"""Statuses after which the request may or may not have been carried out: the storage's, or a proxy's."""


class Pause(Struct, frozen=True):
    """Time to let pass, in seconds."""

    seconds: float


Flow: TypeAlias = Generator[Request | Pause, Any, T]


def resume(flow: Flow[T], outcome: Answer | ConnectionFailed | None) -> Request | Pause:
    """The flow's next step, now that its last one came to `outcome` (None: a pause, or the beginning).

    Raises StopIteration with the result, and whatever the flow ends by.
    """
    step: Request | Pause = (
        flow.throw(outcome) if isinstance(outcome, ConnectionFailed) else flow.send(outcome)
    )
    return step


class Retries(Struct, frozen=True):
    """How often a call is sent again (0: never), and after which pause.

    A Retry-After lengthens the pause; one above `longest` seconds is not waited for: the error is raised at once.
    """

    count: int = 3
    backoff: RetryPolicy = RetryPolicy(base=0.2, jitter=0.2, cap=5.0)
    longest: float = 10.0


class Caller(Struct, frozen=True):
    """What all flows of a client share."""

    retries: Retries = Retries()
    clock: Clock = SystemClock()
    random: Callable[[], float] = randomness.random

    def call(self, request: Request) -> Flow[Answer]:
        """Send until it is answered well. Raises the server's refusal, or ConnectionFailed."""
        return Call(self, request).run()


class Call:
    """A request and its repeats. `unseen`: a sending whose answer never came may have been carried out."""

    def __init__(self, caller: Caller, request: Request) -> None:
        self.unseen = False
        self._caller = caller
        self._request = request

    def run(self) -> Flow[Answer]:
        """As `Caller.call`."""
        retries = self._caller.retries
        sent = 0
        while True:
            try:
                answer: Answer = yield self._request
            except ConnectionFailed as error:
                failure = _Failure(error, nothing_done=not error.maybe_sent, doubtful=error.maybe_sent)
            else:
                if answer.status < 300:
                    return answer
                failure = _judge(answer)
            sent += 1
            if sent > retries.count or failure.least > retries.longest or not self._harmless(failure):
                raise failure.error
            self.unseen = self.unseen or failure.doubtful
            yield Pause(max(failure.least, retries.backoff.delay(sent, self._caller.random)))

    def _harmless(self, failure: _Failure) -> bool:
        return failure.nothing_done or (failure.doubtful and self._request.repeatable)


class _Failure(Struct, frozen=True):
    """Why a sending did not succeed: certainly without effect, doubtful, or (neither) for good."""

    error: JobpipeError
    nothing_done: bool
    doubtful: bool
    least: float = 0.0


def _judge(answer: Answer) -> _Failure:
    least = answer.retry_after
    error = error_of(answer.status, answer.body, least)
    refused = error.code in REFUSED
    doubtful = answer.status in UNSURE and not refused
    return _Failure(error, refused, doubtful, least)


def parse(decoder: msgspec.json.Decoder[T], answer: Answer) -> T:
    """The answer's value. Raises ServerError (`bad_answer`) for what is not of the contract."""
    try:
        return decoder.decode(answer.body)
    except (ValueError, RecursionError):
        raise bad_answer(answer.status, answer.body) from None
