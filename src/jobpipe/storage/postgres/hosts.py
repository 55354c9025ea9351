"""Which of the hosts of an address is connected to: the one that took writes last is tried first, the one that fell
silent last. Each gets its own time, and none that does not take writes is taken, at every connection anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from weakref import WeakSet

from jobpipe.core.errors import StorageError
from jobpipe.storage.postgres.address import Address, Host
from jobpipe.storage.postgres.lineage import Lineage, Standing, doubt, look
from jobpipe.storage.postgres.link import Link, Refused, addresses, dial

log = logging.getLogger("jobpipe.storage")


class Hosts:
    """The hosts of an address in the order in which they are to be tried."""

    def __init__(self, address: Address, lineage: Lineage) -> None:
        self._address = address
        self._lineage = lineage
        self._links: WeakSet[Link] = WeakSet()
        self._told: dict[Host, Standing] = {}
        self._at: dict[Host, str] = {}
        """Which of a name's addresses answered, where the first of them had not."""
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
        link = await self._dialled(host, bare)
        link.on_silence = lambda: self._put(host, len(self.order))
        try:
            async with asyncio.timeout(self._address.connect_s):
                await self._lineage.check(link, host)
        except (StorageError, Refused, TimeoutError) as error:
            link.cut()
            raise StorageError(str(error) or "does not answer") from error
        self._links.add(link)
        return link

    async def _dialled(self, host: Host, bare: bool) -> Link:
        """By its name; where that stands for several addresses and nobody answers, by each, in a time of its own."""
        try:
            return await dial(self._address, host, bare=bare, at=self._at.get(host))
        except StorageError as error:
            self._at.pop(host, None)
            others = await addresses(host) if isinstance(error.__cause__, TimeoutError) else []
            for at in others[1:] + others[:1]:
                with contextlib.suppress(StorageError):
                    link = await dial(self._address, host, bare=bare, at=at)
                    self._at[host] = at
                    return link
            raise

    async def survey(self) -> None:
        """Before the first connection: put the newest of several primaries first. Raises StorageError.

        Two that went apart and cannot be told to be older and newer are for people to decide about.
        """
        hosts = list(self.order) if len(self.order) > 1 else []
        found = [(host, of) for host, of in zip(hosts, await self._standings(hosts), strict=True) if of]
        found.sort(key=lambda one: one[1].age, reverse=True)
        for host, standing in found[1:]:
            first, newest = found[0]
            if standing.age == newest.age and (why := doubt(newest, standing)) is not None:
                raise StorageError(f"{first} and {host} both take writes, and of {host}: {why}")
            self._tell_apart(host, newest, standing)
        if found:
            self._put(found[0][0], 0)

    def leave(self) -> None:
        """End all links: whoever used one connects anew."""
        for link in list(self._links):
            link.cut()

    async def watch(self) -> None:
        """Now and then: leave a primary of before when another host was promoted; say so when two take writes."""
        seen, others = self._lineage.seen, self.order[1:]
        if seen is None:
            return
        for host, standing in zip(others, await self._standings(others), strict=True):
            if standing is None:
                continue
            if standing.age > seen.age and doubt(seen, standing) is None:
                log.warning("%s was promoted while %s still takes writes: going there", host, self.order[0])
                self._put(host, 0)
                self.leave()
                return
            self._tell_apart(host, seen, standing)

    def _tell_apart(self, host: Host, newest: Standing, standing: Standing) -> None:
        why = doubt(newest, standing)
        if why is not None and self._told.get(host) != standing:
            self._told[host] = standing
            log.error("%s takes writes too, but %s: fence it off", host, why)

    async def _standings(self, hosts: list[Host]) -> list[Standing | None]:
        """What those hosts are that take writes now."""
        return await asyncio.gather(*map(self._standing, hosts))

    async def _standing(self, host: Host) -> Standing | None:
        try:
            async with asyncio.timeout(2 * self._address.connect_s):
                link = await dial(self._address, host, bare=True)
                try:
                    return await look(link)
                finally:
                    await link.close()
        except (StorageError, Refused, TimeoutError):
            return None

    def _put(self, host: Host, place: int) -> None:
        # Another connection may have found out meanwhile: only the order matters, every host stays in it.
        self.order.remove(host)
        self.order.insert(place, host)
