"""The table of handlers that a worker offers: what users write, and what a worker process loads.

An App knows names and functions, what stands around their runs, and the way of the tasks that they enqueue. Running
them is the executor's, taking tasks is the pool's. Whoever runs its handlers holds `app.running()` meanwhile.
"""

from __future__ import annotations

import contextvars
import inspect
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import MappingProxyType
from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    Generic,
    Literal,
    ParamSpec,
    Protocol,
    TypedDict,
    TypeVar,
    Unpack,
    overload,
)

from msgspec import Raw

from jobpipe.core.retry import RetryPolicy
from jobpipe.runtime import logs
from jobpipe.work.context import Context
from jobpipe.work.enqueue import Connecting, Enqueuer, EnqueueRequest, Options, Route
from jobpipe.work.errors import BadHandler
from jobpipe.work.handler import Handler, UnknownFields
from jobpipe.work.keyed import KeyOf
from jobpipe.work.lifespan import entered
from jobpipe.work.middleware import CallFunction, CallNext, FunctionMiddleware, Middleware
from jobpipe.work.payload import json_of
from jobpipe.work.schedules import Scheduled, Times, checked, name_of

# Defaults of type parameters (PEP 696) are for type checkers alone; at run time Python has them from 3.13 on.
if TYPE_CHECKING:
    from typing_extensions import TypeVar as TypeVarWithDefault

    Deps = TypeVarWithDefault("Deps", default=Any)
else:
    Deps = TypeVar("Deps")

P = ParamSpec("P")
R = TypeVar("R")
H = TypeVar("H", bound=Handler[..., Any])


_UNSET: Any = object()


class QueueRules(TypedDict, total=False):
    """`concurrency` tasks at a time; `rate` starts, `"100/m"` (s, m, h, d) or a dict of `limit`, `period` (seconds) and
    `burst`; the same for each key by itself; `fair` keys take turns; `capacity` waiting tasks that it takes.
    """

    capacity: int | None
    concurrency: int | None
    rate: str | dict[str, Any] | None
    key_concurrency: int | None
    key_rate: str | dict[str, Any] | None
    fair: bool | None


class _Nobody:
    """No parameter takes one, but those that take anything: so type checkers tell `payload: Any` from a Context."""


class _Declare(Protocol[Deps]):
    """`@app.handler(...)`, the second call; overloads as in `App.handler`."""

    @overload
    def __call__(self, function: Callable[Concatenate[_Nobody, ...], R], /) -> Handler[..., R]: ...
    @overload
    def __call__(
        self, function: Callable[Concatenate[Context[Deps], P], R], /
    ) -> Handler[Concatenate[Context[Deps], P], R, P]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> Handler[P, R]: ...


