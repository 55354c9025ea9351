"""The live changes of a queue, for as long as somebody reads them: at most four frames a second, none when all is
still.

Changes are gathered by task, so that a frame tells where each stands and not what it went through; what is more than a
frame holds is only counted. All readers share the frames of one ring. A reader that falls behind it, however slow, is
told anew how things stand: it costs no memory of its own.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jobpipe.core.change import Change
from jobpipe.core.errors import Draining, StorageError, TooManyReaders
from jobpipe.core.task import Status
from jobpipe.engine.gathering import Gathering
from jobpipe.engine.queue import TaskQueue
from jobpipe.engine.values import Rates

log = logging.getLogger("jobpipe.feed")

GAP_S = 0.25
"""Between two frames, at least."""
TRAIL_S = 5.0
"""How often the rates are looked at after the last change, until they have come down to nothing."""
LINGER_S = 15.0
"""How long changes are gathered on after the last reader left: it may come back for what it missed."""
FAILED_PAUSE_S = 1.0
RING = 40
MOST_TASKS = 200
MOST_READERS = 1000
MOST_OF_ONE = 250
"""Readers from one address: who takes places without end leaves some for the others."""


class Frame:
    """What is told at a time. `seq` is its number; a `reset` is no change but how things stand after number `seq`."""

    __slots__ = ("_text", "changes", "counts", "dropped", "rates", "reset", "seq")

    def __init__(
        self, seq: int, counts: Mapping[Status, int], rates: Rates, changes: Sequence[Change], dropped: int
    ) -> None:
        self.seq = seq
        self.reset = False
        self.counts = counts
        self.rates = rates
        self.changes = changes
        self.dropped = dropped
        self._text: bytes | None = None

    def text(self, encode: Callable[[Frame], bytes]) -> bytes:
        """The frame as the edge sends it, made once for all readers."""
        if self._text is None:
            self._text = encode(self)
            self.changes = ()
        return self._text


class Feed(Gathering):
    """The changes of `queue`; an Observer of it while there are readers. `on_join` is called with each new one."""

    def __init__(self, queue: TaskQueue) -> None:
        super().__init__(MOST_TASKS)
        self.on_join: Callable[[], object] = _nothing
        self.boot = secrets.token_hex(4)
        self._queue = queue
        self._seq = 0
        self._ring: deque[Frame] = deque(maxlen=RING)
        self._shown: Rates | None = None
        self._touched = asyncio.Event()
        self._readers: set[Reader] = set()
        self._news: asyncio.Future[None] | None = None
        """Ends when there is something to read."""
        self._teller: asyncio.Task[None] | None = None
        self._rest: asyncio.TimerHandle | None = None
        self._ended = False
        """Nobody joins any more."""
        self._over = False
        """Nothing more will be told."""

    # --- readers ---

    def join(self, last_id: str | None = None, address: str | None = None) -> Reader:
        """A new reader; it goes on after the frame called `last_id` when that is still possible.

        Raises TooManyReaders, and Draining after the end.
        """
        if self._ended:
            raise Draining
        if len(self._readers) >= MOST_READERS:
            raise TooManyReaders(f"at most {MOST_READERS} may read at a time")
        if sum(reader.address == address for reader in self._readers) >= MOST_OF_ONE:
            raise TooManyReaders(f"at most {MOST_OF_ONE} may read from one address at a time")
        self._wake()
        reader = Reader(self, self._seq_of(last_id), address)
        self._readers.add(reader)
        self.on_join()
        return reader

    def leave(self, reader: Reader) -> None:
        """A reader is gone; safe when called twice."""
        self._readers.discard(reader)
        if not self._readers and self._rest is None and self._teller is not None:
            self._rest = asyncio.get_running_loop().call_later(LINGER_S, self._sleep)

    async def end(self) -> None:
        """The end of all streams, after what was not told yet; nobody joins any more. Safe twice."""
        if self._ended:
            return
        self._ended = True
        self._stop()
        if self.gathered or self._touched.is_set():
            try:
                self._add(await self._queue.counts(), self._queue.rates())
            except StorageError as error:
                log.debug("the last changes are not told: %s", error)
        self._over = True
        self._tell()

    def name_of(self, frame: Frame) -> str:
        """The id of a frame, by which a reader that comes back says where it was."""
        return f"{self.boot}-{frame.seq}"

    def _seq_of(self, last_id: str | None) -> int | None:
        boot, _, number = (last_id or "").partition("-")
        if boot != self.boot or not (number.isascii() and number.isdecimal() and len(number) < 19):
            return None
        return int(number) if self.reaches(int(number)) else None

    def reaches(self, seq: int) -> bool:
        """Whether all that came after frame `seq` is still there."""
        return self._seq - len(self._ring) <= seq <= self._seq

    def after(self, seq: int) -> list[Frame]:
        """The frames that came after frame `seq`."""
        return [frame for frame in self._ring if frame.seq > seq]

    async def reset(self) -> Frame:
        """How things stand now. Raises StorageError."""
        seq = (
            self._seq
        )  # before the look: what the next frame brings may be in the counts already, never missing
        frame = Frame(seq, await self._queue.counts(), self._queue.rates(), (), 0)
        frame.reset = True
        self._shown = frame.rates
        return frame

    @property
    def newest(self) -> int:
        """The number of the newest frame."""
        return self._seq

    @property
    def over(self) -> bool:
        """Whether nothing more will be told."""
        return self._over

    def news(self) -> asyncio.Future[None]:
        """Ends at the next frame, or at the end."""
        if self._news is None or self._news.done():
            self._news = asyncio.get_running_loop().create_future()
        return self._news

    # --- waking and sleeping ---

    def _wake(self) -> None:
        if self._rest is not None:
            self._rest.cancel()
            self._rest = None
        if self._teller is None:
            self._queue.observe(self)
            self._teller = asyncio.get_running_loop().create_task(self._tell_all(), name="jobpipe-feed")

    def _stop(self) -> None:
        if self._rest is not None:
            self._rest.cancel()
            self._rest = None
        if self._teller is not None:
            self._teller.cancel()
            self._teller = None
            self._queue.unobserve(self)

    def _sleep(self) -> None:
        self._stop()
        self._ring.clear()
        self.forget()
        self._shown = None
        self._touched.clear()
        self._seq += 1  # what happens from now on is missing: nobody may go on from before

    def changed(self) -> None:
        self._touched.set()

    def touch(self) -> None:
        """The counts changed, by whatever."""
        if self._teller is not None:
            self._touched.set()

    @property
    def read(self) -> bool:
        """Whether anybody reads."""
        return bool(self._readers)

    # --- telling ---

    async def _tell_all(self) -> None:
        while True:
            changed = await self._something_changed()
            try:
                counts, rates = await self._queue.counts(), self._queue.rates()
            except StorageError as error:
                log.debug("the counts cannot be read: %s", error)
                await asyncio.sleep(FAILED_PAUSE_S)
                self._touched.set()
                continue
            if changed or rates != self._shown:
                self._add(counts, rates)
                await asyncio.sleep(GAP_S)

    async def _something_changed(self) -> bool:
        """Wait for a change; False when only the rates may have come down meanwhile."""
        trailing = self._shown is None or self._shown != Rates(0, 0, 0)
        try:
            async with asyncio.timeout(TRAIL_S if trailing else None):
                await self._touched.wait()
        except TimeoutError:
            return False
        self._touched.clear()
        return True

    def _add(self, counts: Mapping[Status, int], rates: Rates) -> None:
        changes, dropped = self.take()
        self._seq += 1
        self._shown = rates
        self._ring.append(Frame(self._seq, counts, rates, changes, dropped))
        self._tell()

    def _tell(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)


class Reader:
    """One who reads the feed. `seq` is the last frame that it got, None when it knows nothing yet."""

    def __init__(self, feed: Feed, seq: int | None, address: str | None = None) -> None:
        self.address = address
        self._feed = feed
        self._seq = seq

    async def next(self, left: asyncio.Future[Any], seconds: float) -> list[Frame] | None:
        """What is new, in order; nothing after `seconds`, or when `left` is done. None is the end.

        Who fell behind, or is new, gets one reset. Raises StorageError.
        """
        feed = self._feed
        if not feed.over and self._seq is not None and feed.newest == self._seq:
            await asyncio.wait((feed.news(), left), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        frames = await self._missed()
        if frames:
            self._seq = frames[-1].seq
        return frames if frames or not feed.over else None

    async def _missed(self) -> list[Frame]:
        if self._seq is not None and self._feed.reaches(self._seq):
            return self._feed.after(self._seq)
        return [await self._feed.reset()]

    def leave(self) -> None:
        """Read no more; safe when called twice."""
        self._feed.leave(self)


def _nothing() -> None:
    """Nobody asked to be told."""
