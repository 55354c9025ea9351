"""Schedules over every engine: each time makes one task, in one commit with the schedule's own progress."""

from __future__ import annotations

from typing import Any

import pytest
from desk import Desk, OpenDesk, new

from jobpipe.core import cron, schedules
from jobpipe.core.errors import Invalid, JobpipeError, TooManySchedules
from jobpipe.core.firing import Schedule, Template
from jobpipe.core.schedule_edits import Edited, NoSchedule, Said, declare, delete, moved, pause, put
from jobpipe.core.schedules import CatchUp, Overlap, Timing, task_id
from jobpipe.core.task import Status
from jobpipe.core.unique import Known, OnConflict, Unique, text_of
from jobpipe.storage.base import TaskFilter
from jobpipe.storage.schedules import Fired, ScheduleCounts

TEMPLATE = Template(b"{}", "default")
SECOND = Timing(every=1)
MINUTE = Timing(every=60)


def said(name: str = "s", timing: Timing = MINUTE, template: Template = TEMPLATE, **rest: Any) -> Said:
    return Said(name, timing, template, **rest)


async def edit(desk: Desk, names: list[str] | None, how: Any) -> Edited:
    answer = await desk.store.edit_schedules(names, how, desk.now)
    assert isinstance(answer, Edited), answer
    return answer


async def refused(desk: Desk, names: list[str] | None, how: Any) -> JobpipeError:
    answer = await desk.store.edit_schedules(names, how, desk.now)
    assert isinstance(answer, JobpipeError)
    return answer


async def say(desk: Desk, name: str = "s", timing: Timing = MINUTE, **rest: Any) -> Schedule:
    return (await edit(desk, [name], put(said(name, timing, **rest), None))).keep[0]


async def fire(desk: Desk, seconds: float = 0.0, limit: int = 100) -> Fired:
    desk.clock.advance(seconds)
    return await desk.store.fire(desk.now, limit)


async def stored(desk: Desk, name: str = "s") -> Schedule:
    (schedule,) = await desk.store.schedules([name])
    return schedule


async def made(desk: Desk, name: str = "s") -> list[int]:
    """For which times there are tasks, oldest first."""
    tasks = await desk.listed(TaskFilter(schedule=name))
    return [task.scheduled_for or 0 for task in reversed(tasks)]


# --- making tasks ---


async def test_each_time_makes_one_task_that_names_it(desk: Desk) -> None:
    schedule = await say(desk)
    assert (await fire(desk)).answers == []
    fired = await fire(desk, 61)
    (task,) = fired.answers
    at = schedule.next_at
    assert at is not None
    assert not isinstance(task, JobpipeError)
    assert [task.id for task in await desk.listed()] == [task_id("s", at)]
    assert (await desk.get(task_id("s", at))).scheduled_for == at
    assert (await fire(desk)).answers == []
    after = await stored(desk)
    assert (after.last_at, after.last_task, after.last_error, after.missed) == (at, task_id("s", at), None, 0)
    await desk.assert_counts_are_true()


async def test_nothing_is_done_twice_when_the_clock_goes_back(desk: Desk) -> None:
    await say(desk)
    await fire(desk, 61)
    before = await made(desk)
    desk.clock.jump(-3600)
    await fire(desk, 30)
    assert await made(desk) == before
    assert (await stored(desk)).missed == 0


async def test_times_of_a_minute_are_all_made_and_of_older_ones_the_newest(desk: Desk) -> None:
    await say(desk, timing=SECOND)
    assert len((await fire(desk, 30)).answers) == 30
    fired = await fire(desk, 100)
    assert len(fired.answers) in (60, 61)
    assert fired.missed == 100 - len(fired.answers)
    await say(desk, "hourly", Timing(every=3600))
    fired = await fire(desk, 10 * 3600 + 1800)
    assert [len(await made(desk, "hourly"))] == [1]
    assert (await stored(desk, "hourly")).missed == 9
    await say(desk, "none", Timing(every=3600, catch_up=CatchUp.NONE))
    await fire(desk, 10 * 3600)
    assert len(await made(desk, "none")) <= 1


async def test_paused_it_makes_nothing_and_misses_nothing(desk: Desk) -> None:
    await say(desk)
    await edit(desk, ["s"], pause("s", "ann", paused=True))
    assert await desk.store.next_firing(desk.now) is None
    assert (await fire(desk, 600)).answers == []
    schedule = (await edit(desk, ["s"], pause("s", "ann", paused=False))).keep[0]
    assert (schedule.changed_by, schedule.missed) == ("ann", 0)
    assert (await fire(desk)).answers == []
    assert len((await fire(desk, 60)).answers) == 1


