"""SQLite: which files are served, and which are refused, untouched, with one clear line."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest
from desk import Desk, OpenDesk

from jobpipe.core.errors import StorageRefused
from jobpipe.core.task import NewTask
from jobpipe.runtime.clock import ManualClock
from jobpipe.storage import open_storage

OPENING = """
import asyncio, sys
from jobpipe.core.errors import StorageRefused
from jobpipe.storage import open_storage

async def main():
    store = open_storage(sys.argv[1])
    try:
        await store.open()
    except StorageRefused as error:
        print(error)
    await asyncio.wait_for(store.close(), 2)

asyncio.run(main())
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "jobpipe.db"


@pytest.fixture
def url(path: Path) -> str:
    return f"sqlite:///{path}"


async def refusal(path: Path) -> str:
    """Why the file is refused; twice in a row for the same reason, so that no lock stays behind."""
    lines: list[str] = []
    for _ in range(2):
        store = open_storage(f"sqlite:///{path}", clock=ManualClock())
        with pytest.raises(StorageRefused) as refused:
            await store.open()
        await asyncio.wait_for(store.close(), 2)
        lines.append(str(refused.value))
    assert lines[0] == lines[1]
    assert "\n" not in lines[0]
    assert str(path) in lines[0]
    return lines[0]


async def made_by_jobpipe(path: Path, tasks: int = 3) -> None:
    store = open_storage(f"sqlite:///{path}", clock=ManualClock(), capacity=10**6)
    await store.open()
    await store.insert([NewTask(f"t{i}", "h", b" " * 500) for i in range(tasks)], 0)
    await store.close()


def contents(folder: Path) -> dict[str, bytes]:
    """All files that hold people's data: not the lock, not SQLite's shared memory, no log without content."""
    files = {file.name: file.read_bytes() for file in sorted(folder.iterdir()) if file.is_file()}
    return {
        name: content
        for name, content in files.items()
        if not name.endswith((".lock", "-shm")) and (content or not name.endswith("-wal"))
    }


