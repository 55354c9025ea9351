"""The schema: brought up to date step by step, or refused with one clear line and left as it is.

Servers of two versions work side by side while an upgrade rolls: the schema names the oldest program that may serve it,
by the schema that this one brings. Steps run one transaction each, under one lock for all servers.
"""

from __future__ import annotations

import re
from functools import cache
from importlib import resources

from jobpipe.core.errors import StorageRefused
from jobpipe.storage.postgres.address import Address
from jobpipe.storage.postgres.link import Link, Refused, Unserved, in_schema

_LOCK = 0x4A6F6250
"""The letters JobP: the advisory lock under which schemas are changed."""
OLDEST_SERVER = 140_000
"""PostgreSQL 14: earlier ones walk a whole table where we ask for a few of its pages."""
ENCODINGS = ("UTF8", "SQL_ASCII")
"""Those that hold whatever text is sent; SQL_ASCII takes its bytes as they are."""
_OLDEST = re.compile(r"^-- serves programs from schema (\d+) on", re.MULTILINE)

# The default of commits, not what holds here: behind a pooler this statement comes with our own settings.
_SERVER = """
SELECT current_setting('fsync') AS fsync, current_setting('full_page_writes') AS full_page_writes,
       (SELECT reset_val FROM pg_settings WHERE name = 'synchronous_commit') AS synchronous_commit,
       pg_is_in_recovery() AS standby, current_setting('server_encoding') AS encoding,
       current_setting('server_version_num')::int AS version
"""
_VERSION = "SELECT schema, oldest FROM jobpipe.version"
# Not by to_regclass: within a transaction that does not see what another server made while we waited for the lock.
_EXISTS = """
SELECT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                WHERE n.nspname || '.' || c.relname = 'jobpipe.version')
"""


async def refuse_unsafe(link: Link, address: Address) -> None:
    """Raise StorageRefused for a server that may lose what it acknowledged, or that is too old.

    `link` has no settings of its own, so that it sees the server's.
    """
    row = await link.row(_SERVER)
    if row["version"] < OLDEST_SERVER:
        raise StorageRefused(f"{address.shown} runs a PostgreSQL older than 14")
    if row["standby"]:
        raise StorageRefused(f"{address.shown} is a standby: it takes no tasks")
    if row["encoding"] not in ENCODINGS:
        raise StorageRefused(
            f"{address.shown} has the encoding {row['encoding']}, which cannot hold every text; make a database with"
            " ENCODING 'UTF8' TEMPLATE template0"
        )
    for name in ("fsync", "full_page_writes", "synchronous_commit"):
        if row[name] == "off" and not address.allow_unsafe:
            raise StorageRefused(
                f"{address.shown} runs with {name}=off and may lose what it acknowledged; switch it on, or add"
                " allow_unsafe=true to the store's URL"
            )


async def version_of(link: Link) -> tuple[int, int]:
    """The schema that is there (0: none), and the oldest program that may serve it."""
    if not await link.value(_EXISTS):
        return 0, 0
    row = await link.row(_VERSION)
    return row["schema"], row["oldest"]


def judge(schema: int, oldest: int, address: Address) -> None:
    """Raise StorageRefused when this program is too old for the schema."""
    newest = len(scripts())
    if oldest > newest:
        raise StorageRefused(
            f"the schema {schema} in {address.shown} wants at least a program of schema {oldest}, and this one brings"
            f" {newest}; upgrade jobpipe"
        )


async def migrate(link: Link, address: Address) -> tuple[int, int]:
    """Bring the schema up to date; from which number to which it went. Raises StorageRefused, StorageError."""
    before, oldest = await version_of(link)
    judge(before, oldest, address)
    try:
        for number, script in enumerate(scripts(), 1):
            if number > before:
                await _step(link, number, script, address)
    except (Refused, Unserved) as error:
        raise StorageRefused(f"cannot make the schema in {address.shown}: {error}") from error
    return before, max(before, len(scripts()))


async def _step(link: Link, number: int, script: str, address: Address) -> None:
    async with link.transaction():
        await link.rows("SELECT pg_advisory_xact_lock($1::bigint)", _LOCK)
        schema, oldest = await version_of(link)  # another server may have done it while we waited
        judge(schema, oldest, address)
        if schema >= number:
            return
        if schema == 0:
            # Not IF NOT EXISTS: that asks for the right to make schemas even where ours is there.
            if not await link.value("SELECT to_regnamespace($1::text) IS NOT NULL", address.schema):
                await link.script(f"CREATE SCHEMA {address.schema}")
            await link.script(
                "CREATE TABLE jobpipe.version (schema int NOT NULL, oldest int NOT NULL);"
                " INSERT INTO jobpipe.version VALUES (0, 0)"
            )
        await link.script(in_schema(script, address.schema))
        found = _OLDEST.search(script)
        await link.rows(
            "UPDATE jobpipe.version SET schema = $1::int, oldest = greatest(oldest, $2::int)",
            number, int(found.group(1)) if found else number,
        )  # fmt: skip


@cache
def scripts() -> list[str]:
    """The numbered schema scripts; script n leads from version n-1 to n."""
    folder = resources.files("jobpipe.storage.postgres") / "schema"
    named = {entry.name: entry for entry in folder.iterdir() if re.fullmatch(r"\d{4}_\w+\.sql", entry.name)}
    return [named[name].read_text(encoding="utf-8") for name in sorted(named)]
