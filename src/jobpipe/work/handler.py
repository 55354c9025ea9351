"""A function that does the work of tasks, under the name by which tasks ask for it.

Calling a Handler is a plain call of its function; `enqueue` makes a task of the call instead. How payloads are bound
is worked out at first use, so that a handler may be declared before the types that it names.
"""

from __future__ import annotations

import functools
import inspect
import logging
import re
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, Unpack, overload

from msgspec import Raw

from jobpipe.core.errors import JobpipeError
from jobpipe.core.retry import PATIENT, PATIENT_RETRIES, RetryPolicy
from jobpipe.core.task import MAX_DELAY_S, MAX_RETRIES_LIMIT
from jobpipe.work.binding import Binding, binding_of, declared_result, result_reader, signature
from jobpipe.work.convert import Read
from jobpipe.work.declared import check_result
from jobpipe.work.enqueue import Enqueuer, EnqueueRequest, Options, Route
from jobpipe.work.errors import BadHandler, InvalidPayload
from jobpipe.work.handle import Handle
from jobpipe.work.keyed import KeyOf, check_key, key_of
from jobpipe.work.payload import PayloadForm, json_of

# Defaults of type parameters (PEP 696) are for type checkers alone; at run time Python has them from 3.13 on.
if TYPE_CHECKING:
    from typing_extensions import ParamSpec

    P = ParamSpec("P")
    E = ParamSpec("E", default=P)
else:
    from typing import ParamSpec

    P, E = ParamSpec("P"), ParamSpec("E")

Q = ParamSpec("Q")
R_co = TypeVar("R_co", covariant=True)
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

UnknownFields = Literal["retry", "ignore"]
"""What becomes of a task whose payload has a field that is not known here: a failure to retry, or a warning."""
MOST_WARNINGS = 100
logger = logging.getLogger("jobpipe.handlers")

_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,200}")
_QUEUE = re.compile(r"[A-Za-z0-9_.-]{1,100}")


