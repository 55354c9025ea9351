"""Handlers that kill their process, beside thousands of innocent ones: they fail alone, and the server lives on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prove.checker import by_task, runs
from prove.proof import Figure, Trial, none
from prove.servers import serving, until

MAX_LOST = 3
MAX_RETRIES = 1
DEADLY = ("exits", "segfaults", "eats_memory")
BLOCKING = ("blocks_the_loop", "blocks_a_thread")
FLAGS = (
    "--queue-size", "1000000", "--workers", "16", "--processes", "2", "--max-rss", "256MiB", "--retention", "inf",
    "--retention-failed", "inf", "--shutdown-grace", "1", "--retry-base", "0.05", "--max-lost", str(MAX_LOST),
)  # fmt: skip


def killers(trial: Trial) -> Sequence[Figure]:
    """Count the runs of each killer and what became of the others."""
    each = trial.sized(1, 3, 10)
    innocent = trial.sized(300, 3_000, 10_000)
    source = trial.source()
    tasks = [_innocent(n) for n in range(innocent)]
    for kind in (*DEADLY, *BLOCKING):
        for n in range(each):
            killer = {"id": f"{kind}-{n}", "handler": kind, "max_retries": MAX_RETRIES, "timeout": 2.0}
            tasks.insert(source.randrange(len(tasks)), killer)
    with serving(trial.folder, *FLAGS) as server:
        with server.connected() as client:
            for at in range(0, len(tasks), 1000):
                client.post("/enqueue", tasks[at : at + 1000])
        until("all are at an end", lambda: _left(server.counts()) == 0, 1200, pause_s=0.2)
        with server.connected() as client:  # a new one: the first was idle for longer than a server waits
            ended = {task["id"]: task for task in client.tasks()}
        begun = by_task(runs(server.runs))
    counts = {id_: len(ran) for id_, ran in begun.items()}
    return [
        Figure("killers, of five kinds", each * 5),
        none("deadly ones not lost exactly 3 times", _off(ended, DEADLY, each, "lost", MAX_LOST)),
        none(
            "blocking ones not timed out exactly 2 times",
            _off(ended, BLOCKING, each, "failures", MAX_RETRIES + 1),
        ),
        none("killers that did not end as failed", _not_failed(ended, each)),
        Figure("innocent tasks", innocent),
        none(
            "innocent tasks not done",
            sum(ended[task["id"]]["status"] != "done" for task in map(_innocent, range(innocent))),
        ),
        Figure("  run again because a neighbour killed their process", _again(counts)),
        none("server restarts", 0 if server.process.returncode == 0 else 1),
    ]


def _innocent(n: int) -> dict[str, Any]:
    handler = ("work", "thread")[n % 2]
    return {"id": f"innocent-{n}", "handler": handler, "payload": {"seconds": 0.02}}


def _left(counts: dict[str, int]) -> int:
    return counts["queued"] + counts["running"]


def _off(ended: dict[str, Any], kinds: Sequence[str], each: int, count: str, wanted: int) -> int:
    """Not by their runs: one that a blocked neighbour's end interrupts is released, and that costs it nothing."""
    return sum(ended[f"{kind}-{n}"][count] != wanted for kind in kinds for n in range(each))


def _not_failed(ended: dict[str, Any], each: int) -> int:
    return sum(
        ended[f"{kind}-{n}"]["status"] != "failed" for kind in (*DEADLY, *BLOCKING) for n in range(each)
    )


def _again(counts: dict[str, int]) -> int:
    return sum(count > 1 for id_, count in counts.items() if id_.startswith("innocent"))
