"""Every engine beside a plain dict: whatever is asked in whatever order, both answer the same.

`python -m prove --only model` does the same a million times at random; here Hypothesis finds the shortest way to a
difference.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from desk import OpenStore
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)
from msgspec import UNSET
from msgspec.structs import replace
from prove.driver import Driver
from prove.places import Database, Opens, in_memory, on_files
from prove.timely import EVERY, NAMES, TASKS, Wish
from prove.world import CAPACITY, IDS, MAX_QUEUES, QUEUES, UNIQUE, Difference, Held, World

import postgres
from jobpipe.core.lifecycle import Kind
from jobpipe.core.revision import Revision
from jobpipe.core.task import NewTask, Status
from jobpipe.runtime.clock import ManualClock
from jobpipe.storage.base import TaskFilter

IDENTIFIERS = st.integers(0, IDS - 1).map("t{}".format)
SOME_IDS = st.lists(IDENTIFIERS, min_size=1, max_size=3)
NEW_TASKS = st.builds(
    NewTask,
    IDENTIFIERS,
    st.just("h"),
    payload=st.sampled_from([b"null", b'{"n": 1.10}']),
    queue=st.sampled_from(QUEUES),
    priority=st.integers(-1, 1),
    max_retries=st.integers(0, 2),
    uniqueness=st.sampled_from(UNIQUE),
    digest=st.sampled_from([None, "1", "2"]),
)
REVISIONS = st.builds(
    Revision, payload=st.sampled_from([UNSET, b"[2]"]), priority=st.sampled_from([UNSET, 3])
)
WISHES = st.builds(
    Wish,
    st.sampled_from(NAMES),
    st.sampled_from(EVERY),
    st.integers(0, len(TASKS) - 1),
    skips=st.booleans(),
    makes_up=st.booleans(),
    paused=st.none() | st.booleans(),
)
LATER = st.sampled_from([None, None, 500, 3000])
FALLS = 3
"""Crashes of a world, and cuts: a server that connects anew takes as long as thirty steps."""
AGES = st.sampled_from([None, 0.0, 4.0])
LEASES = st.sampled_from([(None, True), (5.0, False), (5.0, True)])


class Machine(RuleBasedStateMachine):
    """Each rule is one verb of the world; the world compares."""

    opens: Opens
    folder: Path
    number = 0

    @initialize()
    def open(self) -> None:
        Machine.number += 1
        self.loop = asyncio.new_event_loop()
        place = self.folder / str(Machine.number)
        place.mkdir()
        self.world = self.loop.run_until_complete(self.opens(place))

    def do(self, step: Coroutine[Any, Any, None]) -> None:
        self.loop.run_until_complete(step)

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.do(self.world.store.close())
            self.loop.close()

    def held(self, data: st.DataObject) -> list[Held]:
        return data.draw(st.lists(st.sampled_from(self.world.claims), min_size=1, max_size=3))

    @rule(tasks=st.lists(NEW_TASKS, min_size=1, max_size=5))
    def insert(self, tasks: list[NewTask]) -> None:
        self.do(self.world.insert(tasks))

    @rule(task=NEW_TASKS, expires=st.sampled_from([800, 3000]), delay=LATER)
    def insert_what_expires(self, task: NewTask, expires: int, delay: int | None) -> None:
        now = self.world.clock.now()
        run_at = None if delay is None else now + min(delay, expires)
        self.do(self.world.insert([replace(task, expires_at=now + expires, run_at=run_at)]))

    @rule(limit=st.sampled_from([1, 100]))
    def expire(self, limit: int) -> None:
        self.do(self.world.expire(limit))

    @rule(id_=IDENTIFIERS, revision=REVISIONS, run_at=LATER, expires=LATER)
    def revise(self, id_: str, revision: Revision, run_at: int | None, expires: int | None) -> None:
        now = self.world.clock.now()
        times = {"run_at": run_at, "expires_at": expires}
        said = {name: now + at for name, at in times.items() if at is not None}
        self.do(self.world.revise(id_, replace(revision, **said)))

    @rule(wish=WISHES)
    def schedule(self, wish: Wish) -> None:
        self.do(self.world.schedule(wish))

    @rule(name=st.sampled_from(NAMES), paused=st.booleans())
    def pause_schedule(self, name: str, paused: bool) -> None:
        self.do(self.world.pause_schedule(name, paused=paused))

    @rule(name=st.sampled_from(NAMES))
    def delete_schedule(self, name: str) -> None:
        self.do(self.world.delete_schedule(name))

    @rule(limit=st.sampled_from([1, 100]), seconds=st.sampled_from([0, 30, 70]))
    def fire(self, limit: int, seconds: int) -> None:
        self.do(self.world.advance(seconds))
        self.do(self.world.fire(limit))

    @rule(limit=st.integers(1, 4), queues=st.none() | st.frozensets(st.sampled_from(QUEUES)), lease=LEASES)
    def claim(self, limit: int, queues: frozenset[str] | None, lease: tuple[float | None, bool]) -> None:
        self.do(self.world.claim(limit, queues, *lease))

    @precondition(lambda self: self.world.claims)
    @rule(data=st.data(), kind=st.sampled_from(list(Kind)), remembered=st.booleans())
    def settle(self, data: st.DataObject, kind: Kind, remembered: bool) -> None:
        self.do(self.world.settle([(held, kind, remembered) for held in self.held(data)]))

    @precondition(lambda self: self.world.claims)
    @rule(data=st.data(), lease_s=st.sampled_from([5.0, 8.0]))
    def extend(self, data: st.DataObject, lease_s: float) -> None:
        self.do(self.world.extend([(held, lease_s) for held in self.held(data)]))

    @rule(limit=st.sampled_from([1, 100]))
    def rescue(self, limit: int) -> None:
        self.do(self.world.rescue(limit))

    @rule(ids=SOME_IDS)
    def cancel(self, ids: list[str]) -> None:
        self.do(self.world.cancel(ids))

    @rule(ids=SOME_IDS)
    def retry(self, ids: list[str]) -> None:
        self.do(self.world.retry(ids))

    @rule(ids=SOME_IDS)
    def delete(self, ids: list[str]) -> None:
        self.do(self.world.delete(ids))

    @rule(done_s=AGES, failed_s=AGES, limit=st.sampled_from([1, 100]))
    def prune(self, done_s: float | None, failed_s: float | None, limit: int) -> None:
        self.do(self.world.prune(done_s, failed_s, limit))

    @rule(seconds=st.sampled_from([0.001, 1.0, 6.0]))
    def advance(self, seconds: float) -> None:
        self.do(self.world.advance(seconds))

    @rule(seconds=st.sampled_from([-86400, -3600, 3600, 86400]))
    def jump(self, seconds: float) -> None:
        self.do(self.world.jump(seconds))

    @precondition(lambda self: self.world.can_restart and self.world.restarts < FALLS)
    @rule()
    def crash_and_reopen(self) -> None:
        self.do(self.world.restart())

    @precondition(lambda self: self.world.can_be_cut and self.world.cuts < FALLS)
    @rule()
    def cut_connections(self) -> None:
        self.do(self.world.cut())

    @rule()
    def look(self) -> None:
        self.do(self.world.look())

    @rule(status=st.none() | st.sampled_from(list(Status)), limit=st.sampled_from([1, 100]))
    def list(self, status: Status | None, limit: int) -> None:
        self.do(self.world.list(TaskFilter(status=status), limit))


def on_database() -> Opens:
    postgres.empty_store()
    return Database(postgres.shared_cluster(), "manual").open


@pytest.mark.parametrize(
    ("engine", "examples", "steps"),
    [
        pytest.param(lambda: on_files, 15, 30, id="sqlite"),
        pytest.param(lambda: in_memory, 15, 30, id="memory"),
        # To open a world takes as long as a hundred steps: fewer of them, with more steps in each.
        pytest.param(on_database, 10, 50, id="postgres"),
    ],
)
def test_an_engine_answers_as_a_plain_dict_does(
    engine: Callable[[], Opens], examples: int, steps: int, tmp_path: Path
) -> None:
    machine = type("Machine", (Machine,), {"opens": staticmethod(engine()), "folder": tmp_path})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.parametrize("seed", range(2))
async def test_random_steps_are_answered_alike_on_every_engine(
    clock: ManualClock, open_store: OpenStore, seed: int
) -> None:
    world = World(await open_store(capacity=CAPACITY, max_queues=MAX_QUEUES), clock)
    driver = Driver(world, random.Random(seed))
    for _ in range(300):
        await driver.step()
    await world.look()


async def test_a_store_that_forgets_a_cancel_is_found_out() -> None:
    world = await in_memory(Path())
    await world.insert([NewTask("t1", "h")])
    world.model.cancel("t1", world.stored_now)
    with pytest.raises(Difference, match="get"):
        await world.look()
    await world.store.close()


async def test_a_store_that_makes_no_task_of_a_schedule_is_found_out() -> None:
    world = await in_memory(Path())
    await world.schedule(Wish("s0"))
    await world.advance(31)
    world.schedules.table.fire(world.stored_now, 1)
    with pytest.raises(Difference, match="get"):
        await world.look()
    await world.store.close()
