"""Keys of an application that is mounted under a path of somebody else's."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from jobpipe.core.keys import digest_of
from jobpipe.server.embed import Jobpipe, Settings


@pytest.fixture
async def client() -> AsyncIterator[httpx2.AsyncClient]:
    settings = Settings(
        store="memory:", pool=False, api_keys=f"web:enqueue:{digest_of(b'key').hex()}:rate=2/s"
    )
    async with Jobpipe(settings=settings) as jobpipe:
        site = Starlette(routes=[Mount("/jobs", jobpipe.asgi)])
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(site), base_url="http://site") as client:
            yield client


async def test_paths_are_judged_below_the_mount(client: httpx2.AsyncClient) -> None:
    key = {"authorization": "Bearer key"}
    assert (await client.get("/jobs/healthz")).status_code == 200
    assert (await client.get("/jobs/")).status_code == 200
    assert (await client.get("/jobs/tasks")).status_code == 401
    assert (await client.get("/jobs/jobs/healthz")).status_code == 401
    assert (await client.post("/jobs/enqueue", json={})).status_code == 401
    assert (await client.get("/jobs/tasks", headers=key)).status_code == 403
    assert (await client.post("/jobs/enqueue", json={}, headers=key)).status_code == 202
