"""The fast lane: the hot routes, answered by the protocol itself without ASGI between.

It reads and answers by the same functions as the routes that Starlette serves, and lets pass only what is as usual: a
request that is malformed, refused by its head, sent in an odd way, or may wait for long goes the other way. So nothing
is decided here but which way.
"""

from __future__ import annotations

import asyncio
import re
import time
from email.utils import formatdate
from functools import partial

from msgspec.structs import replace

from jobpipe.core.errors import JobpipeError
from jobpipe.core.task import NewTask, Task
from jobpipe.core.unique import Known
from jobpipe.http import tasks, working
from jobpipe.http.answers import Reply
from jobpipe.http.browser import IDEMPOTENCY_KEY, Guard, pick
from jobpipe.http.config import Api
from jobpipe.http.cycle import STATUS_LINE
from jobpipe.http.enqueue import Enqueue
from jobpipe.http.fastcycle import Begin, FastCycle, Hot
from jobpipe.http.routing import segment_id
from jobpipe.wire.working import parse_lease

REMEMBERED = 1_000
LONGEST_HEAD = 2_048
"""Heads that are remembered, and their bytes, at most: 2 MB in all."""

_TASK = b"/task?"
_TASKS = b"/tasks/"
_LENGTH_DIGITS = 9
_CHANGING = (IDEMPOTENCY_KEY, b"traceparent")
"""Headers that are others in each request, and change nothing about how the head is read."""
_LINES = tuple((name, b"\r\n%b: " % name) for name in _CHANGING)
_VALUE = re.compile(rb"[\x21-\x7e]{1,200}")


