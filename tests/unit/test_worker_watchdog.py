"""The watchdog: a loop that hangs in a handler is found, and the right run is blamed."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence

import pytest

from jobpipe.core.lifecycle import Kind, Outcome
from jobpipe.core.task import Claim, Status, Task
from jobpipe.processes.worker import watchdog
from jobpipe.processes.worker.watchdog import Watchdog
from jobpipe.runtime.clock import SystemClock
from jobpipe.work.app import App
from jobpipe.work.executor import Executor
from jobpipe.work.run import Run

app = App()
release = threading.Event()


@app.handler
async def hangs() -> None:
    while not release.is_set():
        time.sleep(0.01)


@app.handler
async def hangs_in_a_task_of_its_own() -> None:
    await asyncio.create_task(hangs())


@app.handler
async def waits() -> None:
    await asyncio.sleep(0.5)


def claim(handler: str, timeout: float) -> Claim:
    task = Task(
        seq=1, id=handler, handler=handler, queue="default", payload=b"null", priority=0, status=Status.RUNNING,
        attempts=1, failures=0, lost=0, max_retries=0, timeout=timeout, run_at=0, created_at=0,
    )  # fmt: skip
    return Claim(task, f"lease-{handler}")


class Silent:
    leaving = False

    def on_outcome(self, run: Run, outcome: Outcome) -> None: ...
    def on_end(self, run: Run) -> None: ...
    def on_overstay(self, run: Run) -> bool:
        return False


class Told:
    """What the watchdog said; by then the loop may go on."""

    def __init__(self) -> None:
        self.runs: Sequence[Run] = ()
        self.guilty: Sequence[Run] = ()
        self.event = threading.Event()

    def __call__(self, runs: Sequence[Run], guilty: Sequence[Run]) -> None:
        self.runs, self.guilty = runs, guilty
        self.event.set()
        release.set()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    release.clear()
    monkeypatch.setattr(watchdog, "LOOK_S", 0.02)
    monkeypatch.setattr(watchdog, "ANSWER_S", 0.1)


async def watched(*claims: Claim) -> Told:
    told = Told()
    executor = Executor(app, cleanup=0.05)
    runs = [executor.prepare(claim, Silent()) for claim in claims]
    dog = Watchdog(asyncio.get_running_loop(), lambda: runs, 0.05, told, SystemClock())
    dog.start()
    for run in runs:
        run.begin()
    dog.notice()
    while not all(run.ended for run in runs):
        await asyncio.sleep(0.01)
    executor.close()
    return told


async def test_the_run_in_which_the_loop_hangs_is_blamed_and_its_neighbour_released() -> None:
    told = await watched(claim("waits", 0.1), claim("hangs", 30))
    assert [run.claim.task.id for run in told.guilty] == ["hangs"]
    assert {run.claim.task.id for run in told.runs} == {"waits", "hangs"}
    guilty, other = (run.judge_hung(guilty=run in told.guilty) for run in reversed(list(told.runs)))
    assert (guilty.kind, other.kind) == (Kind.TIMED_OUT, Kind.RELEASED)
    assert "blocked the event loop" in guilty.message


async def test_where_the_culprit_is_not_seen_those_past_their_timeout_are_blamed() -> None:
    told = await watched(claim("waits", 30), claim("hangs_in_a_task_of_its_own", 0.1))
    assert [run.claim.task.id for run in told.guilty] == ["hangs_in_a_task_of_its_own"]


async def test_a_loop_that_answers_is_left_alone() -> None:
    told = await watched(claim("waits", 0.1))
    assert not told.event.is_set()
