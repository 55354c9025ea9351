"""Which errors are the same: one group for each handler, type and shape of the message.

The shape is the message's first line with all that differs between two tasks (numbers, ids, what stands in quotes)
replaced by a placeholder. A group keeps its name for as long as these rules stay as they are: servers of one database
and stored history share it.
"""

from __future__ import annotations

import re
from hashlib import blake2b

SHAPE_LIMIT = 200
"""Characters of a shape, at most."""
_LOOKED_AT = 1000
"""Characters of a message that are looked at: far more than a shape holds, and a bound on what one costs."""

_VARYING = re.compile(
    r"""
      (?P<uuid>\b[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}\b)
    | (?P<quoted>(?<!\w)(?:'[^']*'|"[^"]*"|`[^`]*`)(?!\w))   # an apostrophe within a word quotes nothing
    | (?P<hex>\b0[xX][0-9a-fA-F]+|\b(?=[a-fA-F]*[0-9])[0-9a-fA-F]{8,}\b)
    | (?P<n>[0-9]+(?:[.,:][0-9]+)*)
    """,
    re.VERBOSE,
)


def error_group(handler: str, type: str, message: str) -> tuple[str, str]:
    """The group of a failure, 16 hexadecimal digits, and the shape of its message, at most SHAPE_LIMIT characters."""
    shape = message_shape(message)
    named = "\0".join((handler, type, shape)).encode("utf-8", "replace")
    return blake2b(named, digest_size=8).hexdigest(), shape


def message_shape(message: str) -> str:
    """What is left of a message when all that varies is replaced: `user <n> not found`."""
    line = message[:_LOOKED_AT].lstrip().partition("\n")[0].encode("utf-8", "replace").decode()
    return _VARYING.sub(_placeholder, line).rstrip()[:SHAPE_LIMIT]


def _placeholder(found: re.Match[str]) -> str:
    return f"<{found.lastgroup}>"
