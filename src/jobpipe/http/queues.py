"""The queues: their counts, what people and apps say of them and of their keys, and who pauses what."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any
from urllib.parse import quote

from msgspec import UNSET, structs

from jobpipe.core.errors import Invalid, NotFound
from jobpipe.core.rules import NO_RULES, Rules
from jobpipe.core.task import Status
from jobpipe.engine import Declaration, KeyUse, QueueCounts, QueueRules, SaidBy
from jobpipe.http.answers import Receive, Scope, Send, send_json, send_raw
from jobpipe.http.bodies import read_body
from jobpipe.http.browser import HEAD
from jobpipe.http.config import Api
from jobpipe.http.keys import name_of
from jobpipe.http.problems import SAFE
from jobpipe.http.routing import Endpoint, RawRoute, path_id, path_key
from jobpipe.wire import QueueView, encode_view, parse_query, requests, time_text
from jobpipe.wire.rules import (
    KeyUseView,
    RuledKeyView,
    RuledQueueView,
    SetView,
    check_key,
    parse_declare,
    parse_key_rules,
    parse_rules,
    rules_view,
    set_view,
)
from jobpipe.wire.schedules import parse_declared

MAX_PAGE, PAGE = 1000, 100


def routes(api: Api) -> list[RawRoute]:
    """The routes of this module."""

    def of(endpoint: Callable[[Api, Scope, Receive, Send], Awaitable[None]]) -> Endpoint:
        return partial(endpoint, api)

    return [
        RawRoute("/queues", GET=of(_list)),
        RawRoute("/queues/{id}", GET=of(_get), PATCH=of(_say), DELETE=of(_unsay)),
        RawRoute("/queues/{id}/pause", POST=of(_pause)),
        RawRoute("/queues/{id}/resume", POST=of(_resume)),
        RawRoute("/queues/{id}/keys", GET=of(_keys)),
        RawRoute(
            "/queues/{id}/keys/{key}", GET=of(_get_key), PATCH=of(_say_of_key), DELETE=of(_unsay_of_key)
        ),
        RawRoute("/declare", POST=of(_declare)),
    ]


async def _list(api: Api, scope: Scope, receive: Receive, send: Send) -> None:
    counted = {counts.queue: counts for counts in await api.queue.queues()}
    rules = await api.queue.flow.rules()
    views = [
        QueueView(**_fields(api, name, counted.get(name), rules.get(name)))
        for name in sorted(counted.keys() | rules.keys())
    ]
    await send_json(scope, send, encode_view(views))


async def _get(api: Api, scope: Scope, receive: Receive, send: Send) -> None:
    await _answer(api, scope, send, path_id(scope))


async def _say(api: Api, scope: Scope, receive: Receive, send: Send) -> None:
    queue = _queue(scope)
    change = parse_rules(await read_body(scope, receive, api.config.max_body))
    await api.queue.flow.say(queue, None, change, _by(api, scope))
    await _answer(api, scope, send, queue, always=True)


async def _unsay(api: Api, scope: Scope, receive: Receive, send: Send) -> None:
    await api.queue.flow.unsay(_queue(scope), None)
    await send_raw(scope, send, 204, SAFE, b"")


async def _pause(api: Api, scope: Scope, receive: Receive, send: Send) -> None:
    queue = _queue(scope)
    await api.queue.flow.say(queue, None, {"paused": True}, _by(api, scope))
    await _answer(api, scope, send, queue)


async def _resume(api: Api, scope: Scope, receive: Receive, send: Send) -> None:
    queue = _queue(scope)
    await api.queue.flow.resume(queue, _by(api, scope))
    await _answer(api, scope, send, queue, always=True)


async def _keys(api: Api, scope: Scope, receive: Receive, send: Send) -> None:
    queue, asked = _queue(scope), parse_query(scope["query_string"])
    limit = _limit(asked.get("limit"))
    found = await api.queue.flow.keys(queue, limit + 1, asked.get("cursor"))
    link = []
    if len(found) > limit:
        found = found[:limit]
        where = f"{scope.get('root_path', '')}/queues/{quote(queue, safe='')}/keys"
        link = [
            (b"link", f'<{where}?limit={limit}&cursor={quote(found[-1].key, safe="")}>; rel="next"'.encode())
        ]
    await send_json(scope, send, encode_view([_key_view(use) for use in found]), 200, *link)


async def _get_key(api: Api, scope: Scope, receive: Receive, send: Send) -> None:
    queue, key = _queue(scope), path_key(scope)
    check_key(key)
    await api.queue.flow.keys(queue, 1, None)  # NotFound for a queue that is not there
    use = await api.queue.flow.key(queue, key)
    view = RuledKeyView(**structs.asdict(_key_view(use)), set=_set_view(use.people))
    await send_json(scope, send, encode_view(view))


async def _say_of_key(api: Api, scope: Scope, receive: Receive, send: Send) -> None:
    queue, key = _queue(scope), path_key(scope)
    check_key(key)
    change = parse_key_rules(await read_body(scope, receive, api.config.max_body))
    await api.queue.flow.say(queue, key, change, _by(api, scope))
    await send_json(scope, send, encode_view(_key_view(await api.queue.flow.key(queue, key))))


async def _unsay_of_key(api: Api, scope: Scope, receive: Receive, send: Send) -> None:
    await api.queue.flow.unsay(_queue(scope), path_key(scope))
    await send_raw(scope, send, 204, SAFE, b"")


async def _declare(api: Api, scope: Scope, receive: Receive, send: Send) -> None:
    body = await read_body(scope, receive, api.config.max_body)
    app, release, queues, handlers, given = parse_declare(body)
    schedules = parse_declared(given, api.defaults, api.now())
    taken = await api.queue.flow.declare(Declaration(app, release, queues, handlers))
    if taken:
        await api.queue.schedules.declare(app, release, schedules)
    await send_json(scope, send, b'{"app":%b,"release":%d,"taken":%b}' % (
        requests.text(app), release, b"true" if taken else b"false"))  # fmt: skip


async def _answer(api: Api, scope: Scope, send: Send, queue: str, *, always: bool = False) -> None:
    """The queue as it is; one that has neither tasks nor rules is NotFound, unless it was just changed."""
    counted = next((counts for counts in await api.queue.queues() if counts.queue == queue), None)
    rules = await api.queue.flow.rules_of(queue)
    if counted is None and rules is None and not always:
        raise NotFound(f"no queue '{queue}' has tasks or rules")
    people, declared = (None, None) if rules is None else (rules.people, rules.declared)
    view = RuledQueueView(
        **_fields(api, queue, counted, rules),
        declared={app: rules_view(said) for app, said in declared.items()} if declared else None,
        set=_set_view(people),
        hold_until=None if rules is None or rules.hold_until is None else time_text(rules.hold_until),
    )
    await send_json(scope, send, encode_view(view))


def _fields(api: Api, queue: str, counts: QueueCounts | None, said: QueueRules | None) -> dict[str, Any]:
    """What every form of a queue has."""
    rules: Rules = NO_RULES if said is None else said.rules
    shown = rules_view(rules, paused=False)
    ready = None if counts is None else counts.oldest_ready
    by_status = {} if counts is None else counts.by_status
    refusing = api.queue.refusals.refusing()
    return {
        "queue": queue,
        **{status.value: by_status.get(status, 0) for status in Status},
        "capacity": rules.capacity or api.config.queue_size,
        "oldest_ready_s": None if ready is None else max(0, api.now() - ready) / 1000,
        "refused_per_s": round(refusing[queue], 3) if queue in refusing else UNSET,
        "paused": rules.paused,
        "rules": UNSET if shown == rules_view(NO_RULES) else shown,
    }


def _set_view(people: SaidBy | None) -> SetView | None:
    return None if people is None else set_view(people.said, time_text(people.changed_at), people.changed_by)


def _key_view(use: KeyUse) -> KeyUseView:
    until = None if use.hold_until is None else time_text(use.hold_until)
    return KeyUseView(use.key, use.queued, use.running, rules_view(use.rules), until)


def _queue(scope: Scope) -> str:
    queue = path_id(scope)
    requests.queues.check(queue)
    return queue


def _by(api: Api, scope: Scope) -> str | None:
    return name_of(api.config.keys, scope[HEAD].get(b"authorization"))


def _limit(text: str | None) -> int:
    if text is None:
        return PAGE
    if not (text.isascii() and text.isdecimal() and len(text) < 6 and 1 <= int(text) <= MAX_PAGE):
        raise Invalid(f"must be 1 to {MAX_PAGE}", field="limit")
    return int(text)
