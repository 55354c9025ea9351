"""SQLite: what a call costs does not grow with the tasks that it is not about. Steps are counted, never time."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import apsw
import pytest
from desk import DONE, FAILED, Desk, OpenDesk, new, settlement

from jobpipe.storage.sqlite import due
from jobpipe.storage.sqlite import statements as sql

FEW, MANY = 600, 20_000  # more than one look reads, both
KINDS = ["waiting", "future", "finished"]


@pytest.fixture
def url(tmp_path: Path) -> str:
    return "memory:"


class Meter:
    """Counts the steps of SQLite's virtual machine, and the statements, that a call takes."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._db = connection
        self.steps = 0
        self.statements: list[str] = []
        self.looks = 0
        """How many levels were looked at."""

    async def measure(self, call: Callable[[], Awaitable[Any]]) -> Any:
        self.steps, self.looks, self.statements = 0, 0, []

        def step() -> bool:
            self.steps += 1
            return False

        def note(_: apsw.Cursor, statement: str, bindings: Any) -> bool:
            self.statements.append(statement)
            if statement == sql.PEEK_EACH:
                self.looks += len(json.loads(bindings[0]))
            return True

        self._db.exec_trace = note
        self._db.set_progress_handler(step, 1)
        try:
            return await call()
        finally:
            self._db.set_progress_handler(None)
            self._db.exec_trace = None


async def fill(desk: Desk, kind: str, n: int) -> None:
    """Beside ten due tasks, `n` that are none of a claim's business."""
    if kind == "waiting":
        await desk.accept(*(f"w{i}" for i in range(n)))
        return
    if kind == "future":
        later = desk.now + 10**9
        await desk.accept(
            *(new(f"f{i}", run_at=later + i, priority=(0, 100)[i % 2], queue=f"q{i % 2}") for i in range(n))
        )
    else:
        await desk.accept(*(f"d{i}" for i in range(n)))
        claims = await desk.claim(n)
        await desk.write(*(settlement(claim, DONE, desk.now) for claim in claims))
    await desk.accept(*(f"w{i}" for i in range(10)))


async def forget_line(desk: Desk, queue: str = "default") -> None:
    """Have the next claim look at what the queue begins with: memory knows what was just accepted."""
    await desk.accept(new("forgotten", queue=queue))
    await desk.cancel("forgotten")
    await desk.delete("forgotten")


async def cost(
    open_desk: OpenDesk, writers: list[apsw.Connection], kind: str, n: int
) -> dict[str, tuple[int, int]]:
    """Steps and looks at the index of each call on the way of a task, among `n` others."""
    desk = await open_desk()
    await fill(desk, kind, n)
    await desk.claim(1)  # the first look after a start finds the heads
    await forget_line(desk)
    meter = Meter(writers[-1])
    costs: dict[str, tuple[int, int]] = {}

    async def measure(name: str, call: Callable[[], Awaitable[Any]]) -> Any:
        answer = await meter.measure(call)
        costs[name] = (meter.steps, meter.looks)
        return answer

    claims = await measure("claim", lambda: desk.claim(5))
    assert len(claims) == 5
    await measure("settle", lambda: desk.write(*(settlement(claim, DONE, desk.now) for claim in claims)))
    await measure("insert", lambda: desk.insert("new1", "new2"))
    await measure("get", lambda: desk.store.get(["new1"]))
    await measure("cancel", lambda: desk.cancel("new1"))
    await measure("retry", lambda: desk.retry("new1"))
    await measure("counts", desk.store.counts)
    await measure("queues", lambda: desk.store.queues(desk.now))
    return costs


@pytest.mark.parametrize("kind", KINDS)
async def test_no_call_on_the_way_of_a_task_costs_more_among_many(
    open_desk: OpenDesk, writers: list[apsw.Connection], kind: str
) -> None:
    few = await cost(open_desk, writers, kind, FEW)
    many = await cost(open_desk, writers, kind, MANY)
    assert few["claim"][0] > 0
    for call, (steps, looks) in many.items():
        assert looks == few[call][1], call
        assert steps <= few[call][0] * 1.1 + 20, call


async def test_a_claim_looks_once_at_each_due_level_and_never_at_others(
    open_desk: OpenDesk, writers: list[apsw.Connection]
) -> None:
    desk = await open_desk()
    later = desk.now + 10**6
    await desk.accept(*(new(f"f{i}", queue=f"q{i % 50}", priority=i % 7, run_at=later) for i in range(700)))
    await desk.accept("due1", "due2", new("other", queue="other"))
    await forget_line(desk)
    await forget_line(desk, "other")
    meter = Meter(writers[-1])
    claims = await meter.measure(lambda: desk.claim(10))
    assert len(claims) == 3
    assert (meter.looks, meter.statements.count(sql.PEEK_EACH)) == (2, 1)
    await desk.accept("due3")
    assert len(await meter.measure(lambda: desk.claim(10))) == 1
    assert meter.looks == 0  # all that these levels have is known by now


