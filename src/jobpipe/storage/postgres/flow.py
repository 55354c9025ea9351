"""Rules of queues and keys: what people and apps say, stored for all servers, and what is held.

Whoever changes what is said of a queue locks its row in `ruled`, as each claim from it does: once a change is answered
no server goes by what was before.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from jobpipe.core.errors import Invalid, JobpipeError, TooManyQueues, Upgrading
from jobpipe.core.gate import Gate, Held, held
from jobpipe.core.rules import MAX_KEY_RULES, NOTHING_SAID, Said, changed
from jobpipe.core.task import Status, Task
from jobpipe.storage.flow import Declaration, KeyUse, QueueRules, SaidBy
from jobpipe.storage.postgres import statements_flow as sql
from jobpipe.storage.postgres import statements_once as once_sql
from jobpipe.storage.postgres.link import Link, Row, arrays
from jobpipe.storage.postgres.migrations import scripts
from jobpipe.storage.postgres.rows import searchable
from jobpipe.storage.postgres.rulebook import Ruled, read
from jobpipe.storage.postgres.shared import Shared

FIRST_SCHEMA = 5
"""Programs of earlier schemas know no rules."""
Who = tuple[int, str | None]
"""When it was said (ms), and by the name of which API key."""
Hold = tuple[str, str, int]
"""Queue, key ('': the queue itself), and for how many ms from now nothing of it starts."""
_encode = msgspec.json.Encoder().encode
_UPGRADING = Upgrading("a server of an earlier version still serves the store")


class Flow:
    """Answers what storage.flow.FlowRules promises, over a link. `tell` is called when rules were changed."""

    def __init__(self, shared: Shared, max_queues: int) -> None:
        self._s = shared
        self._max_queues = max_queues
        self.tell: Callable[[], None] = lambda: None

    # --- what is said ---

    async def say(
        self, link: Link, queue: str, key: str | None, change: Mapping[str, Any], who: Who
    ) -> JobpipeError | None:
        """As FlowRules.say promises; refused beside a server that would not obey."""
        if await _beside_older(link):
            return _UPGRADING
        await self._s.counts.freshen(link)
        await self._s.rulebook.load(link)
        async with link.transaction():
            await link.rows(sql.RULE, [queue])
            ruled = (await read(link, [queue]))[queue]
            refused = self._no_room(queue, key, ruled)
            if refused is None:
                await self._write(link, (queue, key or ""), ruled, change, who)
            await self._put(link, queue)
        await self.changed(link)
        return refused

    async def unsay(self, link: Link, queue: str, key: str | None) -> None:
        """As FlowRules.unsay promises."""
        async with link.transaction():
            await link.rows(sql.RULE, [queue])
            if key is None:
                await link.rows(sql.FORGET_ALL_SAID, queue)
            else:
                await link.rows(sql.FORGET_SAID, queue, key)
            await self._put(link, queue)
        await self.changed(link)

    async def resume(self, link: Link, queue: str, key: str | None, who: Who) -> None:
        """As FlowRules.resume promises."""
        async with link.transaction():
            await link.rows(sql.RULE, [queue])
            ruled = (await read(link, [queue]))[queue]
            said = ruled.people.get(key or "")
            if said is not None and said.said.paused is True:
                await self._write(link, (queue, key or ""), ruled, {"paused": None}, who)
            await link.rows(sql.END_HOLD, queue, key or "")
            await self._put(link, queue)
        await self.changed(link)

    async def declare(self, link: Link, declaration: Declaration, now: int) -> bool | JobpipeError:
        """As FlowRules.declare promises; refused beside a server that would not obey."""
        limits = any(said != NOTHING_SAID for said in declaration.queues.values())
        if limits and await _beside_older(link):
            return _UPGRADING
        app, release = declaration.app, declaration.release
        async with link.transaction():
            if not await link.rows(sql.KEEP_APP, app, release, declaration.handlers.decode()):
                return False
            before = {row["queue"] for row in await link.rows(sql.DECLARED_BY, app)}
            queues = sorted(before | declaration.queues.keys())
            await link.rows(sql.RULE, queues)
            await link.rows(sql.FORGET_DECLARED, app)
            for queue, said in declaration.queues.items():
                await link.rows(sql.KEEP_SAID, queue, "", app, _encode(said).decode(), now, None)
            for queue in queues:
                await self._put(link, queue)
        await self.changed(link)
        return True

    async def hold(self, link: Link, holds: Sequence[Hold]) -> None:
        """Nothing of these queues and keys starts before so many ms have passed; within a transaction."""
        queues = sorted({queue for queue, _, _ in holds})
        await link.rows(sql.RULE, queues)
        await link.rows(sql.HOLD, *arrays(holds, 3))
        for queue in queues:
            await self._put(link, queue)

    def _no_room(self, queue: str, key: str | None, ruled: Ruled) -> JobpipeError | None:
        if key is not None and key not in ruled.people:
            keys = len(ruled.people.keys() - {""})
            if keys >= MAX_KEY_RULES:
                return Invalid(f"{MAX_KEY_RULES} keys of queue '{queue}' have rules already", field="key")
        queues = self._s.room.queues
        if queue not in queues and not ruled.is_said and len(queues) >= self._max_queues:
            return TooManyQueues(f"{self._max_queues} queues hold tasks or have rules already")
        return None

    async def _write(
        self, link: Link, name: tuple[str, str], ruled: Ruled, change: Mapping[str, Any], who: Who
    ) -> None:
        before = ruled.people.get(name[1])
        after = changed(NOTHING_SAID if before is None else before.said, dict(change))
        if after == NOTHING_SAID:
            await link.rows(sql.FORGET_SAID, *name)
        else:
            await link.rows(sql.KEEP_SAID, *name, "", _encode(after).decode(), *who)

    async def _put(self, link: Link, queue: str) -> None:
        """Make the queue's row say what follows from what is stored now."""
        ruled = (await read(link, [queue]))[queue]
        holds = await link.row(sql.HOLDS, queue)
        by_key = ruled.keyed or holds["keys"]
        obeyed = ruled.rules.paused or ruled.rules.limited or by_key or holds["queue"]
        if not by_key:
            await link.rows(sql.FORGET_LANES, queue)
        if ruled.is_said or obeyed:
            await link.rows(sql.RULED, queue, secrets.randbits(62), obeyed, by_key)
        else:
            await link.rows(sql.UNRULE, queue)

    async def refresh(self, link: Link, queue: str) -> None:
        """A hold that is over may have been all that made claims obey."""
        await self._put(link, queue)

    async def changed(self, link: Link) -> None:
        """What is said or held was changed and committed: it is in force at once, here and wherever it is told."""
        self._s.rulebook.stale = True
        self.tell()
        await self._s.rulebook.look(link, shared=True)

    # --- to be seen ---

    async def apps(self, link: Link) -> list[tuple[str, bytes]]:
        """As FlowRules.apps promises."""
        return [(row["app"], row["handlers"].encode()) for row in await link.rows(sql.APPS)]

    async def rules(self, link: Link, queue: str | None) -> list[QueueRules]:
        """As FlowRules.rules promises."""
        await self._s.rulebook.load(link)
        book = self._s.rulebook
        holds = {
            row["queue"]: self._s.time.here(row["hold_until"]) for row in await link.rows(sql.HELD_QUEUES)
        }
        names = sorted({*book.queues, *holds}) if queue is None else [queue]
        return [_shown(name, book.of(name), holds.get(name)) for name in names
                if book.of(name).is_said or name in holds]  # fmt: skip

    async def keys(self, link: Link, queue: str, limit: int, after: str | None) -> list[KeyUse]:
        """As FlowRules.keys promises."""
        await self._s.rulebook.load(link)
        ruled = self._s.rulebook.of(queue)
        found = await link.rows(sql.KEYS, searchable(queue), searchable(after or ""), limit)
        return [self._use(row, ruled) for row in found]

    async def key(self, link: Link, queue: str, key: str) -> KeyUse:
        """As FlowRules.key promises."""
        await self._s.rulebook.load(link)
        row = await link.row(sql.KEY, searchable(queue), searchable(key))
        return self._use(row, self._s.rulebook.of(queue))

    def _use(self, row: Row, ruled: Ruled) -> KeyUse:
        key = row["key"]
        hold = Gate(hold_until=row["hold_until"])
        until = self._s.time.here(row["hold_until"]) if hold.holds(row["now"]) else None
        return KeyUse(key, row["queued"], row["running"], ruled.of_key(key), ruled.people.get(key), until)

    async def held(self, link: Link, tasks: Sequence[Task]) -> list[Held | None]:
        """As FlowRules.held promises."""
        await self._s.rulebook.load(link)
        due = [
            task for task in tasks if task.status is Status.QUEUED and task.queue in self._s.rulebook.obeyed
        ]
        if not due:
            return [None] * len(tasks)
        rows = await link.rows(sql.GATES, *arrays(sorted(_gates(due)), 2))
        gates = {(row["queue"], row["key"]): self._gate(row) for row in rows}
        now = rows[0]["now"]
        return [_reason(task, gates, now) for task in tasks]

    def _gate(self, row: Row) -> Gate:
        return gate_of(self._s.rulebook.of(row["queue"]), row["key"], row)


