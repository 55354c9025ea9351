"""The parent of a server under development: starts it, stops it when files change, starts it again.

The store is on disk and a stop releases what runs, so that no task is lost between two servers. A server that ends by
itself because of the code is waited for, not replaced: the next change may mend it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from asyncio.subprocess import Process
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from jobpipe.processes.dev.watch import Watcher
from jobpipe.runtime.signals import Signals

log = logging.getLogger("jobpipe.dev")

EXIT_OK = 0
FINAL = frozenset({EXIT_OK, 4, 5, 6})
"""Exit codes of a server that no change of the code mends: it was told to stop; store, address, disk."""

LOOK_S = 0.5
LOOK_SHARE = 10
"""A look at the files may take a tenth of the time; a larger tree is looked at less often."""
GRACE_S = 2.0
"""How long running tasks get to finish in before a restart, where nobody says: less than people like to wait."""
HINT_AFTER = 3
HINT_S = 30.0
"""Who starts so often within so many seconds is told how to keep files from being watched."""
PATIENCE_S = 5.0
"""How long after its grace the server may take to leave, before it is told again, and then before it is killed."""


class Reloader:
    """Runs `command`, a server with `grace` seconds for a stop, anew whenever `watcher` sees a change.

    What changes until the server is `serving` belongs to its start: apps write files as they are imported. Files are
    shown relative to `here`.
    """

    def __init__(
        self,
        command: Sequence[str],
        grace: float,
        watcher: Watcher,
        here: Path,
        serving: Callable[[], Awaitable[None]],
    ) -> None:
        self._command = command
        self._grace = grace
        self._watcher = watcher
        self._here = here
        self._serving = serving
        self._cause: Sequence[Path] = ()
        self._again = False
        self._starts: list[float] = []

    async def run(self) -> int:
        """Until a signal comes, or until the server ends with a code that no change would mend; the exit code."""
        signals = Signals()
        with signals.caught():
            stopping = asyncio.ensure_future(signals.first())
            while (code := await self._live(stopping)) is None:
                pass
        return code

    async def _live(self, stopping: asyncio.Future[None]) -> int | None:
        """One life of a server, until it is to be replaced (None) or all is to end (the exit code)."""
        server = await self._start()
        ended = asyncio.ensure_future(server.wait())
        changed = asyncio.ensure_future(self._changed(ended))
        try:
            await _first_of(ended, changed, stopping)
            if ended.done() and not stopping.done():
                if ended.result() in FINAL:
                    return ended.result()
                log.info("the server ended with code %d; waiting for a change", ended.result())
                await _first_of(changed, stopping)
            if stopping.done():
                return EXIT_OK
            self._cause = changed.result()
            self._tell(self._cause)
            return None
        finally:
            changed.cancel()
            await _stop(server, ended, self._grace)

    async def _start(self) -> Process:
        # What changed during the stop is in this start; a save of many files is to cost one.
        self._watcher.changed()
        # Compiled files are told by the second: a file saved twice in one would run as it was before.
        return await asyncio.create_subprocess_exec(
            *self._command, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
        )

    async def _changed(self, ended: asyncio.Future[int]) -> list[Path]:
        """Sleep until files change, other than by the start; which."""
        serving = asyncio.ensure_future(self._serving())
        believed, self._again = not self._again, False
        try:
            while True:
                pause = max(LOOK_S, LOOK_SHARE * self._watcher.seconds)
                starting = not (serving.done() or ended.done())
                if starting:
                    await _first_of(serving, ended, timeout=pause)
                else:
                    await asyncio.sleep(pause)
                files = self._watcher.changed()
                if starting:
                    files = self._saved_again(files) if believed else []
                if files:
                    return files
        finally:
            serving.cancel()

    def _saved_again(self, files: Sequence[Path]) -> list[Path]:
        """Of what changed during a start, what caused it: people save twice, but hardly in two starts in a row."""
        again = [path for path in files if path in self._cause]
        self._again = bool(again)
        if files and not again:
            log.info("%s changed during the start, and belongs to it", self._named(files))
        return again

    def _tell(self, files: Sequence[Path]) -> None:
        """Say why all starts anew; and what helps, when that happens again and again."""
        log.info("%s changed: starting anew", self._named(files))
        now = asyncio.get_running_loop().time()
        self._starts = [at for at in self._starts if now - at < HINT_S] + [now]
        if len(self._starts) == HINT_AFTER:
            log.warning(
                "%d starts within %.0f s: if nobody but the app writes %s, say --exclude '%s'",
                HINT_AFTER, HINT_S, self._named(files), files[0].name,
            )  # fmt: skip

    def _named(self, files: Sequence[Path]) -> str:
        first = files[0]
        shown = first.relative_to(self._here) if first.is_relative_to(self._here) else first
        return str(shown) if len(files) == 1 else f"{shown} and {len(files) - 1} more"


async def _first_of(*futures: asyncio.Future[Any], timeout: float | None = None) -> None:
    await asyncio.wait(futures, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)


async def _stop(server: Process, ended: asyncio.Future[int], grace: float) -> None:
    """End it: in order, then with its second signal, which releases what still runs, then by force."""
    for patience in (grace + PATIENCE_S, PATIENCE_S):
        with contextlib.suppress(ProcessLookupError):
            server.terminate()
        await asyncio.wait([ended], timeout=patience)
        if ended.done():
            return
    log.warning("the server did not end in time: killed")
    with contextlib.suppress(ProcessLookupError):
        server.kill()
    await ended