async def test_a_change_begins_anew_and_the_same_again_changes_no_time(desk: Desk) -> None:
    before = await say(desk)
    desk.clock.advance(90)
    assert (await say(desk)).position == before.position
    changed = await say(desk, timing=Timing(every=30))
    assert changed.position > before.position
    assert (await fire(desk)).answers == []


async def test_overlap_skip_waits_for_the_end_of_the_last_task(desk: Desk) -> None:
    await say(desk, timing=Timing(every=60, overlap=Overlap.SKIP))
    assert len((await fire(desk, 60)).answers) == 1
    assert len((await fire(desk, 60)).answers) == 0
    claim = await desk.claim_one()
    assert len((await fire(desk, 60)).answers) == 0
    await desk.settle(claim)
    assert len((await fire(desk, 60)).answers) == 1
    assert (await stored(desk)).missed == 0


async def test_an_id_that_is_taken_makes_the_time_missed(desk: Desk) -> None:
    at = (await say(desk)).next_at or 0
    await desk.accept(new(task_id("s", at)))
    fired = await fire(desk, 61)
    assert fired.missed == 1
    schedule = await stored(desk)
    assert (schedule.missed, schedule.last_task) == (1, None)
    assert "task_exists" in (schedule.last_error or "")
    assert len((await fire(desk, 60)).answers) == 1
    assert (await stored(desk)).last_error is None


async def test_a_full_queue_is_tried_again_until_the_next_time(open_desk: OpenDesk) -> None:
    desk = await open_desk(capacity=1)
    at = (await say(desk)).next_at or 0
    await desk.accept("other")
    assert (await fire(desk, 61)).refused == 1
    schedule = await stored(desk)
    assert (schedule.refused, schedule.tries, schedule.missed) == (at, 1, 0)
    assert "queue_full" in (schedule.last_error or "")
    assert 0 < (await desk.store.next_firing(desk.now) or 0) <= 500
    await desk.cancel("other")
    (answer,) = (await fire(desk, 1)).answers
    assert not isinstance(answer, JobpipeError)
    assert await made(desk) == [at]
    await fire(desk, 60)  # full again
    assert (await fire(desk, 60)).missed == 1
    assert (await stored(desk)).missed == 1


async def test_a_unique_key_that_is_taken_counts_as_made(desk: Desk) -> None:
    if not await _serves_unique(desk):
        pytest.skip("unique keys are not served here yet")
    rule = text_of(Unique("k", on_conflict=OnConflict.REJECT))
    await say(desk, template=Template(b"{}", "default", uniqueness=rule))
    await fire(desk, 61)
    first = (await stored(desk)).last_task
    await fire(desk, 60)
    schedule = await stored(desk)
    assert (schedule.last_task, schedule.missed, schedule.last_error) == (first, 0, None)
    assert len(await desk.listed()) == 1


async def _serves_unique(desk: Desk) -> bool:
    for id in ("u", "v"):
        rule = text_of(Unique("u"))
        (answer,) = await desk.store.insert([new(id, handler="u", uniqueness=rule)], desk.now)
    await desk.cancel("u", "v")
    await desk.delete("u", "v")
    return isinstance(answer, Known)


async def test_jitter_puts_the_run_off_by_the_same_everywhere(desk: Desk) -> None:
    schedule = await say(desk, timing=Timing(every=60, jitter=30))
    await fire(desk, 61)
    at = schedule.next_at or 0
    task = await desk.get(task_id("s", at))
    assert at <= task.run_at <= at + 30_000 + 1_000
    assert task.scheduled_for == at


async def test_slices_go_by_who_waits_longest(desk: Desk) -> None:
    for n in range(5):
        await say(desk, f"s{n}")
    fired = await fire(desk, 61, limit=3)
    assert (len(fired.answers), fired.more) == (3, True)
    fired = await fire(desk, 0, limit=3)
    assert (len(fired.answers), fired.more) == (2, False)


async def test_counts_tell_who_rests_and_who_is_late(desk: Desk) -> None:
    await say(desk, "a")
    await say(desk, "b", paused=True)
    assert await desk.store.schedule_counts(desk.now) == ScheduleCounts(2, 1, 0)
    desk.clock.advance(300)
    assert await desk.store.schedule_counts(desk.now) == ScheduleCounts(2, 1, 1)


