"""Saying at once that nobody has the handler of a task that was enqueued."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

from jobpipe.cli.output import say

if TYPE_CHECKING:
    from jobpipe.cli.remote import Remote


def warn_unknown(remote: Remote, handler: str) -> None:
    """A line for people when apps told of their handlers and this is none of them, and no task of it has run.

    Nothing where nobody told of any, or the server or the key does not let us know.
    """
    from jobpipe.core.errors import JobpipeError, NotFound

    try:
        remote.get(f"/handlers/{quote(handler, safe='')}")
    except NotFound:
        names = _told(remote)
        if names:
            say(
                f"no app has told of a handler '{handler}': its tasks wait for one that has it{_like(handler, names)}"
            )
    except JobpipeError:
        return


def _told(remote: Remote) -> list[str]:
    import msgspec

    from jobpipe.core.errors import JobpipeError

    try:
        found = [msgspec.json.decode(one) for one in remote.array("/handlers")]
    except JobpipeError:
        return []
    return [one["handler"] for one in found if one["declared_by"] is not None]


def _like(handler: str, names: list[str]) -> str:
    from difflib import get_close_matches

    near = get_close_matches(handler, names, 1)
    return f"; is '{near[0]}' meant?" if near else ""
