"""Routes over the raw path: split first, then decode each segment, so that an id may contain an encoded slash.

Starlette matches decoded paths: there `POST /tasks/x%2Fcancel` would cancel x.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from urllib.parse import quote, unquote_to_bytes

from starlette.routing import BaseRoute, Match

from jobpipe.core.errors import NotFound
from jobpipe.http.answers import Receive, Scope, Send
from jobpipe.http.problems import MethodNotAllowed, NoSuchPath

ROUTE = "jobpipe.route"
"""Key of the scope: the template of the route that serves the request, once one does."""

Endpoint = Callable[[Scope, Receive, Send], Awaitable[None]]


class RawRoute(BaseRoute):
    """One path, with an endpoint for each method; a segment `{id}` stands for any text that is not empty, and so does
    a last one `{key}` behind it.

    GET serves HEAD too. A wrong method raises MethodNotAllowed.
    """

    def __init__(self, path: str, **endpoints: Endpoint) -> None:
        self.path = path
        self.endpoints = endpoints
        if "GET" in endpoints:
            self.endpoints = {**endpoints, "HEAD": endpoints["GET"]}
        self._raw = path.encode()
        self._keyed = path.endswith("{key}")
        before, self._open, after = path.removesuffix("{key}").partition("{id}")
        self._before, self._after = before.encode(), after.encode()

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if scope["type"] != "http":
            return Match.NONE, {}
        raw = raw_path(scope)
        match = Match.FULL if scope["method"] in self.endpoints else Match.PARTIAL
        if not self._open:
            return (match, {}) if raw == self._raw else (Match.NONE, {})
        if not raw.startswith(self._before) or not (self._keyed or raw.endswith(self._after)):
            return Match.NONE, {}
        if self._keyed:
            return self._matched(match, *raw[len(self._before) :].partition(self._after)[::2])
        segment = raw[len(self._before) : len(raw) - len(self._after)]
        if not segment or b"/" in segment:
            return Match.NONE, {}
        return match, {"path_params": {"id": segment}}

    @staticmethod
    def _matched(match: Match, segment: bytes, key: bytes) -> tuple[Match, Scope]:
        if not segment or not key or b"/" in segment or b"/" in key:
            return Match.NONE, {}
        return match, {"path_params": {"id": segment, "key": key}}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope[ROUTE] = self.path
        endpoint = self.endpoints.get(scope["method"])
        if endpoint is None:
            raise MethodNotAllowed(", ".join(sorted(_allowed(scope))))
        await endpoint(scope, receive, send)


def _allowed(scope: Scope) -> set[str]:
    """The methods of all routes that share the path."""
    routes = [route for route in scope["router"].routes if isinstance(route, RawRoute)]
    return {
        method for route in routes if route.matches(scope)[0] is not Match.NONE for method in route.endpoints
    }


async def no_such_path(scope: Scope, receive: Receive, send: Send) -> None:
    """What is served where no route matches."""
    raise NoSuchPath("nothing is served under this path")


def path_id(scope: Scope) -> str:
    """The id in the path. Raises NotFound."""
    return segment_id(scope["path_params"]["id"])


def path_key(scope: Scope) -> str:
    """The key in the path. Raises NotFound."""
    return segment_id(scope["path_params"]["key"])


def segment_id(segment: bytes) -> str:
    """The id that a segment of a path stands for. Raises NotFound for no UTF-8: no task can have such an id."""
    try:
        return unquote_to_bytes(segment).decode()
    except UnicodeDecodeError:
        raise NotFound from None


def raw_path(scope: Scope) -> bytes:
    """The path as it came, below the root under which the app is mounted."""
    raw: bytes = scope.get("raw_path") or quote(scope["path"]).encode()
    root: str = scope.get("root_path", "")
    return raw[len(root) :] if root and raw.startswith(root.encode()) else raw
