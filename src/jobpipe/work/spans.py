"""A consumer span around each run: middleware that the executor puts around all others while spans are made.

Its parent is the enqueuer's span, so that a trace shows a task's whole way; it is linked to it too, as the semantic
conventions for messaging have it.
"""

from __future__ import annotations

from typing import Any

from jobpipe.runtime import tracing
from jobpipe.work.context import Context
from jobpipe.work.middleware import CallNext


async def traced(ctx: Context[Any], call_next: CallNext) -> Any:
    """Run what stands further inside in a span of its own."""
    from opentelemetry.trace import Link, SpanKind, get_current_span
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier = {} if ctx.traceparent is None else {"traceparent": ctx.traceparent}
    parent = TraceContextTextMapPropagator().extract(carrier)
    sent = get_current_span(parent).get_span_context()
    about = {"jobpipe.handler": ctx.handler, "jobpipe.attempt": ctx.attempt}
    with tracing.tracer().start_as_current_span(
        f"process {ctx.queue}",
        context=parent,
        kind=SpanKind.CONSUMER,
        links=[Link(sent)] if sent.is_valid else [],
        attributes=tracing.attributes("process", ctx.queue, ctx.id, **about),
    ):
        return await call_next()
