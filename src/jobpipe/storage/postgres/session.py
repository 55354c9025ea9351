"""The settings of our connections: whatever a statement's meaning, cost or length depends on is said by us, and not
left to what a role, a database or a pooler brings along.

What is left to them on purpose: `default_transaction_read_only`, because it is how a database is fenced off (`/readyz`
and every call say so), and whatever changes neither what a statement does nor for how long.
"""

from __future__ import annotations

CALL_S = 15.0
"""A call takes no longer; what holds it up is a lock of somebody else's, or a network that is dead."""
STATEMENT_S = 12.0
"""The server's own limit for a statement: shorter, so that it is known that a cancelled one did nothing."""
MIGRATE_S = 900.0
"""So long a statement of a migration may take, or wait for another server's."""

_ISOLATION = "default_transaction_isolation"
# What a name or a text means. Within a transaction its isolation is said by BEGIN.
_MEANING = {
    _ISOLATION: "read committed",
    "search_path": "pg_catalog, pg_temp",
    "standard_conforming_strings": "on",
}
# Plans must not depend on how large a table was when they were made; JIT costs more than any of our statements.
_PLANNING = {
    "jit": "off",
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "enable_nestloop": "on",
    "enable_indexscan": "on",
    "enable_indexonlyscan": "on",
    "enable_bitmapscan": "on",
    "enable_partition_pruning": "on",
    "plan_cache_mode": "force_generic_plan",
}
_WAITING = {
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": str(int(CALL_S * 1000)),
    "idle_session_timeout": "0",
    "client_min_messages": "warning",
}
OURS = {
    **_MEANING,
    **_PLANNING,
    **_WAITING,
    "synchronous_commit": "on",
    "statement_timeout": str(int(STATEMENT_S * 1000)),
}
"""Of the connections that serve calls."""
BARE = {**_MEANING, **_WAITING, "statement_timeout": str(int(MIGRATE_S * 1000))}
"""Of those that look at the server's own settings, and migrate."""
_OF_SESSIONS = (_ISOLATION, "idle_session_timeout", "client_min_messages")
"""What a transaction need not bring along."""

FIRST = "SET statement_timeout = 0; SET search_path = pg_catalog, pg_temp"
"""Before the settings themselves are set: what could befall that statement."""
BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED"


def prologue(settings: dict[str, str], version: int) -> str:
    """How a transaction begins on a connection that others have too; `version` is PostgreSQL's major one."""
    said = {name: value for name, value in (settings | since(version)).items() if name not in _OF_SESSIONS}
    return f"{BEGIN}; {_set('LOCAL ', said)}"


def since(version: int) -> dict[str, str]:
    """What newer servers know besides, and older ones refuse to be told."""
    return {"transaction_timeout": "0"} if version >= 17 else {}


def _set(scope: str, settings: dict[str, str]) -> str:
    # A list of names is set as one: in quotes it would be one name.
    return "; ".join(
        f"SET {scope}{name} = {value if name == 'search_path' else repr(value)}"
        for name, value in settings.items()
    )
