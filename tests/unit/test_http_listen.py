"""Where a server listens: every address of a name that is there, and all addresses by one word."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from jobpipe.http import listen
from jobpipe.settings.server import Settings

HAS_IPV6 = False
with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as _probe:
    _probe.bind(("::1", 0))
    HAS_IPV6 = True


@contextlib.contextmanager
def listening(host: str) -> Iterator[list[socket.socket]]:
    sockets = listen(host, 0)
    try:
        yield sockets
    finally:
        for opened in sockets:
            opened.close()


def answers(family: socket.AddressFamily, address: str, port: int) -> bool:
    with socket.socket(family) as client:
        client.settimeout(5)
        return client.connect_ex((address, port)) == 0


@pytest.mark.parametrize("host", ["*", "::"])
def test_both_families_are_served_on_one_port(host: str) -> None:
    assert Settings(host=host).host == host
    with listening(host) as sockets:
        (port,) = {opened.getsockname()[1] for opened in sockets}
        assert answers(socket.AF_INET, "127.0.0.1", port)
        assert not HAS_IPV6 or answers(socket.AF_INET6, "::1", port)


def resolved(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    def getaddrinfo(*_: Any, **__: Any) -> list[Any]:
        families = [socket.AF_INET6 if ":" in address else socket.AF_INET for address in addresses]
        return [
            (family, socket.SOCK_STREAM, 6, "", (address, 0))
            for family, address in zip(families, addresses, strict=True)
        ]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


@pytest.mark.parametrize("absent", ["2001:db8::7", "192.0.2.7"])
def test_an_address_that_the_machine_has_not_does_not_stop_the_others(
    monkeypatch: pytest.MonkeyPatch, absent: str
) -> None:
    """`::1` stands beside `localhost` in /etc/hosts also where IPv6 is off."""
    resolved(monkeypatch, absent, "127.0.0.1")
    with listening("localhost") as sockets:
        assert [opened.getsockname()[0] for opened in sockets] == ["127.0.0.1"]


def test_a_name_of_which_nothing_is_here_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    resolved(monkeypatch, "192.0.2.7", "192.0.2.8")
    with pytest.raises(OSError) as refused:
        listen("far.example", 0)
    assert refused.value.errno == errno.EADDRNOTAVAIL


def test_a_port_in_use_on_one_address_is_refused_and_the_others_are_given_back() -> None:
    with listening("127.0.0.1") as (taken,):
        with pytest.raises(OSError) as refused:
            listen("*", taken.getsockname()[1])
        assert refused.value.errno == errno.EADDRINUSE
