"""What both clients are made of, from their arguments."""

from __future__ import annotations

from collections.abc import Sequence

from jobpipe.client.address import authorization, resolve
from jobpipe.client.destination import Destination, Destinations, parse_proxy
from jobpipe.client.flow import Retries


def servers_of(
    url: str | None, urls: Sequence[str] | None, key: str | None, proxy: str | None = None
) -> Destinations:
    """The servers to use. Raises Invalid."""
    addresses, key = resolve(url, key, urls=urls)
    headers = {"user-agent": "jobpipe", **authorization(key)}
    through = None if proxy is None else parse_proxy(proxy)
    return Destinations([Destination(address, headers, through) for address in addresses])


def retries_of(retries: int | Retries) -> Retries:
    """How often, as a value."""
    return Retries(count=retries) if isinstance(retries, int) else retries
