"""Schedules that fire each second while servers are killed, alone on SQLite and three on PostgreSQL, and while the wall
clock jumps: each time makes one task."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from datetime import datetime

from jobpipe.core.firing import Template
from jobpipe.core.schedule_edits import Said, put
from jobpipe.core.schedules import Timing
from jobpipe.runtime.clock import ManualClock
from jobpipe.storage import open_storage
from jobpipe.storage.base import TaskFilter
from prove import cluster
from prove.client import Client
from prove.cluster import running
from prove.fleet import fleet
from prove.proof import Broken, Figure, Trial, none, skipped
from prove.servers import Server, ended, until

FLAGS = ("--no-pool", "--queue-size", "1000000")
SCHEDULES = ("a", "b", "c")
EACH_SECOND = {"every": 1, "task": {"handler": "work"}}
GOES_ON_S = 5.0
"""Within so long after a server's death the others make what came due."""
JUMPS_S = (-86_400.0, -3_600.0, 3_600.0, 86_400.0)


def schedules(trial: Trial) -> Sequence[Figure]:
    """Kills of one server and of three, and jumps of the clock."""
    found = [*_one_server(trial), *_jumps(trial)]
    missing = cluster.missing()
    return [*found, *(_three_servers(trial) if missing is None else [skipped("three servers", missing)])]


def _one_server(trial: Trial) -> list[Figure]:
    source, kills = trial.source("one"), trial.sized(4, 25, 100)
    server = Server(trial.folder, *FLAGS, app=None).up()
    with server.connected() as client:
        _put_all(client)
    for _ in range(kills):
        time.sleep(source.uniform(0.3, 2.0))
        server.kill()
        server = server.again().up()
    with ended(server):
        time.sleep(1.2)
        with server.connected() as client:
            made = _made(client)
    return [Figure("kills of one server", kills), *_judged(made, "one server")]


def _three_servers(trial: Trial) -> list[Figure]:
    source, kills = trial.source("three"), trial.sized(4, 25, 100)
    with running() as database, fleet(trial.folder, database.url(), workers=0, flags=FLAGS[1:]) as whole:
        with whole.servers[0].connected() as client:
            _put_all(client)
        longest = 0.0
        for _ in range(kills):
            time.sleep(source.uniform(0.3, 2.0))
            number = source.randrange(3)
            whole.servers[number].kill()
            longest = max(longest, _goes_on(whole.servers[(number + 1) % 3]))
            whole.servers[number] = whole.servers[number].again().up()
        time.sleep(1.2)
        with whole.servers[0].connected() as client:
            made = _made(client)
    return [
        Figure("kills of one of three servers", kills),
        *_judged(made, "three servers"),
        Figure("after a kill until the others make the next, longest", longest, "s", at_most=GOES_ON_S + 1),
    ]


def _put_all(client: Client) -> None:
    for name in SCHEDULES:
        answer = client.ask("PUT", f"/schedules/{name}", EACH_SECOND)
        if answer.status != 201:
            raise Broken(f"no schedule was made: {answer.body!r}")


def _goes_on(server: Server) -> float:
    """Seconds until a task is made for a time after now."""
    began = time.time()
    with server.connected() as client:

        def made() -> bool:
            newest = client.get("/tasks?schedule=a&limit=1")
            return bool(newest) and _seconds(newest[0]["scheduled_for"]) > began

        until("another server goes on", made, 30, 0.02)
    return time.time() - began


def _made(client: Client) -> dict[str, list[int]]:
    """For which seconds each schedule made tasks, in order; its last one is what the schedule itself says."""
    made: dict[str, list[int]] = {}
    for name in SCHEDULES:
        seconds: list[int] = []
        path = f"/tasks?schedule={name}&limit=1000&fields=id,scheduled_for"
        while path:
            answer = client.ask("GET", path)
            seconds += [round(_seconds(task["scheduled_for"])) for task in answer.json()]
            link = answer.headers.get("link", "")
            path = link[link.index("<") + 1 : link.index(">")] if link else ""
        made[name] = sorted(seconds)
        if client.get(f"/schedules/{name}")["missed"]:
            raise Broken("the schedule says that times were missed")
    return made


def _judged(made: dict[str, list[int]], where: str) -> list[Figure]:
    twice = sum(len(seconds) - len(set(seconds)) for seconds in made.values())
    out = sum(seconds[-1] - seconds[0] + 1 - len(set(seconds)) for seconds in made.values())
    return [
        Figure(f"times that came, {where}", sum(map(len, made.values())), at_least=len(SCHEDULES)),
        none(f"times left out, {where}", out),
        none(f"times made twice, {where}", twice),
    ]


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def _jumps(trial: Trial) -> list[Figure]:
    """The wall clock jumps an hour and a day both ways: no time is made twice, and none after the newest that came
    before is left out for good.
    """
    runs = trial.sized(20, 200, 2_000)
    twice = sum(asyncio.run(_jumping(trial.source(f"jumps {number}"))) for number in range(runs))
    return [Figure("runs with jumps of the clock", runs), none("times made twice, with jumps", twice)]


async def _jumping(source: random.Random) -> int:
    clock = ManualClock()
    store = open_storage("memory:", capacity=1_000_000, clock=clock)
    await store.open()
    try:
        said = Said("s", Timing(every=source.choice([1, 7, 60, 3_600])), Template(b"{}", "work"))
        await store.edit_schedules(["s"], put(said, None), clock.now())
        for _ in range(60):
            if source.random() < 0.2:
                clock.jump(source.choice(JUMPS_S))
            clock.advance(source.uniform(0, 90))
            await store.fire(clock.now(), 10)
        page = await store.page(TaskFilter(schedule="s"), 100_000, None, 1 << 30)
        times = [task.scheduled_for for task in page.tasks]
        (schedule,) = await store.schedules()
        if schedule.missed and len(times) == len(set(times)) and schedule.last_error:
            return 1  # an id that was taken: a time came twice
        return len(times) - len(set(times))
    finally:
        await store.close()
