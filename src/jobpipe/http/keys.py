"""API keys at the edge: which key a request carries, whether it reaches, and whether it comes too often.

The file of keys is read again when it has changed and rests: who writes it in place empties it first. One that cannot
be used changes nothing: the keys before it stay, and one line of the log says why. Only an emptied file takes effect,
since somebody took the last key out of it.
"""

from __future__ import annotations

import hmac
import logging
import os
import stat
import sys
from collections.abc import Sequence
from math import ceil
from pathlib import Path
from typing import Final, NamedTuple

from jobpipe.core.errors import Forbidden, JobpipeError, RateLimited, Unauthorized
from jobpipe.core.keys import BadKeys, Key, Scope, check_distinct, digest_of, parse_keys
from jobpipe.runtime.clock import Clock

log = logging.getLogger("jobpipe.keys")

OPEN: Final = frozenset({b"/", b"/healthz", b"/health", b"/livez", b"/readyz"})
"""What needs no key: the page that asks for one, and what load balancers look at."""

SELF: Final = b"/keys/self"
"""What any key opens."""

LOOK_S: Final = 0.75
REST_S: Final = 0.25
"""How long a change of the file may go unnoticed, and how long it is left alone after its last one."""

MAX_FILE: Final = 4 * 1024 * 1024

OWN: Final = "own workers"
"""The key of the server's own worker processes; the blank keeps the name from everybody else."""

_SCOPES: Final = {
    b"/enqueue": Scope.ENQUEUE,
    b"/lease": Scope.WORK,
    b"/settle": Scope.WORK,
    b"/extend": Scope.WORK,
    b"/declare": Scope.DECLARE,
}
_UNLIMITED: Final = frozenset({b"/settle", b"/extend"})
"""Never refused for coming too often: that would cost work which was accepted, and save none."""


def needed_scope(method: str, path: bytes) -> Scope | None:
    """What a request needs, by its raw path; None when any key will do. For paths that are not OPEN."""
    if path == SELF:
        return None
    if path.startswith(b"/tasks/") and path.endswith(b"/finish"):
        return Scope.FINISH
    return _SCOPES.get(path) or (Scope.READ if method in ("GET", "HEAD") else Scope.ADMIN)


def is_open(path: bytes) -> bool:
    """Whether the raw path needs no key."""
    return path in OPEN or path.startswith(b"/static/")


def name_of(keys: Keyring | None, authorization: bytes | None) -> str | None:
    """By which name a request asks; None where no key is needed."""
    key = None if keys is None else keys.owner(authorization)
    return None if key is None else key.name


