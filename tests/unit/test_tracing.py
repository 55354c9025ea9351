"""A trace goes on from the enqueuer to the run, and from there to what that enqueues; with spans where asked for."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest
from msgspec.structs import replace
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from test_client_fakes import Answers, http
from test_work_middleware import claim

from jobpipe import App, AsyncClient, Client, Context
from jobpipe.core.lifecycle import Kind
from jobpipe.runtime import tracing
from jobpipe.runtime.logs import OfRun, TextFormatter
from jobpipe.server.embed import Jobpipe, Settings
from jobpipe.work.executor import Executor
from running import run

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{TRACE}-00f067aa0ba902b7-01"

Spans = Callable[[], list[ReadableSpan]]


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[Spans]:
    """An SDK in this process, as a program sets it up; the spans that ended."""
    memory, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(memory))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    yield lambda: list(memory.get_finished_spans())
    provider.shutdown()


def kinds(spans: list[ReadableSpan]) -> list[tuple[SpanKind, str]]:
    return [(span.kind, span.name) for span in spans]


def chained() -> tuple[App, list[str | None]]:
    """An app whose handlers enqueue each other, from the loop and from a thread, and the traces that they saw."""
    app, seen = App(), list[str | None]()

    @app.handler
    async def first(ctx: Context) -> None:
        seen.append(ctx.traceparent)
        await ctx.enqueue("second", id="second")

    @app.handler
    def second(ctx: Context) -> None:
        seen.append(ctx.traceparent)
        ctx.enqueue_sync("third", id="third")

    @app.handler
    async def third(ctx: Context) -> None:
        seen.append(ctx.traceparent)

    return app, seen


async def run_chain(app: App) -> None:
    async with Jobpipe(app, Settings(store="memory:")) as jobpipe:
        transport = httpx2.ASGITransport(jobpipe.asgi)
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
            body = {"id": "first", "handler": "first"}
            await client.post("/enqueue", json=body, headers={"traceparent": PARENT})
            for id in ("first", "second", "third"):
                while (await client.get(f"/tasks/{id}?wait=10")).json().get("status") != "done":
                    pass


async def test_without_spans_tasks_pass_their_trace_on_as_it_is() -> None:
    app, seen = chained()
    await run_chain(app)
    assert seen == [PARENT] * 3


async def test_with_spans_a_chain_of_tasks_is_one_trace_of_sending_and_processing(spans: Spans) -> None:
    app, seen = chained()
    await run_chain(app)
    assert {f"{span.context.trace_id:032x}" for span in spans() if span.context} == {TRACE}
    by_name = {(span.name, (span.attributes or {})["messaging.message.id"]): span for span in spans()}
    assert set(by_name) == {
        ("process default", "first"), ("send default", "second"), ("process default", "second"),
        ("send default", "third"), ("process default", "third"),
    }  # fmt: skip
    ran, sent, next_ = (
        by_name["process default", "first"], by_name["send default", "second"], by_name["process default", "second"]
    )  # fmt: skip
    assert (sent.parent and sent.parent.span_id) == (ran.context and ran.context.span_id)
    assert (next_.parent and next_.parent.span_id) == (sent.context and sent.context.span_id)
    assert [link.context.span_id for link in next_.links] == [sent.context and sent.context.span_id]
    assert seen[1] == f"00-{TRACE}-{sent.context.span_id:016x}-01" if sent.context else False


async def test_the_span_of_a_run_says_what_the_conventions_for_messaging_want(spans: Spans) -> None:
    app = App()

    @app.handler
    async def h() -> None:
        raise ValueError("no")

    told = claim()
    told = replace(told, task=replace(told.task, traceparent=PARENT, queue="mail", attempts=2))
    executor = Executor(app)
    assert (await run(executor, told)).kind is Kind.FAILED
    executor.close()
    (span,) = spans()
    assert (span.name, span.kind, span.status.status_code) == (
        "process mail",
        SpanKind.CONSUMER,
        StatusCode.ERROR,
    )
    assert dict(span.attributes or {}) == {
        "messaging.system": "jobpipe",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": "mail",
        "messaging.message.id": "t1",
        "jobpipe.handler": "h",
        "jobpipe.attempt": 2,
    }


async def test_a_task_without_a_trace_begins_one(spans: Spans) -> None:
    app = App()
    app.handler(_quiet)
    executor = Executor(app)
    await run(executor, claim(handler="_quiet"))
    executor.close()
    (span,) = spans()
    assert span.parent is None
    assert span.links == ()


def _quiet() -> None:
    """A handler, which runs in a thread."""


FULL = http(
    503, b'{"code": "queue_full", "error": "full"}', b"content-type: application/json", b"retry-after: 100"
)


def traces(server: Answers) -> list[str | None]:
    return [asked.headers.get("traceparent") for asked in server.asked]


async def test_clients_send_their_span_with_a_task(spans: Spans) -> None:
    with Answers(FULL, FULL, FULL) as server, Client(server.url) as client:
        for enqueue in (
            lambda: client.enqueue("h", queue="q"),
            lambda: client.enqueue_many([{"handler": "h"}]),
        ):
            with pytest.raises(Exception, match="full"):
                enqueue()
        async with AsyncClient(server.url) as async_client:
            with pytest.raises(Exception, match="full"):
                await async_client.enqueue("h", id="t1")
    assert kinds(spans()) == [(SpanKind.PRODUCER, f"send {queue}") for queue in ("q", "default", "default")]
    ids = [f"{span.context.span_id:016x}" for span in spans() if span.context]
    assert [trace and trace.split("-")[2] for trace in traces(server)] == ids


def test_without_spans_clients_outside_of_runs_send_no_trace() -> None:
    with Answers(FULL) as server, Client(server.url) as client:
        with pytest.raises(Exception, match="full"):
            client.enqueue("h")
    assert traces(server) == [None]


# --- asking for spans ---


@pytest.mark.parametrize(
    ("flag", "environ", "wanted"),
    [
        (False, {}, False),
        (True, {}, True),
        (False, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a:4318"}, True),
        (False, {"OTEL_TRACES_EXPORTER": "console"}, True),
        (False, {"OTEL_TRACES_EXPORTER": "none"}, False),
        (True, {"OTEL_SDK_DISABLED": "true"}, False),
    ],
)
def test_spans_are_off_unless_asked_for(flag: bool, environ: dict[str, str], wanted: bool) -> None:
    assert tracing.asked(flag, environ) is wanted


def test_asking_for_what_is_not_installed_is_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from jobpipe.cli import main

    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", list(root.handlers))
    monkeypatch.setattr(root, "level", root.level)
    monkeypatch.setattr(tracing, "NEEDED", ("nobody_has_this.at_all",))
    assert tracing.asked(False, {"OTEL_TRACES_EXPORTER": "console"}) is False
    assert main(["serve", "--otel", "--store", "memory:", "--port", "0"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "otel" in line
    assert "pip install 'jobpipe[otel]'" in line


# --- the log ---


class Kept(logging.Handler):
    """Keeps each line as our handler would write it."""

    def __init__(self) -> None:
        super().__init__()
        self.addFilter(OfRun())
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(TextFormatter().format(record).partition(" ")[2])


@pytest.mark.parametrize("traceparent", [PARENT, None])
async def test_every_line_of_a_handler_tells_its_task_and_its_trace(traceparent: str | None) -> None:
    app, kept = App(), Kept()
    logger = logging.getLogger("somebody.elses")

    @app.handler
    async def of_the_loop(ctx: Context) -> None:
        logger.warning("one")
        ctx.log.warning("two")

    @app.handler
    def of_a_thread() -> None:
        logger.warning("three")
        logging.getLogger("jobpipe.queue").warning("four")

    logging.getLogger().addHandler(kept)
    try:
        for name in ("of_the_loop", "of_a_thread"):
            told: Any = claim(handler=name)
            executor = Executor(app)
            await run(executor, replace(told, task=replace(told.task, traceparent=traceparent)))
            executor.close()
        logger.warning("five")
    finally:
        logging.getLogger().removeHandler(kept)
    trace_id = f" trace_id={TRACE}" if traceparent else ""
    assert kept.lines == [
        f"WARNING somebody.elses one task_id=t1{trace_id}",
        f"WARNING jobpipe.task task t1 attempt 1: two task_id=t1 attempt=1 handler=of_the_loop{trace_id}",
        f"WARNING somebody.elses three task_id=t1{trace_id}",
        "WARNING jobpipe.queue four",
        "WARNING somebody.elses five",
    ]
