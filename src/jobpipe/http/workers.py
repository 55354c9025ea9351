"""`GET /workers`: who works, and on what."""

from __future__ import annotations

from functools import partial

from msgspec import UNSET

from jobpipe.engine.workers import Worker
from jobpipe.http.answers import Receive, Scope, Send, send_json
from jobpipe.http.config import Api
from jobpipe.http.routing import RawRoute
from jobpipe.wire import ReplacedView, WorkerTaskView, WorkerView, encode_view, time_text


def routes(api: Api) -> list[RawRoute]:
    """The routes of this module."""
    return [RawRoute("/workers", GET=partial(_workers, api))]


async def _workers(api: Api, scope: Scope, receive: Receive, send: Send) -> None:
    await send_json(scope, send, encode_view([_view(worker) for worker in await api.queue.workers.all()]))


def _view(worker: Worker) -> WorkerView:
    return WorkerView(
        worker_id=worker.worker_id,
        host=worker.host,
        pid=worker.pid,
        version=worker.version,
        queues=["*"] if worker.queues is None else list(worker.queues),
        busy=worker.busy,
        total=worker.total,
        last_seen=time_text(worker.last_seen),
        tasks=[
            WorkerTaskView(run.id, run.handler, None if run.started_at is None else time_text(run.started_at))
            for run in worker.tasks
        ],
        state=worker.state.value,
        release=worker.release,
        leaving=UNSET if worker.leaving is None else worker.leaving,
        replaced=UNSET
        if worker.replaced is None
        else ReplacedView(worker.replaced.reason, time_text(worker.replaced.at)),
    )