async def test_a_claim_over_many_levels_looks_at_those_that_it_needs_in_one_statement(
    open_desk: OpenDesk, writers: list[apsw.Connection], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(due, "MOST_LINES", 1)
    desk = await open_desk()
    tasks = [new(f"t{i}", queue=f"q{i % 100}", priority=i % 5) for i in range(1_000)]
    await desk.accept(*tasks)
    order = sorted(range(1_000), key=lambda i: (-tasks[i].priority, i))
    meter = Meter(writers[-1])
    for at in range(0, 1_000, 10):
        claims = await meter.measure(lambda: desk.claim(10))
        assert [claim.task.id for claim in claims] == [f"t{i}" for i in order[at : at + 10]]
        assert meter.looks <= 10
        assert meter.statements.count(sql.PEEK_EACH) == 1


async def test_what_was_just_accepted_is_claimed_without_a_look(
    open_desk: OpenDesk, writers: list[apsw.Connection]
) -> None:
    desk = await open_desk()
    await desk.accept(*(f"t{i}" for i in range(50)))
    meter = Meter(writers[-1])
    claims = await meter.measure(lambda: desk.claim(50))
    assert ([claim.task.id for claim in claims], meter.statements) == ([f"t{i}" for i in range(50)], [])


async def test_a_backlog_is_looked_at_some_hundred_tasks_at_a_time(
    open_desk: OpenDesk, writers: list[apsw.Connection]
) -> None:
    desk = await open_desk()
    await desk.accept(*(f"t{i}" for i in range(2_000)))
    meter, looks, claims = Meter(writers[-1]), 0, 0
    while got := await meter.measure(lambda: desk.claim(20)):
        claims += len(got)
        looks += meter.looks
    assert claims == 2_000
    assert looks <= 8


async def test_an_idle_look_among_future_tasks_reads_nothing(
    open_desk: OpenDesk, writers: list[apsw.Connection]
) -> None:
    desk = await open_desk()
    await desk.accept(*(new(f"f{i}", run_at=desk.now + 10**6, priority=i % 9) for i in range(90)))
    meter = Meter(writers[-1])
    await meter.measure(lambda: desk.claim(10))
    assert meter.looks == 0


async def test_only_unsuccessful_ends_pay_for_their_history(
    open_desk: OpenDesk, writers: list[apsw.Connection]
) -> None:
    desk = await open_desk()
    meter = Meter(writers[-1])
    counted: dict[str, list[int]] = {}
    for name, outcomes in {"good": [DONE] * 50, "mixed": [DONE, FAILED] * 25}.items():
        await desk.accept(*(f"{name}{i}" for i in range(50)))
        claims = await desk.claim_remote(50)
        writes = [settlement(c, outcome, desk.now) for c, outcome in zip(claims, outcomes, strict=True)]
        await meter.measure(lambda writes=writes: desk.write(*writes))
        statements = (sql.CLAIM, sql.FINISH, sql.SETTLE_DONE, sql.SETTLE, sql.KEEP_ATTEMPTS)
        counted[name] = [meter.statements.count(statement) for statement in statements]
    assert counted == {"good": [0, 0, 1, 0, 0], "mixed": [0, 0, 1, 1, 1]}


async def test_a_run_that_ends_at_once_is_written_once(
    open_desk: OpenDesk, writers: list[apsw.Connection]
) -> None:
    desk = await open_desk()
    await desk.accept(*(f"t{i}" for i in range(50)))
    meter = Meter(writers[-1])

    async def run() -> None:
        claims = await desk.claim(50)
        await desk.write(*(settlement(claim, DONE, desk.now) for claim in claims))

    await meter.measure(run)
    assert meter.statements == [sql.BEGIN, sql.FINISH, sql.KEEP_COUNTS, sql.COMMIT]


async def test_a_batch_is_one_statement_however_many_tasks(
    open_desk: OpenDesk, writers: list[apsw.Connection]
) -> None:
    desk = await open_desk()
    meter = Meter(writers[-1])
    counted: dict[str, list[int]] = {}

    async def measure(name: str, call: Callable[[], Awaitable[Any]]) -> Any:
        answer = await meter.measure(call)
        counted.setdefault(name, []).append(len(meter.statements))
        return answer

    for n in (1, 500):
        ids = [f"t{n}-{i}" for i in range(n)]
        await measure("insert", lambda ids=ids: desk.accept(*ids))
        claims = await measure("claim", lambda n=n: desk.claim(n))
        await measure(
            "settle",
            lambda claims=claims: desk.write(*(settlement(claim, DONE, desk.now) for claim in claims)),
        )
        await measure("get", lambda ids=ids: desk.store.get(ids))
        await measure("delete", lambda ids=ids: desk.delete(*ids))
    for name, (one, many) in counted.items():
        assert one == many, name
