"""Where the database is, and what of the URL is Jobpipe's own: the schema, a pooler in between, and dangers allowed.

`postgresql://user:password@host:5432/database?schema=jobpipe&pgbouncer=true&direct=postgresql%3A...&allow_unsafe=true`;
all else in the URL is libpq's and goes to the driver as it is.
"""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from msgspec import Struct

from jobpipe.core.errors import StorageRefused

_SCHEMA = re.compile(r"[a-z_][a-z0-9_]{0,47}")
_SWITCHES = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


class Address(Struct, frozen=True):
    """`dsn` for the driver. `direct` is where LISTEN works when `pooled` says that `dsn` leads to a pooler.

    `schema` holds all that is Jobpipe's, so that several queues can share a database.
    """

    dsn: str
    schema: str = "jobpipe"
    pooled: bool = False
    direct: str | None = None
    allow_unsafe: bool = False

    @property
    def channel(self) -> str:
        """The channel of NOTIFY: a database has one name space of them."""
        return f"jobpipe_{self.schema}"

    @property
    def shown(self) -> str:
        """Host and database, for messages: never the password."""
        parts = urlsplit(self.dsn)
        return f"{parts.netloc.rpartition('@')[2] or 'the local socket'}{parts.path}"


def parse(url: str) -> Address:
    """The address that `url` names. Raises StorageRefused for a parameter that cannot be."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise StorageRefused(f"the store's URL cannot be read: {error}") from error
    if not parts.path.strip("/"):
        raise StorageRefused("the store's URL names no database: postgresql://user@host/database")
    own: dict[str, str] = {}
    rest: list[tuple[str, str]] = []
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name in ("schema", "pgbouncer", "direct", "allow_unsafe"):
            own[name] = value
        else:
            rest.append((name, value))
    schema = own.get("schema", "jobpipe")
    if _SCHEMA.fullmatch(schema) is None:
        raise StorageRefused(f"schema must be a plain lower-case name, not {schema!r}")
    dsn = urlunsplit(("postgresql", parts.netloc, parts.path, urlencode(rest), ""))
    return Address(dsn, schema, _switch(own, "pgbouncer"), own.get("direct"), _switch(own, "allow_unsafe"))


def _switch(own: dict[str, str], name: str) -> bool:
    value = own.get(name, "false").lower()
    if value not in _SWITCHES:
        raise StorageRefused(f"{name} must be true or false, not {value!r}")
    return _SWITCHES[value]
