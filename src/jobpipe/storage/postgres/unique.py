"""The unique keys that are taken: who has one, and who takes it. All within the transaction that is under way.

What frees a key is in the statements that end, claim or forget its task.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from jobpipe.core.task import Task
from jobpipe.core.unique import Named, lives, unique_of
from jobpipe.storage.postgres import statements_once as sql
from jobpipe.storage.postgres.link import Link, arrays
from jobpipe.storage.postgres.rows import task_of
from jobpipe.storage.postgres.statements import NOW


class Raced(Exception):
    """An id or a key was taken by somebody else in between: nothing is to be written, and all decided anew."""


async def holders(link: Link, names: Collection[Named]) -> dict[Named, Task]:
    """The living tasks that have one of these keys; keys that only seem taken are made free."""
    rows = await link.rows(sql.KEY_HOLDERS, *arrays(sorted(names), 2)) if names else []
    free = [(row["of_handler"], row["name"], row["holder"]) for row in rows if row["id"] is None]
    if free:
        await link.rows(sql.FREE_KEYS, *arrays(sorted(free), 3))
    return {(row["of_handler"], row["name"]): task_of(row) for row in rows if row["id"] is not None}


async def hold(link: Link, names: Collection[Named]) -> set[int]:
    """Lock the waiting tasks that have one of these keys; their seqs."""
    rows = await link.rows(sql.LOCK_HOLDERS, *arrays(sorted(names), 2)) if names else []
    return {row["seq"] for row in rows}


async def take(link: Link, tasks: Iterable[Task]) -> None:
    """These tasks take their keys. Raises Raced when one of those is somebody else's."""
    wanted = [task for task in tasks if task.uniqueness is not None]
    if wanted and await _taken(link, wanted) < len(wanted):
        raise Raced


async def bring(link: Link, tasks: Iterable[Task]) -> None:
    """Tasks of another store bring what lives of their keys, as far as those are free."""
    if having := [task for task in tasks if task.uniqueness is not None]:
        now = await link.value(NOW)
        await _taken(link, [task for task in having if lives(task, now)])


async def _taken(link: Link, tasks: Sequence[Task]) -> int:
    """How many of them have their keys now."""
    rows = sorted(
        (task.handler, unique.key, task.seq, unique.lives_until(task.created_at), unique.until == "start")
        for task in tasks
        if (unique := unique_of(task)) is not None
    )
    return int(await link.value(sql.TAKE_KEYS, *arrays(rows, 5)))
