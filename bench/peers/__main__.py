"""`python -m bench.peers`: Jobpipe and other queues in turns on this machine. Results into docs/benchmarks/.

What a peer needs is installed the first time: packages under `.peers/`, and as root on a Debian what it wants of the
system. A peer that cannot be measured here is named with the reason. The exit code is 0 when Jobpipe itself could be
measured.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec

from bench.client import BenchError
from bench.peers import measure, ours, report
from bench.peers.install import ROOT, install, missing, provide
from bench.peers.services import Service, services
from bench.peers.systems import PEERS, Peer
from bench.report import machine

OURS = {
    "Jobpipe": ("file", 1, "64 connections; arrays of 1,000; 64 workers in one worker process"),
    "Jobpipe, handlers in the server": ("file", 0, "the same with --processes 0"),
    "Jobpipe, memory:": ("memory", 1, "as the first"),
    "Jobpipe, PostgreSQL": ("postgres", 1, "as the first"),
}
CLIENTS = {
    f"Jobpipe, Python client, {when}{where}": (store, when, f"one process with our own client, {when}; {how}")
    for store, where in (("file", ""), ("memory", ", memory:"))
    for when, how in (("64 at a time", "`enqueue_many`"), ("one after the other", "typed"))
}
"""Jobpipe as a Python program has it: beside the others, whose clients are measured too."""

FIGURES = ROOT / "docs" / "benchmarks"


def main() -> int:
    """Measure, print the Markdown, and write it with --write."""
    arguments = _arguments()
    rows = {name: report.Row(name, ours.DURABLE[store], how, {}) for name, (store, _, how) in OURS.items()}
    rows |= {
        name: report.Row(name, ours.DURABLE[store], how, {}) for name, (store, _, how) in CLIENTS.items()
    }
    rows |= {peer.name: report.Row(peer.name, peer.durable, peer.settings, {}) for peer in PEERS}
    wanted = [name for name in rows if not arguments.only or name in arguments.only]
    peers = {peer.name: peer for peer in PEERS if peer.name in wanted}
    provide(peers.values())
    for peer in peers.values():
        _prepare(peer, rows)
    with tempfile.TemporaryDirectory(prefix="jobpipe-peers-") as folder:
        needed = {peer.service for peer in peers.values()} | (
            {"postgres"} if _ours_on_postgres(wanted) else set()
        )
        with services(needed, Path(folder)) as running:
            for number in range(1, arguments.rounds + 1):
                for name in wanted:
                    if rows[name].problem is None:
                        _say(f"round {number} of {arguments.rounds}: {name}")
                        _add(rows, name, _measuring(name, peers, running, arguments.scale))
    _write([rows[name] for name in wanted], arguments)
    return 0 if all(rows[name].problem is None for name in wanted if name in OURS) else 1


def _prepare(peer: Peer, rows: dict[str, report.Row]) -> None:
    problem = missing(peer)
    if problem is None:
        _say(f"installing {peer.name}")
        try:
            install(peer)
        except (BenchError, subprocess.TimeoutExpired) as error:
            problem = str(error)
    if problem is not None:
        _say(f"  {peer.name} is left out: {problem}")
        rows[peer.name] = rows[peer.name]._replace(problem="not measured: " + problem.splitlines()[-1][:120])


def _ours_on_postgres(wanted: list[str]) -> bool:
    return any(name in OURS and OURS[name][0] == "postgres" for name in wanted)


def _measuring(
    name: str, peers: dict[str, Peer], running: dict[str, Service], scale: float
) -> Callable[[], measure.Figures]:
    if name in peers:
        return lambda: measure.measure(peers[name], running[peers[name].service], scale)
    if name in CLIENTS:
        return lambda: ours.measure_client(*CLIENTS[name][:2], scale)
    store, processes, _ = OURS[name]
    return lambda: ours.measure(store, running["postgres"] if store == "postgres" else None, scale, processes)


def _add(rows: dict[str, report.Row], name: str, measuring: Callable[[], measure.Figures]) -> None:
    try:
        figures = measuring()
    except (BenchError, OSError, subprocess.TimeoutExpired, ValueError) as error:
        _say(f"  {name} is left out: {error}")
        rows[name] = rows[name]._replace(problem="not measured: " + " ".join(str(error).split())[:120])
        return
    _say("  " + ", ".join(f"{key} {value:,.1f}" for key, value in figures.items()))
    for key, value in figures.items():
        rows[name].values.setdefault(key, []).append(value)


def _write(rows: list[report.Row], arguments: argparse.Namespace) -> None:
    here = {str(key): str(value) for key, value in machine().items()} | {
        "load on Jobpipe by": ours.generator()
    }
    page = report.markdown(rows, here, arguments.rounds)
    print(page)
    if not arguments.write:
        return
    FIGURES.mkdir(parents=True, exist_ok=True)
    (FIGURES / "peers-figures.md").write_text(page)
    document = msgspec.json.format(msgspec.json.encode(report.document(rows, here, arguments.rounds)))
    (FIGURES / "peers.json").write_bytes(document + b"\n")
    (FIGURES / "peers.svg").write_text(report.drawing(rows))


def _arguments() -> argparse.Namespace:
    names = [*OURS, *CLIENTS, *(peer.name for peer in PEERS)]
    parser = argparse.ArgumentParser(
        prog="python -m bench.peers", description="Measure Jobpipe beside other queues."
    )
    parser.add_argument("--rounds", type=int, default=3, help="rounds to take the median of")
    parser.add_argument("--scale", type=float, default=1.0, help="how much is done, as a share of the usual")
    parser.add_argument("--only", action="append", choices=names, help="measure this alone; may be repeated")
    parser.add_argument(
        "--write", action="store_true", help="write docs/benchmarks/peers-figures.md, .json and .svg"
    )
    return parser.parse_args()


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
