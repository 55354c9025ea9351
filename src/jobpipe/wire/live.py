"""What a stream of live changes says, as JSON: tasks without their data, counts and rates."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec
from msgspec import Struct

from jobpipe.core.change import Change
from jobpipe.core.task import Status
from jobpipe.wire.answers import Count, RatesView, Time, encode_text
from jobpipe.wire.times import format_time

_encode = msgspec.json.encode


class ChangeView(Struct):
    """A task that changed."""

    id: str
    status: Status
    queue: str
    handler: str
    priority: int
    attempts: Count
    run_at: Time
    created_at: Time
    started_at: Time | None
    finished_at: Time | None
    worker: str | None
    error_type: str | None
    error_message: str | None


class DeltaView(Struct):
    """The data of an event: how many tasks stand where, the rates, the tasks that changed, and how many more did."""

    counts: dict[Status, Count]
    rates: RatesView
    tasks: list[ChangeView]
    dropped: Count


def encode_delta(
    counts: Mapping[Status, int], rates: RatesView, changes: Iterable[Change], dropped: int
) -> bytes:
    """The data of one event, on one line."""
    return b'{"counts":%b,"rates":%b,"tasks":[%b],"dropped":%d}' % (
        _encode({status: counts.get(status, 0) for status in Status}),
        _encode(rates),
        b",".join(map(_encode_change, changes)),
        dropped,
    )


def _encode_change(change: Change) -> bytes:
    return (
        b'{"id":%b,"status":"%b","queue":%b,"handler":%b,"priority":%d,"attempts":%d,"run_at":%b,"created_at":%b,'
        b'"started_at":%b,"finished_at":%b,"worker":%b,"error_type":%b,"error_message":%b}'
        % (
            _encode(change.id),
            change.status.encode(),
            _encode(change.queue),
            _encode(change.handler),
            change.priority,
            change.attempts,
            format_time(change.run_at),
            format_time(change.created_at),
            b"null" if change.started_at is None else format_time(change.started_at),
            b"null" if change.finished_at is None else format_time(change.finished_at),
            b"null" if change.worker is None else encode_text(change.worker),
            b"null" if change.error_type is None else encode_text(change.error_type),
            b"null" if change.error_message is None else encode_text(change.error_message),
        )
    )