async def test_a_schedule_outlives_the_store_that_was_closed(open_desk: OpenDesk, url: str) -> None:
    if url == "memory:":
        pytest.skip("memory: lives in its server alone")
    desk = await open_desk()
    schedule = await say(desk)
    await desk.store.close()
    again = await open_desk()
    assert await again.store.schedules() == [schedule]
    assert len((await fire(again, 61)).answers) == 1


# --- edits ---


async def test_what_is_not_there_cannot_be_changed(desk: Desk) -> None:
    assert isinstance(await refused(desk, ["s"], pause("s", None, paused=True)), NoSchedule)
    assert isinstance(await refused(desk, ["s"], delete("s")), NoSchedule)
    await say(desk)
    await edit(desk, ["s"], delete("s"))
    assert await desk.store.schedules() == []
    assert await desk.store.schedules(["a\0b"]) == []


async def test_there_is_a_bound(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobpipe.core.schedule_edits.MAX_SCHEDULES", 2)
    await say(desk, "a")
    await say(desk, "b")
    await say(desk, "b", Timing(every=5))
    assert isinstance(await refused(desk, ["c"], put(said("c"), None)), TooManySchedules)
    assert len(await desk.store.schedules()) == 2


async def test_what_an_app_declares_takes_the_place_of_what_it_declared(desk: Desk) -> None:
    await edit(desk, None, declare("shop", 2, [said("a"), said("b")]))
    before = await stored(desk, "a")
    desk.clock.advance(30)
    await edit(desk, None, declare("shop", 1, [said("old")]))
    assert [one.name for one in await desk.store.schedules()] == ["a", "b"]
    await edit(desk, None, declare("shop", 2, [said("a"), said("c")]))
    assert [one.name for one in await desk.store.schedules()] == ["a", "c"]
    assert (await stored(desk, "a")).position == before.position
    assert (await stored(desk, "a")).changed_at is None
    assert isinstance(await refused(desk, None, declare("other", 0, [said("a")])), Invalid)


async def test_what_people_changed_stays_as_they_said(desk: Desk) -> None:
    await edit(desk, None, declare("shop", 0, [said("a"), said("b")]))
    await edit(desk, ["a"], put(said("a", Timing(every=5)), "ann"))
    await edit(desk, ["b"], pause("b", "ann", paused=True))
    await edit(desk, None, declare("shop", 1, [said("a"), said("b", Timing(every=7))]))
    a, b = await desk.store.schedules()
    assert (a.timing.every, a.changed_by, a.declared_by) == (5, "ann", "shop")
    assert (b.timing.every, b.paused) == (7, True)
    await edit(desk, ["a"], delete("a"))
    await edit(desk, None, declare("shop", 1, [said("a")]))
    (a,) = await desk.store.schedules()
    assert (a.timing.every, a.changed_at) == (60, None)


async def test_schedules_move_between_stores(desk: Desk) -> None:
    schedule = await say(desk)
    await edit(desk, ["s"], delete("s"))
    await edit(desk, ["s"], moved([schedule]))
    assert await desk.store.schedules() == [schedule]
    assert (await edit(desk, ["s"], moved([schedule]))).keep == ()


async def test_tasks_are_found_by_their_schedule(desk: Desk) -> None:
    await say(desk)
    await desk.accept("other")
    await fire(desk, 61)
    (task,) = await desk.listed(TaskFilter(schedule="s"))
    assert (await desk.store.match(TaskFilter(schedule="s"), 10, None)).ids == [task.id]
    assert await desk.listed(TaskFilter(schedule="s", status=Status.DONE)) == []


async def test_a_zone_that_is_not_known_any_more_stops_its_schedule_alone(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    await say(desk, "berlin", Timing(cron="* * * * *", timezone="Europe/Berlin"))
    await say(desk, "well")
    known = cron.zone_of
    monkeypatch.setattr(cron, "zone_of", lambda name: known(name if name == "UTC" else "Gone/Away"))
    schedules._cron.cache_clear()
    try:
        await fire(desk, 61)
        assert len(await made(desk, "well")) == 1
        assert await made(desk, "berlin") == []
        broken = await stored(desk, "berlin")
        assert "is no IANA time zone" in (broken.last_error or "")
        assert 0 < (await desk.store.next_firing(desk.now) or 0) <= 60_000
        await fire(desk, 60)
        assert len(await made(desk, "well")) == 2
    finally:
        monkeypatch.undo()
        schedules._cron.cache_clear()
    await fire(desk, 61)  # the zone is known again
    berlin = await stored(desk, "berlin")
    assert (len(await made(desk, "berlin")), berlin.missed, berlin.last_error) == (1, 2, None)