class Keyring:
    """The keys of one server: `fixed` ones, and those of the file `path`. `rate` is for those without one of their own.

    `local` is the secret of the server's own worker processes, which may work and enqueue with it. Raises BadKeys when
    the file cannot be used, or there is no key at all.
    """

    def __init__(
        self,
        fixed: Sequence[Key],
        path: Path | None,
        *,
        clock: Clock,
        rate: float | None = None,
        local: str | None = None,
    ) -> None:
        self._fixed = list(fixed)
        self._path = path
        self._rate = rate
        self._now = clock.monotonic
        self._wall = clock.now
        self._own = [] if local is None else [_own_key(local)]
        self._text = b""
        self._keys: list[Key] = []
        self._known: dict[bytes, Key] = {}
        """Keys that were presented and found, by digest: all but the first request of a key cost one look-up."""
        self._full_at: dict[str, float] = {}
        """By name of a limited key: when it may ask its whole share again."""
        self._complaint: str | None = None
        self._shared = False
        file = None if path is None else _read(path)
        self._take(b"" if file is None else file.text)
        if not self._keys:
            raise BadKeys("there is no key in it")
        if file is not None:
            self._judge(file.mode)
        self._look_at = self._now() + LOOK_S

    def refusal(self, method: str, path: bytes, authorization: bytes | None) -> JobpipeError | None:
        """Why a request is refused, None when it is not. `path` is raw, as it came, and below the app's root."""
        if is_open(path):
            return None
        key = self.owner(authorization)
        if key is None:
            if authorization is None:
                return Unauthorized("a key is needed: Authorization: Bearer ...")
            return Unauthorized("this server does not know the key that was sent in Authorization")
        scope = needed_scope(method, path)
        if scope is not None and not key.reaches(scope):
            return Forbidden(f"the key {key.name!r} lacks the scope {scope}")
        return None if path in _UNLIMITED else self._limit(key)

    def owner(self, authorization: bytes | None) -> Key | None:
        """Whose key an Authorization header (RFC 6750) carries; None when it is nobody's."""
        if self._path is not None and self._now() >= self._look_at:
            self._look()
        if authorization is None or authorization[:7].lower() != b"bearer ":
            return None
        digest = digest_of(authorization[7:].strip(b" \t"))
        return self._known.get(digest) or self._find(digest)

    # --- keys -----------------------------------------------------------------------------------------------------

    def _find(self, digest: bytes) -> Key | None:
        # All are compared, each in constant time: how long a refusal takes tells nothing about any of them.
        same = [key for key in (*self._own, *self._keys) if hmac.compare_digest(key.digest, digest)]
        if same:
            self._known[digest] = same[0]
        return same[0] if same else None

    def _look(self) -> None:
        """Read the file again, and take it when it has changed."""
        self._look_at = self._now() + LOOK_S
        assert self._path is not None  # noqa: S101 - its caller looked
        try:
            file = _read(self._path)
            self._judge(file.mode)
            if file.text != self._text:
                if 0 <= self._wall() / 1000 - file.changed_at < REST_S:
                    self._look_at = self._now() + REST_S
                    return
                self._take(file.text)
                log.info("API keys read again from %s: %d keys", self._path, len(self._keys))
            self._complaint = None
        except BadKeys as error:
            self._complain(str(error))

    def _take(self, text: bytes) -> None:
        try:
            read = parse_keys(text.decode("utf-8-sig"))
        except UnicodeDecodeError:
            raise BadKeys("is not UTF-8 text") from None
        self._keys = check_distinct([*self._fixed, *read])
        self._text = text
        self._known.clear()

    def _judge(self, mode: int) -> None:
        """Say once that a group may change the file: it may be meant, with a group of administrators."""
        shared = sys.platform != "win32" and bool(mode & stat.S_IWGRP)
        if shared and not self._shared:
            log.warning(
                "API keys: %s can be changed by its group, who could let themselves in: chmod g-w", self._path
            )
        self._shared = shared

    def _complain(self, problem: str) -> None:
        if problem != self._complaint:
            self._complaint = problem
            log.error("API keys of %s are not taken, the ones before stay: %s", self._path, problem)

    # --- rates ----------------------------------------------------------------------------------------------------

    def _limit(self, key: Key) -> RateLimited | None:
        """Count one request: a bucket that holds the share of one second, or one request if that is less."""
        rate = self._rate if key.rate is None else key.rate
        if rate is None or key.name == OWN:
            return None
        now, room = self._now(), max(1.0, 1 / rate)
        full_at = max(now, self._full_at.get(key.name, now)) + 1 / rate
        # A billionth of a second for rounding: the last of a whole share must fit.
        late = full_at - now - room - 1e-9
        if late > 0:
            return RateLimited(
                f"the key {key.name!r} may ask {rate:g} times a second", retry_after=ceil(late)
            )
        self._full_at[key.name] = full_at
        return None


def _own_key(secret: str) -> Key:
    return Key(OWN, frozenset({Scope.WORK, Scope.ENQUEUE, Scope.DECLARE}), digest_of(secret.encode()))


class _File(NamedTuple):
    """What was read of the file of keys: its bytes, when it was changed (seconds since the epoch), its mode."""

    text: bytes
    changed_at: float
    mode: int


def _read(path: Path) -> _File:
    """The file as it is. Raises BadKeys."""
    try:
        with open(path, "rb", opener=_without_waiting) as file:
            state = os.fstat(file.fileno())
            if not stat.S_ISREG(state.st_mode):  # a pipe can be read once, and may block all
                raise BadKeys("is no ordinary file")
            if sys.platform != "win32" and state.st_mode & stat.S_IWOTH:
                raise BadKeys("can be changed by anybody, who could let themselves in: chmod o-w")
            text = file.read(MAX_FILE + 1)
    except OSError as error:
        reason = "is no ordinary file" if isinstance(error, IsADirectoryError) else error.strerror
        raise BadKeys(f"cannot be read: {reason}") from None
    if len(text) > MAX_FILE:
        raise BadKeys("is larger than 4 MiB")
    return _File(text, state.st_mtime, state.st_mode)


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
