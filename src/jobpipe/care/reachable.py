"""A server as it is seen from here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from email.utils import parsedate_to_datetime
from typing import Any, Final

import msgspec
from msgspec import Struct

from jobpipe.care.findings import Finding, fine, problem, warning
from jobpipe.client.address import Address
from jobpipe.client.exchange import Answer, Request
from jobpipe.client.flow import Caller, Retries
from jobpipe.client.setup import servers_of
from jobpipe.client.transport import Transport
from jobpipe.core.errors import Forbidden, JobpipeError, Unauthorized
from jobpipe.core.lifecycle import UNKNOWN_HANDLER

ANSWER_S: Final = 5.0
MOST_TASKS: Final = 1000
MOST_NAMES: Final = 5
APART_S: Final = 5.0
"""How far two clocks may be apart before times given by one mean something else to the other."""


def server(address: Address, key: str | None, now: float) -> Iterator[Finding]:
    """Whether the server answers, accepts work and takes the key; `now` is this machine's clock in seconds."""
    client = Transport(servers_of(str(address), None, key), ANSWER_S)
    caller = Caller(Retries(count=0))

    def get(path: str) -> Answer:
        return client.run(caller.call(Request("GET", path)))

    try:
        answer = get("/healthz")
        yield fine("reachable", f"{address} answers")
        yield _clocks(answer.headers.get("date"), now)
        yield _asked(lambda: get("/readyz"), "ready", "accepts tasks")
        yield _key(lambda: get("/keys/self"), key)
        yield _handlers(get)
    except JobpipeError as error:
        yield problem("reachable", str(error))
    finally:
        client.close()


def _asked(get: Any, check: str, text: str) -> Finding:
    try:
        get()
    except JobpipeError as error:
        return problem(check, str(error))
    return fine(check, text)


def _key(get: Any, key: str | None) -> Finding:
    try:
        get()
    except Unauthorized:
        return problem("key", "is not known there") if key else fine("key", "the server asks for one")
    except JobpipeError as error:
        return warning("key", str(error))
    return fine("key", "is known there" if key else "the server asks for none")


def _handlers(get: Callable[[str], Answer]) -> Finding:
    """Whether tasks wait for handlers that no worker which took them has."""
    try:
        answer = get(f"/tasks?status=queued&error_type={UNKNOWN_HANDLER}&limit={MOST_TASKS}")
        waiting = Counter(task.handler for task in msgspec.json.decode(answer.body, type=list[_Waiting]))
    except (Unauthorized, Forbidden):
        return fine("handlers", "not looked at: that needs a key that may read")
    except (JobpipeError, msgspec.DecodeError) as error:
        return warning("handlers", str(error))
    if not waiting:
        return fine("handlers", "no task waits for a worker that has its handler")
    more = " or more" if waiting.total() == MOST_TASKS else ""
    named = ", ".join(f"{name} ({count})" for name, count in waiting.most_common(MOST_NAMES))
    rest = ", ..." if len(waiting) > MOST_NAMES else ""
    return warning(
        "handlers", f"{waiting.total()}{more} tasks wait for handlers that no worker has: {named}{rest}"
    )


class _Waiting(Struct):
    handler: str


def _clocks(date: str | None, now: float) -> Finding:
    try:
        apart = parsedate_to_datetime(date or "").timestamp() - now
    except ValueError:
        return warning("server clock", "the server does not say its time")
    # The header counts whole seconds.
    if abs(apart) > APART_S + 1:
        return warning(
            "server clock", f"{apart:+.0f} s from this machine's: a run_at made here means another time"
        )
    return fine("server clock", "agrees with this machine's")
