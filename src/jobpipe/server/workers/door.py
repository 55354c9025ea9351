"""Where a server's own worker processes come in: a Unix socket that no cleaner of folders can take away.

On Linux its file is removed as soon as it was bound: the processes reach it as a file that the server holds open
(proc(5), /proc/PID/fd), which only this user may. Elsewhere, or where no folder for temporary files can be written, it
is a port of this machine alone. A secret tells the processes from others in both cases.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import socket
import sys
import tempfile

from jobpipe.http.server import listen

log = logging.getLogger("jobpipe.workers")

SOCKET_PATH_MAX = 100
"""The path of a Unix socket is at most 107 bytes."""


class Door:
    """Open from the beginning; `sockets` are to be served, `url` is what the worker processes are told."""

    def __init__(self) -> None:
        self._held: int | None = None
        self.sockets: list[socket.socket] = []
        if sys.platform == "linux":
            try:
                self._open_unix()
            except OSError as error:
                log.warning(
                    "no socket in a folder for temporary files (%s): the worker processes come over 127.0.0.1",
                    error,
                )
        if not self.sockets:
            self.sockets = listen("127.0.0.1", 0)
            self.url = f"http://127.0.0.1:{self.sockets[0].getsockname()[1]}"

    def close(self) -> None:
        """Safe twice."""
        for bound in self.sockets:
            bound.close()
        if self._held is not None:
            os.close(self._held)
            self._held = None

    def _open_unix(self) -> None:
        folder = _folder()
        bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            path = os.path.join(folder, "s")
            bound.setblocking(False)
            bound.bind(path)
            bound.listen()
            self._held = os.open(path, os.O_PATH)
            self.url = f"unix:/proc/{os.getpid()}/fd/{self._held}"
            _knock(self.url.removeprefix("unix:"))
        except OSError:
            bound.close()
            raise
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        self.sockets = [bound]


def _folder() -> str:
    """A fresh folder that only this user can enter, with a path short enough for a socket in it. Raises OSError."""
    folder = ""
    for parent in (None, "/tmp"):  # noqa: S108 - mkdtemp makes it private
        with contextlib.suppress(FileNotFoundError):
            folder = tempfile.mkdtemp(prefix="jobpipe-", dir=parent)
            if len(os.fsencode(folder)) <= SOCKET_PATH_MAX:
                return folder
            os.rmdir(folder)
    raise OSError("none can be written, or its path is too long")


def _knock(path: str) -> None:
    """Raise OSError where the file that is held open does not lead to the socket, as without /proc."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
        caller.setblocking(False)
        caller.connect(path)