class Handler(Generic[P, R_co, E]):
    """A named function that is called with P and gives R; E are the parameters that a task's payload fills.

    `timeout` (seconds) and `retry` are of its runs, `queue` and `max_retries` of the tasks that it enqueues itself;
    None for the server's; so is `key`, the name of a parameter, or what makes a key of the parameters by their names.
    `retry="patient"` retries in minutes and hours, for a day.
    Raises BadHandler for a name, a value or a function that no task could use.
    """

    __wrapped__: Callable[P, R_co]

    if not TYPE_CHECKING:

        def __class_getitem__(cls, _: object) -> type:
            return (
                cls  # E has its default in the eyes of type checkers only: Handler[..., int] is no error here
            )

    def __init__(
        self,
        function: Callable[P, R_co],
        name: str | None = None,
        *,
        timeout: float | None = None,
        retry: RetryPolicy | Literal["patient"] | None = None,
        queue: str | None = None,
        max_retries: int | None = None,
        key: KeyOf | None = None,
        unknown_fields: UnknownFields = "retry",
        route: Route | None = None,
    ) -> None:
        functools.update_wrapper(self, function, updated=())
        self.function = function
        self.name = _name(function, name)
        self.timeout = timeout
        self.retry = PATIENT if retry == "patient" else retry
        self.queue = queue
        self.max_retries = PATIENT_RETRIES if retry == "patient" and max_retries is None else max_retries
        self.key = key
        self.is_async = _is_async(function)
        self.unknown_fields = unknown_fields
        self._warned: set[str] = set()
        self._route = route
        _check(self)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<Handler {self.name}>"

    @overload
    async def enqueue(
        self: Handler[..., Coroutine[Any, Any, T], E], *args: E.args, **kwargs: E.kwargs
    ) -> Handle[T]: ...

    @overload
    async def enqueue(self: Handler[..., T, E], *args: E.args, **kwargs: E.kwargs) -> Handle[T]: ...

    async def enqueue(self, *args: Any, **kwargs: Any) -> Handle[Any]:
        """Enqueue a task that calls the handler like this; its Context is left out. Its handle gives the result.

        Raises InvalidPayload, before anything is sent, for arguments that the run would refuse, and what the queue
        refuses: QueueFull, TaskExists, Draining, StorageError...
        """
        return await self.send(self.request(args, kwargs))

    @overload
    def enqueue_sync(
        self: Handler[..., Coroutine[Any, Any, T], E], *args: E.args, **kwargs: E.kwargs
    ) -> Handle[T]: ...

    @overload
    def enqueue_sync(self: Handler[..., T, E], *args: E.args, **kwargs: E.kwargs) -> Handle[T]: ...

    def enqueue_sync(self, *args: Any, **kwargs: Any) -> Handle[Any]:
        """`enqueue` for threads that may block: handlers that are ordinary functions, scripts."""
        return self.send_sync(self.request(args, kwargs))

    @overload
    async def enqueue_many(
        self: Handler[..., Coroutine[Any, Any, T], E], calls: Iterable[EnqueueRequest | Any]
    ) -> list[Handle[T] | JobpipeError]: ...

    @overload
    async def enqueue_many(
        self: Handler[..., T, E], calls: Iterable[EnqueueRequest | Any]
    ) -> list[Handle[T] | JobpipeError]: ...

    async def enqueue_many(self, calls: Iterable[Any]) -> list[Any]:
        """Enqueue many calls, each made by `call(...)` or a payload that the run would take; in batches, waiting for
        room where the queue is full.

        Each item of the answer is the handle, or the error in its place: one bad call stops no other. For a number
        that memory does not hold use `Client.enqueue_many` with an iterator.
        """
        enqueuer = self.enqueuer
        return self._handles(enqueuer, await enqueuer.enqueue_many(map(self._request_of, calls)))

    def enqueue_many_sync(self, calls: Iterable[Any]) -> list[Any]:
        """`enqueue_many` for threads that may block."""
        enqueuer = self.enqueuer
        return self._handles(enqueuer, enqueuer.enqueue_many_sync(map(self._request_of, calls)))

    def call(self, *args: E.args, **kwargs: E.kwargs) -> EnqueueRequest:
        """The task for such a call, for `enqueue_many`. Raises InvalidPayload."""
        return self.request(args, kwargs)

    async def send(self, request: EnqueueRequest) -> Handle[Any]:
        """Enqueue a task of this handler."""
        enqueuer = self.enqueuer
        return Handle(await enqueuer.enqueue(request), enqueuer, self.read_result)

    def send_sync(self, request: EnqueueRequest) -> Handle[Any]:
        """`send` for threads that may block."""
        enqueuer = self.enqueuer
        return Handle(enqueuer.enqueue_sync(request), enqueuer, self.read_result)

    @overload
    def options(
        self: Handler[..., Coroutine[Any, Any, T], E], **options: Unpack[Options]
    ) -> WithOptions[E, T]: ...

    @overload
    def options(self: Handler[..., T, E], **options: Unpack[Options]) -> WithOptions[E, T]: ...

    def options(self, **options: Unpack[Options]) -> WithOptions[Any, Any]:
        """The handler with options for the tasks to enqueue: `resize.options(delay=60).enqueue(path="a.png")`."""
        return WithOptions(self, options)

    @property
    def enqueuer(self) -> Enqueuer:
        """The way of its tasks. Raises RuntimeError for a handler of no app."""
        if self._route is None:
            raise RuntimeError(
                f"handler '{self.name}' belongs to no app, so nothing leads its tasks to a queue"
            )
        return self._route.find()

    def request(
        self, args: Sequence[object], kwargs: Mapping[str, object], options: Options | None = None
    ) -> EnqueueRequest:
        """The task for such a call. Raises InvalidPayload."""
        try:
            payload = self._form.pack(args, kwargs)
        except InvalidPayload as error:
            raise self._misfit(error) from error.__cause__
        return self.request_of(payload, options or {})

    def request_of(self, payload: Raw, options: Options) -> EnqueueRequest:
        """The task with this payload, the handler's own queue and max_retries where the options do not say."""
        merged: Options = {**options}
        if merged.get("queue") is None:
            merged["queue"] = self.queue
        if merged.get("max_retries") is None:
            merged["max_retries"] = self.max_retries
        if merged.get("key") is None and self.key is not None:
            merged["key"] = self._key_of(payload)
        return EnqueueRequest(self.name, payload, **merged)

    def _key_of(self, payload: Raw) -> str | None:
        """The key of a task with this payload. Raises InvalidPayload."""
        try:
            return key_of(self.key, payload)
        except Exception as error:
            raise self._misfit(InvalidPayload(f"it has no key: {type(error).__name__}: {error}")) from error

    def check(self, payload: Raw) -> None:
        """Raise InvalidPayload when a run would refuse this payload."""
        try:
            self.binding.bind(bytes(payload))
        except InvalidPayload as error:
            raise self._misfit(error) from None

    def _misfit(self, error: InvalidPayload) -> InvalidPayload:
        return InvalidPayload(f"handler '{self.name}': {error}")

    @cached_property
    def binding(self) -> Binding:
        """How the payload becomes arguments. Raises BadHandler when the annotations cannot be used."""
        try:
            return binding_of(self.function, self._ignored if self.unknown_fields == "ignore" else None)
        except BadHandler as error:
            raise BadHandler(f"handler '{self.name}': {error}") from error

    def check_result(self) -> None:
        """Raise BadHandler when the declared result would fail every run at its end."""
        try:
            check_result(declared_result(self.function))
        except BadHandler as error:
            raise BadHandler(f"handler '{self.name}': {error}") from error

    def _ignored(self, path: str) -> None:
        """Say once of each field that it is not known here."""
        if path not in self._warned and len(self._warned) < MOST_WARNINGS:
            self._warned.add(path)
            logger.warning("handler '%s': a payload's field `%s` is not known here: ignored", self.name, path)

    def _request_of(self, call: Any) -> EnqueueRequest | JobpipeError:
        if isinstance(call, EnqueueRequest):
            return call
        try:
            payload = json_of(call)
            self.check(payload)
        except JobpipeError as error:
            return error
        return self.request_of(payload, {})

    def _handles(self, enqueuer: Enqueuer, answers: Sequence[Any]) -> list[Any]:
        read = self.read_result
        return [one if isinstance(one, JobpipeError) else Handle(one, enqueuer, read) for one in answers]

    @cached_property
    def read_result(self) -> Read | None:
        """From a result's JSON to a value of the handler's return type; None where it needs none."""
        return result_reader(self.function)

    @cached_property
    def _form(self) -> PayloadForm:
        return PayloadForm(self.function, self.binding)


