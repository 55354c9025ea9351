"""Findings about the machine, the settings and a database, from what the system says of them."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from jobpipe.care import database, doctor, machine
from jobpipe.care.copy import copy
from jobpipe.care.findings import State, size
from jobpipe.settings.server import Settings
from jobpipe.storage import open_storage
from jobpipe.storage.sqlite import lock
from jobpipe.storage.sqlite.lock import FileLock, holder_of

MOUNTS = """\
22 1 254:0 / / rw,relatime - {root} /dev/vda rw
30 22 0:26 / /srv\\040data rw - {inner} server:/x rw
31 22 0:27 / /srv\\040data/deep rw - ext4 /dev/vdb rw
"""


def kind(tmp_path: Path, path: str, root: str = "ext4", inner: str = "nfs4") -> tuple[State, str]:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(MOUNTS.format(root=root, inner=inner))
    finding = machine.file_system(Path(path), mounts)
    return finding.state, finding.text.split()[0]


def test_the_file_system_is_that_of_the_nearest_mount(tmp_path: Path) -> None:
    assert kind(tmp_path, "/srv data/x") == (State.WARNING, "nfs4")
    assert kind(tmp_path, "/srv data/deep/x") == (State.OK, "ext4")
    assert kind(tmp_path, "/srv data2/x") == (State.OK, "ext4")


@pytest.mark.parametrize("type_", ["nfs", "cifs", "9p", "fuse.sshfs", "tmpfs", "overlay", "smb3"])
def test_file_systems_that_do_not_keep_a_store_are_warned_of(type_: str, tmp_path: Path) -> None:
    assert kind(tmp_path, "/srv data", inner=type_) == (State.WARNING, type_)
    assert kind(tmp_path, "/x", root="xfs", inner=type_) == (State.OK, "xfs")


def test_a_system_without_a_list_of_mounts_says_nothing_of_them(tmp_path: Path) -> None:
    assert machine.file_system(tmp_path, tmp_path / "none").state is State.OK


@pytest.mark.parametrize(
    ("free", "state"), [(10, State.PROBLEM), (100 * 1024**2, State.WARNING), (10**12, State.OK)]
)
def test_a_disk_that_is_nearly_full_is_told(
    free: int, state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda _: type("Usage", (), {"free": free}))
    assert machine.space(tmp_path).state is state


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such rights")
@pytest.mark.parametrize(
    ("mode", "state"), [(0o600, State.OK), (0o640, State.OK), (0o644, State.WARNING), (0o666, State.PROBLEM)]
)
def test_files_that_others_may_read_or_change_are_told(mode: int, state: State, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    file = tmp_path / "store"
    file.touch()
    file.chmod(mode)
    assert machine.permissions(file).state is state
    tmp_path.chmod(0o700)
    if mode == 0o644:
        assert machine.permissions(file).state is State.OK, "nobody else comes that far"


@pytest.mark.parametrize(
    ("settings", "word"),
    [({"host": "0.0.0.0"}, "no keys"), ({"host": "jobs.example.org"}, "no keys"),
     ({"retention": float("inf")}, "never"), ({"max_batch_body": 1000}, "max_batch_body")],
)  # fmt: skip
def test_settings_that_are_rarely_meant_are_warned_of(settings: dict[str, object], word: str) -> None:
    (finding,) = doctor._settings(Settings(**settings))  # type: ignore[arg-type]
    assert finding.state is State.WARNING
    assert word in finding.text


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.3.4.5"])
def test_what_only_this_machine_reaches_needs_no_keys(host: str) -> None:
    (finding,) = doctor._settings(Settings(host=host))
    assert finding.state is State.OK


def test_who_holds_a_store_is_found_without_trying_its_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "jobpipe.db")
    held = FileLock(path)
    assert holder_of(path) is None
    held.acquire()
    monkeypatch.setattr(lock, "_try_lock", lambda _: pytest.fail("the lock was tried"))
    assert holder_of(path) == os.getpid()
    held.release()
    if sys.platform == "linux":
        assert holder_of(path) is None, "its pid is still there, and lives"
    Path(f"{path}.lock").write_text("nonsense")
    assert holder_of(path) is None


GOOD = {"name": "16.1", "number": 160001, "fsync": "on", "pages": "on", "follows": False, "clock": 1000.0,
        "encoding": "UTF8", "read_only": "off", "commit": "on"}  # fmt: skip


@pytest.mark.parametrize(
    ("row", "state", "check"),
    [({}, State.OK, "database"), ({"number": 120000}, State.WARNING, "database"),
     ({"follows": True}, State.PROBLEM, "database"), ({"fsync": "off"}, State.PROBLEM, "durability"),
     ({"pages": "off"}, State.PROBLEM, "durability"),
     ({"encoding": "LATIN1"}, State.PROBLEM, "encoding"),({"read_only": "on"}, State.PROBLEM, "database"),
     ({"commit": "off"}, State.PROBLEM, "durability"),
     ({"clock": 1060.0}, State.WARNING, "database clock")],
)  # fmt: skip
def test_a_database_that_loses_work_or_tells_another_time_is_told(
    row: dict[str, object], state: State, check: str
) -> None:
    found = {finding.check: finding.state for finding in database._judge(GOOD | row, 1000.0)}
    assert found.pop(check) is state
    assert set(found.values()) == {State.OK}


def test_a_database_that_is_away_is_a_problem_without_its_password() -> None:
    pytest.importorskip("asyncpg")
    (finding,) = database.examine("postgresql://me:hunter2@127.0.0.1:1/jobs", 0, whole=False)
    assert finding.state is State.PROBLEM
    assert "hunter2" not in finding.text
    (finding,) = database.examine("postgresql://me:hunter2@[::1/jobs", 0, whole=False)
    assert finding.state is State.PROBLEM
    assert "hunter2" not in finding.text


def test_sizes_are_said_as_people_say_them() -> None:
    assert [size(n) for n in (0, 999, 1536, 10 * 1024, 5 * 1024**3, 1024**4)] == [
        "0 bytes", "999 bytes", "1.5 KiB", "10 KiB", "5.0 GiB", "1024 GiB",
    ]  # fmt: skip


@pytest.mark.skipif(os.name != "posix", reason="permissions as POSIX has them")
def test_a_copy_is_its_owners_alone(tmp_path: Path) -> None:
    source, target = (f"sqlite:///{tmp_path / name}" for name in ("a.db", "b.db"))

    async def make() -> None:
        store = open_storage(source)
        await store.open()
        await store.close()

    asyncio.run(make())
    (tmp_path / "a.db").chmod(0o600)
    before = os.umask(0o022)
    try:
        copy(source, target, progress=lambda done, total: None)
    finally:
        os.umask(before)
    assert (tmp_path / "b.db").stat().st_mode & 0o777 == 0o600
