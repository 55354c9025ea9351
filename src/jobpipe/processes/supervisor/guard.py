"""Ends the groups of worker processes whose parent was killed: it could not do so itself.

A shell waits on a pipe from the parent, which tells it the groups that there are; the end of that pipe is the end of
the parent. The shell is nobody's child, so that whoever counts or waits for children does not meet it.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterable

SCRIPT = """\
exec 3<&0 0</dev/null; cd /
(trap '' INT TERM HUP; while read -r line <&3; do groups=$line; done
 for group in $groups; do kill -s KILL -- "-$group"; done) &
"""


class Guard:
    """Does nothing where there is no shell: then what a killed worker process started goes on."""

    def __init__(self) -> None:
        self._pipe: int | None = None

    def start(self) -> None:
        """Begin to wait for the end of this process."""
        if sys.platform == "win32":
            return
        ours, its = os.pipe()[::-1]
        try:
            with contextlib.suppress(OSError):
                null = subprocess.DEVNULL
                shell = ["/bin/sh", "-c", SCRIPT]
                subprocess.run(  # noqa: S603 - a constant
                    shell, stdin=its, stdout=null, stderr=null, start_new_session=True, timeout=5, check=True
                )
                self._pipe = ours
        except subprocess.SubprocessError:
            pass
        finally:
            os.close(its)
            if self._pipe is None:
                os.close(ours)

    def tell(self, groups: Iterable[int]) -> None:
        """These are the groups to end with this process; those told before are no more."""
        if self._pipe is not None:
            with contextlib.suppress(OSError):
                os.write(self._pipe, " ".join(map(str, groups)).encode() + b"\n")

    def close(self) -> None:
        """Dismiss the shell; it ends what it was told last."""
        if self._pipe is not None:
            os.close(self._pipe)
            self._pipe = None
