"""The metrics as Prometheus reads them: names with base units, a help and a type for each, no series twice.

See https://prometheus.io/docs/practices/naming. Loaded at the first scrape: the library behind it takes a while.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from jobpipe.core.histogram import Histogram
from jobpipe.engine.signs import State
from jobpipe.http.reading import Reading

_PROCESS = ProcessCollector(registry=None)


def write(reading: Reading, accept: str) -> tuple[bytes, str]:
    """The body and its content type: OpenMetrics where `accept` asks for it, else the older text format."""
    encode, content_type = choose_encoder(accept)
    return encode(_Read(reading)), content_type


class _Read(Collector):
    """The families of one reading."""

    def __init__(self, reading: Reading) -> None:
        self._reading = reading

    def collect(self) -> Iterator[Metric]:
        yield from _of_queues(self._reading)
        yield from _of_tasks(self._reading)
        yield from _of_runs(self._reading)
        yield from _of_schedules(self._reading)
        yield from _of_workers(self._reading)
        yield from _of_server(self._reading)
        yield from _PROCESS.collect()


def _of_queues(reading: Reading) -> Iterator[Metric]:
    yield GaugeMetricFamily(
        "jobpipe_storage_up", "Whether the storage answered this scrape.", value=reading.queues is not None
    )
    yield GaugeMetricFamily(
        "jobpipe_queue_capacity", "Waiting tasks that a queue holds before it refuses more.", reading.capacity
    )
    tasks = GaugeMetricFamily("jobpipe_tasks", "Tasks in the store.", labels=("queue", "status"))
    oldest = GaugeMetricFamily(
        "jobpipe_queue_oldest_ready_seconds",
        "For how long the task that has been due longest has waited, 0 when none is due.",
        labels=("queue",),
    )
    for counts in reading.queues or ():
        for status, n in counts.by_status.items():
            tasks.add_metric((counts.queue, status.value), n)
        waited = 0 if counts.oldest_ready is None else max(0, reading.now - counts.oldest_ready)
        oldest.add_metric((counts.queue,), waited / 1000)
    yield tasks
    yield oldest
    yield from _of_rules(reading)


def _of_rules(reading: Reading) -> Iterator[Metric]:
    paused = GaugeMetricFamily(
        "jobpipe_queue_paused", "Whether a queue with rules is paused.", labels=("queue",)
    )
    limit = GaugeMetricFamily(
        "jobpipe_queue_limit",
        "What rules of a queue allow: tasks at a time, or starts a second, of all or of each key.",
        labels=("queue", "rule"),
    )
    held = GaugeMetricFamily(
        "jobpipe_queue_held", "Whether a 429 from outside holds a queue.", labels=("queue",)
    )
    for said in reading.rules:
        paused.add_metric((said.queue,), said.rules.paused)
        held.add_metric((said.queue,), said.hold_until is not None)
        for rule in ("concurrency", "key_concurrency"):
            if (most := getattr(said.rules, rule)) is not None:
                limit.add_metric((said.queue, rule), most)
        for rule in ("rate", "key_rate"):
            if (rate := getattr(said.rules, rule)) is not None:
                limit.add_metric((said.queue, rule), rate.per_second)
    yield paused
    yield limit
    yield held


def _of_tasks(reading: Reading) -> Iterator[Metric]:
    enqueued = CounterMetricFamily("jobpipe_tasks_enqueued", "Tasks accepted.", labels=("queue",))
    for queue, n in reading.enqueued.items():
        enqueued.add_metric((queue,), n)
    yield enqueued
    refused = CounterMetricFamily(
        "jobpipe_tasks_refused", "Tasks refused, by the code of the answer.", labels=("queue", "code")
    )
    for by, n in reading.refused.items():
        refused.add_metric(by, n)
    yield refused
    finished = CounterMetricFamily(
        "jobpipe_tasks_finished",
        "Tasks that came to their end: done, cancelled, or how the last run of a failed one ended.",
        labels=("queue", "handler", "outcome"),
    )
    for ended, n in reading.finished.items():
        finished.add_metric(ended, n)
    yield finished
    yield CounterMetricFamily(
        "jobpipe_tasks_retried",
        "Tasks that were queued again, after an unsuccessful run or by hand.",
        reading.retried,
    )
    yield CounterMetricFamily("jobpipe_tasks_rescued", "Runs whose worker was lost.", reading.rescued)
    yield CounterMetricFamily(
        "jobpipe_leases_lost", "Outcomes refused because their lease held no more.", reading.leases_lost
    )


def _of_runs(reading: Reading) -> Iterator[Metric]:
    waits, runs = (
        "From when a task was due until it was claimed.",
        "From the claim of a task until its outcome.",
    )
    yield _histograms("jobpipe_task_wait_seconds", waits, reading.waits)
    yield _histograms("jobpipe_task_run_seconds", runs, reading.runs)


def _of_schedules(reading: Reading) -> Iterator[Metric]:
    schedules = GaugeMetricFamily(
        "jobpipe_schedules",
        "Schedules: active; resting, because they are paused or ended; late: active, and made no task in their time.",
        labels=("state",),
    )
    if (counts := reading.schedules) is not None:
        active = counts.all - counts.resting
        for state, n in (("active", active), ("resting", counts.resting), ("late", counts.late)):
            schedules.add_metric((state,), n)
    yield schedules
    yield CounterMetricFamily(
        "jobpipe_schedules_missed", "Times of schedules that made no task.", reading.schedules_missed
    )
    yield CounterMetricFamily(
        "jobpipe_schedules_refused",
        "Tasks of schedules that were refused, and are tried again where there may be room.",
        reading.schedules_refused,
    )


def _of_workers(reading: Reading) -> Iterator[Metric]:
    workers = GaugeMetricFamily("jobpipe_workers", "Tasks that the workers known here can run at a time.")
    busy = GaugeMetricFamily("jobpipe_workers_busy", "Tasks that they run now.")
    lost = GaugeMetricFamily(
        "jobpipe_workers_lost",
        "Worker processes that gave no sign for a whole lease, and are not forgotten yet.",
    )
    if reading.workers is not None:
        workers.add_metric((), sum(worker.total for worker in reading.workers))
        busy.add_metric((), sum(worker.busy for worker in reading.workers))
        lost.add_metric((), sum(worker.state is State.LOST for worker in reading.workers))
    yield from (workers, busy, lost)


def _of_server(reading: Reading) -> Iterator[Metric]:
    yield _histogram(
        "jobpipe_commit_seconds", "How long commits of the storage took.", reading.commit_seconds
    )
    yield _histogram("jobpipe_commit_tasks", "How many tasks one commit moved.", reading.commit_tasks)
    requests = CounterMetricFamily(
        "jobpipe_http_requests", "Requests answered; route none: refused unread, or no such path.",
        labels=("route", "status"),
    )  # fmt: skip
    for (route, status), n in reading.answers.items():
        requests.add_metric((route, str(status)), n)
    yield requests
    yield CounterMetricFamily(
        "jobpipe_log_lines_lost",
        "Lines of the log, of this server and its worker processes, that could not be written.",
        reading.log_lines_lost,
    )
    yield GaugeMetricFamily(
        "jobpipe_database_clock_step_seconds",
        "The latest step of the database's clock against this server's monotonic one; 0: none.",
        reading.clock_step,
    )
    build = {"version": reading.version, "python": platform.python_version()}
    yield InfoMetricFamily("jobpipe_build", "What runs here.", build)


def _histogram(name: str, help: str, histogram: Histogram) -> Metric:
    return HistogramMetricFamily(name, help, _buckets(histogram), histogram.sum)


def _histograms(name: str, help: str, by_handler: dict[str, Histogram]) -> Metric:
    family = HistogramMetricFamily(name, help, labels=("handler",))
    for handler, histogram in by_handler.items():
        family.add_metric((handler,), _buckets(histogram), histogram.sum)
    return family


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    """Cumulative, the last one without a bound."""
    bounds: Iterable[str] = [*map(str, map(float, histogram.bounds)), "+Inf"]
    below, buckets = 0, []
    for bound, n in zip(bounds, histogram.counts, strict=True):
        below += n
        buckets.append((bound, float(below)))
    return buckets
