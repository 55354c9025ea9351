"""The table of handlers that a worker offers: what users write, and what a worker process loads.

An App knows names and functions only. Running them is the executor's, and taking tasks is the pool's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, ParamSpec, TypeVar, overload

from jobpipe.core.retry import RetryPolicy
from jobpipe.work.errors import BadHandler
from jobpipe.work.handler import Handler

P = ParamSpec("P")
R = TypeVar("R")


class App:
    """Handlers by name.

        app = App()

        @app.handler
        async def greet(name: str) -> str: ...

        @app.handler("mail.send", timeout=30, retry=RetryPolicy(base=5))
        def send(mail: Mail, ctx: Context) -> None: ...

    A handler is an `async def`, or an ordinary function, which runs in a thread. How its parameters are filled from
    the payload is told in `jobpipe.work.binding`. What it returns is the task's result, as JSON.
    """

    def __init__(self) -> None:
        self._handlers: dict[str, Handler[..., Any]] = {}

    @overload
    def handler(self, function: Callable[P, R], /) -> Handler[P, R]: ...

    @overload
    def handler(
        self, name: str | None = None, /, *, timeout: float | None = None, retry: RetryPolicy | None = None
    ) -> Callable[[Callable[P, R]], Handler[P, R]]: ...

    def handler(
        self,
        name: Callable[..., Any] | str | None = None,
        /,
        *,
        timeout: float | None = None,
        retry: RetryPolicy | None = None,
    ) -> Any:
        """Declare a handler, named like its function or as said; `timeout` in seconds (`inf`: none).

        Without `timeout` and `retry` the task's own and the server's hold. Raises BadHandler for a name that is
        taken or not allowed, and for a function whose parameters no payload could fill.
        """
        if callable(name):
            return self._add(Handler(_function(name)))

        def declare(function: Callable[P, R]) -> Handler[P, R]:
            return self._add(Handler(_function(function), name, timeout=timeout, retry=retry))

        return declare

    def _add(self, handler: Handler[P, R]) -> Handler[P, R]:
        if handler.name in self._handlers:
            raise BadHandler(f"handler '{handler.name}' is declared twice")
        self._handlers[handler.name] = handler
        return handler

    @property
    def handlers(self) -> Mapping[str, Handler[..., Any]]:
        """The declared handlers by name, to read."""
        return MappingProxyType(self._handlers)

    def get(self, name: str) -> Handler[..., Any] | None:
        """The handler that tasks call `name`; None when the app has none."""
        return self._handlers.get(name)

    def check(self) -> None:
        """Work out every handler's binding now, so that a bad annotation stops the start and not a task.

        Raises BadHandler.
        """
        for handler in self._handlers.values():
            _ = handler.binding


def _function(function: Callable[P, R]) -> Callable[P, R]:
    """A function may serve under two names: declaring a Handler again declares its function."""
    return function.function if isinstance(function, Handler) else function
