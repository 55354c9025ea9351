"""API keys as values: who may do what, and how often.

A key itself is never kept: a line holds its SHA-256, `name:scope,scope:sha256`, with `:rate=100/s` behind it when the
key may ask only so often. Nothing here repeats what stands in a line, since people put keys where their digests belong.
"""

from __future__ import annotations

import re
from enum import StrEnum
from hashlib import sha256
from typing import Final

from msgspec import Struct

MAX_RATE: Final = 1_000_000.0
NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,100}")
_DIGEST = re.compile(r"[0-9A-Fa-f]{64}")
_RATE = re.compile(r"rate=([0-9]{1,7}(?:\.[0-9]{1,6})?)(?:/s)?")


class Scope(StrEnum):
    """What a key opens."""

    ENQUEUE = "enqueue"
    WORK = "work"
    READ = "read"
    DECLARE = "declare"
    FINISH = "finish"
    ADMIN = "admin"


class Key(Struct, frozen=True):
    """A key as its server knows it. `rate` is requests a second, None: as the server says for all keys."""

    name: str
    scopes: frozenset[Scope]
    digest: bytes
    rate: float | None = None

    def reaches(self, scope: Scope) -> bool:
        """Whether this key opens what needs `scope`."""
        return scope in self.scopes or Scope.ADMIN in self.scopes


class BadKeys(ValueError):
    """A list of keys that cannot be used; one line for people that repeats nothing of the list."""


def digest_of(key: bytes) -> bytes:
    """What is kept of a key. A plain hash, because keys are random: nobody can try 2^256 of them."""
    return sha256(key).digest()


def parse_keys(text: str) -> list[Key]:
    """The keys of a file: one a line; blank lines, and lines that begin with `#`, say nothing. Raises BadKeys."""
    return _parse(text.splitlines(), "line")


def parse_entries(text: str) -> list[Key]:
    """The keys of a variable: the same, separated by `;`. Raises BadKeys."""
    return _parse(text.split(";"), "entry")


def line_of(key: Key) -> str:
    """The line that stands for a key."""
    scopes = ",".join(scope for scope in Scope if scope in key.scopes)
    rate = "" if key.rate is None else f":rate={key.rate:.6f}".rstrip("0").rstrip(".") + "/s"
    return f"{key.name}:{scopes}:{key.digest.hex()}{rate}"


def check_distinct(keys: list[Key]) -> list[Key]:
    """The same keys. Raises BadKeys when two have one name, or are one key."""
    names: set[str] = set()
    digests: set[bytes] = set()
    for key in keys:
        if key.name in names or key.digest in digests:
            raise BadKeys(f"the {'name' if key.name in names else 'key'} of {key.name!r} stands there twice")
        names.add(key.name)
        digests.add(key.digest)
    return keys


def parse_scopes(text: str) -> frozenset[Scope]:
    """The scopes of a comma list. Raises BadKeys."""
    try:
        return frozenset(Scope(word.strip()) for word in text.split(","))
    except ValueError:
        raise BadKeys(f"a scope is one of {', '.join(Scope)}") from None


def _parse(lines: list[str], unit: str) -> list[Key]:
    keys = []
    for number, line in enumerate(lines, 1):
        if (stripped := line.strip()) and not stripped.startswith("#"):
            try:
                keys.append(_parse_line(stripped))
            except BadKeys as error:
                raise BadKeys(f"{unit} {number}: {error}") from None
    return check_distinct(keys)


def _parse_line(line: str) -> Key:
    parts = [part.strip() for part in line.split(":")]
    if len(parts) not in (3, 4):
        raise BadKeys("must look like name:scope,scope:sha256-of-the-key")
    if not NAME.fullmatch(parts[0]):
        raise BadKeys("a name has 1 to 100 characters A-Z a-z 0-9 _ . -")
    scopes = parse_scopes(parts[1])
    if not _DIGEST.fullmatch(parts[2]):
        raise BadKeys("the third part must be the SHA-256 of the key, in 64 hex digits")
    return Key(parts[0], scopes, bytes.fromhex(parts[2]), _rate_of(parts[3]) if len(parts) > 3 else None)


def _rate_of(text: str) -> float:
    match = _RATE.fullmatch(text)
    rate = float(match[1]) if match else 0.0
    if not 0 < rate <= MAX_RATE:
        raise BadKeys("the fourth part must look like rate=100/s, above 0")
    return rate