def gate_of(ruled: Ruled, key: str | None, row: Row) -> Gate:
    """What a queue ('' or None) or a key of it has used up, by a row of GATES or LANES."""
    rules = ruled.of_key(key) if key else ruled.rules
    return Gate(rules, row["running"], row["next_us"], row["hold_until"])


async def stir(shared: Shared, link: Link, tasks: Iterable[Task]) -> None:
    """These tasks wait again, or wait otherwise than before; in the transaction that makes them do so."""
    rows = [
        (task.queue, task.key or "", task.priority, task.run_at)
        for task in tasks
        if task.queue in shared.rulebook.by_key and task.status is Status.QUEUED
    ]
    if rows:
        await link.rows(sql.STIR, *arrays(rows, 4))


def _gates(tasks: Iterable[Task]) -> set[tuple[str, str]]:
    return {(task.queue, key) for task in tasks for key in ("", task.key or "")}


def _reason(task: Task, gates: Mapping[tuple[str, str], Gate], now: int) -> Held | None:
    queue = gates.get((task.queue, ""))
    if queue is None or task.status is not Status.QUEUED or task.run_at > now:
        return None
    return held(queue, gates.get((task.queue, task.key)) if task.key else None, now)


def _shown(queue: str, ruled: Ruled, hold_until: int | None) -> QueueRules:
    people: SaidBy | None = ruled.people.get("")
    declared: dict[str, Said] = dict(ruled.declared)
    return QueueRules(queue, ruled.rules, declared, people, hold_until)


async def _beside_older(link: Link) -> bool:
    return bool(await link.value(once_sql.OLDER, min(FIRST_SCHEMA, len(scripts()))))
