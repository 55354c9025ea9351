"""`python -m bench.growth`: does anything bend when the store grows? Start, memory, enqueue, claims, listings by size.

Each size is measured in turns with the smallest one, so that an hour's weather of the machine falls on both. Results
into docs/benchmarks/ with --write.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import msgspec

from bench import drawing, load, servers, stores
from bench.client import Connection, counts, request, wait_done
from bench.limits import CONNECTIONS, ENQUEUE
from bench.report import machine

ROOT = Path(__file__).resolve().parents[1]
FIGURES = ROOT / "docs" / "benchmarks"
SIZES = (("1k waiting", 1_000, 0), ("100k waiting", 100_000, 0), ("1M waiting", 1_000_000, 0),
         ("10M waiting", 10_000_000, 0), ("5M finished", 1_000, 5_000_000))  # fmt: skip
ENQUEUES = 10_000
CLAIMS = 10_000
LISTINGS = {
    "newest": "/tasks?limit=100",
    "by status": "/tasks?status=queued&limit=100",
    "nothing found": "/tasks?status=failed&limit=100",
}
COLUMNS = {
    "start": "start s", "rss": "memory MB", "rss_after": "memory after load MB", "file": "file MB",
    "enqueue": "enqueue /s", "enqueue_cpu": "CPU us each", "claim": "claim and settle /s", "claim_cpu": "CPU us each",
    **{f"list {name}": f"list, {name} ms" for name in LISTINGS},
}  # fmt: skip

Values = dict[str, list[float]]


def measure(folder: Path) -> dict[str, float]:
    """All figures of the store in `folder`, which grows by what is enqueued and shrinks by what is run."""
    with servers.busy(folder, "--no-pool") as server, contextlib.closing(server.connection()) as connection:
        figures = {"start": server.started_s, "rss": server.rss_mb()}
        for name, path in LISTINGS.items():
            figures[f"list {name}"] = median(_took(connection, path) for _ in range(7))
        before = server.cpu_s()
        report = load.post(load.Post(server.port, ENQUEUE, ENQUEUES, CONNECTIONS, warmup=500))
        figures["enqueue"] = ENQUEUES / report.seconds
        figures["enqueue_cpu"] = (server.cpu_s() - before) / (ENQUEUES + 500) * 1e6
        figures["rss_after"] = server.rss_mb()
    figures["file"] = (folder / "jobpipe.db").stat().st_size / 1e6
    return figures | _claims(folder)


def _claims(folder: Path) -> dict[str, float]:
    with servers.busy(folder) as server, contextlib.closing(server.connection()) as connection:
        done, cpu, began = counts(connection)["done"], server.cpu_s(), time.perf_counter()
        wait_done(connection, done + CLAIMS)
        seconds, cpu = time.perf_counter() - began, server.cpu_s() - cpu
        moved = counts(connection)["done"] - done
    return {"claim": CLAIMS / seconds, "claim_cpu": cpu / moved * 1e6}


def _took(connection: Connection, path: str) -> float:
    began = time.perf_counter()
    connection.ask(request("GET", path))
    return (time.perf_counter() - began) * 1000


def main() -> int:
    """Measure and print."""
    arguments = _arguments()
    sizes = [size for size in SIZES if size[1] <= arguments.most and size[2] <= arguments.most]
    found: dict[str, Values] = {name: {} for name, _, _ in sizes}
    with tempfile.TemporaryDirectory(prefix="jobpipe-growth-") as place:
        for name, waiting, finished in sizes:
            _say(f"filling: {name}")
            folder = Path(place) / name.replace(" ", "-")
            folder.mkdir()
            stores.fill(folder, waiting=max(waiting, 2 * CLAIMS * arguments.rounds), finished=finished)
        for number in range(1, arguments.rounds + 1):
            for name, _, _ in sizes:
                _say(f"round {number} of {arguments.rounds}: {name}")
                for key, value in measure(Path(place) / name.replace(" ", "-")).items():
                    found[name].setdefault(key, []).append(value)
    _show(found, arguments)
    return 0


def _show(found: dict[str, Values], arguments: argparse.Namespace) -> None:
    here = ", ".join(f"{name} {value}" for name, value in machine().items())
    lines = [f"Medians of {arguments.rounds} rounds, the sizes in turns. {here}.", ""]
    lines += ["| store | " + " | ".join(COLUMNS.values()) + " |", "|---|" + "---:|" * len(COLUMNS)]
    for name, values in found.items():
        lines.append(f"| {name} | " + " | ".join(_shown(median(values[key])) for key in COLUMNS) + " |")
    page = "\n".join(lines) + "\n"
    print(page)
    if arguments.write:
        FIGURES.mkdir(parents=True, exist_ok=True)
        (FIGURES / "growth-figures.md").write_text(page)
        document = {"machine": machine(), "rounds": arguments.rounds, "stores": found}
        (FIGURES / "growth.json").write_bytes(msgspec.json.format(msgspec.json.encode(document)) + b"\n")
        shares = {
            COLUMNS[key]: [
                median(values[key]) / median(next(iter(found.values()))[key]) for values in found.values()
            ]
            for key in ("enqueue", "claim", "list newest", "start", "rss")
        }
        (FIGURES / "growth.svg").write_text(
            drawing.lines("each as a multiple of the smallest store", list(found), shares)
        )


def _shown(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.growth", description="Measure stores of many sizes."
    )
    parser.add_argument("--rounds", type=int, default=3, help="rounds to take the median of")
    parser.add_argument("--most", type=int, default=10_000_000, help="leave out stores with more tasks")
    parser.add_argument(
        "--write", action="store_true", help="write docs/benchmarks/growth-figures.md, .json and .svg"
    )
    return parser.parse_args()


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
