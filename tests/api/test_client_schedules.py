"""Schedules through both clients, against a server that is really asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from functools import partial

import pytest

from jobpipe.client import AsyncClient, Client
from jobpipe.core.errors import Invalid, NotFound

from .conftest import Server

BERLIN = {"cron": "30 2 * * *", "timezone": "Europe/Berlin"}
TASK = {"handler": "report", "queue": "mail", "payload": {"n": 1}}


@pytest.fixture
def lane() -> str:
    return "live"


@pytest.fixture
async def client(server: Server) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(f"http://127.0.0.1:{server.port}") as client:
        yield client


async def test_one_is_made_read_steered_and_forgotten(client: AsyncClient) -> None:
    starts = datetime(2030, 1, 1, tzinfo=UTC)
    made = await client.schedules.put("nightly", TASK, **BERLIN, overlap="skip", starts=starts)
    assert (made.name, made.cron, made.timezone, made.overlap) == (
        "nightly", "30 2 * * *", "Europe/Berlin", "skip",
    )  # fmt: skip
    assert (made.task, made.starts, made.in_words) == (TASK, starts, "At 02:30 every day")
    assert len(made.next) == 5
    assert made.next[0] == made.next_at
    assert made.next[0] > starts
    assert await client.schedules.get("nightly") == made
    assert await client.schedules.list() == [made]
    paused = await client.schedules.pause("nightly")
    assert (paused.paused, paused.next) == (True, [])
    task = await client.schedules.run("nightly")
    assert (task.handler, task.queue, task.payload) == ("report", "mail", {"n": 1})
    assert (await client.schedules.get("nightly")).last_task == task.id
    assert (await client.schedules.resume("nightly")).paused is False
    await client.schedules.delete("nightly")
    assert await client.schedules.list() == []


async def test_what_is_refused_is_an_error_with_its_field(client: AsyncClient) -> None:
    with pytest.raises(Invalid) as refused:
        await client.schedules.put("wrong", TASK, cron="61 * * * *")
    assert refused.value.field == "cron"
    with pytest.raises(Invalid):
        await client.schedules.put("wrong", TASK, every=60, starts=datetime(2030, 1, 1))
    for act in (client.schedules.get, client.schedules.pause, client.schedules.resume, client.schedules.run,
                client.schedules.delete):  # fmt: skip
        with pytest.raises(NotFound):
            await act("nobody")


async def test_the_blocking_client_does_the_same(server: Server) -> None:
    def use(url: str) -> None:
        with Client(url) as client:
            made = client.schedules.put("often", TASK, every=90)
            assert (made.every, made.in_words) == (90, "Every 90 seconds")
            assert client.schedules.list() == [made]
            assert client.schedules.pause("often").paused is True
            assert client.schedules.resume("often").paused is False
            assert client.schedules.run("often").id == client.schedules.get("often").last_task
            client.schedules.delete("often")
            with pytest.raises(NotFound):
                client.schedules.get("often")

    await asyncio.to_thread(partial(use, f"http://127.0.0.1:{server.port}"))
