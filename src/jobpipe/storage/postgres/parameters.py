"""What libpq reads of a URL, of the service that it names and of the environment, in that order of strength.

What the driver cannot do as libpq would is refused by name, never passed over. No message holds a value: what looks
like a host or a parameter may be a piece of a password that was not percent-encoded.
"""

from __future__ import annotations

import configparser
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from jobpipe.core.errors import StorageRefused

ENCODE: Final = "are @ : / ? and % in the password percent-encoded?"
TO_DRIVER: Final = frozenset({
    "sslmode", "sslcert", "sslkey", "sslpassword", "sslrootcert", "sslcrl", "sslnegotiation",
    "ssl_min_protocol_version", "ssl_max_protocol_version", "krbsrvname", "gsslib",
})  # fmt: skip
"""The driver reads them as libpq does."""
READ: Final = TO_DRIVER | {
    "host", "port", "dbname", "user", "password", "passfile", "service", "connect_timeout", "application_name",
    "fallback_application_name", "options", "keepalives", "keepalives_idle", "keepalives_interval",
    "keepalives_count", "tcp_user_timeout", "target_session_attrs",
}  # fmt: skip
_ASKS_NOTHING: Final = {
    "channel_binding": {"disable", "prefer"},
    "client_encoding": {"auto", "utf8", "utf-8"},
    "gssdelegation": {"0"},
    "gssencmode": {"disable", "prefer"},
    "load_balance_hosts": {"disable"},
    "replication": {"false", "off", "no", "0"},
    "sslcertmode": {"allow"},
    "sslcompression": {"0"},
    "sslsni": {"1"},
}
"""Values that say no more than what is done anyway."""
_ENVIRONMENT: Final = {
    "PGHOST": "host", "PGPORT": "port", "PGDATABASE": "dbname", "PGUSER": "user", "PGPASSWORD": "password",
    "PGPASSFILE": "passfile", "PGSERVICE": "service", "PGAPPNAME": "application_name", "PGOPTIONS": "options",
    "PGCONNECT_TIMEOUT": "connect_timeout", "PGTARGETSESSIONATTRS": "target_session_attrs",
    "PGHOSTADDR": "hostaddr", "PGREQUIREAUTH": "require_auth", "PGCHANNELBINDING": "channel_binding",
    "PGREQUIREPEER": "requirepeer", "PGGSSENCMODE": "gssencmode", "PGLOADBALANCEHOSTS": "load_balance_hosts",
    "PGSSLMODE": "sslmode", "PGSSLCERT": "sslcert", "PGSSLKEY": "sslkey", "PGSSLROOTCERT": "sslrootcert",
    "PGSSLCRL": "sslcrl", "PGSSLCRLDIR": "sslcrldir", "PGSSLSNI": "sslsni", "PGSSLCERTMODE": "sslcertmode",
    "PGSSLNEGOTIATION": "sslnegotiation", "PGSSLMINPROTOCOLVERSION": "ssl_min_protocol_version",
    "PGSSLMAXPROTOCOLVERSION": "ssl_max_protocol_version", "PGKRBSRVNAME": "krbsrvname", "PGGSSLIB": "gsslib",
}  # fmt: skip


def read(
    url: str, own: frozenset[str], environment: Mapping[str, str]
) -> tuple[dict[str, str], dict[str, str]]:
    """The parameters of a connection by their names in libpq, and those of `own` names. Raises StorageRefused."""
    said = _of_url(url)
    ours = {name: said.pop(name) for name in own & said.keys()}
    _refuse(said, "the store's URL", named="@" not in url.partition("?")[2])
    around = {name: environment[there] for there, name in _ENVIRONMENT.items() if environment.get(there)}
    _refuse(around, "the environment")
    service = said.get("service", around.get("service"))
    if service:
        of_service = _of_service(service, environment)
        _refuse(of_service, f"the service {service}")
        said = of_service | said
    return around | said, ours


def _of_url(url: str) -> dict[str, str]:
    """What the URL says, cut as libpq cuts it: the user ends at the first `@`, the hosts at `/` or `?`."""
    rest, asks, query = url.partition("://")[2].partition("?")
    place, slash, database = rest.partition("/")
    if "@" in database or (asks and "@" in query and "@" not in place and "direct=" not in query):
        raise StorageRefused(f"the store's URL has an @ behind its hosts: {ENCODE}")
    said = _of_hosts(place)
    if slash and database:
        said["dbname"] = decoded(database)
    for pair in query.split("&") if query else ():
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise StorageRefused(f"a parameter of the store's URL has no value: {ENCODE}")
        said[decoded(name)] = decoded(value)
    if said.pop("ssl", "") == "true":
        said["sslmode"] = "require"
    return said


def _of_hosts(place: str) -> dict[str, str]:
    login, _, hosts = place.rpartition("@") if place.count("@") == 1 else ("", "", place)
    if "@" in hosts:
        raise StorageRefused(f"the store's URL has two @ before its database: {ENCODE}")
    user, colon, password = login.partition(":")
    names, ports = zip(*map(_host_and_port, hosts.split(",")), strict=True)
    said = {"user": decoded(user), "host": decoded(",".join(names)), "port": ",".join(ports)}
    if colon:
        said["password"] = decoded(password)
    return {name: value for name, value in said.items() if value}


def _host_and_port(text: str) -> tuple[str, str]:
    match = re.fullmatch(r"(?:\[([^\]]*)\]|([^:\[\]]*))(?::(.*))?", text)
    if match is None:
        raise StorageRefused(f"the store's URL cannot be read: its hosts; {ENCODE}")
    return match[1] or match[2] or "", match[3] or ""


def decoded(text: str) -> str:
    """Percent-decoded as libpq does: a `+` stays one."""
    if re.search(r"%(?![0-9a-fA-F]{2})|%00", text):
        raise StorageRefused("the store's URL has a % that begins no byte: write %25 for a percent sign")
    return unquote(text)


def _refuse(said: Mapping[str, str], where: str, *, named: bool = True) -> None:
    for name, value in said.items():
        if (
            name in READ
            or name == "fallback_application_name"
            or value.lower() in _ASKS_NOTHING.get(name, ())
        ):
            continue
        if not named or not re.fullmatch(r"[a-z_]{1,40}", name):
            raise StorageRefused(f"{where} has a parameter that is none of libpq's: {ENCODE}")
        raise StorageRefused(f"{where} says {name}, which Jobpipe does not follow: leave it out")


def _of_service(name: str, environment: Mapping[str, str]) -> dict[str, str]:
    """The section of the service file; the user's own file comes before the system's."""
    own = environment.get("PGSERVICEFILE") or os.path.expanduser("~/.pg_service.conf")
    system = Path(environment.get("PGSYSCONFDIR", "/etc/postgresql-common"), "pg_service.conf")
    for file in (Path(own), system):
        parser = configparser.RawConfigParser(delimiters="=", comment_prefixes="#", strict=False)
        parser.optionxform = str  # type: ignore[assignment,method-assign]
        try:
            parser.read(file, encoding="utf-8")
        except (OSError, configparser.Error, UnicodeDecodeError) as error:
            raise StorageRefused(f"{file} cannot be read: {type(error).__name__}") from None
        if parser.has_section(name):
            return dict(parser.items(name))
    raise StorageRefused(f"no service file defines the service {name!r}")
