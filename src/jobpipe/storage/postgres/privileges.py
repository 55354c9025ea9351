"""What the role of a server must be allowed to do, looked at before it serves: a right that is missing would show hours
later, when a partition is to be made.
"""

from __future__ import annotations

from jobpipe.core.errors import StorageRefused
from jobpipe.storage.postgres.address import Address
from jobpipe.storage.postgres.link import Link

# Partitions are read and written through their parents; on the version nothing but reading is asked. By CASE, because
# the order of conditions is the planner's, and a table is no sequence.
_MISSING = """
SELECT what, missing FROM (
    SELECT 'schema ' || $1::text AS what, 'USAGE' AS missing, has_schema_privilege($1::text, 'USAGE') AS may
    UNION ALL
    SELECT c.relname::text, CASE c.relkind WHEN 'S' THEN 'USAGE' ELSE r.name END, CASE
           WHEN c.relispartition OR c.relname LIKE 'swept\\_%' OR (c.relname = 'version' AND r.n > 1) THEN true
           WHEN c.relkind IN ('r', 'p') THEN has_table_privilege(c.oid, r.name)
           WHEN c.relkind = 'S' AND r.n = 1 THEN has_sequence_privilege(c.oid, 'USAGE')
           ELSE true END
      FROM pg_class c CROSS JOIN unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) WITH ORDINALITY AS r(name, n)
     WHERE c.relnamespace = to_regnamespace($1::text)
    UNION ALL
    SELECT p.proname::text, 'EXECUTE', has_function_privilege(p.oid, 'EXECUTE') FROM pg_proc p
     WHERE p.pronamespace = to_regnamespace($1::text)
    UNION ALL
    SELECT c.relname::text, 'the role ' || pg_get_userbyid(c.relowner) || ', to make and drop partitions,',
           pg_has_role(c.relowner, 'USAGE')
      FROM pg_class c WHERE c.relnamespace = to_regnamespace($1::text) AND c.relname = 'finished') m
 WHERE NOT may
"""
_TOLD = 4


async def missing(link: Link, schema: str) -> list[str]:
    """What the role may not do and a server does, in words."""
    rows = await link.rows(_MISSING, schema)
    return [f"{row['missing']} on {row['what']}" for row in rows]


async def refuse_missing(link: Link, address: Address) -> None:
    """Raise StorageRefused when the role may not do all that a server does."""
    lacks = await missing(link, address.schema)
    if lacks:
        role = await link.value("SELECT current_user::text")
        more = f" and {len(lacks) - _TOLD} more" if len(lacks) > _TOLD else ""
        raise StorageRefused(f"the role {role} lacks {', '.join(lacks[:_TOLD])}{more} in {address.shown}")
