"""How much of an error's text is kept: 8 KiB, whoever sent it."""

from __future__ import annotations

TEXT_LIMIT = 8192
"""Bytes of UTF-8 that are kept of an error's type and message (the beginning) and of its traceback (the end)."""

CUT = "[the beginning is cut off]\n"


def head(text: str) -> str:
    """At most the first TEXT_LIMIT bytes of `text` in UTF-8, lone surrogates replaced."""
    return text[:TEXT_LIMIT].encode("utf-8", "replace")[:TEXT_LIMIT].decode("utf-8", "ignore")


def tail(text: str) -> str:
    """At most the last TEXT_LIMIT bytes of `text` in UTF-8, lone surrogates replaced; CUT stands where it was cut."""
    kept = text[-TEXT_LIMIT:].encode("utf-8", "replace")
    if len(text) <= TEXT_LIMIT and len(kept) <= TEXT_LIMIT:
        return kept.decode()
    room = TEXT_LIMIT - len(CUT)
    return CUT + kept[-room:].decode("utf-8", "ignore")
