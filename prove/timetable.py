"""Schedules in the model: which tasks a store must make when, written from what the guide says alone.

Only those that come `every` so many seconds: when a cron expression comes is shown by the proof `cron`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from jobpipe.core.errors import JobpipeError, QueueFull, TaskExists, TooManyQueues
from jobpipe.core.task import NewTask, Status, Task
from jobpipe.core.unique import Known
from prove.model import Model

LATE_MS = 60_000
COUNTED = 10_000
PAUSES_MS = (500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000)
"""Between tries of a task that was refused."""


@dataclass
class Rule:
    """What was said of a schedule, and where it stands. Times in ms, `every` in seconds."""

    name: str
    every: int
    task: dict[str, Any]
    skips: bool
    makes_up: bool
    paused: bool
    position: int
    last_at: int | None = None
    last_task: str | None = None
    error: str | None = None
    missed: int = 0
    refused: int | None = None
    tries: int = 0
    retry_at: int = 0

    def next_at(self) -> int:
        """Its first time after what is dealt with."""
        return self.position - self.position % (self.every * 1000) + self.every * 1000

    def looks_at(self) -> int | None:
        """When there is something to do."""
        if self.paused:
            return None
        return self.next_at() if self.refused is None else min(self.next_at(), self.retry_at)

    def says(self) -> tuple[object, ...]:
        """What a store must show of it."""
        rest = None if self.refused is None else (self.refused, self.tries, self.retry_at)
        return (
            self.name, self.every, self.paused, self.position, self.last_at, self.last_task, self.error,
            self.missed, rest,
        )  # fmt: skip


class Timetable:
    """All schedules by name, whose tasks the model takes in."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self.rules: dict[str, Rule] = {}

    def put(self, said: Rule, *, paused: bool | None, now: int) -> None:
        """Make one, or change it; the same again changes nothing."""
        old = self.rules.get(said.name)
        said.paused = bool(paused) if old is None or paused is not None else old.paused
        said.position = now
        if old is not None and _same(old, said):
            return
        if old is not None:
            said.position = max(old.position, now)
            for field in ("last_at", "last_task", "error", "missed"):
                setattr(said, field, getattr(old, field))
        self.rules[said.name] = said

    def pause(self, name: str, *, paused: bool, now: int) -> bool:
        """Whether there is one to pause, or to let go on."""
        rule = self.rules.get(name)
        if rule is not None and rule.paused != paused:
            rule.paused, rule.position, rule.refused = paused, max(rule.position, now), None
        return rule is not None

    def delete(self, name: str) -> bool:
        """Whether there was one."""
        return self.rules.pop(name, None) is not None

    def due(self, now: int) -> list[Rule]:
        """Those with something to do, who has waited longest first."""
        found = [(at, rule.name, rule) for rule in self.rules.values() if (at := rule.looks_at()) is not None]
        return [rule for at, _, rule in sorted(found, key=lambda one: one[:2]) if at <= now]

    def fire(self, now: int, limit: int) -> list[Task | Known | type[JobpipeError]]:
        """Make what is due; what became of each task."""
        due = self.due(now)[:limit]
        asked = [(rule, self._times(rule, now)) for rule in due]
        answers: list[Task | Known | type[JobpipeError]] = []
        for rule, times in asked:
            for at in times:
                answers.append(answer := self._model.insert(_task(rule, at), now))
                _told(rule, at, answer, now)
        return answers

    def _times(self, rule: Rule, now: int) -> Sequence[int]:
        """The times that are made now; the rule moves on."""
        step = rule.every * 1000
        came = range(rule.next_at(), now + 1, step)
        late = now - LATE_MS
        old = [at for at in came if at < late]
        times = [at for at in came if at >= late]
        rule.missed += min(len(old), COUNTED)
        if old and not times and rule.makes_up:
            rule.missed -= 1
            times = old[-1:]
        if came:
            rule.position = came[-1] if times or rule.makes_up or len(old) < COUNTED else old[-1]
        times = self._with_the_refused(rule, times, now)
        if not rule.skips or not times:
            return times
        rule.refused = None
        last = self._model.rows.get(rule.last_task or "")
        lives = last is not None and last.task.status in (Status.QUEUED, Status.RUNNING)
        return [] if lives else times[:1]

    @staticmethod
    def _with_the_refused(rule: Rule, times: list[int], now: int) -> list[int]:
        """A task that was refused is tried until the next time comes."""
        if rule.refused is None:
            return times
        if times:
            rule.missed, rule.refused = rule.missed + 1, None
            return times
        return [rule.refused] if rule.retry_at <= now else []


def _told(rule: Rule, at: int, answer: Task | Known | type[JobpipeError], now: int) -> None:
    if isinstance(answer, Task | Known):
        rule.last_task = (answer.task if isinstance(answer, Known) else answer).id
        rule.last_at, rule.error, rule.refused = at, None, None
        return
    rule.error = answer.code
    before, rule.refused = rule.refused, None
    rule.missed += before is not None and before != at
    if answer in (QueueFull, TooManyQueues):
        rule.tries = rule.tries + 1 if before == at else 1
        rule.refused, rule.retry_at = at, now + PAUSES_MS[min(rule.tries, len(PAUSES_MS)) - 1]
    else:
        assert answer is TaskExists
        rule.missed += 1


def _task(rule: Rule, at: int) -> NewTask:
    stamp = datetime.fromtimestamp(at // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return NewTask(
        f"{rule.name}@{stamp}", run_at=at, schedule=rule.name, scheduled_for=at, **rule.task
    )  # fmt: skip


def _same(one: Rule, other: Rule) -> bool:
    fields = ("every", "task", "skips", "makes_up", "paused")
    return all(getattr(one, field) == getattr(other, field) for field in fields)
