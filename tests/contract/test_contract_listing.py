"""page and match: what is listed, newest first, each task exactly once."""

from __future__ import annotations

import itertools
import random

import pytest
from desk import ALL, DONE, FAILED_FOR_GOOD, MANY_BYTES, Desk, ids_of, new
from msgspec.structs import replace

from jobpipe.core.lifecycle import Kind, Outcome
from jobpipe.core.shape import error_group
from jobpipe.core.task import Status, Task
from jobpipe.storage import prefixes
from jobpipe.storage.base import TaskFilter

HANDLERS = ("mail.send", "mail", "resize")
TYPES = ("ValueError", "KeyError")


async def populate(desk: Desk, n: int = 60, seed: int = 1) -> list[Task]:
    """`n` tasks of all kinds, accepted a second apart; as stored, newest first."""
    source = random.Random(seed)
    for i in range(n):
        fields = {
            "handler": source.choice(HANDLERS),
            "queue": source.choice(["default", "mail", "Mail"]),
            "payload": b" " * source.randrange(2000),
        }
        id_ = source.choice(["a%", "a_", "ab", "A", "\u00e4\u00e4", "\u00e4"]) + str(i)
        status = source.choice(list(Status))
        await desk.accept(new(id_, **fields))
        if status is Status.CANCELLED:
            await desk.cancel(id_)
        elif status is not Status.QUEUED:
            claim = await desk.claim_one(queues=[fields["queue"]])
            if status is Status.DONE:
                await desk.settle(claim, Outcome(Kind.DONE, result=b" " * source.randrange(2000)))
            elif status is Status.FAILED:
                error = source.choice(TYPES)
                await desk.settle(claim, Outcome(Kind.FAILED, error_type=error, retryable=False))
        desk.clock.advance(1)
    tasks = [task for task in await desk.store.get([t.id for t in await desk.listed()]) if task]
    return sorted(tasks, key=lambda task: task.seq, reverse=True)


def group_of(task: Task) -> str | None:
    error = task.last_error
    return None if error is None else error_group(task.handler, error.type, error.message)[0]


def holds(where: TaskFilter, task: Task) -> bool:
    """The meaning of a filter, in plain words."""
    return all(
        (
            where.status is None or task.status is where.status,
            where.queue is None or task.queue == where.queue,
            where.handler is None or task.handler == where.handler,
            where.error_type is None
            or (task.last_error is not None and task.last_error.type == where.error_type),
            where.error_group is None
            or (task.last_error is not None and group_of(task) == where.error_group),
            where.id_prefix is None or task.id.startswith(where.id_prefix),
            where.created_after is None or task.created_at > where.created_after,
            where.created_before is None or task.created_at < where.created_before,
            where.ids is None or task.id in where.ids,
            where.due_after is None or task.run_at > where.due_after,
            where.tried is None or (task.attempts > 0) is where.tried,
        )
    )


