"""`POST /enqueue`: one task, an array of them, or a line each. The hot route, so it stands alone and first."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import quote

from jobpipe.core.errors import Draining, JobpipeError
from jobpipe.core.task import NewTask, Task
from jobpipe.http.answers import Receive, Scope, Send, send_json
from jobpipe.http.bodies import read_body
from jobpipe.http.browser import HEAD
from jobpipe.http.config import Api
from jobpipe.http.problems import SAFE, encode_error
from jobpipe.http.routing import RawRoute
from jobpipe.wire import encode_task, parse_array, parse_lines, parse_object, valid_traceparent

_NDJSON = b"application/x-ndjson"
_SPACE = b" \t\r\n"


def routes(api: Api) -> list[RawRoute]:
    """The routes of this module."""
    return [RawRoute("/enqueue", POST=_Enqueue(api))]


class _Enqueue:
    """The endpoint, with everything that never changes made once."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._headers = [(b"content-type", b"application/json"), *SAFE]
        self._accepted = b'{"status":%d,"task":' % api.config.enqueue_status

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        api = self._api
        if api.queue.draining:
            raise Draining
        head = scope[HEAD]
        traceparent = valid_traceparent(head.get(b"traceparent"))
        if _is_ndjson(head.get(b"content-type")):
            body = await read_body(scope, receive, api.config.max_batch_body)
            await self._batch(scope, send, parse_lines(body, api.defaults, api.now(), traceparent))
            return
        body = await read_body(scope, receive, api.config.max_body, api.config.max_batch_body)
        if body[:1] == b"[" or body.lstrip(_SPACE)[:1] == b"[":
            await self._batch(scope, send, parse_array(body, api.defaults, api.now(), traceparent))
            return
        await self._single(scope, send, parse_object(body, api.defaults, api.now(), traceparent))

    async def _single(self, scope: Scope, send: Send, task: NewTask) -> None:
        answer = (await self._api.queue.enqueue((task,)))[0]
        if isinstance(answer, JobpipeError):
            raise answer
        body = encode_task(answer)
        path = f"{scope.get('root_path', '')}/tasks/{quote(answer.id, safe='')}"  # of the mount, where there is one
        location = (b"location", path.encode())
        headers = [(b"content-length", b"%d" % len(body)), location, *self._headers]
        await send(
            {"type": "http.response.start", "status": self._api.config.enqueue_status, "headers": headers}
        )
        await send({"type": "http.response.body", "body": body})

    async def _batch(self, scope: Scope, send: Send, items: Sequence[NewTask | JobpipeError]) -> None:
        tasks = [item for item in items if isinstance(item, NewTask)]
        answers = iter(await self._api.queue.enqueue(tasks) if tasks else [])
        decided = (next(answers) if isinstance(item, NewTask) else item for item in items)
        await send_json(scope, send, b"[%b]" % b",".join(map(self._item, decided)))

    def _item(self, answer: Task | JobpipeError) -> bytes:
        if isinstance(answer, JobpipeError):
            return encode_error(answer)
        return self._accepted + encode_task(answer) + b"}"


def _is_ndjson(content_type: bytes | None) -> bool:
    return content_type is not None and content_type.partition(b";")[0].strip().lower() == _NDJSON
