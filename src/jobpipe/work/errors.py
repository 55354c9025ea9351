"""What a handler raises to say how its run ended, and the errors of running handlers.

`Retry` and `Fail` are for handlers; the refusals become outcomes with their code as the error type; `BadHandler` and
`AppNotFound` stop a start with one clear line.
"""

from __future__ import annotations

from typing import ClassVar

from jobpipe.core.errors import Invalid, JobpipeError
from jobpipe.core.lifecycle import Scope
from jobpipe.core.task import MAX_DELAY_S


class Retry(Exception):  # a wish of the handler, not an error of the program
    """Raised by a handler: this run failed, try again in `in_` seconds (None: after the usual backoff).

    It counts as a failure like any other: a task without retries left ends as failed. Raises ValueError for a delay
    that is negative, not finite, or longer than ten years.
    """

    def __init__(self, message: str = "", *, in_: float | None = None) -> None:
        if in_ is not None and not 0 <= in_ <= MAX_DELAY_S:
            raise ValueError(f"a retry is 0 to {MAX_DELAY_S:g} seconds away, not {in_!r}")
        super().__init__(message)
        self.in_ = in_


class Fail(Exception):  # a wish of the handler, not an error of the program
    """Raised by a handler: this task failed, and trying again would not help."""


class Snooze(Exception):  # a wish of the handler, not an error of the program
    """Raised by a handler: not now; the task is due again in `in_` seconds. It costs neither an attempt nor a retry.

    Raises ValueError for a delay that is negative, not finite, or longer than ten years.
    """

    hold: ClassVar[Scope | None] = None

    def __init__(self, message: str = "", *, in_: float) -> None:
        if not 0 <= in_ <= MAX_DELAY_S:
            raise ValueError(f"a task is given back for 0 to {MAX_DELAY_S:g} seconds, not {in_!r}")
        super().__init__(message)
        self.in_ = in_


class Throttled(Snooze):
    """Raised by a handler that met somebody else's limit (a 429): as Snooze, and nothing else of the task's key starts
    meanwhile either; of a task without a key nothing of its queue. Such a hold lasts an hour at most.
    """

    hold = "key"


class RunRefused(JobpipeError):
    """A run that ended before or after its handler, by Jobpipe's own rules; `retryable` says whether it may end
    otherwise in another worker or at another time."""

    retryable: ClassVar[bool] = False


class InvalidPayload(RunRefused):
    """The payload does not fit the handler's parameters."""

    code = "invalid_payload"
    sentence = "the payload does not fit the handler"


class UnknownField(InvalidPayload):
    """The payload has a field that this worker's handler does not know; a newer one may."""

    code = "unknown_field"
    sentence = "the payload has a field that the handler does not know"
    retryable = True


class InvalidResult(RunRefused):
    """The handler returned what cannot be written as JSON."""

    code = "invalid_result"
    sentence = "the result cannot be written as JSON"


class ResultTooLarge(RunRefused):
    """The handler's result is larger than is kept."""

    code = "result_too_large"
    sentence = "the result is too large"


class BadHandler(Invalid):
    """A function that cannot be a handler; the message says why."""

    code = "bad_handler"
    sentence = "not usable as a handler"


class AppNotFound(JobpipeError):
    """The app that was asked for could not be loaded; the message is one line that says why."""

    code = "app_not_found"
    sentence = "app not found"
