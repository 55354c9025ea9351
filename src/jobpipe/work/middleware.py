"""Code around every run: what an app's middleware is, and how several become one call.

The first that was added is the outermost. What the handler raises passes through all of them, and so does the
cancellation that ends a run; what the outermost returns is the task's result.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, TypeAlias

from jobpipe.work.context import Context
from jobpipe.work.errors import BadHandler
from jobpipe.work.threads import Threads

CallNext: TypeAlias = Callable[[], Awaitable[Any]]
"""Runs what stands further inside, at last the handler, and gives what it returned."""

CallFunction: TypeAlias = Callable[[], Any]
"""The same inside of the thread of an ordinary function."""

Middleware: TypeAlias = Callable[[Context[Any], CallNext], Awaitable[Any]]
FunctionMiddleware: TypeAlias = Callable[[Context[Any], CallFunction], Any]


def around(middleware: Sequence[Middleware], ctx: Context[Any], run: CallNext) -> Awaitable[Any]:
    """The run with all of `middleware` around it."""
    for outer in reversed(middleware):
        run = _inside(outer, ctx, run)
    return run()


def _inside(outer: Middleware, ctx: Context[Any], run: CallNext) -> CallNext:
    return lambda: outer(ctx, run)


def around_function(middleware: Sequence[FunctionMiddleware], ctx: Context[Any], call: CallFunction) -> Any:
    """The call of an ordinary function with all of `middleware` around it, in the thread that this is called in."""
    for outer in reversed(middleware):
        call = partial(outer, ctx, call)
    value = call()
    if inspect.iscoroutine(value):
        value.close()
        raise BadHandler("a `def` middleware gave a coroutine: make it an `async def`, or call what it wraps")
    return value


def start_in(threads: Threads, function: Callable[[], Any]) -> asyncio.Future[Callable[[], Any]]:
    """Start `function` in a thread, with the caller's context variables.

    The future's value, called, returns or raises what the function did: an asyncio.Future itself refuses StopIteration.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Callable[[], Any]] = loop.create_future()
    variables = contextvars.copy_context()

    def work() -> Callable[[], None]:
        try:
            value = variables.run(function)
        except BaseException as error:  # noqa: BLE001  # whatever a handler raises is its run's outcome
            called = _raiser(error)
        else:
            called = _returner(value)
        return lambda: _tell(loop, future, called)

    threads.submit(work)
    return future


def _raiser(error: BaseException) -> Callable[[], Any]:
    def called() -> Any:
        raise error

    return called


def _returner(value: Any) -> Callable[[], Any]:
    return lambda: value


def _tell(
    loop: asyncio.AbstractEventLoop, future: asyncio.Future[Callable[[], Any]], called: Callable[[], Any]
) -> None:
    def resolve() -> None:
        if not future.done():
            future.set_result(called)

    # A closed loop: the process leaves, and this run was released when its pool was drained.
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(resolve)
