"""The queue itself: one door, `TaskQueue`, and the upkeep behind it.

The values in which it answers are those of the storage contract; the edge takes them from here.
"""

from jobpipe.storage.base import (
    MAX_CLAIM_BYTES,
    Cancelled,
    Extended,
    Extension,
    Matches,
    Page,
    QueueCounts,
    Settled,
    TaskFilter,
)
from jobpipe.storage.flow import Declaration, KeyUse, QueueRules, SaidBy
from jobpipe.storage.schedules import ScheduleCounts

__all__ = [
    "MAX_CLAIM_BYTES",
    "Cancelled",
    "Declaration",
    "Extended",
    "Extension",
    "KeyUse",
    "Matches",
    "Page",
    "QueueCounts",
    "QueueRules",
    "SaidBy",
    "ScheduleCounts",
    "Settled",
    "TaskFilter",
]
