"""Which database a host is: told apart from an old primary, a fork and a copy, so that none of them is written to.

The schema holds a generation that only moves forward. Whoever connects first after a promotion, known by PostgreSQL's
timeline or another cluster's identifier, raises it and leaves a random mark. A server remembers the newest that it saw,
and takes nothing that is behind it or beside it.
"""

from __future__ import annotations

import logging
import secrets
from typing import Any

from msgspec import Struct

from jobpipe.core.errors import StorageError
from jobpipe.storage.postgres.address import Host
from jobpipe.storage.postgres.link import Gone, Link, Refused, Row

log = logging.getLogger("jobpipe.storage")

_STORED = "SELECT generation, mark, system, timeline FROM jobpipe.lineage"
_TIMELINE = "SELECT ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::bigint"
_SYSTEM = "SELECT system_identifier::text FROM pg_control_system()"
# All at once, because it is asked at every connection, and the database may be far away.
_HERE = f"SELECT *, ({_SYSTEM}) AS here, ({_TIMELINE}) AS line FROM ({_STORED}) stored"
# The row is locked by whoever comes first; the next finds it done.
_RAISE = """
UPDATE jobpipe.lineage SET generation = generation + 1, mark = $1::text, system = $2::text, timeline = $3::bigint
 WHERE (system <> $2::text AND $2::text <> '') OR timeline < $3::bigint
"""
_THERE = "SELECT to_regclass('jobpipe.lineage') IS NOT NULL"


class Standing(Struct, frozen=True):
    """What a database is known by."""

    generation: int
    mark: str
    system: str
    timeline: int

    @property
    def age(self) -> tuple[int, int]:
        """The newer of two is the one to be written to."""
        return self.generation, self.timeline


def doubt(seen: Standing, found: Standing) -> str | None:
    """Why `found` must not be written to by who has `seen` another; None when it is that one, or its successor."""
    if seen.system and found.system and seen.system != found.system:
        return "it is another cluster, by its system identifier"
    if found.timeline < seen.timeline:
        return f"it is on timeline {found.timeline} where {seen.timeline} was seen: a primary of before"
    if found.generation < seen.generation:
        return f"it is of generation {found.generation} where {seen.generation} was seen: a primary of before"
    if found.generation == seen.generation and found.mark != seen.mark:
        return f"it went apart from the one that was written to, in generation {seen.generation}"
    return None


class Lineage:
    """What this server has seen of its database."""

    def __init__(self) -> None:
        self.seen: Standing | None = None

    async def check(self, link: Link, host: Host) -> None:
        """Raise StorageError for a host that must not be written to; remember the one that may."""
        found = await look(link)
        if found is None:
            return
        if self.seen is not None and (why := doubt(self.seen, found)) is not None:
            raise StorageError(
                f"{why}; nothing is written to it. Fence it off, or restart this server to take it"
            )
        if self.seen is not None and found.generation > self.seen.generation:
            log.warning("%s was promoted: generation %d, timeline %d", host, found.generation, found.timeline)
        self.seen = found


async def look(link: Link) -> Standing | None:
    """What the database is, its generation raised if it is new here; None where the schema does not say."""
    if not await link.value(_THERE):
        return None
    stored = await _told(link, _HERE)
    if stored is not None:
        system, timeline = stored["here"], stored["line"]
    else:
        system, timeline = await _value(link, _SYSTEM, ""), await _value(link, _TIMELINE, 0)
        stored = await link.row(_STORED)
    if (system and system != stored["system"]) or timeline > stored["timeline"]:
        await link.rows(_RAISE, secrets.token_hex(8), system, timeline)
        stored = await link.row(_STORED)
    return Standing(stored["generation"], stored["mark"], system, timeline)


async def _value(link: Link, question: str, otherwise: Any) -> Any:
    row = await _told(link, question)
    return otherwise if row is None else row[0]


async def _told(link: Link, question: str) -> Row | None:
    """What not every role, and not every managed service, is told."""
    try:
        return await link.row(question)
    except Gone:
        raise
    except (StorageError, Refused):
        return None
