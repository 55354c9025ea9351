"""Which of the hosts of an address is connected to: the one that took writes last is tried first, the one that fell
silent last. Each gets its own time, and none that does not take writes is taken, at every connection anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from jobpipe.core.errors import StorageError
from jobpipe.storage.postgres.address import Address, Host
from jobpipe.storage.postgres.link import Link, Refused, dial

Check = Callable[[Link, Host], Awaitable[None]]
"""Raises StorageError for a host that must not be written to."""


class Hosts:
    """The hosts of an address in the order in which they are to be tried."""

    def __init__(self, address: Address, check: Check | None = None) -> None:
        self._address = address
        self._check = check
        self.order = list(address.hosts)

    async def connect(self, *, bare: bool = False) -> Link:
        """A link to the first host that takes writes. Raises StorageError.

        A `bare` one has the server's settings, not ours.
        """
        reasons: list[str] = []
        for host in list(self.order):
            try:
                link = await self._connected(host, bare)
            except StorageError as error:
                reasons.append(str(error) if len(self.order) == 1 else f"{host}: {error}")
                continue
            self._put(host, 0)
            return link
        raise StorageError(f"cannot reach PostgreSQL at {self._address.shown}: {'; '.join(reasons)}")

    async def _connected(self, host: Host, bare: bool) -> Link:
        link = await dial(self._address, host, bare=bare)
        link.on_silence = lambda: self._put(host, len(self.order))
        if self._check is None:
            return link
        try:
            async with asyncio.timeout(self._address.connect_s):
                await self._check(link, host)
        except (StorageError, Refused, TimeoutError) as error:
            link.cut()
            raise StorageError(str(error) or "does not answer") from error
        return link

    def _put(self, host: Host, place: int) -> None:
        # Another connection may have found out meanwhile: only the order matters, every host stays in it.
        self.order.remove(host)
        self.order.insert(place, host)
