"""What a storage engine promises about rules of queues and keys: who says what, what is in force, and what is held.

Claims obey the rules that are stored; what they have used up is what runs according to the store.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

from msgspec import Struct

from jobpipe.core.errors import JobpipeError
from jobpipe.core.gate import Held
from jobpipe.core.rules import Rules, Said
from jobpipe.core.task import Task


class SaidBy(Struct, frozen=True):
    """What people say of a queue or a key; when they changed it last (ms), and by the name of which API key."""

    said: Said
    changed_at: int
    changed_by: str | None = None


class QueueRules(Struct, frozen=True):
    """Everything that is said of one queue, and what of it is in force."""

    queue: str
    rules: Rules
    declared: dict[str, Said]
    people: SaidBy | None = None
    hold_until: int | None = None


class KeyUse(Struct, frozen=True):
    """A key with unfinished tasks, or of which something is said."""

    key: str
    queued: int
    running: int
    rules: Rules
    people: SaidBy | None = None
    hold_until: int | None = None


class Declaration(Struct, frozen=True):
    """What an app says of itself: of its queues, and its handlers' payloads as JSON Schemas (JSON)."""

    app: str
    release: int = 0
    queues: dict[str, Said] = {}
    handlers: bytes = b"{}"


class FlowRules(Protocol):
    """The rules of queues and keys. `key` None means the queue itself."""

    def limited(self) -> Collection[str]:
        """The queues in which the end of a run may let another start, as far as this server knows."""
        ...

    async def say(
        self, queue: str, key: str | None, change: Mapping[str, Any], now: int, by: str | None
    ) -> JobpipeError | None:
        """People change what they say: None takes a rule back. TooManyQueues, or Invalid beyond MAX_KEY_RULES."""
        ...

    async def unsay(self, queue: str, key: str | None) -> None:
        """All that people said is taken back; of a queue, that of its keys too."""
        ...

    async def resume(self, queue: str, key: str | None, now: int, by: str | None) -> None:
        """No pause and no hold any more."""
        ...

    async def declare(self, declaration: Declaration, now: int) -> bool:
        """Take the place of what this app declared before; False, and nothing happens, if that release was higher."""
        ...

    async def apps(self) -> list[tuple[str, bytes]]:
        """Each app that declared anything and its handlers' payloads as it said them (JSON), the latest last."""
        ...

    async def rules(self, queue: str | None, now: int) -> list[QueueRules]:
        """Each queue of which something is said, or that is held, by name; of one, only that."""
        ...

    async def keys(self, queue: str, limit: int, after: str | None, now: int) -> list[KeyUse]:
        """Keys of a queue that have unfinished tasks or rules, by name, beginning behind `after`."""
        ...

    async def key(self, queue: str, key: str, now: int) -> KeyUse:
        """One key as it is now, whether it has any or not."""
        ...

    async def held(self, tasks: Sequence[Task], now: int) -> list[Held | None]:
        """Why each of these may not be claimed although it is due; None for what waits for its time, or may."""
        ...
