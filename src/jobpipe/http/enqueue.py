"""`POST /enqueue`: one task, an array of them, or a line each. The hot route, so it stands alone and first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from urllib.parse import quote

from jobpipe.core.errors import Draining, JobpipeError
from jobpipe.core.task import NewTask, Task
from jobpipe.core.unique import Found, Known
from jobpipe.http.answers import Receive, Reply, Scope, Send, problem_reply, send_reply
from jobpipe.http.bodies import read_body
from jobpipe.http.browser import HEAD, IDEMPOTENCY_KEY
from jobpipe.http.config import Api
from jobpipe.http.problems import encode_error
from jobpipe.http.routing import RawRoute
from jobpipe.wire import (
    AcceptedWriter,
    encode_known,
    encode_task,
    parse_array,
    parse_lines,
    parse_object,
    parse_repeatable,
    repeatable,
    split,
    split_lines,
    valid_traceparent,
)

Batch = Sequence[NewTask | JobpipeError]
Answer = Task | Known | JobpipeError

REPLAYED = (b"idempotency-replayed", b"true")

_NDJSON = b"application/x-ndjson"
_SPACE = b" \t\r\n"


def routes(api: Api) -> list[RawRoute]:
    """The routes of this module."""
    return [RawRoute("/enqueue", POST=Enqueue(api))]


class Enqueue:
    """The endpoint, and its parts for the fast lane, with everything that never changes made once."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._status = api.config.enqueue_status
        self._accepted = b'{"status":%d,"task":' % self._status

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        api, head = self._api, scope[HEAD]
        if api.queue.draining:
            raise Draining
        limits = (api.config.max_body, api.config.max_batch_body)
        body = await read_body(scope, receive, *(limits[1:] if is_ndjson(head) else limits))
        asked = self.parse(head, body)
        if isinstance(asked, NewTask):
            (answer,) = await api.queue.enqueue((asked,))
            # The place of the mount, where there is one.
            await send_reply(scope, send, self.answer(head, answer, scope.get("root_path", "")))
        else:
            await send_reply(scope, send, await self.batch(head, asked))

    def parse(self, head: dict[bytes, bytes], body: bytes) -> NewTask | Batch:
        """The task of a body, or the items of a batch. Raises TooLarge, InvalidJson or Invalid for the whole."""
        api = self._api
        traceparent = valid_traceparent(head.get(b"traceparent"))
        if IDEMPOTENCY_KEY in head:
            return self._parse_repeatable(head, body, traceparent)
        if is_ndjson(head):
            return parse_lines(body, api.defaults, api.now(), traceparent)
        if body[:1] == b"[" or body.lstrip(_SPACE)[:1] == b"[":
            return parse_array(body, api.defaults, api.now(), traceparent)
        return parse_object(body, api.defaults, api.now(), traceparent)

    def _parse_repeatable(
        self, head: dict[bytes, bytes], body: bytes, traceparent: str | None
    ) -> NewTask | Batch:
        api = self._api
        request = repeatable(api.key_name(head), head[IDEMPOTENCY_KEY])
        batch = is_ndjson(head) or body.lstrip(_SPACE)[:1] == b"["
        items = split_lines(body) if is_ndjson(head) else split(body) if batch else [body]
        parsed = parse_repeatable(items, request, api.defaults, api.now(), traceparent)
        if batch:
            return parsed
        if isinstance(parsed[0], JobpipeError):
            raise parsed[0]
        return parsed[0]

    def answer(self, head: dict[bytes, bytes], answer: Task | Known | JobpipeError, root: str = "") -> Reply:
        """The answer to one task; `root` stands before the paths of this server."""
        if isinstance(answer, JobpipeError):
            return problem_reply(answer)
        task = answer.task if isinstance(answer, Known) else answer
        location = (b"location", f"{root}/tasks/{quote(task.id, safe='')}".encode())
        if isinstance(answer, Task):
            return Reply(self._status, encode_task(answer), more=(location,))
        if answer.found is Found.REPLAYED:
            return Reply(self._status, encode_task(task), more=(location, REPLAYED))
        return Reply(200, encode_known(answer, whole=self._api.may_read(head)), more=(location,))

    async def batch(self, head: dict[bytes, bytes], items: Batch) -> Reply:
        """Enqueue a batch; each item is answered in its own place."""
        tasks = [item for item in items if isinstance(item, NewTask)]
        answers = iter(await self._api.queue.enqueue(tasks) if tasks else [])
        decided = answers if len(tasks) == len(items) else _in_places(items, answers)
        start, encode = self._accepted, AcceptedWriter().encode
        views, replayed = [], True
        for answer in decided:
            if isinstance(answer, Task):
                views.append(b"%b%b}" % (start, encode(answer)))
            else:
                views.append(self._view(head, answer))
            replayed = replayed and isinstance(answer, Known) and answer.found is Found.REPLAYED
        return Reply(200, b"[%b]" % b",".join(views), more=(REPLAYED,) if replayed else ())

    def _view(self, head: dict[bytes, bytes], answer: Known | JobpipeError) -> bytes:
        """An item of a batch that was not accepted anew."""
        if isinstance(answer, JobpipeError):
            return encode_error(answer)
        if answer.found is Found.REPLAYED:
            return b"%b%b}" % (self._accepted, encode_task(answer.task))
        return b'{"status":200,"task":%b}' % encode_known(answer, whole=self._api.may_read(head))


def _in_places(items: Batch, answers: Iterator[Answer]) -> Iterator[Answer]:
    """The answers for the tasks among the items, each in its own place."""
    return (next(answers) if isinstance(item, NewTask) else item for item in items)


def is_ndjson(head: dict[bytes, bytes]) -> bool:
    """Whether the body is a task a line."""
    content_type = head.get(b"content-type")
    return content_type is not None and content_type.partition(b";")[0].strip().lower() == _NDJSON
