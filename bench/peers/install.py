"""Each peer in an environment of its own under `.peers/`, so that none decides the versions of another."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from bench.client import BenchError
from bench.peers.systems import Peer

ROOT = Path(__file__).resolve().parents[2]
HOME = ROOT / ".peers"
PROGRAMS = Path(__file__).parent / "programs"
INSTALL_S = 300.0


DEBIAN = {
    "node": "nodejs", "npm": "npm", "redis-server": "redis-server", "ruby": "ruby", "sidekiq": "ruby-sidekiq",
    "wrk": "wrk",
}  # fmt: skip
"""The packages that bring the commands."""


def provide(peers: Iterable[Peer]) -> None:
    """Install what of the system these peers and the load generator need, as root on a Debian; elsewhere do nothing."""
    wanted = {command for peer in peers for command in _needed(peer)} | {"wrk"}
    absent = sorted(DEBIAN[command] for command in wanted if shutil.which(command) is None)
    if absent and hasattr(os, "geteuid") and os.geteuid() == 0 and shutil.which("apt-get"):
        quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for words in (["update"], ["install", "-y", "--no-install-recommends", *absent]):
            subprocess.run(
                ["apt-get", "-qq", *words],
                env=quiet,
                stdout=subprocess.DEVNULL,
                timeout=INSTALL_S,
                check=False,
            )


def missing(peer: Peer) -> str | None:
    """What of the system a peer needs and this machine has not; None when nothing is missing."""
    absent = [command for command in _needed(peer) if shutil.which(command) is None]
    return f"{', '.join(absent)} not installed" if absent else None


def _needed(peer: Peer) -> tuple[str, ...]:
    needed = {".mjs": ("node", "npm"), ".rb": ("ruby", "sidekiq")}.get(Path(peer.program).suffix, ())
    return (*needed, "redis-server") if peer.service == "redis" else needed


def install(peer: Peer) -> None:
    """Install the peer's packages once; what is there already is kept. Raises BenchError."""
    folder = HOME / peer.name
    stamp = folder / ".installed"
    if not peer.packages or (stamp.exists() and stamp.read_text() == "\n".join(peer.packages)):
        return
    folder.mkdir(parents=True, exist_ok=True)
    if peer.program.endswith(".mjs"):
        (folder / "package.json").write_text(json.dumps({"private": True}))
        _run(["npm", "install", "--no-audit", "--no-fund", "--silent", *peer.packages], folder)
    else:
        _run([sys.executable, "-m", "venv", str(folder)], folder)
        _run([str(folder / "bin" / "pip"), "install", "--quiet", *peer.packages], folder)
    stamp.write_text("\n".join(peer.packages))


def command(peer: Peer, *arguments: str) -> list[str]:
    """How the peer's program is called."""
    program = str(PROGRAMS / peer.program)
    if peer.program.endswith(".mjs"):
        return ["node", program, *arguments]
    if peer.program.endswith(".rb"):
        if arguments[0] == "work":
            return ["sidekiq", "-r", program, "-c", "10"]
        return ["ruby", program, *arguments]
    return [str(HOME / peer.name / "bin" / "python"), program, *arguments]


def environment(peer: Peer, url: str, tasks: int) -> dict[str, str]:
    """What the peer's program is told."""
    own = {
        "PEER_URL": url,
        "PEER_TASKS": str(tasks),
        "PEER_MODULES": str(HOME / peer.name),
        "PYTHONPATH": str(PROGRAMS),
    }
    return {**os.environ, **own}


def _run(words: list[str], folder: Path) -> None:
    done = subprocess.run(words, cwd=folder, capture_output=True, timeout=INSTALL_S, check=False)
    if done.returncode != 0:
        tail = done.stderr.decode(errors="replace").strip()[-400:]
        raise BenchError(f"{' '.join(words[:3])} failed: {tail}")
