"""What this server knows of the rules of queues: the database alone is the truth, and a claim judges by that.

Versions are read when another server says that it changed rules, and once a second while others are here; only the
rules of queues whose version is another one are read anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable

import msgspec
from msgspec import Struct

from jobpipe.core.rules import NO_RULES, NOTHING_SAID, Rules, Said, in_force
from jobpipe.storage.flow import SaidBy
from jobpipe.storage.postgres import statements_flow as sql
from jobpipe.storage.postgres.link import Link, Row

LOOK_S = 0.5
"""While others share the database: so old a look may be, whatever they said."""

_said = msgspec.json.Decoder(Said).decode
Standing = tuple[int, bool, bool]
"""Version of a queue's rules, whether claims obey them, and whether they tell keys apart."""


class Ruled(Struct, frozen=True):
    """What is said of a queue, '' in `people` being the queue itself, and what of it is in force."""

    people: dict[str, SaidBy] = {}
    declared: dict[str, Said] = {}
    rules: Rules = NO_RULES

    @property
    def is_said(self) -> bool:
        """Whether anything is."""
        return bool(self.people or self.declared)

    @property
    def keyed(self) -> bool:
        """Whether rules, and not a hold alone, tell keys apart."""
        return self.rules.by_key or any(self.people)

    def of_key(self, key: str) -> Rules:
        """The rules of a key by itself; '' are tasks without one, which have no limits of their own."""
        if not key:
            return NO_RULES
        said = self.people.get(key)
        return self.rules.of_key(NOTHING_SAID if said is None else said.said)


UNRULED = Ruled()


class RuleBook:
    """The rules of all queues that have any. `told` is called when it may be that others are obeyed than before."""

    def __init__(self) -> None:
        self._ruled: dict[str, Ruled] = {}
        self._standing: dict[str, Standing] = {}
        self.stale = True
        self._looked_at = float("-inf")
        self.obeyed: frozenset[str] = frozenset()
        """The queues whose claims obey rules."""
        self.by_key: frozenset[str] = frozenset()
        """Those of them that tell keys apart."""
        self.limited: frozenset[str] = frozenset()
        """Those of them of which a worker is given no more than it can begin at once."""
        self.capacities: dict[str, int] = {}
        self.told: Callable[[Collection[str]], None] = _nobody

    def of(self, queue: str) -> Ruled:
        """What is known of a queue."""
        return self._ruled.get(queue, UNRULED)

    def version(self, queue: str) -> int | None:
        """The version of what is known."""
        standing = self._standing.get(queue)
        return None if standing is None else standing[0]

    @property
    def queues(self) -> list[str]:
        """Those of which something is said: each counts as one that holds tasks."""
        return [queue for queue, ruled in self._ruled.items() if ruled.is_said]

    async def look(self, link: Link, *, shared: bool) -> None:
        """Look for other versions, if there may be some. `shared`: other servers are here."""
        now = asyncio.get_running_loop().time()
        if self.stale or (shared and now - self._looked_at > LOOK_S):
            self.stale = False  # what is said from here on may not be in it
            self._looked_at = now
            try:
                await self.load(link)
            except BaseException:
                self.stale = True
                raise

    async def load(self, link: Link) -> None:
        """Take over what the database says, as far as it is another version."""
        rows = await link.rows(sql.VERSIONS)
        standing = {row["queue"]: (row["version"], row["obeyed"], row["by_key"]) for row in rows}
        other = [queue for queue in standing if self._standing.get(queue) != standing[queue]]
        gone = self._standing.keys() - standing.keys()
        ruled = await read(link, other) if other else {}
        for queue in gone:
            self._ruled.pop(queue, None)
            self.capacities.pop(queue, None)
        for queue in other:
            self._take_over(queue, ruled[queue])
        self._standing = standing
        if other or gone:
            self._tell({*other, *gone})

    def _take_over(self, queue: str, ruled: Ruled) -> None:
        self._ruled[queue] = ruled
        if ruled.rules.capacity is None:
            self.capacities.pop(queue, None)
        else:
            self.capacities[queue] = ruled.rules.capacity

    def _tell(self, changed: Collection[str]) -> None:
        self.obeyed = frozenset(queue for queue, (_, obeyed, _) in self._standing.items() if obeyed)
        self.by_key = frozenset(
            queue for queue, (_, obeyed, by_key) in self._standing.items() if obeyed and by_key
        )
        self.limited = self.by_key | {queue for queue in self.obeyed if self.of(queue).rules.limited}
        self.told(changed)


async def read(link: Link, queues: Iterable[str]) -> dict[str, Ruled]:
    """What is said of these queues, as it is stored."""
    names = list(queues)
    people: dict[str, dict[str, SaidBy]] = {queue: {} for queue in names}
    declared: dict[str, dict[str, Said]] = {queue: {} for queue in names}
    for row in await link.rows(sql.SAID, names):
        if row["app"]:
            declared[row["queue"]][row["app"]] = _said(row["said"])
        else:
            people[row["queue"]][row["key"]] = _said_by(row)
    return {queue: _ruled(people[queue], declared[queue]) for queue in names}


def _said_by(row: Row) -> SaidBy:
    return SaidBy(_said(row["said"]), row["changed_at"], row["changed_by"])


def _ruled(people: dict[str, SaidBy], declared: dict[str, Said]) -> Ruled:
    queue = people.get("")
    return Ruled(people, declared, in_force(declared.values(), NOTHING_SAID if queue is None else queue.said))


def _nobody(changed: Collection[str]) -> None:
    """There is nobody to tell."""
