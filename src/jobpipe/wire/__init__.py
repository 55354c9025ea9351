"""The JSON forms of Jobpipe: what a request may say, and what an answer looks like. HTTP edge and clients share them.

`requests` reads tasks to enqueue, `filters` reads which tasks are meant, `answers` writes. `strict` is the line against
JSON that msgspec would let through. Everything here is a pure function over bytes and core's values; what a value means
is decided elsewhere.
"""

from jobpipe.wire.answers import (
    AcceptedView,
    AcceptedWriter,
    AttemptView,
    BulkView,
    ErrorGroupView,
    ErrorView,
    HealthView,
    KeyView,
    PointView,
    Problem,
    QueueView,
    RatesView,
    ReplacedView,
    StatsView,
    TaskView,
    WorkersView,
    WorkerTaskView,
    WorkerView,
    encode_attempts,
    encode_task,
    encode_tasks,
    encode_view,
)
from jobpipe.wire.filters import BulkBody, Filters, Listing, next_page, parse_bulk, parse_listing, parse_query
from jobpipe.wire.ids import new_id
from jobpipe.wire.live import ChangeView, DeltaView, encode_delta
from jobpipe.wire.requests import (
    MAX_ITEMS,
    Defaults,
    EnqueueBody,
    parse_array,
    parse_lines,
    parse_object,
    valid_traceparent,
)
from jobpipe.wire.spans import Span, parse_span
from jobpipe.wire.times import format_time, parse_time, time_text

__all__ = [
    "MAX_ITEMS",
    "AcceptedView",
    "AcceptedWriter",
    "AttemptView",
    "BulkBody",
    "BulkView",
    "ChangeView",
    "Defaults",
    "DeltaView",
    "EnqueueBody",
    "ErrorGroupView",
    "ErrorView",
    "Filters",
    "HealthView",
    "KeyView",
    "Listing",
    "PointView",
    "Problem",
    "QueueView",
    "RatesView",
    "ReplacedView",
    "Span",
    "StatsView",
    "TaskView",
    "WorkerTaskView",
    "WorkerView",
    "WorkersView",
    "encode_attempts",
    "encode_delta",
    "encode_task",
    "encode_tasks",
    "encode_view",
    "format_time",
    "new_id",
    "next_page",
    "parse_array",
    "parse_bulk",
    "parse_lines",
    "parse_listing",
    "parse_object",
    "parse_query",
    "parse_span",
    "parse_time",
    "time_text",
    "valid_traceparent",
]