@pytest.mark.parametrize(
    "content",
    [b"hello\n", b"SQLite format 3\0", b"\0" * 4096, os.urandom(4096)],
    ids=["text", "short", "zeros", "noise"],
)
async def test_a_file_that_is_no_database_is_refused_untouched(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    assert "not a SQLite database" in await refusal(path)
    assert contents(path.parent) == {path.name: content}


async def test_a_missing_folder_is_refused_and_not_made(tmp_path: Path) -> None:
    await refusal(tmp_path / "nowhere" / "jobpipe.db")
    assert list(tmp_path.iterdir()) == []


async def test_a_folder_in_the_place_of_the_file_is_refused(path: Path) -> None:
    path.mkdir()
    await refusal(path)
    assert list(path.iterdir()) == []


@pytest.mark.parametrize(
    "pragma", ["user_version = 0", "user_version = 1", "user_version = 99", "application_id = 77"]
)
@pytest.mark.parametrize("mode", ["delete", "wal"])
async def test_the_database_of_another_program_is_refused_untouched(
    path: Path, pragma: str, mode: str
) -> None:
    other = apsw.Connection(str(path))
    other.execute(f"PRAGMA journal_mode = {mode}").fetchall()
    other.execute("CREATE TABLE bookmarks (url); INSERT INTO bookmarks VALUES ('x')").fetchall()
    other.execute(f"PRAGMA {pragma}").fetchall()
    other.close()
    before = contents(path.parent)
    assert "another program" in await refusal(path)
    assert contents(path.parent) == before


async def test_an_empty_file_is_taken(path: Path, open_desk: OpenDesk) -> None:
    path.touch()
    desk = await open_desk()
    await desk.accept("a")


async def test_a_newer_schema_is_refused_untouched(path: Path) -> None:
    await made_by_jobpipe(path)
    connection = apsw.Connection(str(path))
    connection.execute("PRAGMA user_version = 99").fetchall()
    connection.close()
    before = contents(path.parent)
    assert "newer" in await refusal(path)
    assert contents(path.parent) == before


async def test_a_newer_schema_that_stands_only_in_the_write_ahead_log_is_refused_untouched(
    path: Path, tmp_path: Path
) -> None:
    await made_by_jobpipe(path)
    connection = apsw.Connection(str(path))
    connection.execute("PRAGMA user_version = 99").fetchall()
    image = tmp_path / "image"
    image.mkdir()
    for suffix in ("", "-wal"):
        shutil.copy(f"{path}{suffix}", image)
    connection.close()
    copy = image / path.name
    assert int.from_bytes(copy.read_bytes()[60:64], "big") < 99
    before = contents(image)
    assert "newer" in await refusal(copy)
    assert contents(image) == before


async def test_a_file_that_was_cut_is_refused(path: Path) -> None:
    await made_by_jobpipe(path, 1000)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2 // 4096 * 4096])
    await refusal(path)


async def test_a_file_with_a_foreign_page_in_place_of_its_tables_is_refused(path: Path) -> None:
    await made_by_jobpipe(path)
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    path.write_bytes(content)
    await refusal(path)


async def test_a_file_whose_tables_are_gone_is_refused(path: Path) -> None:
    await made_by_jobpipe(path)
    connection = apsw.Connection(str(path))
    connection.execute("DROP TABLE tasks").fetchall()
    connection.close()
    await refusal(path)


async def test_a_second_store_on_the_same_file_is_refused_and_harms_nothing(
    path: Path, url: str, open_desk: OpenDesk, tmp_path: Path
) -> None:
    desk = await open_desk()
    await desk.accept("a")
    (tmp_path / "other.db").symlink_to(path)
    for name in (path, tmp_path / "other.db"):
        line = await refusal(name)
        assert f"pid {os.getpid()}" in line
    assert [claim.task.id for claim in await desk.claim(5)] == ["a"]


async def test_a_closed_file_can_be_opened_again_at_once(open_desk: OpenDesk) -> None:
    for i in range(3):
        desk = await open_desk()
        await desk.accept(f"t{i}")
        await desk.store.close()


async def test_every_close_returns_when_all_is_written_and_not_before(
    path: Path, open_desk: OpenDesk
) -> None:
    desk = await open_desk()
    inserts = [asyncio.ensure_future(desk.insert(f"t{i}", payload=b" " * 2**20)) for i in range(10)]
    await asyncio.sleep(0)

    async def close_and_look() -> int:
        await desk.store.close()
        witness = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
        seen: int = witness.execute("SELECT count(*) FROM tasks").get
        witness.close()
        return seen

    assert await asyncio.gather(close_and_look(), close_and_look(), close_and_look()) == [10, 10, 10]
    await asyncio.gather(*inserts)


@pytest.mark.process
async def test_a_second_server_is_refused_with_the_pid_of_the_first(url: str, open_desk: OpenDesk) -> None:
    desk = await open_desk()
    answer = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", OPENING, url], capture_output=True, text=True, timeout=30
    )
    assert answer.stderr == ""
    assert f"another server (pid {os.getpid()})" in answer.stdout
    assert answer.stdout.count("\n") == 1
    await desk.accept("a")


async def test_the_file_is_written_ahead_and_synced_at_every_commit(
    desk: Desk, writers: list[apsw.Connection], open_desk: OpenDesk
) -> None:
    await desk.store.close()
    await open_desk()
    (writer,) = writers
    assert writer.execute("PRAGMA journal_mode").get == "wal"
    assert writer.execute("PRAGMA synchronous").get == 2


@pytest.mark.skipif(os.name != "posix", reason="links as POSIX has them")
@pytest.mark.parametrize("suffix", [".lock", "-claims"])
@pytest.mark.parametrize(
    "put", [os.symlink, os.link, lambda _, file: os.mkfifo(file)], ids=["symlink", "link", "pipe"]
)
async def test_what_somebody_put_beside_the_store_is_not_written_over(
    tmp_path: Path, suffix: str, put: Callable[[str, str], None]
) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    put(str(victim), str(tmp_path / f"jobpipe.db{suffix}"))
    store = open_storage(f"sqlite:///{tmp_path / 'jobpipe.db'}")
    with pytest.raises(StorageRefused, match=suffix):
        await store.open()
    await store.close()
    assert victim.read_text() == "precious"
