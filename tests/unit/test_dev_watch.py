"""The watcher of `jobpipe dev`: what counts as a change, and what is looked at."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from jobpipe.processes.dev.reload import FINAL
from jobpipe.processes.dev.watch import Watcher, roots_of
from jobpipe.server import serving as server


def write(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_nothing_changed_until_something_does(tmp_path: Path) -> None:
    write(tmp_path / "a.py")
    watcher = Watcher([tmp_path])
    assert watcher.changed() == []
    assert watcher.seconds > 0


def test_a_file_that_comes_is_written_or_goes_is_told_once(tmp_path: Path) -> None:
    watcher = Watcher([tmp_path])
    file = write(tmp_path / "pkg" / "deep" / "a.py", "1")
    assert watcher.changed() == [file]
    assert watcher.changed() == []
    write(file, "12")
    assert watcher.changed() == [file]
    file.unlink()
    assert watcher.changed() == [file]
    assert watcher.changed() == []


def test_a_file_of_the_same_size_and_time_put_in_place_of_another_is_a_change(tmp_path: Path) -> None:
    file = write(tmp_path / "a.py", "1")
    watcher = Watcher([tmp_path])
    other = write(tmp_path / "b.txt", "2")
    times = file.stat()
    os.utime(other, ns=(times.st_atime_ns, times.st_mtime_ns))
    other.replace(file)
    assert watcher.changed() == [file]


def test_many_changes_are_told_together_in_order(tmp_path: Path) -> None:
    watcher = Watcher([tmp_path])
    files = [write(tmp_path / f"{name}.py") for name in "cab"]
    assert watcher.changed() == sorted(files)


def test_settings_are_watched_and_other_files_are_not(tmp_path: Path) -> None:
    watcher = Watcher([tmp_path])
    write(tmp_path / "jobpipe.db")
    write(tmp_path / "notes.txt")
    files = [write(tmp_path / name) for name in (".env", "jobpipe.toml")]
    assert watcher.changed() == files


@pytest.mark.parametrize("folder", [".git", ".venv", "__pycache__", "node_modules"])
def test_hidden_and_foreign_folders_are_left_out(tmp_path: Path, folder: str) -> None:
    watcher = Watcher([tmp_path])
    write(tmp_path / "pkg" / folder / "a.py")
    assert watcher.changed() == []


def test_an_environment_is_left_out_whatever_its_name(tmp_path: Path) -> None:
    watcher = Watcher([tmp_path])
    write(tmp_path / "env311" / "pyvenv.cfg")
    write(tmp_path / "env311" / "lib" / "a.py")
    assert watcher.changed() == []


def test_a_root_may_be_one_file_or_gone(tmp_path: Path) -> None:
    file = write(tmp_path / "a.py")
    watcher = Watcher([file, tmp_path / "nowhere"])
    write(tmp_path / "b.py")
    assert watcher.changed() == []
    write(file, "1")
    assert watcher.changed() == [file]


def test_a_file_that_goes_while_it_is_looked_at_is_gone(tmp_path: Path) -> None:
    (tmp_path / "dangling.py").symlink_to(tmp_path / "nowhere.py")
    assert Watcher([tmp_path]).changed() == []


def test_an_app_in_this_folder_adds_no_root(tmp_path: Path) -> None:
    write(tmp_path / "pkg" / "__init__.py")
    write(tmp_path / "tasks.py")
    for app in ("pkg.mod:app", "tasks:app", "not_there:app"):
        assert roots_of(app, tmp_path) == [tmp_path]


def test_a_package_or_module_elsewhere_is_watched_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    write(there / "far_pkg" / "__init__.py", "raise SystemExit('imported')")
    module = write(there / "far_module.py", "raise SystemExit('imported')")
    monkeypatch.syspath_prepend(there)
    assert roots_of("far_pkg.mod:app", here) == [here, there / "far_pkg"]
    assert roots_of("far_module:app", here) == [here, module]
    assert "far_pkg" not in sys.modules


def test_builtin_names_do_not_confuse_it(tmp_path: Path) -> None:
    assert roots_of("sys:app", tmp_path) == [tmp_path]
    assert roots_of("__main__:app", tmp_path)[0] == tmp_path


def test_what_no_change_of_code_mends_is_known_by_the_servers_own_codes() -> None:
    assert {server.EXIT_OK, server.EXIT_STORE, server.EXIT_PORT, server.EXIT_BROKEN} == FINAL


@pytest.mark.parametrize(
    ("pattern", "kept"),
    [
        ("made.py", ["a.py", "api/x_pb2.py"]),
        ("api", ["a.py", "made.py"]),
        ("api/", ["a.py", "made.py"]),
        ("./api/*.py", ["a.py", "made.py"]),
        ("*_pb2.py", ["a.py", "made.py"]),
        ("nothing", ["a.py", "api/x_pb2.py", "made.py"]),
    ],
)
def test_what_is_excluded_by_name_or_path_is_not_looked_at(
    tmp_path: Path, pattern: str, kept: list[str]
) -> None:
    watcher = Watcher([tmp_path], [pattern])
    for name in ("a.py", "made.py", "api/x_pb2.py"):
        write(tmp_path / name)
    assert watcher.changed() == [tmp_path / name for name in kept]


def test_a_folder_for_apps_is_watched_where_it_is_elsewhere(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    write(there / "src_app.py")
    here.mkdir()
    assert roots_of("src_app:app", here, there) == [here, there]
    assert roots_of("src_app:app", tmp_path, there) == [tmp_path]
