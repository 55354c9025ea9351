"""Answers of the server as exceptions: the classes of `jobpipe.core.errors`, found by their code.

What the server's own tree cannot say is said by two more: no answer (ConnectionFailed), and an answer that no class
stands for (ServerError).
"""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec import Struct

from jobpipe.core import errors
from jobpipe.core.errors import JobpipeError

BAD_ANSWER: Final = "bad_answer"


class ConnectionFailed(JobpipeError):
    """The server could not be reached, or the connection ended before its answer.

    `maybe_sent` says whether the request may have reached the server, so that its outcome is unknown.
    """

    code = "unreachable"
    sentence = "the server cannot be reached"

    def __init__(self, detail: str | None = None, *, maybe_sent: bool = False) -> None:
        super().__init__(detail)
        self.maybe_sent = maybe_sent


class ClientClosed(ConnectionFailed):
    """The client was closed here: nothing was sent, and nothing will be."""

    code = "closed"


class ServerError(JobpipeError):
    """A refusal whose `code` has no class of its own (`wrong_host`, `internal`, ...).

    `status` is the HTTP status. An answer that is not in the words of the contract, a proxy's page for example, has
    the code `bad_answer`.
    """

    def __init__(
        self, status: int, code: str, detail: str | None = None, *, field: str | None = None
    ) -> None:
        super().__init__(detail or f"the server answered {status} ({code})", field=field)
        self.status = status
        # The tree keeps its codes on the classes; here alone a code belongs to the error itself.
        vars(self)["code"] = code


class Refusal(Struct, frozen=True):
    """What is read of problem details (RFC 9457)."""

    code: str
    status: int = 0
    error: str | None = None
    detail: str | None = None
    field: str | None = None

    def as_error(self, status: int) -> JobpipeError:
        """The problem as an exception of its class; `status` is of the HTTP answer that carries it."""
        known = _CLASSES.get(self.code)
        if known is None:
            return ServerError(self.status or status, self.code, self.detail or self.error, field=self.field)
        error = known(self.detail or self.error, field=self.field)
        if self.field is not None:
            error.add_note(f"field: {self.field}")
        return error


def error_of(status: int, body: bytes, retry_after: int = 0) -> JobpipeError:
    """The exception for an answer of 300 or more; `retry_after` is its header in seconds."""
    try:
        problem = _problem.decode(body)
    except (ValueError, RecursionError):
        return bad_answer(status, body)
    error = problem.as_error(status)
    error.retry_after = retry_after or error.retry_after
    return error


def bad_answer(status: int, body: bytes) -> ServerError:
    """The exception for an answer that is not of the contract; its beginning helps to find out whose it is."""
    start = body[:200].decode(errors="replace")
    return ServerError(status, BAD_ANSWER, f"not an answer of a Jobpipe server: status {status}, {start!r}")


def _classes() -> dict[str, type[JobpipeError]]:
    """Each code's class: the first that the tree defines, so the general one before its special cases."""
    found: dict[str, type[JobpipeError]] = {}
    for value in vars(errors).values():
        if isinstance(value, type) and issubclass(value, JobpipeError) and value is not JobpipeError:
            found.setdefault(value.code, value)
    return found


_CLASSES: Final = _classes()
_problem: Final = msgspec.json.Decoder(Refusal)
