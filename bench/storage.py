"""`python -m bench.storage`: what a task costs the storage thread, and what it writes, under other settings of SQLite.

Runs the store alone, in one thread: tasks are inserted, then claimed and settled as a busy pool does it, with the next
claim before the commit of the settles. Variants take turns, and the lowest of the rounds counts. Bytes are those handed
to `write` and its like, the log and what checkpoints copy out of it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import apsw

from jobpipe.core.admission import Limits
from jobpipe.core.lifecycle import Kind, Outcome, Policy, decide
from jobpipe.core.task import Claim, NewTask
from jobpipe.runtime.clock import SystemClock
from jobpipe.storage.base import ClaimRequest, CommitStats, Settlement
from jobpipe.storage.calls import CLAIM, INSERT, SETTLE, Call
from jobpipe.storage.sqlite.claimlog import ClaimLog
from jobpipe.storage.sqlite.connection import open_writer
from jobpipe.storage.sqlite.store import Store
from jobpipe.wire.ids import new_id

PAYLOAD = b'{"user":1,"email":"ada@example.org"}'
RESULT = b'{"sent":true}'
BATCH = 64


class Variant(NamedTuple):
    """Statements before the file has its schema, and after; `batch` tasks a commit; claims of `local` workers."""

    name: str
    before: str = ""
    after: str = ""
    batch: int = BATCH
    local: bool = True


class Cost(NamedTuple):
    """Of one task, of its insert and of its claim and settle: CPU and wall microseconds, and bytes written."""

    insert_cpu: float
    insert_bytes: float
    run_cpu: float
    run_wall: float
    run_bytes: float


VARIANTS = (
    Variant("as it is: 64 tasks a commit"),
    Variant("workers elsewhere: claims are written first", local=False),
    *(Variant(f"{n:,} a commit", batch=n) for n in (1, 8, 256, 1000)),
    *(
        Variant(
            f"pages of {size:,} bytes", before=f"PRAGMA page_size = {size}; CREATE TABLE t (x); DROP TABLE t"
        )
        for size in (1024, 2048, 8192, 16384)
    ),
    *(
        Variant(f"a checkpoint each {pages:,} pages", after=f"PRAGMA wal_autocheckpoint = {pages}")
        for pages in (500, 8000, 64000)
    ),
    Variant("cache of 2 MiB, not 32", after="PRAGMA cache_size = -2048"),
    Variant("cache of 256 MiB", after="PRAGMA cache_size = -262144"),
    Variant("mapped into memory", after="PRAGMA mmap_size = 1073741824"),
    Variant("synchronous = NORMAL (loses what was acknowledged)", after="PRAGMA synchronous = NORMAL"),
    Variant("without the index of running and failed", after="DROP INDEX tasks_rare"),
    Variant("without the index of finished", after="DROP INDEX tasks_finished"),
)


def measure(variant: Variant, tasks: int) -> Cost:
    """One pass over a new file."""
    with tempfile.TemporaryDirectory(prefix="jobpipe-bench-") as folder:
        path = str(Path(folder) / "jobpipe.db")
        _run(apsw.Connection(path), variant.before)
        connection = open_writer(path)
        log = ClaimLog(f"{path}-claims")
        store = Store(connection, Limits(10**9, 1000), SystemClock(), CommitStats(), log)
        _run(connection, variant.after)
        insert_cpu, _, insert_bytes = _metered(lambda: _insert(store, tasks, variant.batch))
        run_cpu, run_wall, run_bytes = _metered(lambda: _work(store, variant.batch, local=variant.local))
        store.close()
    return Cost(*(value / tasks for value in (insert_cpu, insert_bytes, run_cpu, run_wall, run_bytes)))


def _insert(store: Store, tasks: int, batch: int) -> None:
    for begin in range(0, tasks, batch):
        now = round(time.time() * 1000)
        new = [NewTask(new_id(now), "mail", PAYLOAD) for _ in range(min(batch, tasks - begin))]
        store.commit([_call(INSERT, Store.insert, (new, now))])


def _work(store: Store, batch: int, *, local: bool) -> None:
    policy, claims = Policy(), list[Claim]()
    while True:
        now = round(time.time() * 1000)
        request = ClaimRequest(batch, "here:1", None, None if local else 30.0, local)
        settles = [
            Settlement(claim.task.id, claim.lease_id, _done(claim, now, policy), False) for claim in claims
        ]
        calls = [_call(SETTLE, Store.settle, (settles, now))] if settles else []
        answer = store.runs.hand_out(request, now)
        claiming = _call(CLAIM, _claim, (request, now))
        if calls or answer is None:
            store.commit([*calls, *([claiming] if answer is None else [])])
        claims = (claiming.answer if answer is None else answer).claims
        if not claims:
            return


def _done(claim: Claim, now: int, policy: Policy) -> Any:
    return decide(claim.task, Outcome(Kind.DONE, RESULT), now, policy, lambda: 0.0)


def _claim(store: Store, calls: Sequence[Call[Any, Any]]) -> None:
    for call in calls:
        call.answer = store.runs.claim(*call.argument)


def _call(turn: int, serve: Any, argument: Any) -> Call[Any, Any]:
    return Call(turn, serve, argument, None)  # type: ignore[arg-type] # nobody waits for it


def _metered(step: Callable[[], None]) -> tuple[float, float, float]:
    """CPU and wall microseconds of the step, and the bytes that it wrote."""
    cpu, wall, written = time.thread_time(), time.perf_counter(), _written()
    step()
    return (
        (time.thread_time() - cpu) * 1e6,
        (time.perf_counter() - wall) * 1e6,
        _written() - written,
    )


def _written() -> int:
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("wchar:")).split()[1])


def _run(connection: apsw.Connection, statements: str) -> None:
    if statements:
        connection.execute(statements).fetchall()


def _rows(variants: Sequence[Variant], tasks: int, rounds: int) -> Iterator[tuple[str, Cost]]:
    found: dict[str, list[Cost]] = {variant.name: [] for variant in variants}
    measure(variants[0], tasks)  # unmeasured: what is first is slower
    for number in range(1, rounds + 1):
        print(f"round {number} of {rounds}", file=sys.stderr, flush=True)
        turned = (number - 1) * len(variants) // rounds  # no variant always comes first
        for variant in (*variants[turned:], *variants[:turned]):
            found[variant.name].append(measure(variant, tasks if variant.batch > 1 else tasks // 8))
    for name, costs in found.items():
        yield name, Cost(*(min(values) for values in zip(*costs, strict=True)))


def main() -> int:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.storage", description="Costs of SQLite's settings."
    )
    parser.add_argument("--tasks", type=int, default=20_000, help="in each pass")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    print("| | insert: CPU us | bytes written | claim + settle: CPU us | wall us | bytes written |")
    print("|---|---:|---:|---:|---:|---:|")
    for name, cost in _rows(VARIANTS, arguments.tasks, arguments.rounds):
        print(
            f"| {name} | {cost.insert_cpu:.1f} | {cost.insert_bytes:,.0f} | {cost.run_cpu:.1f} | {cost.run_wall:.1f} "
            f"| {cost.run_bytes:,.0f} |"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
