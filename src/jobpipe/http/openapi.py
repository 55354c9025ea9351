"""OpenAPI 3.1, made from the wire structs and one table of the routes. Every answer is listed, problems too."""

from __future__ import annotations

from functools import cache
from typing import Any

import msgspec

from jobpipe.engine.bulk import Action
from jobpipe.http.problems import TITLES
from jobpipe.wire import (
    MAX_ITEMS,
    AcceptedView,
    AttemptView,
    BulkBody,
    BulkView,
    DeltaView,
    EnqueueBody,
    ErrorGroupView,
    HealthView,
    KeyView,
    KnownItemView,
    KnownView,
    PointView,
    Problem,
    QueueView,
    RevisionBody,
    StatsView,
    TaskView,
    WorkerView,
)
from jobpipe.wire.filters import ERROR_GROUP, STATUSES
from jobpipe.wire.handlers import HandlerView
from jobpipe.wire.rules import DeclareBody, KeyRulesBody, KeyUseView, RuledKeyView, RuledQueueView, RulesBody
from jobpipe.wire.schedules import ScheduleBody, ScheduleView
from jobpipe.wire.working import MAX_ITEMS as MAX_SETTLES
from jobpipe.wire.working import ExtendBody, ExtendedView, LeaseBody, LeasesView, SettleBody, SettledView

_STRUCTS = (
    EnqueueBody,
    TaskView,
    AcceptedView,
    KnownItemView,
    KnownView,
    RevisionBody,
    ScheduleBody,
    ScheduleView,
    Problem,
    BulkBody,
    BulkView,
    AttemptView,
    ErrorGroupView,
    PointView,
    QueueView,
    RuledQueueView,
    RulesBody,
    KeyRulesBody,
    KeyUseView,
    RuledKeyView,
    DeclareBody,
    StatsView,
    WorkerView,
    HandlerView,
    DeltaView,
    HealthView,
    KeyView,
    LeaseBody,
    LeasesView,
    SettleBody,
    SettledView,
    ExtendBody,
    ExtendedView,
)
_EXAMPLE = {"id": "t1", "handler": "simulate", "payload": {"any": "json"}}
_LIMIT = {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100}
_TIME = {"type": "string", "format": "date-time"}
_TEXT = {"type": "string", "maxLength": 200, "pattern": r"^[^\u0000-\u001f\u007f-\u009f]*$"}

Json = dict[str, Any]


