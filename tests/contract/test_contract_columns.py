"""A column is added in one place: the value in core, and the step of the schema. No statement names it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import jobpipe
import postgres
from jobpipe.storage.postgres import migrations
from jobpipe.storage.sqlite.connection import newest_schema

FIELD = "    traceparent: str | None = None\n"
GIVEN = "traceparent=new.traceparent"
PLAIN = "new.digest is not None"

SQLITE = "ALTER TABLE tasks ADD COLUMN note TEXT;"
POSTGRES = """
ALTER TABLE jobpipe.tasks ADD COLUMN note text;
ALTER TABLE jobpipe.finished ADD COLUMN note text;
"""

LIFE = """
import asyncio, sys
from jobpipe.runtime.clock import SystemClock
from jobpipe.core.lifecycle import Kind, Outcome, Policy, decide
from jobpipe.core.task import NewTask, Status
from jobpipe.storage import open_storage
from jobpipe.storage.base import ClaimRequest, Settlement, TaskFilter

async def main(url, other):
    store, now = open_storage(url, capacity=1000), SystemClock().now
    await store.open()
    new = [NewTask(f"t{n}", "h", note=f"note {n}", priority=n % 2) for n in range(3)]
    new += [NewTask(f"alike{n}", "h", note="alike") for n in range(300)]
    notes = {task.id: task.note for task in new}
    accepted = await store.insert(new, now())
    assert all(task.note == notes[task.id] for task in accepted), accepted[0]
    claims = (await store.claim(ClaimRequest(400, "w"), now())).claims
    assert len(claims) == 303 and all(claim.task.note == notes[claim.task.id] for claim in claims)
    kinds = [Kind.DONE, Kind.FAILED, Kind.RELEASED]
    ends = [
        (claim, decide(claim.task, Outcome(kinds[n % 3], retryable=False), now(), Policy(), lambda: 0.5))
        for n, claim in enumerate(claims)
    ]
    await store.settle([Settlement(c.task.id, c.lease_id, to) for c, to in ends], now())
    await store.retry([c.task.id for c, to in ends if to.status is Status.FAILED], now())
    await store.cancel([c.task.id for c, to in ends if to.status is Status.QUEUED], now())
    for status in (Status.DONE, Status.QUEUED, Status.CANCELLED):
        page = await store.page(TaskFilter(status=status), 400, None, 1 << 20)
        assert len(page.tasks) == 101 and all(task.note == notes[task.id] for task in page.tasks)
    records = await store.export(0, 400, 1 << 20)
    taken = open_storage(other, capacity=1000)
    await taken.open()
    assert await taken.import_(records) == []
    assert {task.id: task.note for task in await taken.get(list(notes))} == notes
    await taken.close()
    await store.close()

asyncio.run(main(*sys.argv[1:]))
"""


def test_a_column_is_added_by_a_field_and_a_step_of_the_schema(tmp_path: Path) -> None:
    program = _with_a_note(tmp_path)
    _run(program, f"sqlite:///{tmp_path / 'one.db'}", f"sqlite:///{tmp_path / 'other.db'}")


def test_so_it_is_on_postgresql_and_from_one_engine_to_the_other(tmp_path: Path) -> None:
    program = _with_a_note(tmp_path)
    with postgres.own_database("columns") as url:
        _run(program, url, f"sqlite:///{tmp_path / 'other.db'}")
    with postgres.own_database("columns") as url:
        _run(program, f"sqlite:///{tmp_path / 'one.db'}", url)


def _with_a_note(folder: Path) -> Path:
    """A copy of the program whose tasks have a note."""
    package = folder / "program" / "jobpipe"
    shutil.copytree(Path(jobpipe.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    file = package / "core" / "task.py"
    text = file.read_text()
    assert (text.count(FIELD), text.count(GIVEN), text.count(PLAIN)) == (2, 1, 1)
    text = text.replace(FIELD, f"{FIELD}    note: str | None = None\n")
    text = text.replace(PLAIN, f"{PLAIN} or new.note is not None")
    file.write_text(text.replace(GIVEN, f"{GIVEN}, note=new.note"))
    for engine, newest, step in (
        ("sqlite", newest_schema(), SQLITE),
        ("postgres", len(migrations.scripts()), POSTGRES),
    ):
        (package / "storage" / engine / "schema" / f"{newest + 1:04}_note.sql").write_text(step)
    return package.parent


def _run(program: Path, *urls: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIFE, *urls],
        env={"PYTHONPATH": str(program)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
