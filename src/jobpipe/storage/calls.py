"""Calls of the contract on their way to the thread, or over the connection, that serves them: which go together, and in
which order those of one commit are served.

Inserts come first, then settles, then what people steer, then claims, so that one commit carries a task as far as it
can go, and a freed worker's next claim never makes more tasks running than there are workers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from operator import itemgetter
from typing import Any, Generic, TypeVar

from jobpipe.core.errors import StorageError

INSERT, SETTLE, STEER, CLAIM, READ = range(5)
"""The order within a commit; what reads needs none."""

A = TypeVar("A")
T = TypeVar("T")


class Call(Generic[A, T]):
    """One call: `serve` answers it, with others that have the same. `weight` is about how many tasks it brings."""

    __slots__ = ("answer", "argument", "can_wait", "error", "future", "serve", "turn", "weight")

    answer: T

    def __init__(
        self, turn: int, serve: Any, argument: A, future: asyncio.Future[T], weight: int = 1
    ) -> None:
        self.turn = turn
        self.serve = serve
        self.argument = argument
        self.future = future
        self.weight = weight
        self.error: StorageError | None = None
        self.can_wait = False
        """Set with the answer: nothing else that its commit carried is about the same tasks."""


C = TypeVar("C", bound=Call[Any, Any])


def grouped(calls: Sequence[C]) -> list[tuple[Any, list[C]]]:
    """What serves the calls, in the order of turns, and which it serves together."""
    groups: dict[tuple[int, Any], list[C]] = {}
    for call in calls:
        groups.setdefault((call.turn, call.serve), []).append(call)
    return [(key[1], groups[key]) for key in sorted(groups, key=itemgetter(0))]


def hand_slices(calls: Sequence[Call[Any, list[T]]], sizes: Sequence[int], answers: Sequence[T]) -> None:
    """Give each call its own of the answers to all, which are in order."""
    at = 0
    for call, size in zip(calls, sizes, strict=True):
        call.answer = list(answers[at : at + size])
        at += size


def fail(calls: Sequence[Call[Any, Any]], error: StorageError) -> None:
    """The same error for all."""
    for call in calls:
        call.error = error


def deliver(calls: Sequence[Call[Any, Any]]) -> None:
    """Tell the callers; one that went away need not know: what was committed stands."""
    for call in calls:
        if call.future.done():
            continue
        if call.error is not None:
            call.future.set_exception(call.error)
        else:
            call.future.set_result(call.answer)
