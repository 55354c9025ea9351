"""The query of what is told of a span of time: `since`, `until` and, where the answer is cut, `limit`."""

from __future__ import annotations

from msgspec import Struct

from jobpipe.core.errors import Invalid
from jobpipe.wire.filters import parse_limit, parse_query, parse_when


class Span(Struct, frozen=True):
    """The span that was asked for, in milliseconds; None where the request does not say."""

    since: int | None
    until: int | None
    limit: int


def parse_span(query: bytes, *names: str) -> Span:
    """A query string that may hold the parameters `names`. Raises Invalid, naming the parameter."""
    given = parse_query(query)
    unknown = next((name for name in given if name not in names), None)
    if unknown is not None:
        raise Invalid(f"unknown parameter '{unknown[:100]}'", field=unknown[:100])
    return Span(parse_when(given, "since"), parse_when(given, "until"), parse_limit(given))