def filters_over(tasks: list[Task]) -> dict[str, list[object]]:
    middle = tasks[len(tasks) // 2]
    return {
        "status": [*Status],
        "queue": ["mail", "Mail", "nobody"],
        "handler": ["mail", "mail.", "mail.send"],
        "error_type": ["ValueError", "Value", "valueerror"],
        "error_group": [*sorted({group for task in tasks if (group := group_of(task))})[:2], "0" * 16, ""],
        "id_prefix": [
            "a",
            "a%",
            "a_",
            "A",
            "\u00e4",
            "\u00e4\u00e4",
            "",
            "%",
            "_",
            middle.id,
            "z",
            "a'",
            '"',
        ],
        "created_after": [middle.created_at, 0, tasks[0].created_at],
        "created_before": [middle.created_at, tasks[-1].created_at, 10**15],
        "due_after": [middle.run_at, 0],
        "tried": [True, False],
        "ids": [(), (middle.id, tasks[0].id, middle.id, "nobody"), tuple(task.id for task in tasks)],
    }


async def test_everything_is_listed_newest_first_as_stored(desk: Desk) -> None:
    tasks = await populate(desk)
    assert len(tasks) == 60
    page = await desk.store.page(ALL, 100, None, MANY_BYTES)
    assert (page.tasks, page.next_seq) == (tasks, None)


async def test_an_empty_store_has_one_empty_page(desk: Desk) -> None:
    page = await desk.store.page(ALL, 10, None, MANY_BYTES)
    assert (page.tasks, page.next_seq) == ([], None)
    found = await desk.store.match(ALL, 10, None)
    assert (found.ids, found.next_seq) == ([], None)


async def test_every_filter_alone_gives_what_it_says(desk: Desk) -> None:
    tasks = await populate(desk)
    for field, values in filters_over(tasks).items():
        for value in values:
            where = TaskFilter(**{field: value})
            expected = [task for task in tasks if holds(where, task)]
            assert await desk.listed(where) == expected, where
            assert (await desk.store.match(where, 100, None)).ids == ids_of(expected), where


async def test_what_waits_for_its_time_is_counted_up_to_a_bound(desk: Desk) -> None:
    await populate(desk)
    at = desk.clock.now()
    tasks = await desk.listed(TaskFilter(status=Status.QUEUED))
    due = sum(task.run_at <= at for task in tasks)
    for i in range(7):
        await desk.accept(new(f"later-{i}", priority=i % 2, queue=f"q{i % 3}", run_at=at + 60_000))
    claim = await desk.claim_one(queues=[tasks[0].queue])
    await desk.settle(claim, Outcome(Kind.FAILED, error_type="X", retry_in=600))
    found = await desk.store.waiting(at, 1000)
    assert (found.scheduled, found.retrying) == (len(tasks) - due + 7, 1)
    bounded = await desk.store.waiting(at, 5)
    assert bounded.scheduled + bounded.retrying == 5


async def test_a_beginning_that_many_ids_have_is_walked_for(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = await populate(desk)
    monkeypatch.setattr(prefixes, "FEW", 1)
    for prefix in ("a", "a%", "\u00e4", "", "z", "\U0010ffff", "\ud7ff"):
        expected = [task for task in tasks if task.id.startswith(prefix)]
        assert await desk.listed(TaskFilter(id_prefix=prefix), limit=7) == expected, prefix


@pytest.mark.parametrize("few", [1, 10_000])
async def test_ids_at_the_ends_of_what_texts_can_be_are_found_by_their_beginning(
    desk: Desk, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefixes, "FEW", few)
    ids = [
        "a\ud7ff",
        "a\ud7ffb",
        "a\ue000",
        "a\U0010ffff",
        "a\U0010ffffc",
        "b",
        "\U0010ffff",
        "\U0010ffffd",
        "~",
    ]
    await desk.accept(*ids)
    for prefix in ("a", *ids):
        listed = ids_of(await desk.listed(TaskFilter(id_prefix=prefix)))
        assert sorted(listed) == sorted(id_ for id_ in ids if id_.startswith(prefix)), prefix


async def test_filters_together_must_all_hold(desk: Desk) -> None:
    tasks = await populate(desk)
    choices = filters_over(tasks)
    source = random.Random(5)
    pairs = [(a, b) for a, b in itertools.combinations(choices, 2)]
    for fields in [*pairs, *(tuple(source.sample(list(choices), 3)) for _ in range(25)), tuple(choices)]:
        where = TaskFilter(**{field: source.choice(choices[field]) for field in fields})
        expected = [task for task in tasks if holds(where, task)]
        assert await desk.listed(where, limit=source.choice([1, 3, 100])) == expected, where


async def test_times_are_exclusive(desk: Desk) -> None:
    (task,) = await desk.accept("a")
    at = task.created_at
    assert await desk.listed(TaskFilter(created_after=at)) == []
    assert await desk.listed(TaskFilter(created_before=at)) == []
    assert await desk.listed(TaskFilter(created_after=at - 1, created_before=at + 1)) == [task]


@pytest.mark.parametrize("where", [ALL, TaskFilter(status=Status.FAILED)], ids=["all", "rare"])
async def test_a_walk_meets_every_task_exactly_once_at_any_page_size(desk: Desk, where: TaskFilter) -> None:
    expected = [task.id for task in await populate(desk) if holds(where, task)]
    for limit in (1, 2, 7, len(expected) - 1, len(expected), len(expected) + 1):
        assert ids_of(await desk.listed(where, limit=limit)) == expected, limit
        assert await matched(desk, where, limit) == expected, limit


async def matched(desk: Desk, where: TaskFilter, limit: int) -> list[str]:
    """All matching ids, slice by slice."""
    walked: list[str] = []
    before: int | None = None
    while True:
        found = await desk.store.match(where, limit, before)
        assert len(found.ids) <= limit
        walked += found.ids
        if found.next_seq is None:
            return walked
        before = found.next_seq


async def test_a_walk_ends_on_a_page_that_is_exactly_full(desk: Desk) -> None:
    await desk.accept("a", "b")
    assert (await desk.store.page(ALL, 2, None, MANY_BYTES)).next_seq is None
    assert (await desk.store.match(ALL, 2, None)).next_seq is None


async def test_tasks_that_arrive_during_a_walk_are_not_met_and_push_none_out(desk: Desk) -> None:
    await desk.accept(*(f"t{i}" for i in range(10)))
    met: list[str] = []
    before: int | None = None
    for step in itertools.count():
        page = await desk.store.page(ALL, 3, before, MANY_BYTES)
        met += ids_of(page.tasks)
        if page.next_seq is None:
            break
        before = page.next_seq
        await desk.accept(*(f"new{step}-{i}" for i in range(5)))
    assert met == [f"t{i}" for i in reversed(range(10))]


async def test_tasks_that_go_during_a_walk_make_nothing_else_missing(desk: Desk) -> None:
    for i in range(12):
        await desk.finish(f"t{i}")
    page = await desk.store.page(ALL, 4, None, MANY_BYTES)
    assert ids_of(page.tasks) == ["t11", "t10", "t9", "t8"]
    await desk.delete("t8", "t7", "t2")
    page = await desk.store.page(ALL, 100, page.next_seq, MANY_BYTES)
    assert ids_of(page.tasks) == ["t6", "t5", "t4", "t3", "t1", "t0"]


async def test_a_page_before_everything_is_empty(desk: Desk) -> None:
    (task,) = await desk.accept("a")
    for before in (task.seq, 0, -5):
        page = await desk.store.page(ALL, 10, before, MANY_BYTES)
        assert (page.tasks, page.next_seq) == ([], None)
    assert ids_of((await desk.store.page(ALL, 10, 2**62, MANY_BYTES)).tasks) == ["a"]


# --- bytes ---


async def test_a_page_holds_at_most_its_bytes_of_payload_and_result(desk: Desk) -> None:
    for i in range(6):
        await desk.finish(f"t{i}", Outcome(Kind.DONE, result=b" " * 40), payload=b" " * 60)
    page = await desk.store.page(ALL, 100, None, 300)
    assert ids_of(page.tasks) == ["t5", "t4", "t3"]
    page = await desk.store.page(ALL, 100, page.next_seq, 299)
    assert ids_of(page.tasks) == ["t2", "t1"]
    page = await desk.store.page(ALL, 100, page.next_seq, 299)
    assert (ids_of(page.tasks), page.next_seq) == (["t0"], None)


@pytest.mark.parametrize("max_bytes", [0, 1, 99])
async def test_a_page_holds_one_task_however_big(desk: Desk, max_bytes: int) -> None:
    await desk.accept(*(new(f"t{i}", payload=b" " * 100) for i in range(3)))
    met: list[str] = []
    before: int | None = None
    while True:
        page = await desk.store.page(ALL, 100, before, max_bytes)
        assert len(page.tasks) == 1
        met += ids_of(page.tasks)
        if page.next_seq is None:
            break
        before = page.next_seq
    assert met == ["t2", "t1", "t0"]


async def test_a_page_without_bytes_is_whole_but_for_payload_and_result(desk: Desk) -> None:
    tasks = await populate(desk)
    page = await desk.store.page(ALL, len(tasks), None, None)
    assert page.next_seq is None
    assert [replace(task, payload=b"", result=None) for task in tasks] == [
        replace(task, result=None) for task in page.tasks
    ]
    assert not any(task.payload or task.result for task in page.tasks)


async def test_a_page_tells_of_more_when_its_bytes_ran_out_before_its_limit(desk: Desk) -> None:
    await desk.accept(new("a"), new("b", payload=b" " * 1000))
    page = await desk.store.page(ALL, 2, None, 1000)
    assert (ids_of(page.tasks), page.next_seq is None) == (["b"], False)


# --- rare statuses among many tasks ---


async def test_rare_tasks_are_found_among_many_others(desk: Desk) -> None:
    await desk.finish("failed", FAILED_FOR_GOOD)
    await desk.start("running")
    await desk.accept(*(f"t{i}" for i in range(3000)))
    await desk.cancel("t1500")
    await desk.finish("done", DONE)
    for status, expected in (
        (Status.FAILED, ["failed"]),
        (Status.RUNNING, ["running"]),
        (Status.CANCELLED, ["t1500"]),
        (Status.DONE, ["done"]),
    ):
        assert ids_of(await desk.listed(TaskFilter(status=status))) == expected
    assert ids_of(await desk.listed(TaskFilter(status=Status.CANCELLED, id_prefix="t1"))) == ["t1500"]
    assert await desk.listed(TaskFilter(status=Status.CANCELLED, queue="nobody")) == []


async def test_a_listing_sees_every_change_that_was_answered(desk: Desk) -> None:
    for i in range(30):
        await desk.accept(f"t{i}")
        assert ids_of((await desk.store.page(ALL, 1, None, MANY_BYTES)).tasks) == [f"t{i}"]
        await desk.cancel(f"t{i}")
        assert ids_of((await desk.store.page(TaskFilter(status=Status.CANCELLED), 1, None, 0)).tasks) == [
            f"t{i}"
        ]


async def test_tasks_are_found_by_their_key_in_every_status(desk: Desk) -> None:
    await desk.accept(*(new(f"t{n}", key="ann" if n % 2 else "bob") for n in range(20)), new("plain"))
    await desk.settle(await desk.claim_one(), DONE)
    await desk.settle(await desk.claim_one(), DONE)
    page = await desk.store.page(TaskFilter(key="ann"), 100, None, MANY_BYTES)
    assert [task.id for task in page.tasks] == [f"t{n}" for n in range(19, 0, -2)]
    assert {task.key for task in page.tasks} == {"ann"}
    done = await desk.store.match(TaskFilter(key="bob", status=Status.DONE), 100, None)
    assert done.ids == ["t0"]
    assert (await desk.store.match(TaskFilter(key="carl"), 100, None)).ids == []
