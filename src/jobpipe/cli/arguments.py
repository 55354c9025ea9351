"""Arguments that several commands take: durations, times, and the filters of `GET /tasks`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final

from cyclopts import Parameter, Token

_WHOLE: Final = re.compile("[0-9]{1,12}", re.ASCII)
_DURATION: Final = re.compile(r"([0-9]{1,9}(?:\.[0-9]{0,9})?)(ms|s|m|h|d)?")
_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def seconds_of(text: str) -> float:
    """The seconds that `90`, `1.5`, `250ms`, `5m`, `2h` or `1d` stand for. Raises ValueError."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError(f"must be seconds, or like 250ms, 5m, 2h, 1d, not {text!r}")
    return float(match[1]) * _UNITS[match[2] or "s"]


def moment_of(text: str) -> str:
    """The RFC 3339 time that is meant: `2h` is two hours ago, `now` is now, anything else is left to the server."""
    if text == "now":
        return _rfc3339(datetime.now(UTC))
    if _DURATION.fullmatch(text):
        return _rfc3339(datetime.now(UTC) - timedelta(seconds=seconds_of(text)))
    return text


def _rfc3339(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def whole_of(text: str) -> int:
    """The whole number from 0 that is meant. Raises ValueError."""
    if not _WHOLE.fullmatch(text):
        raise ValueError(f"must be a whole number from 0, not {text!r}")
    return int(text)


def _whole(_hint: Any, tokens: Sequence[Token]) -> int:
    return whole_of(tokens[0].value)


def time_of(text: str) -> datetime:
    """The time of an RFC 3339 text. Raises ValueError."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.utcoffset() is None:
        raise ValueError(f"must be a time with its offset, like 2026-11-22T10:00:00Z, not {text!r}")
    return moment


def _time(_hint: Any, tokens: Sequence[Token]) -> datetime:
    return time_of(tokens[0].value)


def _seconds(_hint: Any, tokens: Sequence[Token]) -> float:
    return seconds_of(tokens[0].value)


def _expiry(_hint: Any, tokens: Sequence[Token]) -> float | datetime:
    text = tokens[0].value
    return seconds_of(text) if _DURATION.fullmatch(text) else time_of(text)


def _moment(_hint: Any, tokens: Sequence[Token]) -> str:
    return moment_of(tokens[0].value)


Whole = Annotated[int, Parameter(converter=_whole, n_tokens=1)]
"""A number of things, at least 0; Python's own `int` takes `1_0` and `0x10`."""

Seconds = Annotated[float, Parameter(converter=_seconds, n_tokens=1)]
"""A duration: seconds, or a number with its unit."""

Time = Annotated[datetime, Parameter(converter=_time, n_tokens=1)]
"""A time: RFC 3339 with an offset."""

Expiry = Annotated[float | datetime, Parameter(converter=_expiry, n_tokens=1)]
"""Seconds from now, or a time with an offset."""

Moment = Annotated[str, Parameter(converter=_moment, n_tokens=1)]
"""A time: RFC 3339, or how long ago."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True, slots=True)
class Filters:
    """Which tasks: all conditions that are given must hold."""

    status: Annotated[
        str | None, Parameter(help="queued, running, done, failed or cancelled.", show_default=False)
    ] = None
    queue: Annotated[str | None, Parameter(help="In this queue.", show_default=False)] = None
    handler: Annotated[str | None, Parameter(help="For this handler.", show_default=False)] = None
    error_type: Annotated[
        str | None, Parameter(help="Whose latest error has this type.", show_default=False)
    ] = None
    error_group: Annotated[
        str | None, Parameter(help="Of this group of `errors list`.", show_default=False)
    ] = None
    id_prefix: Annotated[str | None, Parameter(help="Whose id begins with this.", show_default=False)] = None
    created_after: Annotated[
        Moment | None, Parameter(help="Enqueued after this time, or in the last 2h.", show_default=False)
    ] = None
    created_before: Annotated[
        Moment | None, Parameter(help="Enqueued before this time, or 2h ago.", show_default=False)
    ] = None
    key: Annotated[str | None, Parameter(name="--task-key", help="With this key.", show_default=False)] = None

    def conditions(self) -> dict[str, str]:
        """Those that are given, as the wire names them."""
        given = {field.name: getattr(self, field.name) for field in fields(Filters)}
        return {name: value for name, value in given.items() if value is not None}


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True, slots=True)
class Which(Filters):
    """Which tasks, and how sure the person is."""

    all: Annotated[bool, Parameter(negative=(), help="Say that no filter is meant: all tasks.")] = False
    dry_run: Annotated[bool, Parameter(negative=(), help="Only count those that match.")] = False
    yes: Annotated[bool, Parameter(name=["--yes", "-y"], negative=(), help="Do not ask.")] = False

    def body(self, *, dry_run: bool) -> dict[str, str | bool]:
        """What the bulk routes take."""
        return {**self.conditions(), "all": self.all, "dry_run": dry_run}
