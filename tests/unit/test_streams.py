"""Streams that outlive their readers: nothing that happens to a descriptor reaches whoever prints."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import subprocess
import sys
import termios
import threading
import tty
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobpipe.runtime import streams
from jobpipe.runtime.outlet import outlet_of
from jobpipe.runtime.streams import KEPT, Stream

pytestmark = pytest.mark.timeout(30)


class Plan:
    """An outlet that does what each of its `steps` says: an error to raise, or how many bytes to take."""

    waits = False

    def __init__(self, *steps: OSError | int) -> None:
        self.steps = list(steps)
        self.got = b""

    def write(self, data: bytes | memoryview) -> int:
        step = self.steps.pop(0) if self.steps else len(data)
        if isinstance(step, OSError):
            raise step
        self.got += bytes(data[:step])
        return min(step, len(data))

    def wait(self, seconds: float) -> None:
        """There is room at once."""


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        try:
            os.close(end)
        except OSError:
            continue


@pytest.mark.parametrize(
    "code", [errno.EPIPE, errno.ENOSPC, errno.EIO, errno.EBADF, errno.EFBIG, errno.ECONNRESET]
)
def test_an_error_costs_its_lines_which_are_counted_and_told_once(code: int) -> None:
    before = streams.lost.lines
    outlet = Plan(OSError(code, "no"), OSError(code, "no"))
    stream = Stream(2, outlet)
    assert stream.write(b"a\nb\n") == 4
    stream.write(b"c\n")
    assert streams.lost.lines - before == 3
    stream.write(b"d\n")
    stream.write(b"e\n")
    assert outlet.got == b"jobpipe: 3 lines of the log could not be written\nd\ne\n"


def test_a_line_that_was_torn_does_not_swallow_the_next() -> None:
    outlet = Plan(3, OSError(errno.ENOSPC, "full"))
    stream = Stream(2, outlet)
    stream.write(b"torn line\n")
    stream.write(b"whole\n")
    assert outlet.got == b"tor\njobpipe: 1 line of the log could not be written\nwhole\n"


def test_what_has_no_room_is_written_later_in_its_order() -> None:
    outlet = Plan(2, BlockingIOError(), BlockingIOError())
    stream = Stream(2, outlet)
    for line in (b"first\n", b"second\n", b"third\n"):
        stream.write(line)
    stream.drain(5)
    assert outlet.got == b"first\nsecond\nthird\n"


def test_a_pipe_that_nobody_reads_takes_what_it_can_and_never_waits(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    before = streams.lost.lines
    stream = Stream(writer)
    line = b"x" * 999 + b"\n"
    count = (KEPT + (1 << 20)) // len(line) + 500
    for _ in range(count):
        stream.write(line)
    lost = streams.lost.lines - before
    assert 0 < lost < count
    got = b""
    while got.count(b"x\n") < count - lost:
        got += os.read(reader, 65536)
    assert set(got.split(b"\n")) == {
        line[:-1],
        b"",
        b"jobpipe: %d lines of the log could not be written" % lost,
    }
    assert got.count(b"could not be written") == 1


def test_a_child_that_makes_the_shared_pipe_non_blocking_reaches_nobody(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    stream = Stream(writer)
    fcntl.fcntl(writer, fcntl.F_SETFL, fcntl.fcntl(writer, fcntl.F_GETFL) | os.O_NONBLOCK)
    data = b"".join(b"%06d\n" % n for n in range(50_000))
    reading = threading.Thread(target=stream.write, args=(data,))
    reading.start()
    got = b""
    while len(got) < len(data):
        got += os.read(reader, 65536)
    reading.join()
    assert got == data


def test_a_descriptor_that_somebody_closes_and_takes_again_is_not_written_to(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    stream = Stream(writer)
    os.close(writer)
    assert os.open(os.devnull, os.O_RDONLY) == writer
    stream.write(b"still there\n")
    assert os.read(reader, 100) == b"still there\n"


def test_a_socket_without_a_reader_does_not_block() -> None:
    mine, other = socket.socketpair()
    with mine, other:
        outlet = outlet_of(mine.fileno())
        assert not outlet.waits
        stream = Stream(mine.fileno(), outlet)
        for _ in range(100):
            stream.write(b"y" * 9999 + b"\n")
        got = b""
        while len(got) < 1_000_000:
            got += other.recv(65536)
        assert got == (b"y" * 9999 + b"\n") * 100
        outlet._socket.close()  # type: ignore[attr-defined]


def test_a_terminal_that_was_stopped_does_not_block_and_goes_on_when_it_is_let() -> None:
    """As by Ctrl+S."""
    master, terminal = os.openpty()
    try:
        tty.setraw(terminal)
        stream = Stream(terminal)
        termios.tcflow(terminal, termios.TCOOFF)
        stream.write(b"".join(b"%06d\n" % n for n in range(20_000)))
        termios.tcflow(terminal, termios.TCOON)
        got = b""
        while len(got) < 140_000:
            got += os.read(master, 65536)
        assert got == b"".join(b"%06d\n" % n for n in range(20_000))
    finally:
        os.close(master)
        os.close(terminal)


def test_a_file_is_written_where_others_left_off(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb", buffering=0) as log:
        stream = Stream(log.fileno())
        log.write(b"one\n")
        stream.write(b"two\n")
        log.write(b"three\n")
    assert (tmp_path / "log").read_bytes() == b"one\ntwo\nthree\n"


def test_a_forked_child_writes_what_is_its_own(pipe: tuple[int, int]) -> None:
    stream = Stream(pipe[1], Plan(*[BlockingIOError()] * 1000))
    stream.write(b"of the parent\n")
    if (child := os.fork()) == 0:
        outlet = Plan()
        stream._outlet = outlet
        stream.write(b"of the child\n")
        os._exit(0 if outlet.got == b"of the child\n" else 1)
    assert os.waitpid(child, 0)[1] == 0


PRINTS = """
import os, sys
from jobpipe.runtime.logs import configure
configure("INFO", "text")
print("\\u017e \\ud800", flush=True)
sys.stdout.close(), sys.stderr.close()
print("\\u017e \\ud800", file=sys.__stderr__)
print("heard", file=sys.stderr)
"""


@pytest.mark.parametrize("surroundings", [
    {"LC_ALL": "POSIX"}, {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    {"PYTHONIOENCODING": "ascii"},
])  # fmt: skip
def test_no_text_is_unprintable(surroundings: dict[str, str]) -> None:
    env = os.environ | surroundings
    run = subprocess.run(
        [sys.executable, "-c", PRINTS], env=env, capture_output=True, timeout=30, check=False
    )
    assert run.returncode == 0, run.stderr
    for said in (run.stdout, run.stderr):
        assert said.splitlines()[0] in (b"\xc5\xbe \\ud800", b"\\u017e \\ud800")
    assert run.stderr.splitlines()[1:] == [b"heard"], "closing a stream closes nothing"


CLOSED = """
import os, socket, sys
from jobpipe.runtime.streams import open_closed
open_closed()
standard = [os.readlink(f"/proc/self/fd/{fd}") for fd in (0, 1, 2)]
print(socket.socket().fileno() > 2, standard, file=open(sys.argv[1], "w"))
print("nobody reads this", flush=True)
os.execvp("sh", ["sh", "-c", "test -e /proc/self/fd/0 -a -e /proc/self/fd/1 -a -e /proc/self/fd/2"])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
def test_closed_descriptors_become_the_null_device_for_children_too(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run = subprocess.run(
        ["sh", "-c", 'exec "$0" -c "$1" "$2" <&- >&- 2>&-', sys.executable, CLOSED, out],
        timeout=30,
        check=False,
    )
    assert run.returncode == 0
    assert out.read_text() == "True ['/dev/null', '/dev/null', '/dev/null']\n"
