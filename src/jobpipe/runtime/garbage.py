"""Python's collector of cyclic garbage, set for processes that make many short-lived objects and few cycles.

A batch of tasks makes more objects than the collector's usual threshold allows, so that it would look for cycles with
each batch, and every so often through all that was imported: tens of milliseconds in which nothing is answered. That
took 5 us a task in one process (docs/performance.md).
"""

from __future__ import annotations

import gc

YOUNG = 10_000
"""Objects that may be made, and not freed, until the young ones are looked at; Python 3.11's own is 700."""


def spare_the_start() -> None:
    """Never look at what exists by now: nearly all was made to stay, and collecting the rest first would take 25 ms."""
    gc.freeze()


def look_seldom() -> None:
    """Look at young objects when there are many more than a batch makes.

    For servers, also one that runs handlers itself; worker processes keep Python's own measure.
    """
    gc.set_threshold(YOUNG)
