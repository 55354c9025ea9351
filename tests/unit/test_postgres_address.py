"""A store's URL is read as libpq reads it, or refused by name; no piece of a password is ever told."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("asyncpg")

from jobpipe.core.errors import StorageRefused
from jobpipe.core.masking import masked
from jobpipe.storage import open_storage
from jobpipe.storage.postgres.address import Address, parse

SERVICE = """
# of the whole team
[jobs]
host=a,b
port=6000
dbname=queue
user=ann
"""


def read(url: str, **environment: str) -> Address:
    return parse(url, environment)


def hosts(url: str, **environment: str) -> str:
    return ",".join(map(str, read(url, **environment).hosts))


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("postgresql://a/d", "a:5432"),
        ("postgres://u:p@a:1/d", "a:1"),
        ("postgresql://a:1,b:2,c/d", "a:1,b:2,c:5432"),
        ("postgresql://u@[::1]:7,[fe80::1]/d", "[::1]:7,[fe80::1]:5432"),
        ("postgresql:///d?host=a,b&port=1,2", "a:1,b:2"),
        ("postgresql:///d?host=a,b&port=7", "a:7,b:7"),
        ("postgresql://a,b/d?port=7", "a:7,b:7"),
        ("postgresql://x:9/d?host=a&port=1", "a:1"),
        ("postgresql://%2Fvar%2Frun/d", "/var/run:5432"),
        ("postgresql:///d", "the local socket:5432"),
    ],
)
def test_hosts_are_read_as_libpq_reads_them(url: str, found: str) -> None:
    assert hosts(url) == found


def test_what_the_url_does_not_say_comes_from_the_environment(tmp_path: Path) -> None:
    assert hosts("postgresql:///d", PGHOST="a,b", PGPORT="1,2") == "a:1,b:2"
    assert hosts("postgresql://x/d", PGHOST="a", PGPORT="7") == "x:7"
    address = read(
        "postgresql://", PGDATABASE="d", PGUSER="ann", PGPASSFILE="/p", PGAPPNAME="x", PGCONNECT_TIMEOUT="3"
    )
    assert (address.login, address.connect_s) == ({"database": "d", "user": "ann", "passfile": "/p"}, 3.0)
    assert address.startup == {"application_name": "x"}
    assert read("postgresql://h/d", PGSSLMODE="require").tls.endswith("sslmode=require")


@pytest.mark.parametrize("way", ["url", "environment"])
def test_a_service_stands_between_the_url_and_the_environment(tmp_path: Path, way: str) -> None:
    file = tmp_path / "services"
    file.write_text(SERVICE)
    around = {"PGSERVICEFILE": str(file), "PGUSER": "bob", "PGHOST": "z"} | (
        {"PGSERVICE": "jobs"} if way == "environment" else {}
    )
    address = parse("postgresql:///?port=6001" + ("&service=jobs" if way == "url" else ""), around)
    assert (address.shown, address.login["user"]) == ("a:6001,b:6001/queue", "ann")
    with pytest.raises(StorageRefused, match="no service file defines the service 'none'"):
        parse("postgresql:///d?service=none", around)


def test_what_the_connection_is_like_is_read() -> None:
    address = read(
        "postgresql://h/d?connect_timeout=2&keepalives_idle=30&keepalives_interval=5&keepalives_count=3&tcp_user_timeout=9000"
        "&application_name=jobs&options=-c%20geqo%3Doff&target_session_attrs=read-write&passfile=/x&sslmode=require"
    )  # fmt: skip
    assert (address.connect_s, address.login["passfile"]) == (2.0, "/x")
    alive = address.keepalive
    assert (alive.on, alive.idle_s, alive.interval_s, alive.count, alive.give_up_ms) == (True, 30, 5, 3, 9000)
    assert address.startup == {"application_name": "jobs", "options": "-c geqo=off"}
    assert not read("postgresql://h/d?keepalives=0").keepalive.on


def test_a_password_is_decoded_as_libpq_does() -> None:
    assert read("postgresql://u:a%40b+c#d:e@h/d").login["password"] == "a@b+c#d:e"
    assert read("postgresql://u@h/d?password=a%26b").login["password"] == "a&b"


@pytest.mark.parametrize(
    "name",
    ["hostaddr=1.2.3.4", "require_auth=scram-sha-256", "channel_binding=require", "gssencmode=require", "requirepeer=x",
     "load_balance_hosts=random", "sslcrldir=/x", "search_path=x", "statement_timeout=1", "database=x", "poolsize=9"],
)  # fmt: skip
def test_what_would_not_be_followed_is_refused_by_its_name(name: str) -> None:
    with pytest.raises(StorageRefused, match=name.partition("=")[0]):
        read(f"postgresql://h/d?{name}")


@pytest.mark.parametrize("name", ["PGHOSTADDR", "PGCHANNELBINDING", "PGREQUIREAUTH", "PGLOADBALANCEHOSTS"])
def test_so_is_what_the_environment_says(name: str) -> None:
    with pytest.raises(StorageRefused, match="the environment says"):
        read("postgresql://h/d", **{name: "require"})


@pytest.mark.parametrize(
    "said", ["channel_binding=prefer", "gssencmode=disable", "client_encoding=UTF8", "sslsni=1"]
)
def test_what_asks_for_nothing_else_is_taken(said: str) -> None:
    assert read(f"postgresql://h/d?{said}").shown == "h:5432/d"


@pytest.mark.parametrize(
    "query",
    ["connect_timeout=0", "connect_timeout=-1", "connect_timeout=soon", "keepalives=x", "target_session_attrs=standby",
     "target_session_attrs=prefer-standby", "port=0", "port=99999", "port=1,2", "schema", "=x",
     "direct=postgresql%3A%2F%2Fh"],
)  # fmt: skip
def test_values_that_cannot_be_are_refused(query: str) -> None:
    with pytest.raises(StorageRefused):
        read(f"postgresql://h/d?{query}")


@pytest.mark.parametrize(
    "sign", ["@", "/", "?", ":", "%", "#", "[", "&", "=", ",", " ", "?a=", "/x?y=", "@/", ":/", "?port="]
)
@pytest.mark.parametrize("tail", ["@h:1/d", "@h/d?sslmode=disable", "@h:1,g:2/d"])
def test_no_message_holds_a_piece_of_a_password(sign: str, tail: str) -> None:
    url = f"postgresql://ann:hunter{sign}zwei{tail}"
    try:
        said = read(url).shown
    except StorageRefused as error:
        said = str(error)
    assert "hunter" not in said
    assert "zwei" not in said


def test_the_password_of_the_way_around_a_pooler_is_hidden_too() -> None:
    assert "hunter" not in masked(
        "postgresql://u@h/d?direct=postgresql%3A%2F%2Fu%3Ahunter%40h%2Fd&pgbouncer=true"
    )


def test_a_store_that_no_engine_serves_is_not_quoted() -> None:
    with pytest.raises(StorageRefused) as error:
        open_storage("mysql://me:hunter2@host/jobs")
    assert "hunter" not in str(error.value)
