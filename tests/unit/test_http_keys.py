"""The ring of keys: its file, its rates, and how a key is looked for."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from jobpipe.core.errors import Forbidden, JobpipeError, RateLimited, Unauthorized
from jobpipe.core.keys import BadKeys, digest_of, parse_keys
from jobpipe.http import keys as module
from jobpipe.http.keys import Keyring
from jobpipe.runtime.clock import ManualClock


def line(name: str, scopes: str, secret: str, more: str = "") -> str:
    return f"{name}:{scopes}:{digest_of(secret.encode()).hex()}{more}\n"


def bearer(secret: str) -> bytes:
    return b"Bearer " + secret.encode()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.write_text(line("reader", "read", "r"))
    return path


def ring(clock: ManualClock, path: Path | None = None, text: str = "", **more: float | str) -> Keyring:
    return Keyring(parse_keys(text), path, clock=clock, **more)  # type: ignore[arg-type]


def ask(keys: Keyring, secret: str, path: bytes = b"/tasks") -> type[JobpipeError] | None:
    refusal = keys.refusal("GET", path, bearer(secret))
    return None if refusal is None else type(refusal)


def test_a_changed_file_is_taken_within_a_second(clock: ManualClock, file: Path) -> None:
    keys = ring(clock, file)
    assert ask(keys, "r") is None
    # The same length: neither size nor, on a coarse file system, time would tell.
    file.write_text(line("reader", "read", "s"))
    assert ask(keys, "r") is None
    clock.advance(1)
    assert (ask(keys, "r"), ask(keys, "s")) == (Unauthorized, None)


@pytest.mark.parametrize("broken", ["reader:read", "reader:read:xx", "\xff", None, "x" * 5_000_000])
def test_a_broken_or_missing_file_keeps_the_keys_before_it_and_is_told_once(
    broken: str | None, clock: ManualClock, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    keys = ring(clock, file)
    if broken is None:
        file.unlink()
    else:
        file.write_bytes(broken.encode("latin-1"))
    for _ in range(5):
        clock.advance(1)
        assert ask(keys, "r") is None
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    file.write_text(line("reader", "read", "s"))
    clock.advance(1)
    assert ask(keys, "s") is None
    assert [record.levelname for record in caplog.records] == ["ERROR", "INFO"]


def test_who_empties_the_file_locks_everybody_out(clock: ManualClock, file: Path) -> None:
    keys = ring(clock, file)
    file.write_text("# nobody\n")
    clock.advance(1)
    assert ask(keys, "r") is Unauthorized


def test_a_file_that_is_being_written_is_left_alone_until_it_rests(clock: ManualClock, file: Path) -> None:
    keys = ring(clock, file)
    for part in ("", line("reader", "read", "s"), line("reader", "read", "s") + line("other", "read", "o")):
        clock.advance(1)
        file.write_text(part)
        os.utime(file, (clock.now() / 1000, clock.now() / 1000))
        assert ask(keys, "r") is None
    clock.advance(0.25)
    assert (ask(keys, "r"), ask(keys, "s"), ask(keys, "o")) == (Unauthorized, None, None)


def test_a_file_from_the_future_is_taken(clock: ManualClock, file: Path) -> None:
    keys = ring(clock, file)
    file.write_text(line("reader", "read", "s"))
    os.utime(file, (clock.now() / 1000 + 3600, clock.now() / 1000 + 3600))
    clock.advance(1)
    assert ask(keys, "s") is None


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_no_file_of_keys(clock: ManualClock, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BadKeys, match="is no ordinary file"):
        ring(clock, tmp_path / "pipe")


@pytest.mark.parametrize("text", ["", "# nobody", "reader:read", "\xff", None])
def test_a_file_that_cannot_be_used_makes_no_ring(text: str | None, clock: ManualClock, file: Path) -> None:
    if text is None:
        file.unlink()
    else:
        file.write_bytes(text.encode("latin-1"))
    with pytest.raises(BadKeys):
        ring(clock, file)


def test_keys_of_the_variable_and_of_the_file_stand_side_by_side(clock: ManualClock, file: Path) -> None:
    keys = ring(clock, file, line("ops", "admin", "o"))
    assert (ask(keys, "r"), ask(keys, "o")) == (None, None)
    file.write_text(line("ops", "read", "x"))
    clock.advance(1)
    assert (ask(keys, "x"), ask(keys, "r")) == (Unauthorized, None), "one name twice: the file is not taken"


@pytest.mark.parametrize(
    "header",
    [None, b"", b"Bearer", b"Bearer ", b"Basic cjpy", b"bearer x", b"Bearer r, Bearer r", b"r", "Bearer é".encode(),
     b"Bearer \xff\xfe", b"Bearer " + b"a" * 10_000],
)  # fmt: skip
def test_what_is_no_key_is_nobodys(header: bytes | None, clock: ManualClock) -> None:
    keys = ring(clock, text=line("reader", "read", "r"))
    assert isinstance(keys.refusal("GET", b"/tasks", header), Unauthorized)


def test_the_scheme_is_read_without_regard_to_case(clock: ManualClock) -> None:
    keys = ring(clock, text=line("reader", "read", "r"))
    assert keys.refusal("GET", b"/tasks", b"bEARER  r") is None


def test_a_key_that_is_not_known_is_compared_with_each_in_constant_time(
    clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[bytes] = []

    class Comparing:
        @staticmethod
        def compare_digest(one: bytes, other: bytes) -> bool:
            compared.append(one)
            return one == other

    monkeypatch.setattr(module, "hmac", Comparing)
    keys = ring(clock, text="".join(line(f"k{n}", "read", str(n)) for n in range(5)))
    assert ask(keys, "nobody") is Unauthorized
    assert len(compared) == 5
    assert ask(keys, "0") is None
    assert len(compared) == 10, "the first match does not end the comparing"
    assert ask(keys, "0") is None
    assert len(compared) == 10, "a key that was found is only looked up"


def test_the_secret_of_the_servers_own_workers_lets_work_and_enqueue(clock: ManualClock) -> None:
    keys = ring(clock, text=line("reader", "read", "r"), local="own", rate=0.001)
    for _ in range(3):
        assert keys.refusal("POST", b"/lease", bearer("own")) is None
        assert keys.refusal("POST", b"/enqueue", bearer("own")) is None
    assert isinstance(keys.refusal("GET", b"/tasks", bearer("own")), Forbidden)


def test_a_key_may_spend_the_share_of_a_second_at_once_and_then_waits_for_its_turn(
    clock: ManualClock,
) -> None:
    keys = ring(clock, text=line("reader", "read", "r", ":rate=10/s") + line("free", "read", "f"))
    for _ in range(3):
        assert [ask(keys, "r") for _ in range(11)] == [None] * 10 + [RateLimited]
        assert [ask(keys, "f") for _ in range(100)] == [None] * 100, "each key has its own bucket"
        clock.advance(0.1)
        assert (ask(keys, "r"), ask(keys, "r")) == (None, RateLimited)
        clock.advance(1)


def test_a_refusal_does_not_delay_the_next_turn(clock: ManualClock) -> None:
    keys = ring(clock, text=line("reader", "read", "r", ":rate=0.5/s"))
    assert ask(keys, "r") is None
    for _ in range(50):
        refusal = keys.refusal("GET", b"/tasks", bearer("r"))
        assert isinstance(refusal, RateLimited)
        assert refusal.retry_after == 2
    clock.advance(1.5)
    refusal = keys.refusal("GET", b"/tasks", bearer("r"))
    assert isinstance(refusal, RateLimited)
    assert refusal.retry_after == 1, "whole seconds, and never 0"
    clock.advance(0.5)
    assert ask(keys, "r") is None


def test_the_rate_of_all_keys_is_for_those_without_one_of_their_own(clock: ManualClock) -> None:
    keys = ring(clock, text=line("a", "read", "a") + line("b", "read", "b", ":rate=3/s"), rate=1)
    assert [ask(keys, "a") for _ in range(2)] == [None, RateLimited]
    assert [ask(keys, "b") for _ in range(4)] == [None] * 3 + [RateLimited]


def test_a_new_file_gives_nobody_a_new_share(clock: ManualClock, file: Path) -> None:
    file.write_text(line("reader", "read", "r", ":rate=0.01/s"))
    keys = ring(clock, file)
    assert ask(keys, "r") is None
    file.write_text(line("reader", "read", "r", ":rate=0.01/s") + line("other", "read", "o"))
    clock.advance(1)
    assert (ask(keys, "o"), ask(keys, "r")) == (None, RateLimited)


def test_heartbeats_and_settles_are_never_refused_for_their_number(clock: ManualClock) -> None:
    keys = ring(clock, text=line("w", "work", "w", ":rate=1/s"))
    assert keys.refusal("POST", b"/lease", bearer("w")) is None
    assert isinstance(keys.refusal("POST", b"/lease", bearer("w")), RateLimited)
    for path in (b"/settle", b"/extend"):
        assert [keys.refusal("POST", path, bearer("w")) for _ in range(20)] == [None] * 20


@pytest.mark.skipif(os.name != "posix", reason="permissions as POSIX has them")
def test_a_file_that_anybody_can_change_is_not_believed(clock: ManualClock, file: Path) -> None:
    keys = ring(clock, file)
    file.write_text(line("intruder", "admin", "i"))
    file.chmod(0o646)
    clock.advance(1)
    assert (ask(keys, "r"), ask(keys, "i")) == (None, Unauthorized)
    with pytest.raises(BadKeys, match="changed by anybody"):
        ring(clock, file)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such rights")
def test_a_file_that_its_group_can_change_is_warned_of_once(
    clock: ManualClock, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file.chmod(0o660)
    keys = ring(clock, file)
    for mode in (0o660, 0o600, 0o620, 0o620):
        file.chmod(mode)
        clock.advance(1)
        assert ask(keys, "r") is None
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(told) == 2
    assert "changed by its group" in told[0]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no such pipes")
def test_a_pipe_or_a_folder_in_the_place_of_the_file_is_not_waited_for(
    clock: ManualClock, file: Path, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path / "pipe", tmp_path):
        with pytest.raises(BadKeys, match="no ordinary file"):
            ring(clock, place)
