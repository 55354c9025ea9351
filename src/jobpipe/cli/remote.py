"""What every command over HTTP shares: which server with which key, and the calls to it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final

from cyclopts import Parameter

from jobpipe.cli.invocation import current
from jobpipe.cli.output import Output, Table, put_json
from jobpipe.client.address import DEFAULT_URL
from jobpipe.core.errors import Invalid
from jobpipe.settings.server import BadSetting

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from msgspec import Raw

    from jobpipe.cli.output import Column
    from jobpipe.client.exchange import Answer, Request
    from jobpipe.client.flow import Caller
    from jobpipe.client.transport import Transport
    from jobpipe.wire import BulkView

ANSWER_S: Final = 10.0
MAX_BULK_S: Final = 600.0
"""How long the server may take over one bulk call, beyond the usual."""

ServerUrl = Annotated[
    str, Parameter(env_var="JOBPIPE_URL", help="The server: http://host:port, https://..., or unix:/path.")
]
Key = Annotated[
    str | None,
    Parameter(env_var="JOBPIPE_KEY", show_default=False, help="An API key; better as variable than as flag."),
]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """Which server, and the key for it."""

    server: ServerUrl = DEFAULT_URL
    key: Key = None

    @contextlib.contextmanager
    def open(self) -> Iterator[Remote]:
        """Calls to the server. Raises BadSetting for an address or key that cannot be."""
        from jobpipe.client.setup import servers_of
        from jobpipe.client.transport import Transport

        try:
            client = Transport(servers_of(self.server, None, self.key or None), ANSWER_S)
        except Invalid as error:
            raise bad_target(error, self.server, self.key) from error
        with contextlib.closing(client):
            yield Remote(client)


def bad_target(error: Invalid, server: str, key: str | None) -> BadSetting:
    """The refusal of an address or a key, by the name under which it was given."""
    name, variable, value = (
        ("key", "JOBPIPE_KEY", key) if error.field == "key" else ("server", "JOBPIPE_URL", server)
    )
    flags = (f"--{name}", f"--{name}={value}")
    if os.environ.get(variable) == value and not any(token in flags for token in current.get().tokens):
        return BadSetting(f"{variable}: {error}")
    return BadSetting(str(error), name, origin="flag")


class Remote:
    """Calls that answer with JSON as it came. Each raises the server's refusal, or ConnectionFailed."""

    def __init__(self, client: Transport) -> None:
        from jobpipe.client.flow import Caller, Retries

        self.client = client
        # Whoever sits before the terminal wants to know soon that nobody answers.
        self.caller: Caller = Caller(Retries(count=2))

    def call(self, request: Request) -> Answer:
        """One call."""
        return self.client.run(self.caller.call(request))

    def get(self, path: str) -> bytes:
        """What is under the path."""
        from jobpipe.client.exchange import Request

        return self.call(Request("GET", path, repeatable=True)).body

    def array(self, path: str) -> list[Raw]:
        """The elements of the array under the path."""
        return elements(self.get(path))

    def pages(self, query: str) -> Iterator[list[Raw]]:
        """The pages of `GET /tasks`, from the one that `query` asks for."""
        from jobpipe.client.exchange import Request
        from jobpipe.client.tasks import next_query

        following: str | None = query
        while following is not None:
            answer = self.call(Request("GET", f"/tasks?{following}", repeatable=True))
            yield elements(answer.body)
            following = next_query(answer)


def bulk(remote: Remote, action: str, which: Mapping[str, object]) -> BulkView:
    """Cancel, retry or delete all that match, and how many those were."""
    import msgspec

    from jobpipe.client.exchange import Request
    from jobpipe.client.flow import parse
    from jobpipe.wire import BulkView

    request = Request("POST", f"/tasks/{action}", msgspec.json.encode(which), wait=MAX_BULK_S)
    return parse(msgspec.json.Decoder(BulkView), remote.call(request))


def elements(body: bytes) -> list[Raw]:
    """The elements of a JSON array, as they came."""
    import msgspec

    from jobpipe.client.errors import bad_answer

    try:
        return msgspec.json.decode(body, type=list[msgspec.Raw])
    except (ValueError, RecursionError):
        raise bad_answer(200, body) from None


def fields(body: bytes, *without: str) -> dict[str, Any]:
    """A JSON object as values of Python; what is in the fields `without` may be huge and is not looked into."""
    import msgspec

    from jobpipe.client.errors import bad_answer
    from jobpipe.client.values import decoded

    try:
        raw = msgspec.json.decode(bytes(body), type=dict[str, msgspec.Raw])
    except (ValueError, RecursionError):
        raise bad_answer(200, bytes(body)) from None
    return {name: decoded(value) for name, value in raw.items() if name not in without}


def put_rows(rows: Sequence[Raw], columns: Sequence[Column], output: Output) -> None:
    """Print an array of objects as it was asked for."""
    if output == "table":
        Table(columns).put([fields(bytes(row), "payload", "result") for row in rows])
    else:
        put_json([bytes(row) for row in rows], output, many=True)
