"""Rules of queues and keys: what is said of them, what of it is in force, and what is used up of it.

What runs is taken from the running claims. The next start of a rate and the end of a hold are written in the commit of
the claim, or of the end, that moved them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import apsw
import msgspec

from jobpipe.core.errors import Invalid, JobpipeError, TooManyQueues
from jobpipe.core.gate import Held, held
from jobpipe.core.rules import (
    MAX_KEY_RULES,
    NOTHING_SAID,
    Rules,
    Said,
    changed,
    in_force,
)
from jobpipe.core.task import Claim, Status, Task
from jobpipe.runtime.clock import Clock
from jobpipe.storage.flow import Declaration, KeyUse, QueueRules, SaidBy
from jobpipe.storage.sqlite import rules as sql
from jobpipe.storage.sqlite.counts import Counts
from jobpipe.storage.sqlite.due import Due
from jobpipe.storage.sqlite.lanes import Key, Lanes
from jobpipe.storage.sqlite.leases import Leases
from jobpipe.storage.sqlite.line import Row
from jobpipe.storage.sqlite.rows import decode_json, text

RESTED = 10_000
"""After so many writes of what was used up, what does not count any more is deleted."""

_said = msgspec.json.Decoder(Said).decode
_QUEUED = Status.QUEUED


class Mirror(Protocol):
    """What rules are judged by: the database, and what memory keeps of it."""

    db: apsw.Connection
    clock: Clock
    counts: Counts
    due: Due
    leases: Leases
    max_queues: int

    @property
    def queues(self) -> dict[str, int]:
        """All queue names that hold tasks or have rules."""
        ...

    def one(self, statement: str, arguments: tuple[Any, ...] = ()) -> Any:
        """The value of a statement that hands out one."""
        ...

    def write_late(self) -> None:
        """Write the claims that are not in the file yet."""
        ...


class Flow:
    """All that is said, by queue; the queues that obey rules are in `due.ruled`."""

    def __init__(self, mirror: Mirror) -> None:
        self._s = mirror
        self._people: dict[str, dict[str, SaidBy]] = {}
        """By queue and key; '' is the queue itself."""
        self._declared: dict[str, dict[str, Said]] = {}
        self.capacities: dict[str, int] = {}
        self.ruled: frozenset[str] = frozenset()
        """As `due.ruled`; may be read from any thread."""
        self._held_keys: set[str] = set()
        """Queues that tell keys apart since a key of them was held."""
        self._used: set[tuple[str, str]] = set()
        self._writes = 0

    # --- at start and after a rollback ---

    def load(self) -> None:
        """Begin anew with what the file, the counts and the running claims say."""
        self._people.clear()
        self._declared.clear()
        self._used.clear()
        for queue, key, app, said, at, by in decode_json(self._s.one(sql.ALL_SAID)):
            if app:
                self._declared.setdefault(queue, {})[app] = _said(said)
            else:
                self._people.setdefault(queue, {})[key] = SaidBy(_said(said), at, by)
        paces = decode_json(self._s.one(sql.HELD, (self._s.clock.now(),)))
        self._held_keys = {queue for queue, key in paces if key}
        names = {*self._people, *self._declared, *(queue for queue, _ in paces), *self._s.due.ruled}
        for queue in names:
            self._rule(queue)

    @property
    def queues(self) -> dict[str, int]:
        """The queues that have rules: each counts as one that holds tasks."""
        return dict.fromkeys([*self._people, *self._declared], 0)

    def keyed(self, queue: str) -> bool:
        """Whether rules, and not a hold alone, tell the keys of a queue apart."""
        return self._rules(queue).by_key or any(self._people.get(queue, ()))

    # --- what is said ---

    def apps(self) -> list[tuple[str, bytes]]:
        """As FlowRules.apps promises."""
        return [(app, handlers.encode()) for app, handlers in decode_json(self._s.one(sql.APPS))]

    def say(
        self, queue: str, key: Key, change: Mapping[str, Any], now: int, by: str | None
    ) -> JobpipeError | None:
        """As FlowRules.say promises."""
        said = self._people.get(queue, {})
        before = said.get(key or "")
        if (no := self._no_room(queue, key, before)) is not None:
            return no
        after = changed(NOTHING_SAID if before is None else before.said, dict(change))
        self._keep(queue, key or "", SaidBy(after, now, by) if after != NOTHING_SAID else None)
        self._rule(queue)
        return None

    def unsay(self, queue: str, key: Key) -> None:
        """As FlowRules.unsay promises."""
        for name in list(self._people.get(queue, {})) if key is None else [key]:
            self._keep(queue, name, None)
        self._rule(queue)

    def resume(self, queue: str, key: Key, now: int, by: str | None) -> None:
        """As FlowRules.resume promises."""
        self.flush()
        self._s.db.execute(sql.END_HOLD, (queue, key or ""))
        said = self._people.get(queue, {}).get(key or "")
        if said is not None and said.said.paused is True:
            self.say(queue, key, {"paused": None}, now, by)
        else:
            self._rule(queue)

    def declare(self, declaration: Declaration, now: int) -> bool:
        """As FlowRules.declare promises."""
        app = declaration.app
        release = self._s.one(sql.RELEASE, (app,))
        if release is not None and release > declaration.release:
            return False
        self._s.db.execute(sql.KEEP_APP, (app, declaration.release, declaration.handlers.decode(), now))
        before = {queue for queue, apps in self._declared.items() if app in apps}
        self._s.db.execute(sql.FORGET_DECLARED, (app,))
        for queue in before:
            del self._declared[queue][app]
            if not self._declared[queue]:
                del self._declared[queue]
        for queue, said in declaration.queues.items():
            self._s.db.execute(sql.KEEP_SAID, (queue, "", app, text(said), now, None))
            self._declared.setdefault(queue, {})[app] = said
        for queue in before | set(declaration.queues):
            self._rule(queue)
        return True

    def _no_room(self, queue: str, key: Key, before: SaidBy | None) -> JobpipeError | None:
        if key is not None and before is None:
            keys = len(self._people.get(queue, {}).keys() - {""})
            if keys >= MAX_KEY_RULES:
                return Invalid(f"{MAX_KEY_RULES} keys of queue '{queue}' have rules already", field="key")
        queues = self._s.queues
        if queue not in queues and len(queues) >= self._s.max_queues:
            return TooManyQueues(f"{self._s.max_queues} queues hold tasks or have rules already")
        return None

    def _keep(self, queue: str, key: str, said: SaidBy | None) -> None:
        keys = self._people.setdefault(queue, {})
        if said is None:
            keys.pop(key, None)
            self._s.db.execute(sql.FORGET_SAID, (queue, key))
        else:
            keys[key] = said
            self._s.db.execute(
                sql.KEEP_SAID, (queue, key, "", text(said.said), said.changed_at, said.changed_by)
            )
        if not keys:
            del self._people[queue]

    # --- what is in force ---

    def _rule(self, queue: str) -> None:
        """Make the lanes of a queue anew, or none."""
        self.flush()
        rules = self._rules(queue)
        if rules.capacity is None:
            self.capacities.pop(queue, None)
        else:
            self.capacities[queue] = rules.capacity
        keys = {key: said.said for key, said in self._people.get(queue, {}).items() if key}
        now = self._s.clock.now()
        paces = decode_json(self._s.one(sql.PACES, (queue, now, now * 1000)))
        by_key = rules.by_key or bool(keys) or queue in self._held_keys
        priorities = [priority for name, priority in self._s.counts.levels() if name == queue]
        if rules.paused or rules.limited or by_key or any(hold > now for _, _, hold in paces):
            self._s.due.rule(queue, self._lanes(queue, rules, keys, paces, by_key=by_key), priorities)
        else:
            self._s.due.rule(queue, None, priorities)
        self.ruled = frozenset(self._s.due.ruled)

    def _rules(self, queue: str) -> Rules:
        people = self._people.get(queue, {}).get("")
        return in_force(
            self._declared.get(queue, {}).values(), NOTHING_SAID if people is None else people.said
        )

    def _lanes(
        self,
        queue: str,
        rules: Rules,
        keys: dict[str, Said],
        paces: Iterable[tuple[str, int, int]],
        *,
        by_key: bool,
    ) -> Lanes:
        self._s.write_late()
        lanes = Lanes(rules, keys, _Peek(self._s, queue, by_key), by_key=by_key)
        running = self._s.leases.running_of(queue)
        used = {key: (next_us, hold) for key, next_us, hold in paces}
        lanes.gate.running = sum(running.values())
        lanes.gate.next_us, lanes.gate.hold_until = used.pop("", (0, 0))
        if by_key:
            lanes.load(self._waiting_by_key(queue))
            for key in running.keys() | used.keys():
                lanes.restore(key, running.get(key, 0), *used.get(key or "", (0, 0)))
        else:
            waiting = self._s.counts.of(_QUEUED)
            lanes.load((None, priority, n, 0) for (name, priority), n in waiting.items() if name == queue)
        return lanes

    def _waiting_by_key(self, queue: str) -> list[tuple[Key, int, int, int]]:
        levels: list[tuple[Key, int, int, int]] = [
            (key, priority, n, run_at)
            for key, priority, n, run_at in decode_json(self._s.one(sql.LANES, (queue,)))
        ]
        with_key: dict[int, int] = {}
        for _, priority, n, _ in levels:
            with_key[priority] = with_key.get(priority, 0) + n
        for (name, priority), n in self._s.counts.of(_QUEUED).items():
            if name == queue and n > with_key.get(priority, 0):
                levels.append((None, priority, n - with_key.get(priority, 0), 0))
        return levels

    # --- what is used up ---

    def claimed(self, claims: Sequence[Claim]) -> None:
        """The next starts of rates are to be written with these claims."""
        for claim in claims:
            lanes = self._s.due.ruled.get(claim.task.queue)
            if lanes is None:
                continue
            if lanes.gate.rules.rate is not None:
                self._used.add((claim.task.queue, ""))
            gate = lanes.gate_of(claim.task.key)
            if gate is not None and gate.rules.rate is not None:
                self._used.add((claim.task.queue, claim.task.key or ""))

    def hold(self, queue: str, key: Key, until: int) -> None:
        """Nothing of a key (None: of the queue) starts before `until`."""
        if key is not None and (queue not in self._s.due.ruled or not self._s.due.ruled[queue].by_key):
            self._held_keys.add(queue)
        elif queue in self._s.due.ruled:
            lanes = self._s.due.ruled[queue]
            if key is None:
                lanes.gate.hold(until)
            else:
                lanes.hold(key, until)
            self._used.add((queue, key or ""))
            self._s.due.refresh(queue)
            return
        self._s.db.execute(sql.HOLD, (queue, key or "", until))
        self._rule(queue)

    def flush(self) -> None:
        """Write what was used up, in the transaction that is under way."""
        if not self._used:
            return
        rows = []
        for queue, key in self._used:
            lanes = self._s.due.ruled.get(queue)
            gate = None if lanes is None else lanes.gate if not key else lanes.gate_of(key)
            if gate is not None:
                rows.append((queue, key, gate.next_us, gate.hold_until))
        self._used.clear()
        self._s.db.execute(sql.KEEP_PACES, (text(rows),))
        self._writes += len(rows)
        if self._writes >= RESTED:
            self._writes = 0
            now = self._s.clock.now()
            self._s.db.execute(sql.FORGET_RESTED, (now * 1000, now))

    # --- to be seen ---

    def all_rules(self, queue: str | None, now: int) -> list[QueueRules]:
        """As FlowRules.rules promises."""
        names = sorted({*self._people, *self._declared, *self._s.due.ruled}) if queue is None else [queue]
        return [found for name in names if (found := self._of(name, now)) is not None]

    def _of(self, queue: str, now: int) -> QueueRules | None:
        people, declared = self._people.get(queue), self._declared.get(queue)
        lanes = self._s.due.ruled.get(queue)
        hold = lanes.gate.hold_until if lanes is not None and lanes.gate.holds(now) else None
        if people is None and declared is None and hold is None:
            return None
        return QueueRules(queue, self._rules(queue), dict(declared or {}), (people or {}).get(""), hold)

    def keys(self, queue: str, limit: int, after: Key, now: int) -> list[KeyUse]:
        """As FlowRules.keys promises."""
        waiting = dict(decode_json(self._s.one(sql.WAITING_KEYS, (queue, after or "", limit))))
        running = self._s.leases.running_of(queue)
        people = self._people.get(queue, {})
        names = sorted(name for name in {*waiting, *running, *people} if name and name > (after or ""))[
            :limit
        ]
        return [self._use(queue, name, waiting.get(name, 0), running[name], now) for name in names]

    def key(self, queue: str, key: str, now: int) -> KeyUse:
        """As FlowRules.key promises."""
        running = self._s.leases.running_of(queue)
        return self._use(queue, key, self._s.one(sql.WAITING_OF_KEY, (queue, key)), running[key], now)

    def _use(self, queue: str, key: str, queued: int, running: int, now: int) -> KeyUse:
        said = self._people.get(queue, {}).get(key)
        lanes = self._s.due.ruled.get(queue)
        gate = None if lanes is None else lanes.gate_of(key)
        hold = gate.hold_until if gate is not None and gate.holds(now) else None
        rules = self._rules(queue).of_key(NOTHING_SAID if said is None else said.said)
        return KeyUse(key, queued, running, rules, said, hold)

    def held(self, tasks: Sequence[Task], now: int) -> list[Held | None]:
        """As FlowRules.held promises."""
        return [self._held(task, now) if self._s.due.ruled else None for task in tasks]

    def _held(self, task: Task, now: int) -> Held | None:
        lanes = self._s.due.ruled.get(task.queue)
        if lanes is None or task.status is not _QUEUED or task.run_at > now:
            return None
        return held(lanes.gate, lanes.gate_of(task.key), now)


class _Peek:
    """Reads the first rows of lanes of one queue."""

    def __init__(self, mirror: Mirror, queue: str, by_key: bool) -> None:
        self._s = mirror
        self._queue = queue
        self._by_key = by_key

    def __call__(self, levels: list[tuple[Key, int]], n: int) -> list[list[Row]]:
        with_key = [level for level in levels if level[0] is not None]
        found = decode_json(self._s.one(sql.PEEK_LANES, (text(with_key), self._queue, n))) if with_key else []
        of_keys = iter(found)
        statement = sql.PEEK_KEYLESS if self._by_key else sql.PEEK_ALL
        return [
            _rows(
                decode_json(self._s.one(statement, (self._queue, priority, n)))
                if key is None
                else next(of_keys)
            )
            for key, priority in levels
        ]


def _rows(found: Iterable[Sequence[int]]) -> list[Row]:
    return [(run_at, seq, size, None) for run_at, seq, size in found]
