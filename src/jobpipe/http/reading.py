"""All numbers of `GET /metrics` at one moment, read together on the event loop."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from msgspec import Struct

from jobpipe.core.errors import StorageError
from jobpipe.core.histogram import Histogram
from jobpipe.engine import QueueCounts, QueueRules, ScheduleCounts
from jobpipe.engine.tally import Ended
from jobpipe.engine.workers import Worker
from jobpipe.http.config import Api
from jobpipe.runtime import streams

log = logging.getLogger("jobpipe.http")


class Reading(Struct, frozen=True):
    """All numbers as they were at one moment. `queues` and `workers` are None when the storage did not answer."""

    version: str
    now: int
    capacity: int
    queues: Sequence[QueueCounts] | None
    workers: Sequence[Worker] | None
    rules: Sequence[QueueRules]
    enqueued: dict[str, int]
    refused: dict[tuple[str, str], int]
    finished: dict[Ended, int]
    retried: int
    rescued: int
    leases_lost: int
    waits: dict[str, Histogram]
    runs: dict[str, Histogram]
    commit_seconds: Histogram
    commit_tasks: Histogram
    answers: dict[tuple[str, int], int]
    schedules: ScheduleCounts | None
    schedules_missed: int
    schedules_refused: int
    log_lines_lost: int
    clock_step: float


async def read(api: Api) -> Reading:
    """As everything is now, without the storage's part when it does not answer."""
    queue, tally = api.queue, api.queue.tally
    queues, workers, rules, schedules = await _stored(api)
    commits = queue.commits()
    return Reading(
        version=api.config.version,
        now=api.now(),
        capacity=api.config.queue_size,
        queues=queues,
        workers=workers,
        rules=rules,
        enqueued=dict(tally.enqueued),
        refused=dict(queue.refusals.by),
        finished=dict(tally.finished),
        retried=tally.retried,
        rescued=tally.rescued,
        leases_lost=tally.leases_lost,
        waits={handler: _copy(waits) for handler, waits in tally.waits.items()},
        runs={handler: _copy(runs) for handler, runs in tally.runs.items()},
        commit_seconds=_copy(commits.seconds),
        commit_tasks=_copy(commits.tasks),
        answers=dict(api.meter.answers),
        schedules=schedules,
        schedules_missed=queue.schedules.missed,
        schedules_refused=queue.schedules.refused,
        log_lines_lost=streams.lost.lines,
        clock_step=queue.clock_step(),
    )


async def _stored(
    api: Api,
) -> tuple[
    Sequence[QueueCounts] | None, Sequence[Worker] | None, Sequence[QueueRules], ScheduleCounts | None
]:
    """What only the storage knows; a scrape must succeed without it, to say so."""
    try:
        rules, schedules = await api.queue.flow.rules(), await api.queue.schedules.counts()
        return await api.queue.queues(), await api.queue.workers.all(), list(rules.values()), schedules
    except StorageError as error:
        log.debug("metrics without the storage: %s", error)
        return None, None, (), None


def _copy(histogram: Histogram) -> Histogram:
    copy = Histogram(histogram.bounds)
    copy.merge(list(histogram.counts), histogram.sum)
    return copy
