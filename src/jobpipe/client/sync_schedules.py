"""The client for ordinary code: one call, one answer. Made from `jobpipe.client.async_schedules` by `make client`:
change that one."""

from __future__ import annotations

import builtins
from collections.abc import Mapping
from typing import Any, Unpack

from jobpipe.client import schedules
from jobpipe.client.flow import Caller
from jobpipe.client.schedules import Schedule, Timing
from jobpipe.client.transport import Transport
from jobpipe.client.values import Task


class Schedules:
    """Stored rules that make tasks at times. Every method but `list` and `put` raises NotFound for an unknown name."""

    def __init__(self, caller: Caller, transport: Transport) -> None:
        self._caller = caller
        self._transport = transport

    def list(self) -> builtins.list[Schedule]:
        """All schedules, by name."""
        return self._transport.run(schedules.list_all(self._caller))

    def get(self, name: str) -> Schedule:
        """The schedule as it is now."""
        return self._transport.run(schedules.get(self._caller, name))

    def put(self, name: str, task: Mapping[str, Any], **timing: Unpack[Timing]) -> Schedule:
        """Make a schedule, or change it whole; `task` is what it enqueues: handler, payload, queue ...

        Raises Invalid with the field that is not allowed, and what else refuses a change.
        """
        return self._transport.run(schedules.put(self._caller, name, task, timing))

    def pause(self, name: str) -> Schedule:
        """Make no tasks of it; times that pass meanwhile are not missed."""
        return self._transport.run(schedules.steer(self._caller, name, "pause"))

    def resume(self, name: str) -> Schedule:
        """Let it go on."""
        return self._transport.run(schedules.steer(self._caller, name, "resume"))

    def run(self, name: str) -> Task:
        """Make a task of it now, whatever is paused or overlaps."""
        return self._transport.run(schedules.run(self._caller, name))

    def delete(self, name: str) -> None:
        """Forget it; the tasks that it made stay."""
        self._transport.run(schedules.delete(self._caller, name))
