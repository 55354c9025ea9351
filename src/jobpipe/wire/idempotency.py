"""`Idempotency-Key`: requests that may be sent again. The ids that a server makes and the digest that a task keeps
follow from the API key's name, the header, the item's place, and (the digest) the item's bytes as they came.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from hashlib import sha256
from uuid import UUID

from msgspec import Struct
from msgspec.structs import replace

from jobpipe.core.errors import Invalid, JobpipeError
from jobpipe.core.task import NewTask
from jobpipe.wire import requests, strict

_VISIBLE = re.compile(rb"[\x21-\x7e]{1,200}")


class Repeatable(Struct, frozen=True):
    """A request that may be sent again: the name of its API key ("" without keys) and its Idempotency-Key."""

    name: str
    key: bytes

    def id_of(self, place: int) -> str:
        """The id of the item at `place` that came without one: a UUIDv8 (RFC 9562)."""
        bits = int.from_bytes(self._hash(place, b"")[:16])
        bits = bits & ~(0xF << 76) | 8 << 76
        return str(UUID(int=bits & ~(0b11 << 62) | 0b10 << 62))

    def digest(self, place: int, item: bytes) -> str:
        """What tells the same item sent again from another one."""
        return self._hash(place, item).hex()

    def _hash(self, place: int, item: bytes) -> bytes:
        return sha256(b"%b\0%b\0%d\0%b" % (self.name.encode(), self.key, place, item)).digest()


def repeatable(name: str, key: bytes) -> Repeatable:
    """Raises Invalid for what cannot be an Idempotency-Key."""
    if not _VISIBLE.fullmatch(key):
        raise Invalid("1 to 200 visible ASCII characters", field="Idempotency-Key")
    return Repeatable(name, key)


def parse_repeatable(
    items: Sequence[bytes],
    request: Repeatable,
    defaults: requests.Defaults,
    now: int,
    traceparent: str | None = None,
) -> list[NewTask | JobpipeError]:
    """Each item of a request, as `requests` reads one; with an id of the request's where it has none."""

    def parsed(place: int, item: bytes) -> NewTask | JobpipeError:
        try:
            task = requests.parse_object(item, defaults, now, traceparent, id=request.id_of(place))
        except JobpipeError as error:
            return strict.bare(error)
        return replace(task, digest=request.digest(place, item))

    return [parsed(place, item) for place, item in enumerate(items)]
