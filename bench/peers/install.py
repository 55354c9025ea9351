"""Each peer in an environment of its own under `.peers/`, so that none decides the versions of another."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from bench.client import BenchError
from bench.peers.systems import Peer

ROOT = Path(__file__).resolve().parents[2]
HOME = ROOT / ".peers"
PROGRAMS = Path(__file__).parent / "programs"
INSTALL_S = 300.0


def missing(peer: Peer) -> str | None:
    """What of the system a peer needs and this machine has not; None when nothing is missing."""
    needed = {".mjs": ("node", "npm"), ".rb": ("ruby", "sidekiq")}.get(Path(peer.program).suffix, ())
    if peer.service == "redis":
        needed = (*needed, "redis-server")
    absent = [command for command in needed if shutil.which(command) is None]
    return f"{', '.join(absent)} not installed" if absent else None


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
