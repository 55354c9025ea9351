"""A function that does the work of tasks, under the name by which tasks ask for it.

Calling a Handler is a plain call of its function. How its payload is bound is worked out at its first use, so that a
handler may be declared before the types that it names.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable
from functools import cached_property
from typing import Any, Generic, ParamSpec, TypeVar

from jobpipe.core.retry import RetryPolicy
from jobpipe.core.task import MAX_DELAY_S
from jobpipe.work.binding import Binding, binding_of, signature
from jobpipe.work.errors import BadHandler

P = ParamSpec("P")
R_co = TypeVar("R_co", covariant=True)

_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,200}")


class Handler(Generic[P, R_co]):
    """A named function with its timeout in seconds (None: the server's) and retry policy (None: the server's).

    Raises BadHandler for a name, a timeout or a function that no task could use.
    """

    __wrapped__: Callable[P, R_co]

    def __init__(
        self,
        function: Callable[P, R_co],
        name: str | None = None,
        *,
        timeout: float | None = None,
        retry: RetryPolicy | None = None,
    ) -> None:
        functools.update_wrapper(self, function, updated=())
        self.function = function
        self.name = _name(function, name)
        self.timeout = timeout
        self.retry = retry
        self.is_async = _is_async(function)
        _check(self)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<Handler {self.name}>"

    @cached_property
    def binding(self) -> Binding:
        """How the payload becomes arguments. Raises BadHandler when the annotations cannot be used."""
        try:
            return binding_of(self.function)
        except BadHandler as error:
            raise BadHandler(f"handler '{self.name}': {error}") from error


def _name(function: Callable[..., Any], name: str | None) -> str:
    chosen = name if name is not None else getattr(function, "__name__", "")
    if not _NAME.fullmatch(chosen):
        raise BadHandler(f"'{chosen}' cannot name a handler: 1 to 200 of A-Z a-z 0-9 _ . : - are allowed")
    return chosen


def _check(handler: Handler[..., Any]) -> None:
    timeout = handler.timeout
    if timeout is not None and not (0 < timeout <= MAX_DELAY_S or timeout == float("inf")):
        raise BadHandler(f"handler '{handler.name}': its timeout must be above 0 seconds, not {timeout!r}")
    if handler.retry is not None and not _is_usable(handler.retry):
        raise BadHandler(
            f"handler '{handler.name}': its delays must be 0 seconds to ten years: {handler.retry}"
        )
    if _is_generator(handler.function):
        raise BadHandler(
            f"handler '{handler.name}': a generator returns no result; return it instead of yield"
        )
    try:
        signature(handler.function)
    except (BadHandler, TypeError, ValueError) as error:
        raise BadHandler(f"handler '{handler.name}': {error}") from error


def _is_usable(policy: RetryPolicy) -> bool:
    """Checked at the declaration, because a policy is first asked when a run has failed already."""
    return policy.base >= 0 and policy.jitter >= 0 and 0 <= policy.cap + policy.jitter <= MAX_DELAY_S


def _is_async(function: Any) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)


def _is_generator(function: Callable[..., Any]) -> bool:
    return inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)