class FastLane:
    """The hot routes of one server. `known` are whole heads, as bytes, that were read before and found usual, without
    the headers that change with each request.

    Clients send the same head with each request of a length: looking it up costs a tenth of parsing it.
    """

    def __init__(self, api: Api, guard: Guard) -> None:
        self._api = api
        self._guard = guard
        self._intake = Enqueue(api)
        self._most = min(api.config.max_body, api.config.max_batch_body)
        self._posts: dict[bytes, Begin] = {
            b"/enqueue": self._enqueue,
            b"/lease": self._lease,
            b"/settle": self._settle,
            b"/extend": self._extend,
        }
        self.known: dict[bytes, Hot] = {}
        self._second = 0
        self._starts: dict[tuple[object, ...], bytes] = {}

    # --- which way ----------------------------------------------------------------------------------------------

    def read(self, method: bytes, url: bytes, headers: list[tuple[bytes, bytes]]) -> Hot | None:
        """The request by its head, None when it is not for this lane."""
        begin = self._route(method, url)
        if begin is None:
            return None
        head = pick(headers)
        given = head.get(b"content-length")
        if b"content-encoding" in head or (given is None) is not (method == b"GET"):
            return None
        if given is not None and not (given.isdigit() and len(given) <= _LENGTH_DIGITS):
            return None
        length = int(given or 0)
        draining = begin == self._enqueue
        route = url.decode() if url in self._posts else "/task" if url.startswith(_TASK) else "/tasks/{id}"
        hot = Hot(begin, method.decode(), url, head, length, draining, route)
        return hot if length <= self._most and self.admits(hot) else None

    def admits(self, hot: Hot) -> bool:
        """Whether nothing is against the request now; what refuses it is answered on the other way."""
        if hot.refused_at_once and self._api.queue.draining:
            return False
        return self._guard.refusal(hot.method, hot.url.partition(b"?")[0], hot.head) is None

    def recall(self, head: bytes) -> Hot | None:
        """The request of a head that was read before, None for another one."""
        hot = self.known.get(head)
        if hot is None:
            rest, given = _cut(head)
            hot = self.known.get(rest) if given else None
            if hot is not None:
                return replace(hot, head={**hot.head, **given})
        return hot

    def remember(self, head: bytes, hot: Hot) -> None:
        """The same head will mean the same again; one that asks for a task by its id comes seldom again."""
        if hot.method != "POST":
            return
        rest, given = _cut(head)
        same = {name: value for name, value in hot.head.items() if name not in given}
        if len(rest) <= LONGEST_HEAD and not any(name in same for name in _CHANGING):
            if len(self.known) >= REMEMBERED:
                self.known.clear()
            self.known[rest] = replace(hot, head=same)

    def _route(self, method: bytes, url: bytes) -> Begin | None:
        if method == b"POST":
            return self._posts.get(url)
        if method != b"GET" or b"#" in url or not url.isascii():
            return None
        if url.startswith(_TASK):
            return self._get_by_query
        segment = url[len(_TASKS) :]
        plain = url.startswith(_TASKS) and segment and not (b"/" in segment or b"?" in segment)
        return self._get if plain else None

    # --- the routes ---------------------------------------------------------------------------------------------

    def _enqueue(self, cycle: FastCycle, body: bytes) -> None:
        asked = self._intake.parse(cycle.hot.head, body)
        if isinstance(asked, NewTask):
            self._api.queue.enqueue_soon(asked, partial(self._accepted, cycle))
        else:
            cycle.run(self._intake.batch(cycle.hot.head, asked))

    def _accepted(self, cycle: FastCycle, answer: Task | Known | Exception) -> None:
        if isinstance(answer, Task | Known | JobpipeError):
            cycle.send(self._intake.answer(cycle.hot.head, answer))
        else:
            cycle.fail(answer)

    def _get(self, cycle: FastCycle, body: bytes) -> None:
        cycle.run(tasks.found(self._api, segment_id(cycle.hot.url[len(_TASKS) :])))

    def _get_by_query(self, cycle: FastCycle, body: bytes) -> None:
        cycle.run(tasks.found(self._api, tasks.queried_id(cycle.hot.url[len(_TASK) :])))

    def _settle(self, cycle: FastCycle, body: bytes) -> None:
        cycle.run(working.settled(self._api, body))

    def _extend(self, cycle: FastCycle, body: bytes) -> None:
        cycle.run(working.extended(self._api, body, working.is_local(self._api, cycle.hot.head)))

    def _lease(self, cycle: FastCycle, body: bytes) -> None:
        cycle.run(self._leased(cycle, body))

    async def _leased(self, cycle: FastCycle, body: bytes) -> Reply:
        """As the other way: a client that leaves, or only ends its side, gets none."""
        wish = parse_lease(body)
        if cycle.gone:
            return (await working.handed_out(self._api, ()))[0]
        cycle.ends_with_client = True
        try:
            claims = await working.claiming(
                self._api, wish, working.is_local(self._api, cycle.hot.head)
            )  # cancelled, it gives back what it claimed
        except asyncio.CancelledError:
            if not cycle.left:
                raise
            self._api.queue.workers.hung_up(wish.worker_id)
            claims = []
        cycle.ends_with_client = False
        reply, sent = await working.handed_out(self._api, claims)
        if sent and cycle.gone:
            await self._api.queue.release(sent)
            reply, _ = await working.handed_out(self._api, ())
        return reply

    # --- answers ------------------------------------------------------------------------------------------------

    def written(self, reply: Reply, *, close: bool) -> bytes:
        """The answer as it goes out."""
        status, body, headers, more = reply
        second = int(time.time())
        if second != self._second:
            self._second = second
            self._starts.clear()
        start = self._starts.get((status, headers, close))
        if start is None:
            start = self._start(status, headers, close)
        if more:
            start += b"".join([b"%b: %b\r\n" % header for header in more])
        return b"%bcontent-length: %d\r\n\r\n%b" % (start, len(body), body)

    def _start(self, status: int, headers: tuple[tuple[bytes, bytes], ...], close: bool) -> bytes:
        """The status line and the headers that all such answers of this second have."""
        date = (b"date", formatdate(self._second, usegmt=True).encode())
        ends = ((b"connection", b"close"),) if close and (b"connection", b"close") not in headers else ()
        lines = [b"%b: %b\r\n" % header for header in (date, *headers, *ends)]
        start = self._starts[(status, headers, close)] = b"".join([STATUS_LINE[status], *lines])
        return start


def _cut(head: bytes) -> tuple[bytes, dict[bytes, bytes]]:
    """A head without the headers that change with each request, and these; all of it if one is not written as usual:
    it comes twice, or goes on in the next line (RFC 9112, 5.2)."""
    rest, lower, given = head, head.lower(), dict[bytes, bytes]()
    for name, line in _LINES:
        if (begin := lower.find(line)) < 0:
            continue
        end = rest.index(b"\r\n", begin + 2)
        value = rest[begin + len(line) : end]
        folded = rest[end + 2 : end + 3] in (b" ", b"\t")
        if folded or not _VALUE.fullmatch(value) or lower.find(line, end) >= 0:
            return head, {}
        given[name] = value
        rest = rest[:begin] + rest[end:]
        lower = rest.lower()
    return rest, given
