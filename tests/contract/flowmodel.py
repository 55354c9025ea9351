"""What rules of queues and keys allow, by a plain list of tasks: nothing of the program is in it but its values."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from jobpipe.core.rates import Rate
from jobpipe.core.task import Status, Task

Name = tuple[str, str]
"""A queue, and a key in it; '' is the queue itself."""
REASONS = ("paused", "key_paused", "hold", "concurrency", "key_concurrency", "rate", "key_rate")


class FlowModel:
    """The rules as people said them, what they have used up, and whose turn it is."""

    def __init__(self) -> None:
        self.said: dict[Name, dict[str, Any]] = defaultdict(dict)
        self.due_us: dict[Name, int] = defaultdict(int)
        """When the next start may come if all keep their distance."""
        self.hold_until: dict[Name, int] = defaultdict(int)
        self.events = 0
        self.started: dict[Name, int] = defaultdict(int)
        """The event of the latest start of a key ('': those without)."""
        self.waits_since: dict[Name, int] = {}
        """Since which event the key has had a due task; begun anew when rules change."""
        self.was_keyed: set[str] = set()
        """Queues in which a key was held: a store may tell their keys apart from then on."""

    # --- what is said ---

    def say(self, queue: str, key: str, rule: str, value: Any) -> None:
        """People change a rule; None takes it back."""
        said = self.said[queue, key]
        said[rule] = value
        if value is None:
            del said[rule]
        self.forget_turns(queue)

    def resume(self, queue: str, key: str) -> None:
        """No pause and no hold."""
        self.said[queue, key].pop("paused", None)
        self.hold_until[queue, key] = 0
        self.forget_turns(queue)

    def hold(self, queue: str, key: str, until: int) -> None:
        """Nothing of it starts before."""
        self.hold_until[queue, key] = max(until, self.hold_until[queue, key])
        if key:
            self.was_keyed.add(queue)
        self.forget_turns(queue)

    def forget_turns(self, queue: str | None = None) -> None:
        """Who waits does so from now on: a store may begin anew with the turns."""
        self.events += 1
        for name in list(self.waits_since):
            if queue in (None, name[0]):
                del self.waits_since[name]

    # --- what may start ---

    def is_limited(self, queue: str) -> bool:
        """Whether a worker is given no more of it than it can begin."""
        said, own = (
            self.said[queue, ""],
            any(rules for (name, key), rules in self.said.items() if key and name == queue),
        )
        limits = ("concurrency", "key_concurrency", "rate", "key_rate", "fair")
        return own or any(said.get(rule) is not None for rule in limits)

    def reason(self, task: Task, running: Iterable[Task], now: int) -> str | None:
        """Why it may not start, if it is due."""
        said, own = self.said[task.queue, ""], self.said[task.queue, task.key] if task.key else {}
        of_queue = [other for other in running if other.queue == task.queue]
        of_key = [other for other in of_queue if other.key == task.key]
        most_of_key, key_rate = self._of_key(task)
        so = (
            said.get("paused"), own.get("paused"),
            now < self.hold_until[task.queue, ""] or (task.key and now < self.hold_until[task.queue, task.key]),
            _reached(said.get("concurrency"), len(of_queue)), _reached(most_of_key, len(of_key)),
            self._spent(said.get("rate"), (task.queue, ""), now),
            task.key and self._spent(key_rate, (task.queue, task.key), now),
        )  # fmt: skip
        return next((reason for reason, is_so in zip(REASONS, so, strict=True) if is_so), None)

    def start(self, task: Task, now: int) -> None:
        """It starts."""
        self.events += 1
        self.started[task.queue, task.key or ""] = self.events
        rates = [(self.said[task.queue, ""].get("rate"), "")]
        if task.key:
            rates.append((self._of_key(task)[1], task.key))
        for rate, key in rates:
            if rate is not None:
                name = (task.queue, key)
                self.due_us[name] = max(self._capped(rate, name, now), now * 1000) + _interval_us(rate)

    def look(self, tasks: Iterable[Task], now: int) -> None:
        """Who has due tasks now."""
        self.events += 1
        waiting = {(task.queue, task.key or "") for task in tasks if _is_due(task, now)}
        self.waits_since = {name: self.waits_since.get(name, self.events) for name in waiting}

    def next(self, tasks: Iterable[Task], running: Sequence[Task], now: int, *, plain: bool) -> list[Task]:
        """The tasks of which one is to start next; with `plain`, of queues without limits alone."""
        firsts: dict[tuple[str, str | None], Task] = {}
        for task in sorted(filter(lambda task: _is_due(task, now), tasks), key=_place):
            fair = bool(self.said[task.queue, ""].get("fair"))
            name = (task.queue, task.key or "") if fair else (task.queue, None)
            passed_over = name in firsts or (plain and self.is_limited(task.queue))
            if not passed_over and self.reason(task, running, now) is None:
                firsts[name] = task
        by_queue: dict[str, list[Task]] = defaultdict(list)
        for task in firsts.values():
            by_queue[task.queue].append(task)
        nexts = [self._in_turn(found) for found in by_queue.values()]
        latest = min((max(map(_place, found)) for found in nexts), default=None)
        return [task for found in nexts for task in found if latest is not None and _place(task) <= latest]

    def _in_turn(self, firsts: list[Task]) -> list[Task]:
        """Of one queue the first tasks of its keys: those before which no other must come."""
        best = max(task.priority for task in firsts)
        among = [task for task in firsts if task.priority == best]
        floors = [
            max(self.started[_name(task)], self.waits_since.get(_name(task), self.events)) for task in among
        ]
        return [task for task in among if self.started[_name(task)] <= min(floors)]

    def _of_key(self, task: Task) -> tuple[int | None, Rate | None]:
        if task.key is None:
            return None, None
        said, own = self.said[task.queue, ""], self.said[task.queue, task.key]
        return own.get("concurrency", said.get("key_concurrency")), own.get("rate", said.get("key_rate"))

    def _spent(self, rate: Rate | None, name: Name, now: int) -> bool:
        if rate is None:
            return False
        ahead = max(0, self._capped(rate, name, now) - now * 1000)
        return ahead > (_burst(rate) - 1) * _interval_us(rate)

    def _capped(self, rate: Rate, name: Name, now: int) -> int:
        return min(self.due_us[name], now * 1000 + _burst(rate) * _interval_us(rate))


def _reached(most: int | None, running: int) -> bool:
    return most is not None and running >= most


def _interval_us(rate: Rate) -> int:
    return -(-round(rate.period * 1e6) // rate.limit)


def _burst(rate: Rate) -> int:
    return rate.burst or max(1, int(rate.limit / rate.period / 10))


def _is_due(task: Task, now: int) -> bool:
    return task.status is Status.QUEUED and task.run_at <= now


def _place(task: Task) -> tuple[int, int, int]:
    return -task.priority, task.run_at, task.seq


def _name(task: Task) -> Name:
    return task.queue, task.key or ""
