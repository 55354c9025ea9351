"""Trying what a server does, without doing anything: each statement of the life of tasks over no tasks at all, so that
a missing table, privilege or schema shows before the first task meets it."""

from __future__ import annotations

from jobpipe.storage.postgres import statements as sql
from jobpipe.storage.postgres import statements_once as once_sql
from jobpipe.storage.postgres.columns import GIVEN
from jobpipe.storage.postgres.link import Link, Unserved

LIFE = frozenset({"insert", "claim", "settle", "extend", "get", "beat"})
"""The calls without which a server does not do its job."""

Trial = tuple[str, tuple[object, ...]]
"""A statement, and arguments over which it finds nothing to do."""


def _nothing(arrays: int) -> tuple[list[object], ...]:
    return tuple([] for _ in range(arrays))


BY_LANE: dict[str, tuple[Trial, ...]] = {
    "intake": (
        (sql.OTHERS, _nothing(1)),
        (sql.INSERT, (*_nothing(2), 0, *_nothing(2), 0, *_nothing(1 + len(GIVEN)))),
        (sql.TAKEN, _nothing(1)),
        (sql.FREE, _nothing(2)),
        (once_sql.KEY_HOLDERS, _nothing(2)),
        (once_sql.TAKE_KEYS, _nothing(5)),
        (once_sql.OLDER, (0,)),
    ),
    "runs": (
        (sql.CLAIM, (*_nothing(3), 0, *_nothing(4), 0, "", "", 0, None, None, None)),
        (sql.SETTLE, (*_nothing(len(sql.SETTLED)), 0)),
        (sql.SETTLE_ALIKE, (*_nothing(sql.FENCED), *[None] * (len(sql.SETTLED) - sql.FENCED), 0)),
        (sql.SETTLED_AS, _nothing(1)),
    ),
    "questions": ((sql.BY_ID, _nothing(1)), (sql.EXTEND, _nothing(4)), (sql.LOST, ("", 0))),
    "upkeep": (),
}


async def run(link: Link, lane: str) -> None:
    """Try what a lane does. Raises StorageError when the database would not do it."""
    standing = await link.row(sql.PROBE)
    if standing["read_only"]:
        link.cut()  # the next one may be told otherwise
        raise Unserved("the database is read-only: it is a standby, or was told so")
    if not standing["numbers"]:
        raise Unserved("the database does not serve Jobpipe as it is: permission denied for its sequences")
    for statement, arguments in BY_LANE[lane]:
        await link.rows(statement, *arguments)
