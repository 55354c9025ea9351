"""Which run the code of a handler belongs to, and its trace (W3C Trace Context): for logs, and for tasks that it sends.

A task's `traceparent` is passed on to the tasks that its run enqueues. With an OpenTelemetry SDK in this process, the
program's own or the one that `start` sets up, enqueueing is a producer span and a run a consumer span between them, by
the semantic conventions for messaging. OpenTelemetry is only loaded where somebody asked for it.
"""

from __future__ import annotations

import contextvars
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.id_generator import IdGenerator
    from opentelemetry.trace import Tracer

from jobpipe.runtime.randomness import getrandbits

NEEDED = ("opentelemetry.sdk.trace", "opentelemetry.exporter.otlp.proto.http")
_ASKING = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_TRACES_EXPORTER")


class TracingMissing(Exception):
    """Spans were asked for, and what makes them is not installed: one line for people."""


class Running(NamedTuple):
    """The run that the code belongs to."""

    task_id: str
    traceparent: str | None


_running: contextvars.ContextVar[Running | None] = contextvars.ContextVar("jobpipe_running", default=None)


def context_of(run: Running) -> contextvars.Context:
    """A copy of the current context in which code belongs to `run`."""
    context = contextvars.copy_context()
    context.run(_running.set, run)
    return context


def running() -> Running | None:
    """The run that this code belongs to; None outside of handlers."""
    return _running.get()


def traceparent() -> str | None:
    """The trace to pass on from here: of the current span, else of the task that runs."""
    if on():
        from opentelemetry import trace

        span = trace.get_current_span().get_span_context()
        if span.is_valid:
            return f"00-{span.trace_id:032x}-{span.span_id:016x}-{span.trace_flags:02x}"
    run = _running.get()
    return None if run is None else run.traceparent


def on() -> bool:
    """Whether this process has an OpenTelemetry SDK that makes spans."""
    sdk = sys.modules.get("opentelemetry.sdk.trace")
    if sdk is None:
        return False
    from opentelemetry import trace

    return isinstance(trace.get_tracer_provider(), sdk.TracerProvider)


def tracer() -> Tracer:
    """The tracer of Jobpipe's own spans."""
    from opentelemetry import trace

    return trace.get_tracer("jobpipe")


def attributes(operation: str, queue: str | None, task_id: str | None, **more: Any) -> dict[str, Any]:
    """The attributes that every messaging span has; what is None is left out."""
    all_ = {
        "messaging.system": "jobpipe",
        "messaging.operation.name": operation,
        "messaging.operation.type": operation,
        "messaging.destination.name": queue,
        "messaging.message.id": task_id,
        **more,
    }
    return {name: value for name, value in all_.items() if value is not None}


@contextmanager
def sending(queue: str | None, task_id: str | None = None, count: int | None = None) -> Iterator[None]:
    """A producer span around the enqueueing of one task, or of `count` in a batch; nothing where no spans are made."""
    if not on():
        yield
        return
    from opentelemetry.trace import SpanKind

    queue = queue or "default"
    told = attributes("send", queue, task_id, **{"messaging.batch.message_count": count})
    with tracer().start_as_current_span(f"send {queue}", kind=SpanKind.PRODUCER, attributes=told):
        yield


def asked(flag: bool, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether spans are wanted: by the setting, or by OpenTelemetry's own variables.

    Raises TracingMissing when the setting asks for what is not installed.
    """
    if flag and not _installed():
        raise TracingMissing("OpenTelemetry is not installed: pip install 'jobpipe[otel]'")
    if environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    hinted = any(environ.get(name, "none") not in ("", "none") for name in _ASKING)
    return flag or (hinted and _installed())


def start(service: str) -> None:
    """Set an SDK up that exports as OpenTelemetry's variables say, unless the program has one already."""
    if on():
        return
    from opentelemetry import trace
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter

    exporter: SpanExporter
    if os.environ.get("OTEL_TRACES_EXPORTER") == "console":
        exporter = ConsoleSpanExporter(out=sys.stderr)
    else:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        exporter = OTLPSpanExporter()
    name = os.environ.get("OTEL_SERVICE_NAME", service)
    provider = TracerProvider(resource=Resource.create({"service.name": name}), id_generator=_id_generator())
    provider.add_span_processor(BatchSpanProcessor(exporter))
    trace.set_tracer_provider(provider)


def _id_generator() -> IdGenerator:
    """The SDK's own draws from Python's global generator, which the program around us may have seeded."""
    from opentelemetry.sdk.trace.id_generator import IdGenerator

    class Ids(IdGenerator):
        def generate_trace_id(self) -> int:
            return getrandbits(128) or 1  # 0 is no valid id

        def generate_span_id(self) -> int:
            return getrandbits(64) or 1

    return Ids()


def _installed() -> bool:
    try:
        return all(find_spec(name) is not None for name in NEEDED)
    except ModuleNotFoundError:
        return False
