"""Engines agree: millions of random steps over every engine beside the model, and crashes in between."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence

from msgspec import Struct

from prove import cluster
from prove.driver import Driver
from prove.places import Opens, database, in_memory, on_files
from prove.proof import Figure, Trial, none, skipped
from prove.stores import scratch
from prove.world import Difference

STEPS_A_WORLD = 2_000
SHARES = {"memory": 0.45, "sqlite": 0.45, "postgresql": 0.1}
"""Of the steps: one on PostgreSQL takes as long as ten in the process."""


class Ran(Struct):
    """What was done on one engine."""

    found: Counter[str]
    differences: list[str]
    seconds: float


def agreement(trial: Trial) -> Sequence[Figure]:
    """Every engine, each from many fresh stores; a difference is told with the seed that repeats it."""
    steps = trial.sized(12_000, 200_000, 1_000_000)
    missing = cluster.missing()
    opens: dict[str, Opens] = {"memory": in_memory, "sqlite": on_files}
    with contextlib.ExitStack() as stack:
        if missing is None:
            opens["postgresql"] = stack.enter_context(database()).open
        ran = {engine: _on(trial, engine, wanted, opens[engine]) for engine, wanted in _shares(opens, steps)}
    differences = [difference for each in ran.values() for difference in each.differences]
    for difference in differences[:3]:
        print(difference)  # which step differed is what a person needs
    return [
        Figure("steps", _sum(ran, "steps"), at_least=steps),
        *(Figure(f"  on {engine}", each.found["steps"]) for engine, each in ran.items()),
        *([] if missing is None else [skipped("  on postgresql", missing)]),
        Figure("crashes and restarts among them", _sum(ran, "restarts")),
        Figure("connections cut among them", _sum(ran, "cuts")),
        Figure("times of schedules that came", _sum(ran, "came")),
        none("differences", len(differences)),
        *(
            Figure(f"steps a second on {engine}", each.found["steps"] / each.seconds)
            for engine, each in ran.items()
        ),
    ]


def _shares(opens: Mapping[str, Opens], steps: int) -> list[tuple[str, int]]:
    """The steps of each engine that is here; those of one that is not are the others'."""
    whole = sum(SHARES[engine] for engine in opens)
    return [(engine, math.ceil(steps * SHARES[engine] / whole)) for engine in opens]


def _on(trial: Trial, engine: str, wanted: int, opens: Opens) -> Ran:
    began = time.monotonic()
    ran = Ran(Counter(), [], 0.0)
    number = 0
    while ran.found["steps"] < wanted:
        asyncio.run(
            _one(trial, f"{engine}/{number}", min(STEPS_A_WORLD, wanted - ran.found["steps"]), opens, ran)
        )
        number += 1
    ran.seconds = time.monotonic() - began
    return ran


async def _one(trial: Trial, name: str, steps: int, opens: Opens, ran: Ran) -> None:
    with scratch() as folder:
        world = await opens(folder)
        driver = Driver(world, trial.source(name))
        try:
            for _ in range(steps):
                await driver.step()
            await world.look()
        except Difference as error:
            ran.differences.append(f"{name}: {error}")
        finally:
            await world.store.close()
    ran.found += Counter(
        steps=world.steps, restarts=world.restarts, cuts=world.cuts, came=world.schedules.came
    )


def _sum(ran: Mapping[str, Ran], what: str) -> int:
    return sum(each.found[what] for each in ran.values())
