"""Schedules as they come (`PUT /schedules/{name}`, and in what apps declare) and as they are shown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from jobpipe.core.cron import LONGEST, BadCron, zone_of
from jobpipe.core.errors import Invalid, JobpipeError, TooLarge
from jobpipe.core.firing import Schedule, Template
from jobpipe.core.schedule_edits import NoSchedule, Said
from jobpipe.core.schedules import CatchUp, Overlap, Timing, in_words, next_time, times_after
from jobpipe.core.task import MAX_DELAY_S
from jobpipe.wire import requests, strict
from jobpipe.wire.answers import Count, Time
from jobpipe.wire.requests import Ignored
from jobpipe.wire.times import format_time, parse_time

NAME = r"(?!\.{1,2}$)[A-Za-z0-9_.-]{1,100}"
MAX_JITTER_S = 86_400
SHOWN = 5
"""So many of the times to come are shown."""

_NAME = re.compile(NAME)
Moment = Annotated[str, Meta(extra_json_schema={"format": "date-time"})]


class ScheduleBody(Struct, forbid_unknown_fields=True):
    """A schedule, whole: `cron` or `every`, and what to enqueue. A field that is null counts as left out."""

    task: Annotated[
        Raw,
        Meta(
            description="What to enqueue: as for POST /enqueue, without id, run_at and delay; expires in seconds.",
            extra_json_schema={"type": "object"},
        ),
    ]
    cron: (
        Annotated[str, Meta(max_length=LONGEST, description="Five fields, or @hourly, @daily, ...")] | None
    ) = None
    every: (
        Annotated[int, Meta(ge=1, le=int(MAX_DELAY_S), description="Seconds, from `starts` or the epoch on.")]
        | None
    ) = None
    timezone: (
        Annotated[str, Meta(max_length=100, description="IANA, of `cron`; UTC when left out.")] | None
    ) = None
    paused: Annotated[bool, Meta(description="Left out, it stays as it is.")] | None = None
    catch_up: CatchUp | None = None
    overlap: Overlap | None = None
    jitter: Annotated[float, Meta(ge=0, le=MAX_JITTER_S, description="Seconds.")] | None = None
    starts: Moment | None = None
    ends: Moment | None = None
    name: Ignored | UnsetType = UNSET
    declared_by: Ignored | UnsetType = UNSET
    changed_at: Ignored | UnsetType = UNSET
    changed_by: Ignored | UnsetType = UNSET
    next_at: Ignored | UnsetType = UNSET
    next: Ignored | UnsetType = UNSET
    last_at: Ignored | UnsetType = UNSET
    last_task: Ignored | UnsetType = UNSET
    last_error: Ignored | UnsetType = UNSET
    missed: Ignored | UnsetType = UNSET
    in_words: Ignored | UnsetType = UNSET


class ScheduleView(Struct):
    """A schedule. `next` are its next five times, none while it is paused; `missed` counts times that made no task;
    `in_words` reads `cron` or `every` back."""

    name: str
    cron: str | None
    every: int | None
    timezone: str
    task: Raw
    paused: bool
    catch_up: CatchUp
    overlap: Overlap
    jitter: float
    starts: Time | None
    ends: Time | None
    declared_by: str | None
    changed_at: Time | None
    changed_by: str | None
    next_at: Time | None
    next: list[Time]
    last_at: Time | None
    last_task: str | None
    last_error: str | None
    missed: Count
    in_words: str


class _Timed(Struct):
    """What the task of a schedule must not say, and what it says otherwise."""

    id: Any = None
    run_at: Any = None
    delay: Any = None
    expires: Any = None


_body = msgspec.json.Decoder(ScheduleBody)
_timed = msgspec.json.Decoder(_Timed)
_fields: dict[str, Any] = dict.fromkeys(ScheduleBody.__struct_fields__)
_encode = msgspec.json.Encoder().encode


def schedule_name(name: str) -> str:
    """The name in a path. Raises NoSchedule for one that no schedule can have."""
    if not _NAME.fullmatch(name):
        raise NoSchedule(f"no schedule is called '{name[:100]}'")
    return name


def check_schedule_name(name: str, field: str = "name") -> None:
    """Raise Invalid for a name that no schedule can have."""
    if not _NAME.fullmatch(name):
        raise Invalid("must match [A-Za-z0-9_.-]{1,100}, and not be '.' or '..'", field=field)


def parse_schedule(name: str, body: bytes, defaults: requests.Defaults, now: int) -> Said:
    """What a schedule is to be. Raises TooLarge, InvalidJson, or Invalid with the field."""
    check_schedule_name(name)
    if len(body) > defaults.max_body:
        raise TooLarge(f"a schedule has at most {defaults.max_body} bytes")
    given = strict.decode(_body, body, _fields)
    template = _template(bytes(given.task), defaults, now)
    return Said(name, _timing(given, now), template, given.paused)


def parse_declared(
    given: Mapping[str, Raw], defaults: requests.Defaults, now: int, field: str = "schedules"
) -> list[Said]:
    """The schedules that an app declares, by name. Raises Invalid with the field."""
    said = []
    for name, body in given.items():
        check_schedule_name(name, field)
        try:
            said.append(parse_schedule(name, bytes(body), defaults, now))
        except JobpipeError as error:
            place = f"{field}.{name}" if error.field is None else f"{field}.{name}.{error.field}"
            raise Invalid(error.detail or error.sentence, field=place) from None
    return said


def _timing(given: ScheduleBody, now: int) -> Timing:
    if given.cron is not None and given.every is not None:
        raise Invalid("give either cron or every", field="every")
    if given.cron is None and given.every is None:
        raise Invalid("give cron or every", field="cron")
    try:
        zone_of(given.timezone or "UTC")
    except BadCron as error:
        raise Invalid(str(error), field="timezone") from None
    timing = Timing(
        given.cron,
        given.every,
        given.timezone or "UTC",
        _moment(given.starts, "starts"),
        _moment(given.ends, "ends"),
        given.catch_up or CatchUp.LATEST,
        given.overlap or Overlap.ALLOW,
        given.jitter or 0.0,
    )
    _check_comes(timing, now)
    return timing


def _check_comes(timing: Timing, now: int) -> None:
    field = "every" if timing.cron is None else "cron"
    if timing.ends is not None and (timing.ends <= now or timing.ends < (timing.starts or now)):
        raise Invalid("it is over before it begins", field="ends")
    try:
        comes = next_time(timing, now)
    except BadCron as error:
        raise Invalid(str(error), field=field) from None
    if comes is None:
        raise Invalid("it never comes", field=field)


def _moment(text: str | None, field: str) -> int | None:
    try:
        return None if text is None else parse_time(text)
    except ValueError:
        raise Invalid("must be an RFC 3339 time with an offset", field=field) from None


def _template(task: bytes, defaults: requests.Defaults, now: int) -> Template:
    try:
        new = requests.parse_object(task, defaults, now)
    except JobpipeError as error:
        field = "task" if error.field is None else f"task.{error.field}"
        raise Invalid(error.detail or error.sentence, field=field) from None
    timed = _timed.decode(task)
    for name in ("id", "run_at", "delay"):
        if getattr(timed, name) is not None:
            raise Invalid("a schedule says this of its tasks", field=f"task.{name}")
    if isinstance(timed.expires, str):
        raise Invalid("must be seconds", field="task.expires")
    return Template(
        task, new.handler, new.payload, new.queue, new.priority, new.max_retries, new.timeout, new.key,
        new.uniqueness, None if timed.expires is None else float(timed.expires),
    )  # fmt: skip


def encode_schedule(schedule: Schedule) -> bytes:
    """The schedule as the contract writes it."""
    timing = schedule.timing
    times, words = _told(schedule)
    parts = {
        "name": _encode(schedule.name),
        "cron": _encode(timing.cron),
        "every": _encode(timing.every),
        "timezone": _encode(timing.timezone),
        "task": schedule.template.sent,
        "paused": _encode(schedule.paused),
        "catch_up": _encode(timing.catch_up),
        "overlap": _encode(timing.overlap),
        "jitter": _encode(timing.jitter),
        "starts": _time(timing.starts),
        "ends": _time(timing.ends),
        "declared_by": _encode(schedule.declared_by),
        "changed_at": _time(schedule.changed_at),
        "changed_by": _encode(schedule.changed_by),
        "next_at": _time(times[0] if times else None),
        "next": b"[%b]" % b",".join(map(format_time, times)),
        "last_at": _time(schedule.last_at),
        "last_task": _encode(schedule.last_task),
        "last_error": _encode(schedule.last_error),
        "missed": b"%d" % schedule.missed,
        "in_words": _encode(words),
    }
    return b"{%b}" % b",".join(b'"%b":%b' % (name.encode(), value) for name, value in parts.items())


def _told(schedule: Schedule) -> tuple[list[int], str]:
    """Its next times, and when it comes in words: neither for one that cannot be read with this server's zones."""
    try:
        times = times_after(schedule.timing, schedule.position)
        return [] if schedule.paused else list(islice(times, SHOWN)), in_words(schedule.timing)
    except BadCron:
        return [], ""


def encode_schedules(encoded: Iterable[bytes]) -> bytes:
    """An array of schedules, each already encoded."""
    return b"[%b]" % b",".join(encoded)


def _time(at: int | None) -> bytes:
    return b"null" if at is None else format_time(at)
