"""Reading and steering tasks, one or many."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from msgspec import structs

from jobpipe.core.errors import Invalid, JobpipeError, NotFound
from jobpipe.core.gate import Held
from jobpipe.core.task import Status, Task
from jobpipe.engine import MAX_CLAIM_BYTES, TaskFilter
from jobpipe.engine.bulk import Action, bulk
from jobpipe.http.answers import Receive, Reply, Scope, Send, send_json, send_raw, send_reply
from jobpipe.http.bodies import ClientGone, read_body, while_connected
from jobpipe.http.config import Api
from jobpipe.http.problems import SAFE, MissingId
from jobpipe.http.routing import Endpoint, RawRoute, path_id
from jobpipe.wire import (
    BulkView,
    Filters,
    Listing,
    encode_attempts,
    encode_task,
    encode_view,
    next_page,
    parse_bulk,
    parse_listing,
    parse_query,
    parse_revision,
    with_held,
)
from jobpipe.wire.slim import BYTES, task_encoder

MAX_WAIT_S = 60
MAX_LIST_BYTES = MAX_CLAIM_BYTES

_SECONDS = re.compile(r"[0-9]{1,4}(\.[0-9]{1,9})?")


def routes(api: Api) -> list[RawRoute]:
    """The routes of this module. A task may be called `retry`: the bulk routes share its path, and take POST alone."""

    def of(endpoint: Callable[[Api, Scope, Receive, Send], Awaitable[None]]) -> Endpoint:
        return partial(endpoint, api)

    return [
        RawRoute("/task", GET=of(_get_by_query)),
        RawRoute("/tasks", GET=of(_list)),
        RawRoute("/tasks/{id}", GET=of(_get), PATCH=of(_revise), DELETE=of(_delete)),
        RawRoute("/tasks/{id}/attempts", GET=of(_attempts)),
        RawRoute("/tasks/{id}/cancel", POST=of(_cancel)),
        RawRoute("/tasks/{id}/retry", POST=of(_retry)),
        *(RawRoute(f"/tasks/{action}", POST=partial(_bulk, api, action)) for action in Action),
    ]


def queried_id(query: bytes) -> str:
    """The id in a query string. Raises MissingId."""
    task_id = parse_query(query).get("id", "")
    if not task_id:
        raise MissingId(field="id")
    return task_id


async def found(api: Api, task_id: str) -> Reply:
    """The task as it is now. Raises NotFound."""
    return await _reply(api, (await api.queue.get([task_id]))[0])


async def _get_by_query(api: Api, scope: Scope, receive: Receive, send: Send) -> None:
    await send_reply(scope, send, await found(api, queried_id(scope["query_string"])))


async def _get(api: Api, scope: Scope, receive: Receive, send: Send) -> None:
    task_id = path_id(scope)
    wait = _seconds(parse_query(scope["query_string"]).get("wait", "0"))
    if not wait:
        await send_reply(scope, send, await found(api, task_id))
        return
    task, connected = await while_connected(receive, api.queue.wait_finished(task_id, wait))
    if not connected:
        raise ClientGone
    await send_reply(scope, send, await _reply(api, task))


async def _attempts(api: Api, scope: Scope, receive: Receive, send: Send) -> None:
    attempts = await api.queue.attempts(path_id(scope))
    if attempts is None:
        raise NotFound
    await send_json(scope, send, encode_attempts(attempts))


async def _list(api: Api, scope: Scope, receive: Receive, send: Send) -> None:
    listing = parse_listing(scope["query_string"])
    fields = listing.fields
    slim = fields is not None and fields.isdisjoint(BYTES)
    page = await api.queue.page(
        _where(listing.where, api.now()), listing.limit, listing.before_seq, slim=slim
    )
    encode = encode_task if fields is None else task_encoder(fields)
    wanted = fields is None or "held" in fields
    held = await api.queue.flow.held(page.tasks) if wanted else [None] * len(page.tasks)
    body, next_seq = _fill(page.tasks, held, page.next_seq, encode)
    link = [] if next_seq is None else [(b"link", _next_link(scope, listing, next_seq))]
    await send_json(scope, send, body, 200, *link)


async def _cancel(api: Api, scope: Scope, receive: Receive, send: Send) -> None:
    (answer,) = await api.queue.cancel([path_id(scope)])
    if isinstance(answer, JobpipeError):
        raise answer
    status = 202 if answer.task.status is Status.RUNNING else 200
    await send_json(scope, send, encode_task(answer.task), status)


async def _retry(api: Api, scope: Scope, receive: Receive, send: Send) -> None:
    (answer,) = await api.queue.retry([path_id(scope)])
    if isinstance(answer, JobpipeError):
        raise answer
    await send_json(scope, send, await _shown(api, answer))


async def _revise(api: Api, scope: Scope, receive: Receive, send: Send) -> None:
    body = await read_body(scope, receive, api.config.max_body)
    answer = await api.queue.revise(path_id(scope), parse_revision(body, api.defaults, api.now()))
    if isinstance(answer, JobpipeError):
        raise answer
    await send_json(scope, send, await _shown(api, answer))


async def _delete(api: Api, scope: Scope, receive: Receive, send: Send) -> None:
    (answer,) = await api.queue.delete([path_id(scope)])
    if isinstance(answer, JobpipeError):
        raise answer
    await send_raw(scope, send, 204, SAFE, b"")


async def _bulk(api: Api, action: Action, scope: Scope, receive: Receive, send: Send) -> None:
    where, dry_run = parse_bulk(await read_body(scope, receive, api.config.max_batch_body))
    answer = await bulk(api.queue, action, _where(where, api.now()), dry_run=dry_run)
    await send_json(scope, send, encode_view(BulkView(answer.matched, answer.changed)))


async def _reply(api: Api, task: Task | None) -> Reply:
    if task is None:
        raise NotFound
    return Reply(200, await _shown(api, task))


async def _shown(api: Api, task: Task) -> bytes:
    (held,) = await api.queue.flow.held([task])
    return with_held(encode_task(task), held)


def _seconds(text: str) -> float:
    if not _SECONDS.fullmatch(text) or float(text) > MAX_WAIT_S:
        raise Invalid(f"must be a number of seconds from 0 to {MAX_WAIT_S}", field="wait")
    return float(text)


def _where(filters: Filters, now: int) -> TaskFilter:
    given = structs.asdict(filters)
    waits = given.pop("waits")
    if waits is None:
        return TaskFilter(**given)
    return TaskFilter(**given, due_after=now, tried=waits == "retrying")


def _fill(
    tasks: Sequence[Task], held: Sequence[Held | None], next_seq: int | None, encode: Callable[[Task], bytes]
) -> tuple[bytes, int | None]:
    """As many of the tasks as fit into an answer, at least one, and where the next page begins then."""
    parts: list[bytes] = []
    size = 2
    for task, why in zip(tasks, held, strict=True):
        part = with_held(encode(task), why)
        size += len(part) + 1
        if size > MAX_LIST_BYTES and parts:
            next_seq = tasks[len(parts) - 1].seq
            break
        parts.append(part)
    return b"[%b]" % b",".join(parts), next_seq


def _next_link(scope: Scope, listing: Listing, next_seq: int) -> bytes:
    return f'<{scope.get("root_path", "")}/tasks?{next_page(listing, next_seq)}>; rel="next"'.encode()
