"""Which error of an exception group says how a run ended.

Task groups wrap what their tasks raise, at any depth. A group with one leaf is that leaf. Of several the first that
comes in this order counts: a Fail, since trying again would not help; the Retry or Snooze that waits longest; else the
first of the others that is no cancellation, for these follow from it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from jobpipe.work.errors import Fail, Retry, Snooze


def leaf_of(error: BaseException) -> BaseException:
    """The error that counts: `error` itself, or one leaf of the group that it is."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    return max(_leaves(error), key=_weight)  # of equals the first


def _weight(leaf: BaseException) -> tuple[int, float]:
    if isinstance(leaf, Fail):
        return 3, 0
    if isinstance(leaf, Retry | Snooze):
        return 2, leaf.in_ or 0
    return (0 if isinstance(leaf, asyncio.CancelledError) else 1), 0


def _leaves(group: BaseException) -> Iterator[BaseException]:
    """Without recursion: a group may be nested deeper than Python's stack."""
    waiting = [group]
    while waiting:
        error = waiting.pop()
        if isinstance(error, BaseExceptionGroup):
            waiting += reversed(error.exceptions)
        else:
            yield error
