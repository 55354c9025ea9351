"""`jobpipe keys`: keys are made, shown once, listed and taken out, and no mistake costs the file."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

import pytest

from jobpipe.cli import main
from jobpipe.core.keys import Scope, digest_of, parse_keys

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("JOBPIPE_API_KEYS_FILE", raising=False)
    return tmp_path / "keys"


def new(file: Path, *args: str) -> int:
    return main(["keys", "new", "--file", str(file), *args])


def test_the_key_goes_to_stdout_and_its_line_to_stderr(file: Path, capsys: Captured) -> None:
    assert (
        main(["keys", "new", "--name", "ci", "--scope", "enqueue,read", "--scope", "work", "--rate", "5"])
        == 0
    )
    said = capsys.readouterr()
    secret = said.out.removesuffix("\n")
    (key,) = parse_keys(said.err.splitlines()[-1])
    assert (key.name, key.rate, key.digest) == ("ci", 5, digest_of(secret.encode()))
    assert key.scopes == {Scope.ENQUEUE, Scope.READ, Scope.WORK, Scope.DECLARE}
    assert len(secret) > 40
    assert secret not in said.err


def test_no_two_keys_are_alike(file: Path, capsys: Captured) -> None:
    for _ in range(20):
        main(["keys", "new", "--name", "ci", "--scope", "read"])
    assert len(set(capsys.readouterr().out.split())) == 20


def test_with_a_file_the_line_is_added_to_it_and_the_key_kept_nowhere(file: Path, capsys: Captured) -> None:
    file.write_text(f"# ours\nold:read:{'ab' * 32}")  # its last line has no end
    assert new(file, "--name", "ci", "--scope", "admin") == 0
    said = capsys.readouterr()
    text = file.read_text()
    assert text.startswith(f"# ours\nold:read:{'ab' * 32}\nci:admin:")
    assert said.out.strip() not in text + said.err
    assert [key.name for key in parse_keys(text)] == ["old", "ci"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such rights")
def test_a_file_made_for_a_key_is_its_owners_alone(file: Path) -> None:
    before = os.umask(0)
    try:
        new(file, "--name", "ci", "--scope", "read")
    finally:
        os.umask(before)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_keys_are_listed_without_their_hashes(file: Path, capsys: Captured) -> None:
    new(file, "--name", "a", "--scope", "read,enqueue", "--rate", "0.5")
    new(file, "--name", "b", "--scope", "admin")
    capsys.readouterr()
    assert main(["keys", "list", "--file", str(file)]) == 0
    assert capsys.readouterr().out == "a\tenqueue,read\trate=0.5/s\nb\tadmin\n"


def test_a_removed_key_is_out_and_the_rest_stays_as_it_was(file: Path, capsys: Captured) -> None:
    text = f"# ours\n a : read : {'ab' * 32}\n\nb:read:{'cd' * 32}\n# end"
    file.write_text(text)
    file.chmod(0o640)
    assert main(["keys", "remove", "--name", "b", "--file", str(file)]) == 0
    assert file.read_text() == f"# ours\n a : read : {'ab' * 32}\n\n# end"
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert [path.name for path in file.parent.iterdir()] == ["keys"]
    assert main(["keys", "remove", "--name", "a", "--file", str(file)]) == 0
    assert parse_keys(file.read_text()) == []


@pytest.mark.parametrize(
    "args",
    [("new", "--name", "a b", "--scope", "read"), ("new", "--name", "x", "--scope", "root"),
     ("new", "--name", "x", "--scope", ""), ("new", "--name", "x", "--scope", "read", "--rate", "0"),
     ("new", "--name", "x", "--scope", "read", "--rate", "nan"), ("new", "--name", "old", "--scope", "read"),
     ("new", "--name", "x"), ("new", "--scope", "read"), ("remove", "--name", "x")],
)  # fmt: skip
def test_a_mistake_is_one_line_and_changes_nothing(
    args: tuple[str, ...], file: Path, capsys: Captured
) -> None:
    text = f"old:read:{'ab' * 32}\n"
    file.write_text(text)
    assert main(["keys", *args, "--file", str(file)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("jobpipe: error: ")
    assert said.err.count("\n") == 1
    assert file.read_text() == text


@pytest.mark.parametrize("command", [["new", "--name", "x", "--scope", "read"], ["list"]])
def test_a_file_that_is_none_is_left_alone(command: list[str], file: Path, capsys: Captured) -> None:
    file.write_bytes(b"SQLite format 3\0\xff\xfe")
    assert main(["keys", *command, "--file", str(file)]) == 2
    assert main(["keys", *command, "--file", str(file.parent)]) == 2
    assert file.read_bytes() == b"SQLite format 3\0\xff\xfe"
    assert capsys.readouterr().err.count("\n") == 2


def test_a_workers_key_declares_unless_told_not_to(capsys: Captured) -> None:
    main(["keys", "new", "--name", "w", "--scope", "work", "--no-declare"])
    (key,) = parse_keys(capsys.readouterr().err.splitlines()[-1])
    assert key.scopes == {Scope.WORK}
