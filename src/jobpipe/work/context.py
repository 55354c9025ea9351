"""What a running handler gets: what its run knows, its app's dependencies, and the way to enqueue from here.

A handler gets a Context by annotating a parameter with it, whatever the parameter's name. All of it may be used from
the handler's thread, where `enqueue_sync` enqueues.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, overload

from jobpipe.core.task import Task
from jobpipe.runtime.clock import Clock
from jobpipe.work.enqueue import Enqueuer, EnqueueRequest, Options
from jobpipe.work.facts import RunFacts
from jobpipe.work.handle import Handle

# For type checkers only: defaults of type parameters (PEP 696), by which a bare Context is a Context[object], exist
# from Python 3.13 on. With Any for a default mypy could not tell the overloads of `App.handler` apart.
if TYPE_CHECKING:
    from collections.abc import Coroutine
    from typing import ParamSpec, Unpack

    from typing_extensions import TypeVar as TypeVarWithDefault

    from jobpipe.work.handler import Handler, WithOptions

    Deps_co = TypeVarWithDefault("Deps_co", covariant=True, default=object)
    E = ParamSpec("E")
    T = TypeVar("T")
else:
    Deps_co = TypeVar("Deps_co", covariant=True)


class Home(Protocol[Deps_co]):
    """The app that a handler belongs to, as its Context sees it."""

    @property
    def deps(self) -> Deps_co:
        """What the lifespan gave."""
        ...

    @property
    def enqueuer(self) -> Enqueuer:
        """Where tasks go now."""
        ...

    def request(self, name: str, payload: Any = None, **options: Unpack[Options]) -> EnqueueRequest:
        """A task for the handler called `name`. Raises InvalidPayload."""
        ...


class Context(RunFacts, Generic[Deps_co]):
    """One run of one task, as its handler sees it.

    `id`, `handler`, `queue`, `attempt` (from 1) and `max_retries` are the task's; `timeout` is what this run may
    take in seconds, None without limit. `Context[Deps]` says the type of `deps`, with a bare `Context` it is an object.
    """

    __slots__ = ("_app",)

    def __init__(
        self,
        task: Task,
        timeout: float | None,
        started: float,
        clock: Clock,
        app: Home[Deps_co] | None = None,
    ) -> None:
        """`started` is when the run began, on the monotonic side of `clock`; `app` is the handler's."""
        super().__init__(task, timeout, started, clock)
        self._app = app

    @property
    def deps(self) -> Deps_co:
        """What the app's lifespan gave; None for an app without lifespan."""
        return self._home.deps

    @overload
    async def enqueue(
        self,
        handler: Handler[..., Coroutine[Any, Any, T], E] | WithOptions[E, T],
        /,
        *args: E.args,
        **kwargs: E.kwargs,
    ) -> Handle[T]: ...

    @overload
    async def enqueue(
        self, handler: Handler[..., T, E], /, *args: E.args, **kwargs: E.kwargs
    ) -> Handle[T]: ...

    @overload
    async def enqueue(
        self, handler: str, /, payload: Any = None, **options: Unpack[Options]
    ) -> Handle[Any]: ...

    async def enqueue(self, handler: Any, /, *args: Any, **kwargs: Any) -> Handle[Any]:
        """Enqueue a task from here: of a handler, called as it would be; or by name, with its payload and options.

        A name that this app has is treated as its handler: its queue and max_retries hold, and its payload is
        checked. Raises as `Handler.enqueue`.
        """
        request, enqueuer = self._request(handler, args, kwargs), self._home.enqueuer
        return Handle(await enqueuer.enqueue(request), enqueuer, getattr(handler, "read_result", None))

    @overload
    def enqueue_sync(
        self,
        handler: Handler[..., Coroutine[Any, Any, T], E] | WithOptions[E, T],
        /,
        *args: E.args,
        **kwargs: E.kwargs,
    ) -> Handle[T]: ...

    @overload
    def enqueue_sync(
        self, handler: Handler[..., T, E], /, *args: E.args, **kwargs: E.kwargs
    ) -> Handle[T]: ...

    @overload
    def enqueue_sync(
        self, handler: str, /, payload: Any = None, **options: Unpack[Options]
    ) -> Handle[Any]: ...

    def enqueue_sync(self, handler: Any, /, *args: Any, **kwargs: Any) -> Handle[Any]:
        """`enqueue` for handlers that are ordinary functions."""
        request, enqueuer = self._request(handler, args, kwargs), self._home.enqueuer
        return Handle(enqueuer.enqueue_sync(request), enqueuer, getattr(handler, "read_result", None))

    def _request(self, handler: Any, args: Any, kwargs: Any) -> EnqueueRequest:
        if isinstance(handler, str):
            return self._home.request(handler, *args, **kwargs)
        request: EnqueueRequest = handler.request(args, kwargs)
        return request

    @property
    def _home(self) -> Home[Deps_co]:
        if self._app is None:
            raise RuntimeError("this Context belongs to no app")
        return self._app
