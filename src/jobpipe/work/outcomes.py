"""From what a handler returned or raised to the Outcome that says so; pure but for reading source lines.

The handler's side alone is judged here. What an interruption (timeout, cancel, release) makes of it is the run's.
"""

from __future__ import annotations

import inspect
import os
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Any

import msgspec

from jobpipe.core.lifecycle import TIMED_OUT, Kind, Outcome
from jobpipe.core.plain import plain
from jobpipe.core.text import head, tail
from jobpipe.work.errors import Fail, InvalidResult, ResultTooLarge, Retry, RunRefused, Snooze
from jobpipe.work.groups import leaf_of

_HERE = os.path.dirname(__file__)
_DONE = Kind.DONE
_encode = msgspec.json.Encoder().encode
_NULL = Outcome(Kind.DONE, result=b"null")


def returned(value: Any, max_result: int) -> Outcome:
    """The outcome of a handler that returned `value`. Raises InvalidResult; ResultTooLarge over `max_result` bytes."""
    if value is None and max_result >= 4:
        return _NULL
    result = _json(value)
    if len(result) > max_result:
        raise ResultTooLarge(f"the result has {len(result)} bytes, more than the {max_result} that are kept")
    return Outcome(_DONE, result)


def _json(value: Any) -> bytes:
    try:
        return _encode(plain(value))
    except Exception as error:  # noqa: BLE001  # whatever a value's own code raises, the value cannot be written
        if inspect.iscoroutine(value):
            value.close()
            raise InvalidResult("the handler returned a coroutine: declare it `async def`") from None
        raise InvalidResult(f"the result cannot be written as JSON: {describe(error)}") from None


def raised(error: BaseException, backoff: Callable[[], float | None]) -> Outcome:
    """The outcome of a run that ended by `error`; `backoff` is the handler's own delay, None for the server's.

    Of a group its leaf counts (`jobpipe.work.groups`); the traceback shows it all.
    """
    whole, error = error, leaf_of(error)
    if isinstance(error, RunRefused):
        return Outcome(
            Kind.FAILED, error_type=error.code, message=head(str(error)), retryable=error.retryable
        )
    if isinstance(error, Snooze):
        return Outcome(Kind.RELEASED, retry_in=error.in_, hold=error.hold)
    asked = error.in_ if isinstance(error, Retry) else None
    return Outcome(
        Kind.FAILED,
        error_type=head(type(error).__name__),
        message=head(describe(error)),
        traceback=trace(whole),
        retryable=not isinstance(error, Fail),
        retry_in=backoff() if asked is None else asked,
    )


def timed_out(seconds: float, trace: str | None, retry_in: float | None) -> Outcome:
    """The outcome of a run that its timeout of `seconds` ended."""
    return Outcome(
        Kind.TIMED_OUT,
        error_type=TIMED_OUT,
        message=f"timed out after {seconds:g} s",
        traceback=trace,
        retry_in=retry_in,
    )


def hung(retry_in: float | None) -> Outcome:
    """The outcome of a run that kept its worker process's event loop from running until another run, or it itself,
    was past its timeout."""
    return Outcome(
        Kind.TIMED_OUT,
        error_type=TIMED_OUT,
        message="it blocked the event loop of its worker process past a timeout; work that computes or waits without "
        "`await` belongs into an ordinary function, which runs in a thread",
        retry_in=retry_in,
    )


def describe(error: BaseException) -> str:
    """The error's own words; an error that fails to tell them must not break the telling."""
    try:
        return str(error)
    except Exception as second:  # noqa: BLE001  # __str__ is the handler's code
        return f"<{type(error).__name__}, whose __str__ raised {type(second).__name__}>"


def trace(error: BaseException) -> str:
    """The traceback as Python prints it, from the handler's first frame on, cut to its last 8 KiB."""
    try:
        return tail("".join(traceback.format_exception(type(error), error, _own(error.__traceback__))))
    except Exception as second:  # noqa: BLE001  # formatting runs the handler's code: notes, __cause__, source loaders
        return f"<no traceback: formatting it raised {type(second).__name__}>"


def _own(frames: TracebackType | None) -> TracebackType | None:
    while frames is not None and os.path.dirname(frames.tb_frame.f_code.co_filename) == _HERE:
        frames = frames.tb_next
    return frames
