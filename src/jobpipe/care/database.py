"""A PostgreSQL store under examination: its hosts, what it keeps and how, who may do what, and what holds it back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, Final

from jobpipe.care.findings import Finding, fine, problem, size, warning
from jobpipe.core.errors import StorageError, StorageRefused
from jobpipe.storage.base import Miscount

APART_S: Final = 5.0
"""How far two clocks may be apart before times given by one mean something else to the other."""
OLDEST_POSTGRES: Final = 140000
FEW: Final = 200_000
"""So many rows are counted without being asked to."""
LONG_OPEN_S: Final = 300
KEPT_LOG: Final = 1 << 30
_SHOWN: Final = 3

_HOST = """
SELECT current_setting('server_version') AS name, current_setting('server_version_num')::int AS number,
       current_setting('fsync') AS fsync, current_setting('full_page_writes') AS pages,
       pg_is_in_recovery() AS follows, extract(epoch FROM clock_timestamp())::float8 AS clock,
       current_setting('server_encoding') AS encoding, current_setting('transaction_read_only') AS read_only,
       (SELECT reset_val FROM pg_settings WHERE name = 'synchronous_commit') AS commit
"""
_OPEN = """
SELECT pid, coalesce(application_name, '') AS name, extract(epoch FROM now() - xact_start)::int AS seconds
  FROM pg_stat_activity
 WHERE backend_xmin IS NOT NULL AND pid <> pg_backend_pid() AND now() - xact_start > $1::int * interval '1 s'
 UNION ALL
SELECT 0, 'prepared transaction ' || gid, extract(epoch FROM now() - prepared)::int FROM pg_prepared_xacts
 WHERE now() - prepared > $1::int * interval '1 s'
 ORDER BY seconds DESC LIMIT 3
"""
_SLOTS = """
SELECT slot_name AS name, active, coalesce(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn), 0)::bigint AS kept,
       xmin IS NOT NULL OR catalog_xmin IS NOT NULL AS holds
  FROM pg_replication_slots
"""


def examine(url: str, now: float, *, whole: bool) -> list[Finding]:
    """All findings about the database at `url`; `now` is this machine's clock in seconds."""
    try:
        import asyncpg  # noqa: F401
    except ModuleNotFoundError:
        return [problem("database", "asyncpg is missing: pip install 'jobpipe[postgres]'")]
    return asyncio.run(_look(url, now, whole))


def repair(url: str) -> list[Miscount]:
    """Make the counts true, beside servers that work; what was wrong. Raises StorageError."""
    return asyncio.run(_repaired(url))


async def _repaired(url: str) -> list[Miscount]:
    from jobpipe.storage.postgres import audit
    from jobpipe.storage.postgres.address import parse
    from jobpipe.storage.postgres.hosts import Hosts
    from jobpipe.storage.postgres.lineage import Lineage

    link = await Hosts(parse(url), Lineage()).connect(bare=True)
    try:
        return await audit.repair(link)
    finally:
        await link.close()


async def _look(url: str, now: float, whole: bool) -> list[Finding]:
    from jobpipe.storage.postgres.address import parse
    from jobpipe.storage.postgres.link import Refused, dial

    try:
        address = parse(url)
    except StorageRefused as error:
        return [problem("database", str(error))]
    found: list[Finding] = []
    best: tuple[bool, Any, Any] | None = None
    for host in address.hosts:
        try:
            link = await dial(address, host, bare=True, any_host=True)
            row = await link.row(_HOST)
        except (StorageError, Refused) as error:
            found.append(problem(f"host {host}", f"cannot be used: {error}"))
            continue
        found.append(_role(f"host {host}", row))
        writes = not row["follows"] and row["read_only"] != "on"
        if best is None or writes > best[0]:
            if best is not None:
                await best[1].close()
            best = (writes, link, row)
        else:
            await link.close()
    return await _summed(address, found, best, now, whole)


async def _summed(
    address: Any, found: list[Finding], best: tuple[bool, Any, Any] | None, now: float, whole: bool
) -> list[Finding]:
    if best is None:
        return [problem("database", found[0].text)] if len(found) == 1 else found
    hosts = _several(found) if len(address.hosts) > 1 else []
    writes, link, row = best
    try:
        more = await _deeper(link, address, whole) if writes else []
    finally:
        await link.close()
    return [*hosts, *_judge(row, now), *more]


def _role(check: str, row: Any) -> Finding:
    if row["follows"]:
        return fine(check, "is a standby")
    return warning(check, "is read-only") if row["read_only"] == "on" else fine(check, "takes writes")


def _several(found: Sequence[Finding]) -> list[Finding]:
    """A host that is away is what a second one is for; two that take writes are not."""
    writing = [one for one in found if one.text == "takes writes"]
    apart = (
        [problem("hosts", f"{len(writing)} of them take writes: fence off all but one")]
        if writing[1:]
        else []
    )
    return [warning(one.check, one.text) if one.state == "problem" else one for one in found] + apart


