"""The command line under way: what commands need to know of it beyond their own arguments."""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar
from typing import NamedTuple

from jobpipe.settings.sources import Sources


class Invocation(NamedTuple):
    """The words after the program's name, and the sources that settings are read from."""

    tokens: Sequence[str]
    sources: Sources


current: ContextVar[Invocation] = ContextVar("current")