class App(Generic[Deps]):
    """Handlers by name.

        app = App()

        @app.handler
        async def greet(name: str) -> str: ...

        @app.handler("mail.send", timeout=30, queue="mail", retry=RetryPolicy(base=5))
        def send(ctx: Context, mail: Mail) -> None: ...

    A handler is an `async def`, or an ordinary function, which runs in a thread. How its parameters are filled from
    the payload is told in `jobpipe.work.binding`. What it returns is the task's result, as JSON.

    `lifespan` is an async context manager function that takes the app. It is entered in every process that runs
    handlers, before the first task, and left after the last; what it yields is `ctx.deps`.

    A payload's field that a handler does not know fails the run as `unknown_field`, to be retried, because a newer
    worker may know it; `unknown_fields="ignore"`, here or of one handler, runs it without, with a warning in the log.

    `release` is the number of what is deployed, a later one higher: operators see which worker runs which, and what an
    older one says of queues (`queue`) changes nothing. The app says it under `name`, without one under where it stands,
    `module:attribute`.
    """

    @overload
    def __init__(
        self: App[None],
        name: str | None = None,
        *,
        release: int = 0,
        lifespan: None = None,
        unknown_fields: UnknownFields = "retry",
    ) -> None: ...

    @overload
    def __init__(
        self,
        name: str | None = None,
        *,
        release: int = 0,
        lifespan: Callable[[App[Any]], AbstractAsyncContextManager[Deps]],
        unknown_fields: UnknownFields = "retry",
    ) -> None: ...

    def __init__(
        self,
        name: str | None = None,
        *,
        release: int = 0,
        lifespan: Callable[[App[Any]], AbstractAsyncContextManager[Any]] | None = None,
        unknown_fields: UnknownFields = "retry",
    ) -> None:
        if not 0 <= release < 2**53:
            raise ValueError("release is a whole number from 0 on")
        self.release = release
        self.name = name
        self.queues: dict[str, dict[str, Any]] = {}
        """What this app says of queues, as POST /declare has it."""
        self._unknown_fields = unknown_fields
        self._handlers: dict[str, Handler[..., Any]] = {}
        self._schedules: dict[str, Scheduled] = {}
        self._lifespan = lifespan
        self._running = False
        self._deps: Any = None
        self._variables: Sequence[tuple[contextvars.ContextVar[Any], Any]] = ()
        self.route = Route()
        """The way of its handlers' tasks to a queue, for those who lead it elsewhere."""
        self.around: list[Middleware] = []
        """The middleware around every run, the outermost first."""
        self.around_functions: list[FunctionMiddleware] = []
        """The middleware around ordinary functions, in their threads, the outermost first; inside of the other."""

    # --- declaring ---

    @overload
    def handler(self, function: Callable[Concatenate[_Nobody, ...], R], /) -> Handler[..., R]: ...

    @overload
    def handler(
        self, function: Callable[Concatenate[Context[Deps], P], R], /
    ) -> Handler[Concatenate[Context[Deps], P], R, P]: ...

    @overload
    def handler(self, function: Callable[P, R], /) -> Handler[P, R]: ...

    @overload
    def handler(
        self,
        name: str | None = None,
        /,
        *,
        timeout: float | None = None,
        retry: RetryPolicy | Literal["patient"] | None = None,
        queue: str | None = None,
        max_retries: int | None = None,
        key: KeyOf | None = None,
        unknown_fields: UnknownFields = ...,
    ) -> _Declare[Deps]: ...

    def handler(self, name: Callable[..., Any] | str | None = None, /, **own: Any) -> Any:
        """Declare a handler, named like its function or as said.

        `timeout` (seconds, `inf`: none) and `retry` are of its runs; without them the task's own and the server's
        hold; `retry="patient"` is for work that depends on others: 1, 2, 4 ... minutes, 12 times unless `max_retries`
        says otherwise, which takes a day. `queue` and `max_retries` are of the tasks that it enqueues itself, with
        `handler.enqueue(...)`; whoever enqueues over HTTP says them there. So is `key`: the name of a parameter, or a
        function of the parameters, `key=lambda to, **_: to`. Raises BadHandler for a name that is taken
        or not allowed, and for a function whose parameters no payload could fill.

        A type checker knows what `enqueue` takes; for a handler that takes a Context, where that is the first
        parameter.
        """
        if callable(name):
            return self._add(Handler(_function(name), unknown_fields=self._unknown_fields, route=self.route))

        own.setdefault("unknown_fields", self._unknown_fields)

        def declare(function: Callable[..., Any]) -> Handler[..., Any]:
            return self._add(Handler(_function(function), name, route=self.route, **own))

        return declare

    @overload
    def middleware(
        self, function: Callable[[Context[Deps], CallNext], Coroutine[Any, Any, R]], /
    ) -> Callable[[Context[Deps], CallNext], Coroutine[Any, Any, R]]: ...

    @overload
    def middleware(
        self, function: Callable[[Context[Deps], CallFunction], R], /
    ) -> Callable[[Context[Deps], CallFunction], R]: ...

    def middleware(self, function: Callable[..., Any], /) -> Callable[..., Any]:
        """Run `async def function(ctx, call_next)` around every run, the first that was added outermost.

        `await call_next()` runs the handler and gives what it returned; what `function` returns is the result. What
        the handler raises passes through. The run's timeout and a cancel cover the whole.

        A plain `def function(ctx, call_next)` stands around handlers that are ordinary functions, and only these, in
        their thread, where connections and the like are at home; inside of all `async def` ones. `call_next()` is the
        call there. Raises BadHandler for a generator.
        """
        call = function if inspect.isroutine(function) else getattr(function, "__call__", function)  # noqa: B004
        if inspect.isgeneratorfunction(call) or inspect.isasyncgenfunction(call):
            raise BadHandler("a middleware calls call_next and returns; it does not yield")
        if inspect.iscoroutinefunction(call):
            self.around.append(function)
        else:
            self.around_functions.append(function)
        return function

    def queue(self, name: str, /, **rules: Unpack[QueueRules]) -> None:
        """Say what holds of a queue, told to the server when workers start: `app.queue("mail", concurrency=5)`.

        What people say there stands over it. Raises ValueError for a queue that is said of twice.
        """
        if name in self.queues:
            raise ValueError(f"queue '{name}' is said of twice")
        self.queues[name] = {rule: value for rule, value in rules.items() if value is not None}

    def schedule(
        self,
        cron: str | None = None,
        /,
        *,
        name: str | None = None,
        payload: Any = None,
        **times: Unpack[Times],
    ) -> Callable[[H], H]:
        """Make tasks for a handler at the times of a cron expression, or `every` so many seconds; stands over
        `@app.handler`. The schedule is called like the handler, or `name`; a handler may have several.

            @app.schedule("30 2 * * *", timezone="Europe/Berlin")
            @app.handler
            async def report() -> None: ...

        What people change of it on the server stays as they said. Raises BadHandler for times that cannot be.
        """

        def declare(handler: H) -> H:
            called = name_of(handler, name)
            if called in self._schedules:
                raise BadHandler(f"schedule '{called}' is declared twice")
            self._schedules[called] = checked(handler, cron, payload, times)
            return handler

        return declare

    @property
    def schedules(self) -> dict[str, Raw]:
        """The declared schedules by name, as JSON. Raises BadHandler for a payload that its handler would refuse."""
        return {name: scheduled.body() for name, scheduled in self._schedules.items()}

    def _add(self, handler: Handler[..., Any]) -> Handler[..., Any]:
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
        """Work out every handler's types now, so that a bad annotation stops the start and not a task.

        Raises BadHandler. With middleware the results are left to it.
        """
        for handler in self._handlers.values():
            _ = handler.binding
            if not self.around:
                handler.check_result()
        _ = self.schedules

    # --- running ---

    @asynccontextmanager
    async def running(self, enqueuer: Enqueuer | None = None, *, deps: Any = _UNSET) -> AsyncIterator[Deps]:
        """The time in which this process runs the app's handlers: its lifespan, whose value this gives.

        Tasks that handlers enqueue go through `enqueuer` meanwhile. Begin it before a pool starts, end it after the
        pool was drained. `deps` takes the place of the lifespan, in tests. Raises LifespanFailed, one line for people,
        when the lifespan fails to begin or to end; and RuntimeError when the app is running already.
        """
        if self._running:
            raise RuntimeError("this app is running already in this process")
        self._running = True
        try:
            with self.route.through(enqueuer):
                if self._lifespan is None or deps is not _UNSET:
                    self._deps = None if deps is _UNSET else deps
                    yield self._deps
                else:
                    before = contextvars.copy_context()
                    async with entered(self._lifespan, self) as self._deps:
                        logs.enable_ours()
                        self._variables = _changed(before, contextvars.copy_context())
                        yield self._deps
        finally:
            self._running, self._deps, self._variables = False, None, ()

    @property
    def deps(self) -> Deps:
        """What the lifespan gave; None for an app without one. Raises RuntimeError when the app is not running."""
        if self._lifespan is not None and not self._running:
            raise RuntimeError("the app is not running: its lifespan has not begun, or has ended")
        deps: Deps = self._deps
        return deps

    def set_variables(self) -> None:
        """Set the context variables that the lifespan set: a run has them whatever task or thread it begins in."""
        for variable, value in self._variables:
            variable.set(value)

    # --- enqueueing ---

    def connect(self, url: str | None = None, **arguments: Unpack[Connecting]) -> None:
        """Say which server gets the tasks that this app's handlers enqueue outside of any Jobpipe process.

        That is a web app or a script. Without this call it is the server at JOBPIPE_URL, with the key JOBPIPE_KEY.
        `urls`, `key`, `timeout`, `retries` and `proxy` are those of `jobpipe.Client`:
        `app.connect("http://10.0.0.5:8080", timeout=2, retries=0)`.
        """
        self.route.connect(url, **arguments)

    async def disconnect(self) -> None:
        """Close the connection to the server, if there is one."""
        await self.route.disconnect()

    @property
    def enqueuer(self) -> Enqueuer:
        """Where tasks go now: to the process that runs the app, else to the server that it is connected to."""
        return self.route.find()

    def request(self, name: str, payload: Any = None, **options: Unpack[Options]) -> EnqueueRequest:
        """A task for the handler called `name`, of this app or of another. Raises InvalidPayload."""
        json, handler = json_of(payload), self.get(name)
        if handler is None:
            return EnqueueRequest(name, json, **options)
        handler.check(json)
        return handler.request_of(json, options)


def _function(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function may serve under two names: declaring a Handler again declares its function."""
    return function.function if isinstance(function, Handler) else function


def _changed(
    before: contextvars.Context, after: contextvars.Context
) -> Sequence[tuple[contextvars.ContextVar[Any], Any]]:
    """The variables that have another value after than before."""
    return [(v, value) for v, value in after.items() if v not in before or before[v] is not value]