@cache
def document(version: str, enqueue_status: int) -> bytes:
    """The whole document as JSON."""
    _, components = msgspec.json.schema_components(_STRUCTS, ref_template="#/components/schemas/{name}")
    # A delay excludes a run_at, which no struct can say.
    components["EnqueueBody"]["not"] = {
        "required": ["delay", "run_at"],
        "properties": {"delay": {"type": "number"}, "run_at": {"type": "string"}},
    }
    document = {
        "openapi": "3.1.0",
        "info": {
            "title": "Jobpipe",
            "version": version,
            "description": "A durable task queue over plain HTTP.",
        },
        "paths": {
            **_inherited(enqueue_status),
            **_working(),
            **_tasks(),
            **_bulk(),
            **_schedules(),
            **_charts(),
            **_queues(),
            **_server(),
        },
        # A server without keys asks for none.
        "security": [{}, {"key": []}],
        "components": {
            "schemas": components,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }
    return msgspec.json.encode(document)


def _enqueue(enqueue_status: int) -> Json:
    item = {"anyOf": [_ref("AcceptedView"), _ref("KnownItemView"), _ref("Problem")]}
    tasks = {"type": "array", "items": _ref("EnqueueBody"), "minItems": 1, "maxItems": MAX_ITEMS}
    accepted = _json("accepted", _ref("TaskView"))
    accepted["headers"] = {
        "Location": {"schema": {"type": "string"}, "description": "where the task is read"}
    }
    answers: Json = {str(enqueue_status): accepted}
    batch = {"anyOf": [_ref("KnownView"), {"type": "array", "items": item}]}
    if enqueue_status == 200:
        batch["anyOf"].append(_ref("TaskView"))
    answers["200"] = _json("each item of a batch, in its order; or the task that has the unique key", batch)
    content = {
        "application/json": {"schema": {"anyOf": [_ref("EnqueueBody"), tasks]}, "example": _EXAMPLE},
        "application/x-ndjson": {"schema": {"type": "string", "description": "one task a line"}},
    }
    enqueue = _operation(
        "enqueue",
        "Accept a task, or a batch of them.",
        answers,
        400,
        409,
        413,
        422,
        503,
        507,
        body=content,
    )
    enqueue["parameters"] = [
        {
            "name": "Idempotency-Key",
            "in": "header",
            "description": "The same request sent again is answered with the tasks of the first time.",
            "schema": {"type": "string", "pattern": "^[!-~]{1,200}$"},
        }
    ]
    return enqueue


def _inherited(enqueue_status: int) -> Json:
    one = _operation("getTaskById", "Read a task.", _task(), 400, 404, 503, query={"id": {"type": "string"}})
    one["parameters"][0]["required"] = True
    health = {"200": _json("alive", _ref("HealthView"))}
    return {
        "/enqueue": {"post": _enqueue(enqueue_status)},
        "/task": {"get": one},
        "/healthz": {"get": _operation("healthz", "Whether the process serves.", health)},
        "/health": {"get": _operation("health", "Whether the process serves.", health)},
    }


def _filters() -> Json:
    return {
        "status": {"enum": list(STATUSES)},
        "queue": _property("queue"),
        "handler": _property("handler"),
        "error_type": _TEXT,
        "error_group": {
            "type": "string",
            "pattern": f"^{ERROR_GROUP}$",
            "description": "as /errors tells it",
        },
        "id_prefix": _TEXT,
        "key": _TEXT,
        "schedule": _TEXT,
        "created_after": _TIME,
        "created_before": _TIME,
        "limit": _LIMIT,
        "cursor": {"type": "string", "description": "from the Link of the page before"},
        "fields": {"type": "string", "description": "the fields wanted, between commas; all when left out"},
    }


def _tasks() -> Json:
    page = _json("a page, newest first", {"type": "array", "items": _ref("TaskView")})
    page["headers"] = {"Link": {"schema": {"type": "string"}, "description": 'the next page, rel="next"'}}
    wait = {
        "wait": {"type": "number", "minimum": 0, "maximum": 60, "description": "seconds to wait for its end"}
    }
    asked = {"202": _json("it runs, and its worker is told", _ref("TaskView"))}
    gone: Json = {"204": {"description": "forgotten"}}
    read = _operation("getTask", "Read a task, also wait for its end.", _task(), 400, 404, 503, query=wait)
    cancel = _operation("cancelTask", "Cancel a task.", {**_task(), **asked}, 404, 409, 503, 507)
    retry = _operation("retryTask", "Queue a failed or cancelled task again.", _task(), 404, 409, 503, 507)
    kept = {"200": _json("the unsuccessful ones, oldest first", _each("AttemptView"))}
    attempts = _operation("listAttempts", "The history of a task.", kept, 404, 503)
    delete = _operation("deleteTask", "Forget a finished task.", gone, 404, 409, 503, 507)
    revised = _json("changed", _ref("TaskView"))
    change = {"application/json": {"schema": _ref("RevisionBody"), "example": {"delay": 0, "priority": 5}}}
    patch = _operation(
        "reviseTask", "Change a task that waits.", {"200": revised}, 400, 404, 409, 413, 503, 507, body=change
    )
    return {
        "/tasks": {"get": _operation("listTasks", "List tasks.", {"200": page}, 400, 503, query=_filters())},
        "/tasks/{id}": {"parameters": [_ID], "get": read, "patch": patch, "delete": delete},
        "/tasks/{id}/attempts": {"parameters": [_ID], "get": attempts},
        "/tasks/{id}/cancel": {"parameters": [_ID], "post": cancel},
        "/tasks/{id}/retry": {"parameters": [_ID], "post": retry},
    }


def _working() -> Json:
    settle = {"id": "t1", "lease_id": "9f.1.1", "outcome": "done", "result": {"any": "json"}}
    beat = {"worker_id": "w1", "leases": [{"id": "t1", "lease_id": "9f.1.1"}], "lease": 30}
    ask = {"worker_id": "w1", "queues": ["*"], "max": 10, "wait": 30}
    lease = _call("lease", "Take due tasks, or wait for them.", _ref("LeaseBody"), ask, _ref("LeasesView"))
    settles = {**_each("SettleBody"), "maxItems": MAX_SETTLES}
    return {
        "/lease": lease,
        "/settle": _call("settle", "Tell what became of runs.", settles, [settle], _each("SettledView")),
        "/extend": _call("extend", "Prolong leases.", _ref("ExtendBody"), beat, _each("ExtendedView")),
    }


def _call(name: str, summary: str, takes: Json, example: object, gives: Json) -> Json:
    """A POST of JSON, answered in the order of what was sent."""
    body = {"application/json": {"schema": takes, "example": example}}
    answers = {"200": _json("done", gives)}
    return {"post": _operation(name, summary, answers, 400, 413, 503, 507, body=body)}


def _each(name: str) -> Json:
    return {"type": "array", "items": _ref(name)}


def _bulk() -> Json:
    content = {
        "application/json": {"schema": _ref("BulkBody"), "example": {"status": "failed", "dry_run": True}}
    }
    done = {"200": _json("how many", _ref("BulkView"))}
    return {
        f"/tasks/{action}": {
            "post": _operation(
                f"{action}Tasks",
                f"{action.capitalize()} all that match.",
                done,
                400,
                413,
                503,
                507,
                body=content,
            )
        }
        for action in Action
    }


def _schedules() -> Json:
    one = {"200": _json("the schedule", _ref("ScheduleView"))}
    made = {"201": _json("made", _ref("ScheduleView")), **one}
    every = {"200": _json("by name", _each("ScheduleView"))}
    task = {"202": _json("the task that it makes now", _ref("TaskView"))}
    example = {"cron": "30 2 * * *", "timezone": "Europe/Berlin", "task": {"handler": "report"}}
    body = {"application/json": {"schema": _ref("ScheduleBody"), "example": example}}
    dry = {"dry_run": {"type": "boolean", "description": "answer what it would be, and keep nothing"}}
    put = _operation(
        "putSchedule", "Make or change a schedule.", made, 400, 409, 413, 503, 507, query=dry, body=body
    )
    gone: Json = {"204": {"description": "forgotten; the tasks that it made stay"}}
    run = _operation("runSchedule", "Make a task of it now.", task, 404, 409, 503, 507)
    return {
        "/schedules": {"get": _operation("listSchedules", "The schedules.", every, 503)},
        "/schedules/{id}": {
            "parameters": [_ID],
            "get": _operation("getSchedule", "Read a schedule.", one, 404, 503),
            "put": put,
            "delete": _operation("deleteSchedule", "Forget a schedule.", gone, 404, 503, 507),
        },
        "/schedules/{id}/run": {"parameters": [_ID], "post": run},
        **{
            f"/schedules/{{id}}/{verb}": {
                "parameters": [_ID],
                "post": _operation(f"{verb}Schedule", summary, one, 404, 503, 507),
            }
            for verb, summary in (("pause", "Pause a schedule."), ("resume", "Let it go on."))
        },
    }


def _charts() -> Json:
    errors = {"200": _json("the last seen first", _each("ErrorGroupView"))}
    window = {"since": {**_TIME, "description": "24 hours ago when left out"}, "limit": _LIMIT}
    points = {"200": _json("the minutes in which something happened, in order", _each("PointView"))}
    span = {
        "since": {**_TIME, "description": "an hour ago when left out; seven days are kept"},
        "until": {**_TIME, "description": "now when left out"},
    }
    return {
        "/errors": {"get": _operation("listErrors", "What fails alike, grouped.", errors, 503, query=window)},
        "/series": {"get": _operation("getSeries", "What happened, by minute.", points, 503, query=span)},
    }


def _queues() -> Json:
    queues = {"200": _json("each queue that holds tasks or has rules", _each("QueueView"))}
    queue = {"200": _json("the queue", _ref("RuledQueueView"))}
    key = {"200": _json("the key", _ref("KeyUseView"))}
    one = {"200": _json("the key, and what people set of it", _ref("RuledKeyView"))}
    keys = {"200": _json("by name", _each("KeyUseView"))}
    keys["200"]["headers"] = {
        "Link": {"schema": {"type": "string"}, "description": 'the next page, rel="next"'}
    }
    gone: Json = {"204": {"description": "people say nothing of it any more"}}
    page = {"limit": _LIMIT, "cursor": {"type": "string", "description": "from the Link of the page before"}}
    rules = {
        "application/json": {"schema": _ref("RulesBody"), "example": {"concurrency": 5, "rate": "100/m"}}
    }
    of_key = {"application/json": {"schema": _ref("KeyRulesBody"), "example": {"concurrency": 10}}}
    said = {"app": "shop", "release": 3, "queues": {"mail": {"concurrency": 5}}}
    taken = {"type": "object", "properties": {"app": {"type": "string"}, "release": {"type": "integer"},
                                              "taken": {"type": "boolean"}}}  # fmt: skip
    name = {**_ID, "schema": {**_property("queue")}}
    return {
        "/queues": {"get": _operation("listQueues", "The queues.", queues, 503)},
        "/queues/{id}": {
            "parameters": [name],
            "get": _operation("getQueue", "A queue and its rules.", queue, 404, 503),
            "patch": _operation("ruleQueue", "Set rules.", queue, 404, 413, 503, 507, body=rules),
            "delete": _operation("unruleQueue", "Take back all that people set.", gone, 404, 503, 507),
        },
        **_pauses(name, queue),
        "/queues/{id}/keys": {
            "parameters": [name],
            "get": _operation("listKeys", "Keys with unfinished tasks or rules.", keys, 404, 503, query=page),
        },
        "/queues/{id}/keys/{key}": {
            "parameters": [name, {**_ID, "name": "key"}],
            "get": _operation("getKeyOfQueue", "A key and its rules.", one, 404, 503),
            "patch": _operation("ruleKey", "Set rules of one key.", key, 404, 413, 503, 507, body=of_key),
            "delete": _operation("unruleKey", "Take back what people set of it.", gone, 404, 503, 507),
        },
        "/declare": _call("declare", "What an app says of itself.", _ref("DeclareBody"), said, taken),
    }


def _pauses(name: Json, queue: Json) -> Json:
    return {
        "/queues/{id}/pause": {
            "parameters": [name],
            "post": _operation("pauseQueue", "Let nothing start.", queue, 404, 503, 507),
        },
        "/queues/{id}/resume": {
            "parameters": [name],
            "post": _operation("resumeQueue", "End a pause, or a hold.", queue, 404, 503, 507),
        },
    }


def _server() -> Json:
    workers = {"200": _json("each worker process, and each server's own pool", _each("WorkerView"))}
    handlers = {"200": _json("each handler that ran here in the last day", _each("HandlerView"))}
    handler = {"200": _json("the handler, with its errors and releases", _ref("HandlerView"))}
    alive = {"200": _json("yes", _ref("HealthView"))}
    itself = {"200": _json("OpenAPI 3.1", {"type": "object"})}
    return {
        "/events": {"get": _operation("events", "Live changes, as Server-Sent Events.", _stream(), 503)},
        "/metrics": {"get": _operation("metrics", "Metrics for Prometheus.", _exposition())},
        "/workers": {"get": _operation("listWorkers", "The workers and what they run.", workers, 503)},
        "/handlers": {"get": _operation("listHandlers", "How each handler does.", handlers)},
        "/handlers/{id}": {
            "parameters": [_ID],
            "get": _operation("getHandler", "How one handler does.", handler, 404),
        },
        "/stats": {
            "get": _operation("getStats", "The server.", {"200": _json("now", _ref("StatsView"))}, 503)
        },
        "/livez": {"get": _operation("livez", "Whether the process serves.", alive)},
        "/readyz": {
            "get": _operation(
                "readyz",
                "Whether it accepts tasks, and can work if it should.",
                alive,
                503,
                507,
            )
        },
        "/keys/self": {
            "get": _operation("getKey", "What the sender's key opens.", {"200": _json("it", _ref("KeyView"))})
        },
        "/openapi.json": {"get": _operation("openapi", "This document.", itself)},
        **_dashboard(),
    }


def _dashboard() -> Json:
    page: Json = {
        "200": {"description": "a page for people", "content": {"text/html": {"schema": {"type": "string"}}}}
    }
    file: Json = {"200": {"description": "the file"}, "304": {"description": "as the browser has it"}}
    return {
        "/": {"get": _operation("dashboard", "The dashboard.", page)},
        "/static/{id}": {
            "parameters": [_ID],
            "get": _operation("dashboardFile", "A script or style of the dashboard.", file, 404),
        },
    }


def _stream() -> Json:
    description = (
        "events `delta` and `reset`, their data a DeltaView; replay after `Last-Event-ID` where possible"
    )
    return {
        "200": {"description": description, "content": {"text/event-stream": {"schema": {"type": "string"}}}}
    }


def _exposition() -> Json:
    return {"200": {"description": "the text format, or OpenMetrics", "content": {"text/plain": {}}}}


_ID = {"name": "id", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}


def _operation(
    name: str,
    summary: str,
    answers: Json,
    *problems: int,
    query: Json | None = None,
    body: Json | None = None,
) -> Json:
    operation: Json = {"operationId": name, "summary": summary}
    if query is not None:
        operation["parameters"] = [
            {"name": name, "in": "query", "schema": schema} for name, schema in query.items()
        ]
    if body is not None:
        operation["requestBody"] = {"required": True, "content": body}
    # The guard of keys, browsers and hosts can answer any request.
    refusals = {str(status): _problem(status) for status in sorted({*problems, 400, 401, 403, 421, 429, 500})}
    operation["responses"] = {**answers, **refusals}
    return operation


def _problem(status: int) -> Json:
    return {
        "description": TITLES[status],
        "content": {"application/problem+json": {"schema": _ref("Problem")}},
    }


def _json(description: str, schema: Json) -> Json:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _task() -> Json:
    return {"200": _json("the task", _ref("TaskView"))}


def _property(name: str) -> Json:
    pattern = next(part for part in _schema_of(EnqueueBody)["properties"][name]["anyOf"] if "pattern" in part)
    return {"type": "string", "pattern": pattern["pattern"]}


def _schema_of(struct: type[msgspec.Struct]) -> Json:
    schema: Json = msgspec.json.schema_components([struct])[1][struct.__name__]
    return schema


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}
