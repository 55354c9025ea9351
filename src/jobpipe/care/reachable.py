"""A server, or a PostgreSQL database, as it is seen from here."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from typing import Any, Final

from jobpipe.care.findings import Finding, fine, problem, warning
from jobpipe.client.address import Address
from jobpipe.client.exchange import Answer, Request
from jobpipe.client.flow import Caller, Retries
from jobpipe.client.setup import servers_of
from jobpipe.client.transport import Transport
from jobpipe.core.errors import JobpipeError, Unauthorized

ANSWER_S: Final = 5.0
APART_S: Final = 5.0
"""How far two clocks may be apart before times given by one mean something else to the other."""
OLDEST_POSTGRES: Final = 140000


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


def database(url: str, now: float) -> list[Finding]:
    """Whether the PostgreSQL at `url` can be reached and keeps what it commits."""
    try:
        import asyncpg
    except ModuleNotFoundError:
        return [problem("database", "asyncpg is missing: pip install 'jobpipe[postgres]'")]
    try:
        return asyncio.run(_look(url, now))
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, ValueError) as error:
        # Not its text as it is: a driver may quote the URL, and with it the password.
        reason = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
        return [problem("database", f"cannot be used: {reason}")]


async def _look(url: str, now: float) -> list[Finding]:
    import asyncpg

    connection = await asyncpg.connect(
        url, timeout=ANSWER_S, command_timeout=ANSWER_S, statement_cache_size=0
    )
    try:
        row = await connection.fetchrow(
            "SELECT current_setting('server_version') AS name, current_setting('server_version_num')::int AS number,"
            " current_setting('fsync') AS fsync, current_setting('full_page_writes') AS pages,"
            " pg_is_in_recovery() AS follows, extract(epoch FROM clock_timestamp())::float8 AS clock"
        )
    finally:
        await connection.close(timeout=ANSWER_S)
    return list(_judge(row, now))


def _judge(row: Any, now: float) -> Iterator[Finding]:
    if row["number"] < OLDEST_POSTGRES:
        yield warning("database", f"PostgreSQL {row['name']} is older than the oldest that is tested")
    elif row["follows"]:
        yield problem("database", "is a standby that cannot be written: connect to the primary")
    else:
        yield fine("database", f"PostgreSQL {row['name']}")
    off = [
        name for name, column in (("fsync", "fsync"), ("full_page_writes", "pages")) if row[column] != "on"
    ]
    if off:
        yield problem("durability", f"{' and '.join(off)} off: a power cut loses what was acknowledged")
    else:
        yield fine("durability", "fsync is on")
    apart = row["clock"] - now
    agrees = fine("database clock", "agrees with this machine's")
    far = warning("database clock", f"{apart:+.0f} s from this machine's; the database's counts")
    yield far if abs(apart) > APART_S else agrees
