"""Comparing, at the end: what clients were told, what handlers did, and what the server has."""

from __future__ import annotations

import datetime
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from prove.proof import Figure, none

FINISHED = ("done", "failed", "cancelled")
PlainTask = Mapping[str, Any]


class Begun(NamedTuple):
    """A run that a handler began, at a time in milliseconds; `ended` is when it came to its last line, if it did."""

    task: str
    attempt: int
    pid: int
    at: int
    ended: int | None


def runs(path: Path) -> list[Begun]:
    """All runs in the order in which they began. A last line without an end, torn by a crash, is left out."""
    if not path.exists():
        return []
    lines = [line.split() for line in path.read_text().split("\n")[:-1]]
    ends = {tuple(line[1:4]): int(line[4]) for line in lines if line[0] == "end"}
    return [
        Begun(line[1], int(line[2]), int(line[3]), int(line[4]), ends.get(tuple(line[1:4])))
        for line in lines
        if line[0] == "begin"
    ]


def by_task(begun: Iterable[Begun]) -> dict[str, list[Begun]]:
    """The runs of each task."""
    grouped: dict[str, list[Begun]] = defaultdict(list)
    for run in begun:
        grouped[run.task].append(run)
    return grouped


class Books(NamedTuple):
    """What speaks against the promises; every set holds ids and should be empty."""

    lost: set[str]
    """Acknowledged, and not there."""
    stuck: set[str]
    """There, and not at an end."""
    repeated: set[str]
    """Run more than once without a failure or a lost worker that accounts for it."""
    after_end: set[str]
    """Begun after the task had come to its end."""
    over_limit: set[str]
    """Failed or lost more often than the rules allow, or books that do not add up."""
    unrun: set[str]
    """Done, and no handler has run."""

    def figures(self) -> list[Figure]:
        """As rows of the report."""
        return [
            none("acknowledged tasks lost", len(self.lost)),
            none("stuck", len(self.stuck)),
            none("runs without a reason", len(self.repeated)),
            none("runs after the end", len(self.after_end)),
            none("attempts over the limit", len(self.over_limit)),
            none("done without a run", len(self.unrun)),
        ]


def books(
    acknowledged: Iterable[str], tasks: Iterable[PlainTask], begun: Iterable[Begun], *, max_lost: int = 3
) -> Books:
    """Compare. A run counts as accounted for when the task's attempts, or a release after it, explain it."""
    there = {task["id"]: task for task in tasks}
    ran = by_task(begun)
    return Books(
        lost={id_ for id_ in acknowledged if id_ not in there},
        stuck={id_ for id_, task in there.items() if task["status"] not in FINISHED},
        repeated={id_ for id_, task in there.items() if _repeated(task, ran.get(id_, []))},
        after_end={id_ for id_, task in there.items() if _ran_after_end(task, ran.get(id_, []))},
        over_limit={id_ for id_, task in there.items() if _over_limit(task, max_lost)},
        unrun={id_ for id_, task in there.items() if task["status"] == "done" and not ran.get(id_)},
    )


def _repeated(task: PlainTask, begun: list[Begun]) -> bool:
    """Two runs of the same attempt, or more runs than attempts."""
    return len(begun) > task["attempts"] or len({run.attempt for run in begun}) < len(begun)


def _ran_after_end(task: PlainTask, begun: list[Begun]) -> bool:
    end: str | None = task["finished_at"]
    return end is not None and any(run.at > millis(end) for run in begun)


def _over_limit(task: PlainTask, max_lost: int) -> bool:
    one_more = task["status"] in ("done", "running")
    ended_early = task["status"] == "cancelled" and task["started_at"] is not None
    return bool(
        task["failures"] > task["max_retries"] + 1
        or task["lost"] > max_lost
        or task["attempts"] != task["failures"] + task["lost"] + (one_more or ended_early)
    )


def millis(time: str) -> int:
    """Milliseconds since the epoch of a time as the server writes it."""

    return round(datetime.datetime.fromisoformat(time).timestamp() * 1000)
