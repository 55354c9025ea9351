"""`python -m bench.overload`: what happens beyond capacity, and how much upkeep disturbs. Open loop throughout.

Beyond capacity: handlers that wait make the sustainable rate a matter of the workers, not of the machine; it is offered
from 10 to 300 %. Upkeep: a steady stream of enqueues without and during the pruning of a million finished tasks.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import msgspec

from bench import drawing, openloop, servers, stores
from bench.client import counts, request
from bench.report import machine

ROOT = Path(__file__).resolve().parents[1]
FIGURES = ROOT / "docs" / "benchmarks"
WORKERS, WORK_S, QUEUE_SIZE = 20, 0.02, 100
SHARES = (0.1, 0.5, 0.8, 0.9, 1.0, 1.1, 1.5, 2.0, 3.0)
TASK = request("POST", "/enqueue", b'{"handler":"pause","payload":{"seconds":0.02},"max_retries":0}')
NOOP = request("POST", "/enqueue", b'{"handler":"noop","payload":{"user":1,"email":"ada@example.org"}}')

Row = dict[str, float]


def beyond(seconds: float) -> list[Row]:
    """One row for each share of the capacity: what was offered, accepted, done, refused, and how long each took."""
    return [_share(share, seconds) for share in SHARES]


def _share(share: float, seconds: float) -> Row:
    """One share, on a server of its own."""
    capacity = WORKERS / WORK_S
    flags = ["--workers", str(WORKERS), "--queue-size", str(QUEUE_SIZE), "--processes", "0"]
    with _server(*flags) as server:
        report = openloop.offer(openloop.Steady(server.port, TASK, capacity * share, seconds))
        with contextlib.closing(server.connection()) as connection:
            done = counts(connection)["done"]
            waits = _waits(connection.ask_json(request("GET", "/tasks?status=done&limit=1000")))
        _say(f"{share:.0%}: {report.statuses}, {done} done in {report.seconds:.1f} s")
        return {
            "share": share,
            "offered": capacity * share,
            "accepted": report.statuses.get("202", 0) / report.seconds,
            "done": done / report.seconds,
            "refused": report.statuses.get("503", 0) / report.seconds,
            "other": float(
                sum(report.statuses.values()) - report.statuses.get("202", 0) - report.statuses.get("503", 0)
            ),
            "answer_p50": report.p50,
            "answer_p99": report.p99,
            "refusal_p50": report.refused_p50 or 0.0,
            "refusal_p99": report.refused_p99 or 0.0,
            "wait_p99": waits[int(len(waits) * 0.99)] if waits else 0.0,
            "late": report.late,
        }


def _waits(tasks: list[dict[str, str]]) -> list[float]:
    """Milliseconds from acceptance to the start of the handler, of the newest thousand."""
    return sorted((_ms(task["started_at"]) - _ms(task["created_at"])) for task in tasks)


def _ms(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp() * 1000


def upkeep(finished: int, rate: float, seconds: float) -> list[Row]:
    """Enqueues at a steady rate on a store with many finished tasks: kept, and being pruned."""
    rows = []
    for name, retention in (("kept", "inf"), ("being pruned", "60")):
        report, left = _steady(finished, retention, rate, seconds)
        _say(f"{name}: p50 {report.p50:.1f}, p99 {report.p99:.1f}, p99.9 {report.p999:.1f} ms; {left} left")
        rows.append({"pruned_per_s": (finished - left) / seconds, "p50": report.p50, "p99": report.p99,
                     "p999": report.p999, "most": report.most, "late": report.late})  # fmt: skip
    return rows


def _steady(finished: int, retention: str, rate: float, seconds: float) -> tuple[openloop.Answers, int]:
    """The answers, and how many finished tasks are left at the end."""
    flags = ["--no-pool", "--queue-size", str(servers.QUEUE_SIZE), "--retention", retention]
    with tempfile.TemporaryDirectory(prefix="jobpipe-upkeep-") as place, contextlib.ExitStack() as ends:
        stores.fill(Path(place), finished=finished)
        server = ends.enter_context(servers.jobpipe(Path(place), *flags))
        report = openloop.offer(openloop.Steady(server.port, NOOP, rate, seconds))
        return report, counts(ends.enter_context(contextlib.closing(server.connection())))["done"]


@contextlib.contextmanager
def _server(*flags: str) -> Iterator[servers.Server]:
    with (
        tempfile.TemporaryDirectory(prefix="jobpipe-overload-") as place,
        servers.jobpipe(Path(place), *flags, app="bench.app:app") as server,
    ):
        yield server


def _page(over: list[Row], kept: list[Row], seconds: float) -> str:
    capacity = WORKERS / WORK_S
    here = ", ".join(f"{name} {value}" for name, value in machine().items())
    lines = [
        f"{WORKERS} workers, each task takes {WORK_S * 1000:g} ms: capacity {capacity:,.0f} tasks/s; queue size "
        f"{QUEUE_SIZE}; {seconds:g} s each. {here}.",
        "",
        "| offered | of capacity | accepted /s | done /s | refused /s | answer p50, p99 ms | refusal p50, p99 ms "
        "| wait p99 ms | generator late |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {r['offered']:,.0f} | {r['share']:.0%} | {r['accepted']:,.0f} | {r['done']:,.0f} | {r['refused']:,.0f} | "
        f"{r['answer_p50']:.1f}, {r['answer_p99']:.1f} | {r['refusal_p50']:.1f}, {r['refusal_p99']:.1f} | "
        f"{r['wait_p99']:,.0f} | {r['late']:.0%} |"
        for r in over
    ]
    lines += [
        "",
        "| finished tasks | pruned /s | enqueue p50 ms | p99 | p99.9 | most |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {name} | {r['pruned_per_s']:,.0f} | {r['p50']:.1f} | {r['p99']:.1f} | {r['p999']:.1f} | {r['most']:.1f} |"
        for name, r in zip(("kept", "being pruned"), kept, strict=True)
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.overload", description="Measure beyond capacity.")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long each rate is offered")
    parser.add_argument("--finished", type=int, default=1_000_000, help="finished tasks for the upkeep")
    parser.add_argument(
        "--write", action="store_true", help="write docs/benchmarks/overload-figures.md, .json and .svg"
    )
    arguments = parser.parse_args()
    over = beyond(arguments.seconds)
    kept = upkeep(arguments.finished, 500.0, arguments.seconds * 2)
    page = _page(over, kept, arguments.seconds)
    print(page)
    if arguments.write:
        FIGURES.mkdir(parents=True, exist_ok=True)
        (FIGURES / "overload-figures.md").write_text(page)
        document = {"machine": machine(), "beyond": over, "upkeep": kept}
        (FIGURES / "overload.json").write_bytes(msgspec.json.format(msgspec.json.encode(document)) + b"\n")
        drawn = {name: [row[name] for row in over] for name in ("offered", "accepted", "done", "refused")}
        names = [f"{share:.0%}" for share in SHARES]
        (FIGURES / "overload.svg").write_text(
            drawing.lines("tasks/s over the offered share of capacity", names, drawn)
        )
    return 0


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
