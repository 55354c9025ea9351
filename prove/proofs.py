"""All proofs by name, in the order of the promises that they show."""

from __future__ import annotations

from prove import (
    aged,
    agreement,
    backoff,
    bad_input,
    clocks,
    cluster,
    cron_times,
    diskfaults,
    fuzz,
    hostile,
    interleave,
    killers,
    kills,
    limits,
    one_key,
    openapi,
    overload,
    postgres,
    postgres_faults,
    powercut,
    same_id,
    schedules,
    schemas,
    server_faults,
    slow,
    stale,
    stops,
)
from prove.proof import Proof

PROOFS: dict[str, Proof] = {
    "kill": Proof((1, 3), "an acknowledged task survives kills of the server", kills.server_kills),
    "power": Proof((2,), "and power cuts", powercut.power_cuts),
    "workers": Proof((3,), "tasks of killed workers are run again in time", kills.worker_kills),
    "once": Proof((4,), "without faults nothing runs twice", kills.no_faults),
    "stale": Proof((5,), "a stale worker changes nothing", stale.stale),
    "same_id": Proof((6,), "one id is one task", same_id.same_id),
    "limits": Proof(
        (18,), "limits are exact and leak nothing", limits.limits, timed=True, needs=cluster.missing
    ),
    "one_key": Proof((20,), "one unique key is one living task", one_key.one_key, needs=cluster.missing),
    "killers": Proof((7,), "a task that kills its worker fails alone", killers.killers),
    "overload": Proof((8,), "memory and depth are bounded", overload.overload, timed=True),
    "backoff": Proof((9,), "backoff is as documented", backoff.backoff),
    "sigterm": Proof((10,), "SIGTERM loses nothing and burns no attempt", stops.stops, timed=True),
    "disk": Proof((11,), "a disk error never gives a false 2xx", diskfaults.disk_faults),
    "disk_server": Proof(
        (11,), "the same on real servers", server_faults.server_faults, needs=server_faults.missing
    ),
    "postgres_once": Proof(
        (4, 12), "three servers on one PostgreSQL run each task once", postgres.once, needs=cluster.missing
    ),
    "postgres": Proof(
        (12,),
        "what befalls PostgreSQL loses nothing",
        postgres_faults.faults,
        timed=True,
        needs=cluster.missing,
    ),
    "postgres_pinned": Proof(
        (14,), "a snapshot held open slows no claim", postgres.pinned, timed=True, needs=cluster.missing
    ),
    "postgres_aged": Proof(
        (14,),
        "millions of finished tasks are listed and pruned in time",
        aged.aged,
        timed=True,
        needs=cluster.missing,
    ),
    "clocks": Proof((13,), "jumps of the clock do no harm", clocks.clocks),
    "model": Proof((15,), "engines agree with a dict", agreement.agreement),
    "input": Proof((16,), "bad input is answered as promised", bad_input.bad_input),
    "fuzz": Proof((16,), "random requests crash nothing", fuzz.fuzz),
    "openapi": Proof((16,), "the server keeps its own description", openapi.openapi, needs=openapi.missing),
    "slow": Proof((16,), "slow senders are cut, others go on", slow.slow, timed=True),
    "hostile": Proof((16,), "one hostile connection makes no other wait", hostile.hostile, timed=True),
    "interleave": Proof((3, 5, 10), "every interleaving ends each task once", interleave.interleavings),
    "cron": Proof((19,), "a schedule's times are what its minutes say", cron_times.cron_times),
    "schedules": Proof((19,), "each time of a schedule makes one task", schedules.schedules),
    "schema": Proof((17,), "newer schemas are refused, older ones migrated", schemas.schemas),
}
