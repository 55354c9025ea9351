"""After a fork the child has connections of its own: two processes on one would take each other's answers."""

from __future__ import annotations

import os
import weakref
from typing import Any, NoReturn, Protocol, Self


class Inherited(Protocol):
    """Something that a child process must not share with its parent."""

    def forget(self) -> None:
        """Be as new, in the child."""
        ...


class OfOneProcess:
    """What holds connections: copies share it, and another process cannot be given it."""

    def __deepcopy__(self, _: dict[int, Any]) -> Self:
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError("a client holds connections and cannot be pickled: make one in the other process")


_all: weakref.WeakSet[Inherited] = weakref.WeakSet()


def renew_after_fork(one: Inherited) -> None:
    """Have it forget its connections in every child process, for as long as it lives."""
    _all.add(one)


def _renew() -> None:
    for one in list(_all):
        one.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)
