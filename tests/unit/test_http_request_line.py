"""Which requests are read again in other words, and what is garbage."""

from __future__ import annotations

import time

import pytest

from jobpipe.http.request_line import Foreign, foreign_method, without_upgrade


@pytest.mark.parametrize("method", [b"BREW", b"get", b"GETX", b"M-SEARCH2", b"a!#$%&'*+.^_`|~-9"])
def test_any_token_is_a_method(method: bytes) -> None:
    assert foreign_method(method + b" /x HTTP/1.1\r\nHost: x\r\n", behind=False) == Foreign(0, method)
    assert foreign_method(b"\r\n" + method + b" /x HTTP/1.0\r\n", behind=False) == Foreign(2, method)


@pytest.mark.parametrize(
    "line",
    [b"BREW", b"BREW ", b"BREW /", b"BREW / ", b"BREW / HTT", b"BREW / HTTP/1.1", b"BREW / HTTP/1.1\r"],
)
def test_a_line_that_may_become_one_is_waited_for(line: bytes) -> None:
    assert foreign_method(line, behind=False) == Foreign(0, None)
    assert foreign_method(b"GET / HTTP/1.1\r\n\r\n" + line, behind=True) == Foreign(18, None)


@pytest.mark.parametrize(
    "line",
    [
        b" BREW / HTTP/1.1\r\n",
        b"no HTTP at all\r\n",
        b"BREW  / HTTP/1.1\r\n",
        b"BREW / HTTP/2.0\r\n",
        b"BREW /\r\n",
        b"BREW /\n",
        b"BR(EW) / HTTP/1.1\r\n",
        b"BREW /\xc3\xa9 HTTP/1.1\r\n",
        b"\x16\x03\x01\x02\x00\x01",
        b"GET / HTTP/1.1\r\n",
        b"CONNECT a:1 HTTP/1.1\r\n",
        b"{",
    ],
)
def test_all_else_is_no_foreign_request(line: bytes) -> None:
    assert foreign_method(line, behind=False) is None


def test_a_foreign_request_is_found_behind_others_and_their_bodies() -> None:
    before = b"GET / HTTP/1.1\r\n\r\nPOST / HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}"
    assert foreign_method(before + b"BREW / HTTP/1.1\r\n\r\n", behind=True) == Foreign(len(before), b"BREW")


@pytest.mark.parametrize("filling", [b"a", b"a{", b"a a", b"a ", b"x {a"])
def test_looking_takes_no_quadratic_time(filling: bytes) -> None:
    """8 KiB is one slice; quadratic would be tens of millions of steps."""
    data = filling * (8192 // len(filling)) + b"\x01"
    begin = time.process_time()
    foreign_method(data, behind=True)
    assert time.process_time() - begin < 0.1


def test_a_declined_upgrade_keeps_version_and_what_connection_says() -> None:
    headers = [(b"host", b"x"), (b"connection", b"Upgrade, close"), (b"upgrade", b"foo"), (b"a", b"b")]
    assert without_upgrade(b"GET", b"/x?y", "1.0", headers) == (
        b"GET /x?y HTTP/1.0\r\nhost: x\r\nconnection: Upgrade, close\r\na: b\r\n\r\n"
    )
