"""What `GET /handlers` answers."""

from __future__ import annotations

from typing import Annotated

from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from jobpipe.wire.answers import Count, Time


class PercentilesView(Struct):
    """In seconds, over the last day; null where nothing ran."""

    p50: float | None
    p95: float | None
    p99: float | None


class RunsView(Struct):
    """Runs that ended, and those of them that did not end well; a run that was given back is none."""

    runs: Count
    failed: Count


class HandlerRatesView(Struct):
    """Runs a second, over the last five minutes."""

    finished_per_s: float
    failed_per_s: float


class HandlerHourView(Struct):
    """One hour; `at` is its beginning."""

    at: Time
    runs: Count
    failed: Count
    run_p95: float | None


class HandlerErrorView(Struct):
    """An unsuccessful run."""

    task_id: str
    type: str
    message: str
    at: Time


class HandlerReleaseView(Struct):
    """Runs by workers of one release, since the first of them."""

    release: Count
    since: Time
    runs: Count
    failed: Count
    run: PercentilesView


class HandlerView(Struct):
    """How a handler does on this server, since its start and at most for a day.

    `failures` is of the day, `recent` of the last five minutes. `declared_by` (the app) and `payload` (its JSON Schema,
    with the handler's own timeout, queue and max_retries under `x-jobpipe`) are null of handlers that no app declared.
    One handler alone also has its latest `errors` and its `releases`.
    """

    handler: str
    declared_by: str | None
    payload: Annotated[Raw, Meta(extra_json_schema={"type": ["object", "boolean", "null"]})]
    queues: list[str]
    rates: HandlerRatesView
    wait: PercentilesView
    run: PercentilesView
    failures: RunsView
    recent: RunsView
    by_hour: list[HandlerHourView]
    errors: list[HandlerErrorView] | UnsetType = UNSET
    releases: list[HandlerReleaseView] | UnsetType = UNSET
