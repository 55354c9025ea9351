"""Where the database is, and what of the URL is Jobpipe's own: the schema, a pooler in between, and dangers allowed.

`postgresql://user:password@host:5432/database?schema=jobpipe&pgbouncer=true&direct=postgresql%3A...&allow_unsafe=true`;
all else in the URL is libpq's, and is read as libpq reads it or refused by name (parameters.py).
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from urllib.parse import urlencode

from msgspec import Struct

from jobpipe.core.errors import StorageRefused
from jobpipe.storage.postgres.parameters import TO_DRIVER, read

CONNECT_S = 5.0
"""What each host gets to answer in, unless `connect_timeout` says otherwise."""
_OWN = frozenset({"schema", "pgbouncer", "direct", "allow_unsafe"})
_SCHEMA = re.compile(r"[a-z_][a-z0-9_]{0,47}")
_SWITCHES = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
_WRITABLE = {"any", "read-write", "primary"}


class Host(Struct, frozen=True):
    """One place to connect to; without a name the local socket, wherever it is."""

    name: str | None
    port: int

    def __str__(self) -> str:
        name = self.name or "the local socket"
        return f"[{name}]:{self.port}" if ":" in name else f"{name}:{self.port}"


class Keepalive(Struct, frozen=True):
    """How the system watches an idle connection; 0: as it always does. `give_up_ms` bounds what is unacknowledged."""

    on: bool = True
    idle_s: int = 0
    interval_s: int = 0
    count: int = 0
    give_up_ms: int = 0


class Address(Struct, frozen=True):
    """`hosts` in their order, `login` and `tls` for the driver.

    `pooled` says that they lead to a pooler that gives its connection away after each transaction, and `direct` where
    LISTEN works then. `schema` holds all that is Jobpipe's, so that several queues can share a database.
    """

    hosts: tuple[Host, ...]
    login: dict[str, str]
    tls: str
    connect_s: float = CONNECT_S
    keepalive: Keepalive = Keepalive()
    startup: dict[str, str] = {}
    schema: str = "jobpipe"
    pooled: bool = False
    direct: Address | None = None
    allow_unsafe: bool = False

    @property
    def channel(self) -> str:
        """The channel of NOTIFY: a database has one name space of them."""
        return f"jobpipe_{self.schema}"

    @property
    def shown(self) -> str:
        """Hosts and database, for messages: never the password."""
        return f"{','.join(map(str, self.hosts))}/{self.login['database']}"


def parse(url: str, environment: Mapping[str, str] = os.environ) -> Address:
    """The address that `url` names. Raises StorageRefused for a parameter that cannot be."""
    said, own = read(url, _OWN, environment)
    if "dbname" not in said:
        raise StorageRefused("the store's URL names no database: postgresql://user@host/database")
    if said.get("target_session_attrs", "any") not in _WRITABLE:
        raise StorageRefused("target_session_attrs must be read-write: tasks are written")
    schema = own.get("schema", "jobpipe")
    if _SCHEMA.fullmatch(schema) is None:
        raise StorageRefused(f"schema must be a plain lower-case name, not {schema!r}")
    names = {"dbname": "database", "user": "user", "password": "password", "passfile": "passfile"}
    application = said.get("application_name") or said.get("fallback_application_name") or "jobpipe"
    return Address(
        hosts=_hosts(said.get("host", ""), said.get("port", "")),
        login={names[name]: value for name, value in said.items() if name in names},
        tls="postgresql://?" + urlencode({name: said[name] for name in sorted(TO_DRIVER & said.keys())}),
        connect_s=_connect_s(said),
        keepalive=_keepalive(said),
        startup={"application_name": application}
        | ({"options": said["options"]} if "options" in said else {}),
        schema=schema,
        pooled=_switch(own, "pgbouncer"),
        direct=_direct(own, schema, environment),
        allow_unsafe=_switch(own, "allow_unsafe"),
    )


def _direct(own: Mapping[str, str], schema: str, environment: Mapping[str, str]) -> Address | None:
    if "direct" not in own:
        return None
    there = parse(own["direct"], environment)
    return Address(
        there.hosts, there.login, there.tls, there.connect_s, there.keepalive, there.startup, schema
    )


def _hosts(hosts: str, ports: str) -> tuple[Host, ...]:
    """As libpq pairs them: one port for all, or one for each."""
    names, numbers = hosts.split(","), ports.split(",")
    if len(numbers) not in (1, len(names)):
        raise StorageRefused(f"the store's URL has {len(names)} hosts and {len(numbers)} ports")
    if any(number and not 0 < _number(number, "port") < 65536 for number in numbers):
        raise StorageRefused("a port of the store's URL is none")
    numbers = numbers * len(names) if len(numbers) == 1 else numbers
    return tuple(Host(name or None, int(port or 5432)) for name, port in zip(names, numbers, strict=True))


def _connect_s(said: Mapping[str, str]) -> float:
    seconds = _number(said.get("connect_timeout", "5"), "connect_timeout")
    if seconds < 1:
        raise StorageRefused("connect_timeout must be at least 1 second: no host is waited for without end")
    return float(seconds)


def _keepalive(said: Mapping[str, str]) -> Keepalive:
    names = ("keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout")
    on, *rest = (_number(said.get(name, "1" if name == "keepalives" else "0"), name) for name in names)
    return Keepalive(on != 0, *rest)


def _number(text: str, name: str) -> int:
    # Its text is not told: in place of a port there may be a piece of a password.
    if re.fullmatch(r"\s*[+-]?[0-9]{1,9}\s*", text) is None:
        raise StorageRefused(
            f"{name} in the store's URL is not a number; is the password percent-encoded (@ : / ? %)?"
        )
    return int(text)


def _switch(own: Mapping[str, str], name: str) -> bool:
    value = own.get(name, "false").lower()
    if value not in _SWITCHES:
        raise StorageRefused(f"{name} must be true or false, not {value!r}")
    return _SWITCHES[value]
