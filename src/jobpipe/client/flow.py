"""Calls as values: what to send, what to do with the answer, when to send it again. No I/O here.

A Flow is a generator that yields steps and returns the result: a Request (and is sent its Answer, or has
ConnectionFailed thrown in), an Item (and is sent what became of it), a Pause or a Distrust. The transports carry out
the same flows, each in its own colour.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, TypeAlias, TypeVar

import msgspec
from msgspec import Struct

from jobpipe.client.errors import ClientClosed, ConnectionFailed, ServerError, bad_answer, error_of
from jobpipe.client.exchange import Answer, Request
from jobpipe.core.errors import JobpipeError
from jobpipe.core.retry import RetryPolicy
from jobpipe.runtime import randomness
from jobpipe.runtime.clock import Clock, SystemClock

T = TypeVar("T")

REFUSED = frozenset({"queue_full", "too_many_queues", "draining", "upgrading", "rate_limited"})
"""Codes that say: nothing was done, come again. After these any request may be sent again."""

UNSURE = frozenset({502, 503, 504})
"""Statuses after which the request may or may not have been carried out: the storage's, or a proxy's."""


class Item(Struct, frozen=True, gc=False):
    """A task to enqueue, as JSON, together with others where there are any. `ours` says that its id was made here.

    One with a `trace` goes alone, since a request is of one trace; one with an `idempotency_key` is a request of its
    own, and where it has no `id` ("") the server makes that from the key.
    """

    id: str
    ours: bool
    body: bytes
    trace: str | None = None
    idempotency_key: str | None = None

    @property
    def repeatable(self) -> bool:
        """Nobody else can have used an id of ours: that it exists means that an earlier sending got through."""
        return self.ours or self.idempotency_key is not None


class Distrust(Struct, frozen=True):
    """An answer was another's: no connection that stands is to be used again."""


class Pause(Struct, frozen=True):
    """Time to let pass, in seconds."""

    seconds: float


Step: TypeAlias = Request | Item | Pause | Distrust
Flow: TypeAlias = Generator[Step, Any, T]


def resume(flow: Flow[T], outcome: object) -> Step:
    """The flow's next step, now that its last one came to `outcome` (None: a pause, or the beginning).

    Raises StopIteration with the result, and whatever the flow ends by.
    """
    step: Step = flow.throw(outcome) if isinstance(outcome, ConnectionFailed) else flow.send(outcome)
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

    def __init__(self, caller: Caller, step: Request | Item) -> None:
        self.unseen = False
        self._caller = caller
        self._step = step

    def run(self) -> Flow[Any]:
        """As `Caller.call`."""
        retries = self._caller.retries
        sent = 0
        while True:
            try:
                outcome: Any = yield self._step
            except ConnectionFailed as error:
                outcome = lost(error)
            if isinstance(outcome, Answer | Failure):
                self.unseen = self.unseen or outcome.resent
            if isinstance(outcome, Answer):
                if outcome.status < 300:
                    return outcome
                outcome = _judge(outcome)
            if not isinstance(outcome, Failure):
                return outcome
            failure = outcome
            sent += 1
            if sent > retries.count or failure.least > retries.longest or not self._harmless(failure):
                raise failure.error
            self.unseen = self.unseen or failure.doubtful
            yield Pause(max(failure.least, retries.backoff.delay(sent, self._caller.random)))

    def _harmless(self, failure: Failure) -> bool:
        return failure.nothing_done or (failure.doubtful and self._step.repeatable)


class Failure(Struct, frozen=True):
    """Why a sending did not succeed: certainly without effect, doubtful, or (neither) for good.

    `least` is how many seconds to wait before the next one. `resent` as in Answer.
    """

    error: JobpipeError
    nothing_done: bool = False
    doubtful: bool = False
    least: float = 0.0
    resent: bool = False


def lost(error: ConnectionFailed) -> Failure:
    """What no answer means."""
    if isinstance(error, ClientClosed):
        return Failure(error)
    return Failure(error, nothing_done=not error.maybe_sent, doubtful=error.maybe_sent)


def judge(status: int, error: JobpipeError, least: float) -> Failure:
    """What an answer of 300 or more means."""
    refused = error.code in REFUSED
    return Failure(error, refused, status in UNSURE and not refused, least)


def _judge(answer: Answer) -> Failure:
    least = answer.retry_after
    return judge(answer.status, error_of(answer.status, answer.body, least), least)


def is_passing(error: JobpipeError) -> bool:
    """Whether it says no more than that the server is away for now."""
    status = error.status if isinstance(error, ServerError) else 0
    return error.code in ("unreachable", "draining", "storage_down", "rate_limited") or status in UNSURE


def parse(decoder: msgspec.json.Decoder[T], answer: Answer) -> T:
    """The answer's value. Raises ServerError (`bad_answer`) for what is not of the contract."""
    try:
        return decoder.decode(answer.body)
    except (ValueError, RecursionError):
        raise bad_answer(answer.status, answer.body) from None
