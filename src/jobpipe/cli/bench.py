"""`jobpipe bench`: how fast a server takes tasks, measured for a bounded time and cleaned up after."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final

from cyclopts import Parameter

from jobpipe.cli import exits
from jobpipe.cli.arguments import Seconds, Whole
from jobpipe.cli.output import Output, put, put_json, say, shown
from jobpipe.cli.remote import Remote, Target, bulk
from jobpipe.core.errors import JobpipeError
from jobpipe.settings.server import BadSetting

if TYPE_CHECKING:
    from jobpipe.cli.load import Posted

MOST_TASKS: Final = 1_000_000
MOST_CONNECTIONS: Final = 1000
LONGEST_S: Final = 600.0
QUEUE: Final = "bench"
POLL_S: Final = 0.05
HOLD_S: Final = 86_400
"""The delay of tasks that are not meant to run: they are removed long before."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True, slots=True)
class Bounds:
    """How much is posted, and for how long."""

    tasks: Annotated[Whole, Parameter(help="How many tasks.")] = 1000
    connections: Annotated[Whole, Parameter(help="Connections that post at a time.")] = 16
    seconds: Annotated[Seconds, Parameter(help="For how long at most.")] = 30.0
    handler: Annotated[
        str | None,
        Parameter(
            help="Run them with this handler, and measure until all have ended; left out: they never run.",
            show_default=False,
        ),
    ] = None

    def check(self) -> None:
        """Raise BadSetting for what is nothing or endless."""
        for name, most in (("tasks", MOST_TASKS), ("connections", MOST_CONNECTIONS), ("seconds", LONGEST_S)):
            if not 0 < getattr(self, name) <= most:
                raise BadSetting(f"must be above 0, at most {most:g}", name, origin="flag")


def bench_command(
    *,
    bounds: Bounds = Bounds(),
    yes: Annotated[
        bool, Parameter(negative=(), help="Also on a server that is not on this machine.")
    ] = False,
    output: Output = "table",
    target: Target = Target(),  # noqa: B008 - frozen
) -> int:
    """Post tasks one by one to the queue `bench`, print rates and latencies, and remove the tasks again.

    The queue holds only as many tasks as --queue-size of the server says; what is beyond is refused and counted.
    """
    bounds.check()
    with target.open() as remote:
        _check_place(target, yes)
        result = _measure(remote, target, bounds)
    if output == "table":
        width = max(map(len, result))
        for name, value in result.items():
            put(f"{name:<{width}}  {shown(value)}")
    else:
        import msgspec

        put_json([msgspec.json.encode(result)], output, many=False)
    return exits.OK if result["accepted"] == bounds.tasks else exits.REFUSED


def _check_place(target: Target, yes: bool) -> None:
    from jobpipe.client.address import parse_address

    if not yes and not parse_address(target.server).local:
        raise BadSetting(f"{target.server} is not on this machine: say --yes to load it all the same")


def _measure(remote: Remote, target: Target, bounds: Bounds) -> dict[str, Any]:
    import asyncio
    import time

    from jobpipe.cli.load import Load, post
    from jobpipe.client.address import parse_address

    prefix = f"bench-{os.urandom(6).hex()}-"
    meant = {"handler": bounds.handler} if bounds.handler else {"delay": HOLD_S}
    load = Load(
        bounds.tasks, bounds.connections, bounds.seconds, prefix, {"queue": QUEUE, "max_retries": 0, **meant}
    )
    began = time.monotonic()
    try:
        posted = asyncio.run(post(parse_address(target.server), target.key or None, load))
        result = _figures(bounds.tasks, posted)
        if bounds.handler:
            took = _until_ended(remote, prefix, began, began + bounds.seconds)
            result["ended_after_s"] = took
            result["ended_per_s"] = None if took is None else len(posted.latencies) / took
        return result
    finally:
        _remove(remote, prefix)


def _figures(tasks: int, posted: Posted) -> dict[str, Any]:
    from jobpipe.cli.load import percentile

    times = sorted(posted.latencies)
    if posted.refused:
        say("refused: " + ", ".join(f"{count:,} {code}" for code, count in posted.refused.items()))
    if len(times) + posted.refused.total() < tasks:
        say("the time was over before all tasks were posted")
    return {
        "tasks": tasks,
        "accepted": len(times),
        "refused": posted.refused.total(),
        "seconds": posted.seconds,
        "accepted_per_s": len(times) / posted.seconds,
        **{
            f"{name}_ms": None if (value := percentile(times, share)) is None else value * 1000
            for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99), ("max", 1.0))
        },
    }


def _until_ended(remote: Remote, prefix: str, began: float, end: float) -> float | None:
    """Seconds from `began` until none of the tasks waits or runs; None when `end` came first."""
    import time

    while True:
        if not any(_count(remote, prefix, status) for status in ("queued", "running")):
            return time.monotonic() - began
        if time.monotonic() >= end:
            say("the time was over before all tasks had ended")
            return None
        time.sleep(POLL_S)


def _count(remote: Remote, prefix: str, status: str) -> int:
    return bulk(remote, "cancel", {"id_prefix": prefix, "status": status, "dry_run": True}).matched


def _remove(remote: Remote, prefix: str) -> None:
    """Take the tasks out again; one that still runs is asked to stop and stays until it is pruned."""
    try:
        bulk(remote, "cancel", {"id_prefix": prefix})
        bulk(remote, "delete", {"id_prefix": prefix})
    except JobpipeError as error:
        say(f"the tasks {prefix}... are still there: {error}")
