"""What an app says of times: schedules that are declared at handlers, as `POST /declare` has them."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal, TypedDict

import msgspec
from msgspec import Raw, Struct

from jobpipe.core.cron import BadCron, Cron, zone_of
from jobpipe.work.errors import BadHandler, InvalidPayload
from jobpipe.work.handler import Handler
from jobpipe.work.payload import json_of


class Times(TypedDict, total=False):
    """When it comes, beside `cron`: `every` is seconds, counted from `starts`, `jitter` too; times need a zone."""

    every: int
    timezone: str
    catch_up: Literal["latest", "none"]
    overlap: Literal["allow", "skip"]
    jitter: float
    starts: datetime
    ends: datetime


class Scheduled(Struct, frozen=True):
    """A handler and when a task for it is made."""

    handler: Handler[..., Any]
    cron: str | None
    payload: Any
    times: Times

    def body(self) -> Raw:
        """As JSON. Raises BadHandler for a payload that the handler would refuse."""
        try:
            json = json_of(self.payload)
            self.handler.check(json)
        except InvalidPayload as error:
            raise BadHandler(f"the schedule of handler '{self.handler.name}': {error}") from error
        task = self.handler.request_of(json, {})
        said = {"cron": self.cron, **self.times, "task": task}
        return Raw(msgspec.json.encode({name: value for name, value in said.items() if value is not None}))


def checked(handler: Handler[..., Any], cron: str | None, payload: Any, times: Times) -> Scheduled:
    """The declaration. Raises BadHandler for times that can be no schedule's."""
    if (cron is None) == (times.get("every") is None):
        raise BadHandler(f"the schedule of handler '{handler.name}': give either cron or every")
    try:
        zone_of(times.get("timezone") or "UTC")
        if cron is not None:
            Cron(cron, times.get("timezone") or "UTC")
    except BadCron as error:
        raise BadHandler(f"the schedule of handler '{handler.name}': {error}") from None
    return Scheduled(handler, cron, payload, times)


def name_of(handler: Handler[..., Any], name: str | None) -> str:
    """What the schedule is called: as said, else like its handler."""
    return name or handler.name.replace(":", "-")[:100]
