"""What the parent of `jobpipe worker` does for processes that cannot speak for themselves.

It settles what a dead one had begun, so that nobody waits for the end of the leases. It extends the leases of one that
the system says to live, but that holds the GIL in C and so sends no heartbeats; and it ends one whose leases are over.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence

import msgspec

from jobpipe.client.address import authorization, parse_addresses
from jobpipe.client.claims import settle_item
from jobpipe.client.connection import Connection
from jobpipe.client.destination import destinations
from jobpipe.client.errors import error_of
from jobpipe.client.outage import pause
from jobpipe.core.errors import JobpipeError
from jobpipe.processes.supervisor.child import Child, Exit
from jobpipe.processes.supervisor.left import left_by
from jobpipe.processes.supervisor.orders import Begun
from jobpipe.processes.supervisor.supervisor import Supervisor
from jobpipe.runtime import randomness
from jobpipe.runtime.clock import SystemClock
from jobpipe.settings.worker import WorkerSettings
from jobpipe.wire.working import ExtendBody, ExtendLease

log = logging.getLogger("jobpipe.worker")

ANSWER_S = 5.0


class Care:
    """Speaks to the server of `settings` in the name of the processes."""

    def __init__(self, settings: WorkerSettings) -> None:
        headers = {"user-agent": "jobpipe-worker", **authorization(settings.key)}
        self._servers = destinations(parse_addresses(settings.servers), headers)
        self._lease = settings.lease
        self._clock = SystemClock()
        self._vouching: asyncio.Task[None] | None = None
        self._refused: set[str] = set()

    def start(self, supervisor: Supervisor) -> None:
        """Vouch for the processes from now on."""
        self._vouching = asyncio.get_running_loop().create_task(self._vouch(supervisor))

    def close(self) -> None:
        """Vouch no more. Safe before the start."""
        if self._vouching is not None:
            self._vouching.cancel()

    # --- a process that ended ---

    async def give_back(self, exit: Exit) -> None:
        """Settle what it had begun; when the server is away for longer than the leases, these end by themselves."""
        items = [
            settle_item(run.task_id, lease_id, left_by(exit, lease_id))
            for lease_id, run in exit.begun.items()
            if run.task_id is not None
        ]
        if not items:
            return
        body = b"[%b]" % b",".join(items)
        if await self._settled(body):
            log.info("gave back %d tasks of a worker process that ended", len(items))
        else:
            log.warning("%d tasks of it are rescued when their leases run out", len(items))

    async def _settled(self, body: bytes) -> bool:
        end, failures = self._clock.monotonic() + min(self._lease, ANSWER_S), 0
        while True:
            try:
                await self._post("/settle", body)
                return True
            except JobpipeError as error:
                failures += 1
                wait = pause(failures, randomness.random, error)
            if self._clock.monotonic() + wait > end:
                return False
            await asyncio.sleep(wait)

    # --- processes that live ---

    async def _vouch(self, supervisor: Supervisor) -> None:
        while True:
            await asyncio.sleep(self._lease / 4)
            for child in supervisor.children():
                if child.worker is not None and child.works and (runs := self._long(child.begun)):
                    await self._vouch_for(child, child.worker, runs)

    def _long(self, begun: Mapping[str, Begun]) -> list[ExtendLease]:
        """Runs for which a heartbeat should have come by now."""
        before = self._clock.monotonic() - self._lease / 3
        return [
            ExtendLease(run.task_id, lease_id, run.timeout)
            for lease_id, run in begun.items()
            if run.task_id is not None and run.at < before
        ]

    async def _vouch_for(self, child: Child, worker: str, runs: Sequence[ExtendLease]) -> None:
        body = msgspec.json.encode(ExtendBody(worker, list(runs), self._lease))
        try:
            answers = msgspec.json.decode(await self._post("/extend", body))
        except JobpipeError as error:
            log.debug("no heartbeat in the name of %s: %s", worker, error)
            return
        over = {run.lease_id for run, one in zip(runs, answers, strict=True) if not one["extended"]}
        # One that can hear it ends such a run itself by the next time.
        if over & self._refused & set(child.begun):
            child.kill("gave no sign until a lease ran out, and was killed")
        self._refused = (self._refused - {run.lease_id for run in runs}) | over

    async def _post(self, path: str, body: bytes) -> bytes:
        connection = Connection(self._servers)
        try:
            answer = await connection.post(path, body, ANSWER_S)
        finally:
            connection.close()
        if answer.status != 200:
            raise error_of(answer.status, answer.body, answer.retry_after)
        return answer.body
