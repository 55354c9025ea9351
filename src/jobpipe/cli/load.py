"""A bounded load: tasks posted one by one over several connections, each answer timed."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from typing import Final

import msgspec
from msgspec import Struct

from jobpipe.client.address import Address, authorization
from jobpipe.client.connection import Connection
from jobpipe.client.errors import error_of

ANSWER_S: Final = 10.0


class Load(Struct, frozen=True):
    """What to post: `count` tasks whose ids begin with `prefix`, with these `fields`, in `seconds` at most."""

    count: int
    connections: int
    seconds: float
    prefix: str
    fields: dict[str, object]


class Posted(Struct):
    """What became of it; `latencies` in seconds, of accepted tasks only, and `refused` by code."""

    seconds: float
    latencies: list[float]
    refused: Counter[str]


async def post(address: Address, key: str | None, load: Load) -> Posted:
    """Post the load. Raises what the first connection fails by: ConnectionFailed, or a refusal that stands for all."""
    bodies = _bodies(load)
    posted = Posted(0.0, [], Counter())
    began = time.perf_counter()
    end = began + load.seconds
    posts = (
        _post(Connection(address, authorization(key)), bodies, end, posted) for _ in range(load.connections)
    )
    await asyncio.gather(*posts)
    posted.seconds = time.perf_counter() - began
    return posted


async def _post(connection: Connection, bodies: Iterator[bytes], end: float, posted: Posted) -> None:
    try:
        for body in bodies:
            began = time.perf_counter()
            if began >= end:
                return
            reply = await connection.post("/enqueue", body, ANSWER_S)
            if reply.status < 300:
                posted.latencies.append(time.perf_counter() - began)
            else:
                error = error_of(reply.status, reply.body)
                if error.code in ("unauthorized", "forbidden", "draining", "invalid"):
                    raise error
                posted.refused[error.code] += 1
    finally:
        connection.close()


def _bodies(load: Load) -> Iterator[bytes]:
    for number in range(load.count):
        yield msgspec.json.encode({**load.fields, "id": f"{load.prefix}{number}"})


def percentile(values: list[float], share: float) -> float | None:
    """The value that `share` (0 to 1) of all, sorted, lie at or below; None without values."""
    return values[min(len(values) - 1, int(share * len(values)))] if values else None
