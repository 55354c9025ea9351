"""Rules of queues and keys: looking at them, setting them, pausing; and what an app says of itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

import msgspec

from jobpipe.client.exchange import Request
from jobpipe.client.flow import Caller, Flow, parse
from jobpipe.client.tasks import next_query
from jobpipe.client.values import encoded
from jobpipe.wire.rules import KeyUseView, RuledQueueView

_queue: Final = msgspec.json.Decoder(RuledQueueView)
_key: Final = msgspec.json.Decoder(KeyUseView)
_keys: Final = msgspec.json.Decoder(list[KeyUseView])


def get(caller: Caller, queue: str) -> Flow[RuledQueueView]:
    """A queue with its rules."""
    return parse(_queue, (yield from caller.call(Request("GET", path_of(queue), repeatable=True))))


def rule(caller: Caller, queue: str, rules: Mapping[str, Any]) -> Flow[RuledQueueView]:
    """Set rules of a queue; the same twice is the same."""
    request = Request("PATCH", path_of(queue), encoded(dict(rules), "rules"), repeatable=True)
    return parse(_queue, (yield from caller.call(request)))


def unrule(caller: Caller, queue: str) -> Flow[None]:
    """Take back all that people set of a queue."""
    yield from caller.call(Request("DELETE", path_of(queue), repeatable=True))


def steer(caller: Caller, queue: str, action: str) -> Flow[RuledQueueView]:
    """Pause or resume."""
    return parse(
        _queue, (yield from caller.call(Request("POST", f"{path_of(queue)}/{action}", repeatable=True)))
    )


def keys(caller: Caller, queue: str, query: str) -> Flow[tuple[list[KeyUseView], str | None]]:
    """Keys of one page, and the query of the next one."""
    answer = yield from caller.call(Request("GET", f"{path_of(queue)}/keys?{query}", repeatable=True))
    return parse(_keys, answer), next_query(answer)


def rule_key(caller: Caller, queue: str, key: str, rules: Mapping[str, Any]) -> Flow[KeyUseView]:
    """Set rules of one key."""
    request = Request("PATCH", path_of(queue, key), encoded(dict(rules), "rules"), repeatable=True)
    return parse(_key, (yield from caller.call(request)))


def unrule_key(caller: Caller, queue: str, key: str) -> Flow[None]:
    """Take back what people set of one key."""
    yield from caller.call(Request("DELETE", path_of(queue, key), repeatable=True))


def declare(caller: Caller, said: Mapping[str, Any]) -> Flow[None]:
    """Say what an app says of itself."""
    yield from caller.call(Request("POST", "/declare", encoded(dict(said), "queues"), repeatable=True))


def path_of(queue: str, key: str | None = None) -> str:
    """The path of a queue, or of one of its keys."""
    path = f"/queues/{quote(queue, safe='')}"
    return path if key is None else f"{path}/keys/{quote(key, safe='')}"