class WithOptions(Generic[Q, T_co]):
    """A handler together with options for the tasks to enqueue; may be kept and used again."""

    def __init__(self, handler: Handler[..., Any, Q], options: Options) -> None:
        self.handler = handler
        self._options = options

    @property
    def read_result(self) -> Read | None:
        """As `Handler.read_result`."""
        return self.handler.read_result

    async def enqueue(self, *args: Q.args, **kwargs: Q.kwargs) -> Handle[T_co]:
        """As `Handler.enqueue`."""
        return await self.handler.send(self.request(args, kwargs))

    def enqueue_sync(self, *args: Q.args, **kwargs: Q.kwargs) -> Handle[T_co]:
        """As `Handler.enqueue_sync`."""
        return self.handler.send_sync(self.request(args, kwargs))

    def call(self, *args: Q.args, **kwargs: Q.kwargs) -> EnqueueRequest:
        """As `Handler.call`, with these options."""
        return self.request(args, kwargs)

    def options(self, **options: Unpack[Options]) -> WithOptions[Q, T_co]:
        """The same with more options; one that is given again counts."""
        return WithOptions(self.handler, {**self._options, **options})

    def request(self, args: Sequence[object], kwargs: Mapping[str, object]) -> EnqueueRequest:
        """The task for such a call. Raises InvalidPayload."""
        return self.handler.request(args, kwargs, self._options)


def _name(function: Callable[..., Any], name: str | None) -> str:
    chosen = name if name is not None else getattr(function, "__name__", "")
    if not _NAME.fullmatch(chosen):
        raise BadHandler(f"'{chosen}' cannot name a handler: 1 to 200 of A-Z a-z 0-9 _ . : - are allowed")
    return chosen


def _check(handler: Handler[..., Any]) -> None:
    _check_values(handler)
    if _is_generator(handler.function):
        raise BadHandler(
            f"handler '{handler.name}': a generator returns no result; return it instead of yield"
        )
    try:
        signature(handler.function)
    except (BadHandler, TypeError, ValueError) as error:
        raise BadHandler(f"handler '{handler.name}': {error}") from error


def _check_values(handler: Handler[..., Any]) -> None:
    who, timeout = f"handler '{handler.name}'", handler.timeout
    if timeout is not None and not (0 < timeout <= MAX_DELAY_S or timeout == float("inf")):
        raise BadHandler(f"{who}: its timeout must be above 0 seconds, not {timeout!r}")
    if handler.unknown_fields not in ("retry", "ignore"):
        raise BadHandler(f"{who}: unknown_fields must be retry or ignore, not {handler.unknown_fields!r}")
    if isinstance(handler.retry, str):
        raise BadHandler(f'{who}: its retry must be a RetryPolicy or "patient", not {handler.retry!r}')
    if handler.retry is not None and not _is_usable(handler.retry):
        raise BadHandler(f"{who}: its delays must be 0 seconds to ten years: {handler.retry}")
    if handler.queue is not None and not _QUEUE.fullmatch(handler.queue):
        raise BadHandler(f"{who}: its queue must be 1 to 100 of A-Z a-z 0-9 _ . -, not {handler.queue!r}")
    check_key(who, handler.key, handler.function)
    if handler.max_retries is not None and not 0 <= handler.max_retries <= MAX_RETRIES_LIMIT:
        raise BadHandler(
            f"{who}: its max_retries must be 0 to {MAX_RETRIES_LIMIT}, not {handler.max_retries}"
        )


def _is_usable(policy: RetryPolicy) -> bool:
    """Checked at the declaration, because a policy is first asked when a run has failed already."""
    return policy.base >= 0 and policy.jitter >= 0 and 0 <= policy.cap + policy.jitter <= MAX_DELAY_S


def _is_async(function: Any) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)


def _is_generator(function: Callable[..., Any]) -> bool:
    return inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)