def _judge(row: Any, now: float) -> Iterator[Finding]:
    if row["number"] < OLDEST_POSTGRES:
        yield warning("database", f"PostgreSQL {row['name']} is older than the oldest that is tested")
    elif row["follows"]:
        yield problem("database", "is a standby that cannot be written: connect to the primary")
    elif row["read_only"] == "on":
        yield problem("database", "is read-only for this role: no task is accepted")
    else:
        yield fine("database", f"PostgreSQL {row['name']}")
    settings = (("fsync", "fsync"), ("full_page_writes", "pages"), ("synchronous_commit", "commit"))
    off = [name for name, column in settings if row[column] == "off"]
    if off:
        yield problem("durability", f"{' and '.join(off)} off: a power cut loses what was acknowledged")
    else:
        yield fine("durability", "fsync is on")
    apart = row["clock"] - now
    agrees = fine("database clock", "agrees with this machine's")
    far = warning("database clock", f"{apart:+.0f} s from this machine's; the database's counts")
    yield far if abs(apart) > APART_S else agrees
    yield _encoding(row["encoding"])


def _encoding(name: str) -> Finding:
    from jobpipe.storage.postgres.migrations import ENCODINGS

    if name not in ENCODINGS:
        return problem("encoding", f"{name} cannot hold every text: make a database with ENCODING 'UTF8'")
    return fine("encoding", name)


async def _deeper(link: Any, address: Any, whole: bool) -> list[Finding]:
    """What is asked of the database itself; a question that is refused is a finding of its own."""
    from jobpipe.storage.postgres.link import Refused

    found: list[Finding] = []
    checks: list[tuple[str, Callable[[], Awaitable[Finding | None]]]] = [
        ("schema", lambda: _schema(link)),
        ("privileges", lambda: _privileges(link, address.schema)),
        ("counts", lambda: _counts(link, whole)),
        ("open transactions", lambda: _open_for_long(link)),
        ("replication slots", lambda: _slots(link)),
    ]
    for check, look in checks:
        try:
            finding = await look()
        except (StorageError, Refused) as error:
            finding = warning(check, f"cannot be looked at: {error}")
        if finding is not None:
            found.append(finding)
        if check == "schema" and finding is not None and finding.text.startswith("there is none"):
            break
    return found


async def _schema(link: Any) -> Finding:
    from jobpipe.storage.postgres import migrations

    schema, oldest = await migrations.version_of(link)
    newest = len(migrations.scripts())
    if schema == 0:
        return warning("schema", "there is none: the first start makes one")
    if oldest > newest:
        return problem("schema", f"{schema} is newer than this program can serve ({newest}): upgrade jobpipe")
    if schema < newest:
        return fine("schema", f"{schema}: the next start makes it {newest}")
    return fine("schema", f"{schema}, the newest" if schema == newest else f"{schema}, of a newer program")


async def _privileges(link: Any, schema: str) -> Finding:
    from jobpipe.storage.postgres import privileges

    lacks = await privileges.missing(link, schema)
    if lacks:
        return problem("privileges", f"this role lacks {', '.join(lacks)}")
    return fine("privileges", "this role may do all that a server does")


async def _counts(link: Any, whole: bool) -> Finding:
    from jobpipe.storage.postgres import audit

    if not whole and not await audit.is_small(link, "tasks", FEW):
        return fine("counts", f"not compared with more than {FEW:,} waiting tasks: ask with --full")
    finished = whole or await audit.is_small(link, "finished", FEW)
    return told_counts(await audit.compare(link, finished=finished), finished=finished)


def told_counts(wrong: Sequence[Miscount], *, finished: bool = True) -> Finding:
    """What a comparison of counts and rows says."""
    if wrong:
        more = f"; {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        return problem("counts", f"{'; '.join(map(str, wrong[:_SHOWN]))}{more}: repair with --repair")
    return fine("counts", "are what the rows say" + ("" if finished else "; finished tasks with --full"))


async def _open_for_long(link: Any) -> Finding:
    rows = await link.rows(_OPEN, LONG_OPEN_S)
    if not rows:
        return fine("open transactions", "none is open for long")
    names = ", ".join(f"{row['name'] or row['pid']} for {row['seconds']} s" for row in rows)
    return warning("open transactions", f"{names}: dead rows cannot be removed meanwhile")


async def _slots(link: Any) -> Finding:
    rows = await link.rows(_SLOTS)
    bad = [row for row in rows if not row["active"] or row["kept"] > KEPT_LOG]
    if not bad:
        return fine("replication slots", f"{len(rows)}, all read" if rows else "there is none")
    names = ", ".join(
        f"{row['name']} ({'read' if row['active'] else 'nobody reads it'}, keeps {size(row['kept'])} of log"
        f"{' and dead rows' if row['holds'] else ''})"
        for row in bad
    )
    return warning("replication slots", f"{names}: drop what is not needed, or the disk fills")
