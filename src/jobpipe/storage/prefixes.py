"""Ids that begin alike, as a range of the index of ids: both engines compare texts by code points."""

from __future__ import annotations

FEW = 10_000
"""So many ids with a beginning are looked up one by one; of more, the newest tasks are likely to have some."""
_LAST = "\U0010ffff"


def after(prefix: str) -> str | None:
    """The first text behind all that begin with `prefix`; None when nothing is."""
    kept = prefix.rstrip(_LAST)
    if not kept:
        return None
    following = ord(kept[-1]) + 1
    return kept[:-1] + chr(0xE000 if following == 0xD800 else following)  # no text holds what is between
