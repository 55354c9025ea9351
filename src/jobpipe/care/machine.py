"""The machine around a store: its folder, its file system, its space, and what a process may open."""

from __future__ import annotations

import os
import re
import shutil
import stat
import sys
from pathlib import Path
from typing import Final

from jobpipe.care.findings import Finding, fine, problem, size, warning

LITTLE: Final = 512 * 1024**2
LEAST: Final = 1024**2
"""Bytes of free space: what is little, and what a server will soon answer 507 for."""
FEW_FILES: Final = 2048
"""Each connection is an open file, and the usual limit of 1,024 is soon reached by workers that wait."""

_NETWORK: Final = re.compile(
    r"nfs\d?|cifs|smb\w*|9p|afs|ceph|glusterfs|lustre|ncpfs|fuse\.(sshfs|glusterfs|s3fs|rclone)|davfs"
)
_MEMORY: Final = frozenset({"tmpfs", "ramfs"})
_LAYERS: Final = frozenset({"overlay", "aufs"})


def folder(path: Path) -> Finding:
    """Whether a server may write beside its store: the write-ahead log and the lock stand there."""
    if not path.is_dir():
        return problem("folder", f"{path} does not exist")
    if not os.access(path, os.W_OK | os.X_OK):
        return problem("folder", f"{path} is read-only for this user")
    return fine("folder", f"{path} can be written")


def space(path: Path) -> Finding:
    """How much room is left."""
    free = shutil.disk_usage(path).free
    text = f"{size(free)} free at {path}"
    if free < LEAST:
        return problem("disk space", text)
    return warning("disk space", text) if free < LITTLE else fine("disk space", text)


def file_system(path: Path, mounts: Path = Path("/proc/self/mountinfo")) -> Finding:
    """Whether the file system keeps what it promises: locks, shared memory and syncs."""
    kind = _kind_of(path.resolve(), mounts)
    if kind is None:
        return fine("file system", "not known on this system")
    if _NETWORK.fullmatch(kind):
        return warning("file system", f"{kind} is a network: SQLite's locks and syncs are not safe on it")
    if kind in _MEMORY:
        return warning("file system", f"{kind} is memory: nothing outlives the machine's next start")
    if kind in _LAYERS:
        return warning("file system", f"{kind} is a container's own layer, and goes with it: use a volume")
    return fine("file system", kind)


def permissions(file: Path) -> Finding:
    """Who else may read or change the tasks."""
    if sys.platform == "win32":
        return fine("permissions", "not looked at on Windows")
    had = file.stat()
    mode, rights = had.st_mode, f"{file} has the rights {stat.S_IMODE(had.st_mode):o}"
    if not os.access(file, os.R_OK | os.W_OK):
        return problem("permissions", f"{rights}: this user cannot write it")
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        return problem("permissions", f"{rights}: others may change tasks")
    if mode & stat.S_IROTH and os.stat(file.parent).st_mode & stat.S_IXOTH:
        return warning("permissions", f"{rights}: everybody on this machine may read payloads")
    return fine("permissions", rights)


def open_files(pid: int | None) -> Finding:
    """How many files the server, or a process of this user, may have open."""
    limit = _limit_of(pid)
    if limit is None:
        return fine("open files", "no limit is known on this system")
    text = f"at most {limit} open files, of which each connection is one"
    return warning("open files", text) if limit < FEW_FILES else fine("open files", text)


def _limit_of(pid: int | None) -> int | None:
    if pid is not None:
        try:
            match = re.search(r"Max open files +(\d+)", Path(f"/proc/{pid}/limits").read_text())
        except OSError:
            match = None
        if match:
            return int(match[1])
    if sys.platform == "win32":
        return None
    import resource

    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return None if soft == resource.RLIM_INFINITY else soft


def _kind_of(path: Path, mounts: Path) -> str | None:
    """The type of the file system that holds `path`: the last mount over its longest prefix (proc(5))."""
    try:
        lines = mounts.read_text().splitlines()
    except OSError:
        return None
    best, kind = -1, None
    for line in lines:
        before, _, after = line.partition(" - ")
        point = re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), before.split()[4])
        if len(point) >= best and path.is_relative_to(point):
            best, kind = len(point), after.split()[0]
    return kind
