"""The same on real servers: strace makes the Nth write or sync of the store's files fail."""

from __future__ import annotations

import contextlib
import http.client
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import psutil
from msgspec import Struct

from prove.client import Client
from prove.proof import Broken, Figure, Trial, none
from prove.servers import Server, ended, until
from prove.stores import FILE

EXIT_BROKEN = 6
EXIT_STORE = 4
LEAVES_S = 20.0
"""A server that met an I/O error leaves by itself; a signal while it does would be the end that is seen."""
POSTS = 8
FULL_FOR = 25
"""So many writes fail in a row before there is space again."""
SYSCALLS = ("pwrite64", "fdatasync", "fsync")
FLAGS = ("--simulate-min", "0", "--simulate-max", "0", "--simulate-failures", "0", "--queue-size", "10000")
ANSWERS = {"ENOSPC": (202, 409, 503, 507), "EIO": (202, 409, 503)}


class Fault(Struct, frozen=True):
    """From the `first` of these calls on, `count` times."""

    error: str
    syscall: str
    first: int
    count: int

    @property
    def breaks(self) -> bool:
        """Whether nothing may be trusted afterwards: a failed sync may have lost any of what was written."""
        return self.error == "EIO" or self.syscall != "pwrite64"

    def wrapper(self, folder: Path) -> list[str]:
        """The command that runs another one with this fault."""
        inject = f"inject={self.syscall}:error={self.error}:when={self.first}..{self.first + self.count - 1}"
        files = [part for name in (FILE, f"{FILE}-wal") for part in ("-P", str(folder / name))]
        return ["strace", "-f", "-qq", "--seccomp-bpf", "-o", str(folder / "strace"), *files,
                "-e", f"trace={self.syscall}", "-e", inject]  # fmt: skip


def missing() -> str | None:
    """What this proof needs and is not here."""
    return None if shutil.which("strace") else "strace"


def server_faults(trial: Trial) -> Sequence[Figure]:
    """Each kind of call at N = 1, 2, 3 ... until none fires; smaller sizes leave some N out."""
    found: Counter[str] = Counter()
    step = trial.sized(100, 8, 1)
    for error, count in (("ENOSPC", FULL_FOR), ("EIO", 1)):
        for syscall in SYSCALLS:
            first = 1
            while _point(trial, Fault(error, syscall, first, count), found):
                first += step
    return [
        Figure("points on real servers", found["points"], at_least=1),
        Figure("  that stopped the start", found["refused"]),
        none("false acknowledgements", found["lost"]),
        none("answers other than 202, 507 and 503", found["odd"]),
        none("full: /readyz did not fail", found["ready"]),
        none("full: did not go on with space back", found["not healed"]),
        Figure(
            "I/O errors and failed syncs after which the server left with its own exit code", found["left"]
        ),
        Figure("  within a checkpoint, which SQLite does again", found["went on"]),
        none("other exit codes", found["code"]),
        none("did not start again", found["closed"]),
    ]


def _point(trial: Trial, fault: Fault, found: Counter[str]) -> bool:
    """Whether the fault fired."""
    folder = trial.folder / "point"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    _make_store(folder)
    server = Server(folder, *FLAGS, app=None, wrapper=fault.wrapper(folder))
    with ended(server):
        acknowledged: set[str] = set()
        try:
            server.up()
        except Broken:
            found["refused"] += 1
            found["code"] += server.process.returncode != EXIT_STORE
        else:
            acknowledged = _post(server, fault, found)
            _end(server, fault, found)
    if "(INJECTED)" not in (folder / "strace").read_text(errors="replace"):
        return False
    found["points"] += 1
    _check(server, acknowledged, found)
    return True


def _make_store(folder: Path) -> None:
    """A store as a crash leaves it, so that both files are there for strace to know."""
    server = Server(folder, *FLAGS, app=None).up()
    with ended(server), server.connected() as client:
        client.post("/enqueue", {"id": "first"})


def _post(server: Server, fault: Fault, found: Counter[str]) -> set[str]:
    """Post each task until it is taken; the acknowledged ones."""
    acknowledged: set[str] = set()
    asked_ready = False
    for number in range(POSTS):
        with (
            contextlib.closing(Client(server.port, 20)) as client,
            contextlib.suppress(OSError, http.client.HTTPException),
        ):
            for _ in range(2 * FULL_FOR):
                answer = client.ask("POST", "/enqueue", {"id": f"t{number}", "payload": "x" * 3000})
                found["odd"] += answer.status not in ANSWERS[fault.error]
                if answer.status in (202, 409):
                    acknowledged.add(f"t{number}")
                    break
                if answer.status == 507 and not asked_ready:
                    asked_ready = True
                    found["asked"] += 1
                    # It probes the store, so it may be the one that finds the space again.
                    ready = client.ask("GET", "/readyz").status
                    found["ready"] += (
                        ready == 200 and client.ask("POST", "/enqueue", {"id": "again"}).status == 507
                    )
    return acknowledged


def _end(server: Server, fault: Fault, found: Counter[str]) -> None:
    """Stop a server that lives; judge how it went."""
    if not fault.breaks:
        found["not healed"] += not _heals(server)
    else:
        deadline = time.monotonic() + LEAVES_S
        while server.alive() and time.monotonic() < deadline and _injected(server):
            time.sleep(0.05)
    if server.alive():
        found["went on"] += fault.breaks and _injected(server)
        traced = psutil.Process(server.process.pid).children()
        for process in traced:
            process.terminate()
        _judge(server.process.wait(60), _good_codes(server, fault), fault, found)
    else:
        found["left"] += 1
        _judge(server.process.returncode, {EXIT_BROKEN}, fault, found)


def _good_codes(server: Server, fault: Fault) -> set[int]:
    """How a server may end that was told to stop; one that met the fault just then is leaving, and hears no signal."""
    if not fault.breaks:
        return {0}
    return {0, EXIT_BROKEN, -signal.SIGTERM} if _injected(server) else {0, EXIT_BROKEN}


def _judge(code: int | None, good: set[int], fault: Fault, found: Counter[str]) -> None:
    if code not in good:
        found["code"] += 1
        print(f"{fault}: ended with {code}", file=sys.stderr)


def _injected(server: Server) -> bool:
    return "(INJECTED)" in (server.folder / "strace").read_text(errors="replace")


def _heals(server: Server) -> bool:
    """With space back it accepts, and does all that it has."""

    def idle() -> bool:
        with contextlib.suppress(OSError, http.client.HTTPException, KeyError, ValueError):
            ready = (
                server.get("/readyz").get("status") != 503
            )  # which tries a write, and so uses up the fault
            counts = server.counts()
            return ready and counts["queued"] + counts["running"] == 0
        return False

    try:
        until("all is done", idle, 30)
    except Broken:
        return False
    return True


def _check(server: Server, acknowledged: set[str], found: Counter[str]) -> None:
    """A server without the fault has all that was acknowledged."""
    after = Server(server.folder, *FLAGS, app=None)
    with ended(after):
        try:
            after.up()
        except Broken:
            found["closed"] += 1
            return
        with after.connected() as client:
            there = {task["id"] for task in client.tasks()}
        found["lost"] += not there >= {"first", *acknowledged}
        after.stop()
