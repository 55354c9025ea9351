"""A FastAPI application that writes welcome mails in the background, with the queue and its workers in its process.

    uvicorn examples.fastapi_app.app:api

The tasks are in a file: stop it, kill it, start it again, and every mail that was promised is still written.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

from fastapi import FastAPI
from pydantic import BaseModel, StringConstraints
from starlette.requests import Request
from starlette.responses import JSONResponse

from jobpipe import App, Context, Jobpipe
from jobpipe.core.errors import QueueFull
from jobpipe.server.embed import Settings


class Outbox:
    """Stands in for a mail server: each mail is a file."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder

    async def send(self, address: str, text: str) -> None:
        await asyncio.to_thread((self.folder / f"{address}.txt").write_text, text)


@asynccontextmanager
async def outbox(app: App) -> AsyncIterator[Outbox]:
    """What handlers need while they run; a connection pool would be opened and closed here."""
    yield Outbox(Path(os.environ.get("OUTBOX", "outbox")))


tasks = App(lifespan=outbox)
jobpipe = Jobpipe(tasks, Settings(store=os.environ.get("STORE", "sqlite:///fastapi_app.db")))


@tasks.handler(queue="mail", max_retries=5)
async def welcome(ctx: Context[Outbox], address: str, name: str) -> str:
    """Write a welcome mail."""
    await ctx.deps.send(address, f"Welcome, {name}!")
    ctx.log.info("wrote to %s", address)
    return address


@asynccontextmanager
async def lifespan(api: FastAPI) -> AsyncIterator[None]:
    """Mounted applications have no lifespan of their own: the queue starts and drains with the whole."""
    async with jobpipe:
        yield


api = FastAPI(title="Welcome", lifespan=lifespan)
api.mount("/jobs", jobpipe.asgi)


class SignUp(BaseModel):
    """Who signs up."""

    address: Annotated[str, StringConstraints(pattern=r"^[a-z0-9.]+@[a-z0-9.]+$")]
    name: str
    wait: float = 0.0


class Accepted(BaseModel):
    """Where to see what became of the mail."""

    task: str
    url: str


@api.post("/signups", status_code=202)
async def sign_up(person: SignUp) -> Accepted:
    """Promise a mail; when this answers, the task is on disk."""
    task = await welcome.options(delay=person.wait).enqueue(address=person.address, name=person.name)
    return Accepted(task=task.id, url=f"/jobs/tasks/{task.id}")


@api.exception_handler(QueueFull)
async def busy(request: Request, error: QueueFull) -> JSONResponse:
    """More mails are waiting than the queue holds."""
    return JSONResponse({"detail": str(error)}, status_code=503, headers={"Retry-After": "1"})
