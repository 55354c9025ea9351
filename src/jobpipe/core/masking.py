"""URLs of stores and servers as they may be shown: without passwords, whatever way they were written.

The URL is taken apart as its reader does, and what is secret is told by its decoded name. One that cannot be taken
apart in one way alone, because people forget to percent-encode what a password is made of, shows nothing but its
scheme: rather too much is hidden than too little.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote_plus

_SECRET: Final = re.compile("pass|pwd|secret|token|key(?!word)|^direct$")
_NAME: Final = re.compile(r"[A-Za-z0-9_.-]+")
_HOSTS: Final = re.compile(r"(?:\[[^\[\]@]*\]|[^\[\]@:/]*)(?::\d*)?(?:/[^@:]*)?")
_HIDDEN: Final = "***"


def masked(url: str) -> str:
    """`url` with its passwords replaced by `***`, in the authority and in the query; other text as it is."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return _HIDDEN if "@" in url or (_SECRET.search(unquote_plus(url).lower()) and "=" in url) else url
    if scheme.lower() == "sqlite" and rest.startswith("/"):
        return url
    place, query = _split(rest)
    shown = None if query is None else _query(query)
    if shown is not None and (there := _place(place)) is not None:
        return f"{scheme}://{there}{shown}"
    return f"{scheme}://{_HIDDEN}"


def _split(rest: str) -> tuple[str, list[tuple[str, str]] | None]:
    """What stands before the query, and its parameters: None when what follows the `?` is none."""
    for mark in re.finditer(r"\?", rest):
        pieces = [piece.partition("=") for piece in rest[mark.end() :].split("&")]
        if all(equals and _NAME.fullmatch(unquote_plus(name)) for name, equals, _ in pieces):
            return rest[: mark.start()], [(name, value) for name, _, value in pieces]
    behind = rest.rpartition("@")[2]
    return rest, None if "?" in behind else []


def _query(parameters: list[tuple[str, str]]) -> str | None:
    """The query without its secrets; None when it looks like the rest of a password."""
    shown = []
    for name, value in parameters:
        if _SECRET.search(unquote_plus(name).lower()):
            shown.append(f"{unquote_plus(name)}={_HIDDEN}")
        elif "@" in unquote_plus(value):
            return None
        else:
            shown.append(f"{name}={value}")
    return "?" + "&".join(shown) if shown else ""


def _place(text: str) -> str | None:
    """User, hosts and database without the password: all from the user's colon to the last `@`."""
    user, at, place = text.rpartition("@")
    if not at:
        return text if all(_HOSTS.fullmatch(host) for host in text.split(",")) else None
    name, colon, _ = user.partition(":")
    return f"{name}:{_HIDDEN}@{place}" if colon else text
