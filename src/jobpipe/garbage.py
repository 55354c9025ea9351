"""Python's collector of cyclic garbage, set for processes that make many short-lived objects and few cycles.

A batch of tasks makes more objects than the collector's usual threshold allows, so that it would look for cycles with
each batch, and every so often through all that was imported: tens of milliseconds in which nothing is answered. That
took 5 us a task in one process (docs/performance.md).
"""

from __future__ import annotations

import gc

YOUNG = 10_000
"""Objects that may be made, and not freed, until the young ones are looked at; Python's own is 700."""


def spare_the_start() -> None:
    """Never look at what exists by now: it was made to stay."""
    gc.freeze()


def look_seldom() -> None:
    """Look at young objects when there are many more than a batch makes."""
    gc.set_threshold(YOUNG)
