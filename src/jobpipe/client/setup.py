"""What both clients are made of, from their arguments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from jobpipe.client.address import authorization, resolve
from jobpipe.client.destination import Destination, Destinations, parse_proxy
from jobpipe.client.flow import Retries
from jobpipe.core.errors import Invalid

LONGEST_S: Final = 86400.0


def servers_of(
    url: str | None, urls: Sequence[str] | None, key: str | None, proxy: str | None = None
) -> Destinations:
    """The servers to use. Raises Invalid."""
    addresses, key = resolve(url, key, urls=urls)
    headers = {"user-agent": "jobpipe", **authorization(key)}
    through = None if proxy is None else parse_proxy(proxy)
    return Destinations([Destination(address, headers, through) for address in addresses])


def retries_of(retries: int | Retries) -> Retries:
    """How often, as a value. Raises Invalid."""
    found = Retries(count=retries) if isinstance(retries, int) else retries
    if not isinstance(found, Retries) or found.count < 0:
        raise Invalid(
            f"retries are a number of at least 0, or Retries(...), not {retries!r}", field="retries"
        )
    return found


def timeout_of(timeout: float) -> float:
    """Seconds for one request. Raises Invalid."""
    if not isinstance(timeout, int | float) or not 0 < timeout <= LONGEST_S:
        raise Invalid(
            f"a timeout is seconds, more than 0 and at most a day, not {timeout!r}", field="timeout"
        )
    return timeout
