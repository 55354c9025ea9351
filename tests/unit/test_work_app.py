"""How handlers are declared."""

from __future__ import annotations

import asyncio
import functools

import pytest

from jobpipe.core.retry import RetryPolicy
from jobpipe.work.app import App
from jobpipe.work.errors import BadHandler
from jobpipe.work.handler import Handler


def test_a_decorated_function_stays_a_plain_call() -> None:
    app = App()

    @app.handler
    def double(n: int) -> int:
        """Twice as much."""
        return 2 * n

    assert double(4) == 8
    assert double.__name__ == "double"
    assert double.__doc__ == "Twice as much."
    assert double.__wrapped__(4) == 8
    assert app.get("double") is double
    assert dict(app.handlers) == {"double": double}
    assert repr(double) == "<Handler double>"


async def test_a_decorated_coroutine_function_still_gives_a_coroutine() -> None:
    app = App()

    @app.handler()
    async def double(n: int) -> int:
        await asyncio.sleep(0)
        return 2 * n

    assert await double(4) == 8
    assert double.is_async


def test_name_timeout_and_retry_policy_are_kept() -> None:
    app, policy = App(), RetryPolicy(base=5)

    @app.handler("mail.send:v1", timeout=30, retry=policy)
    def send() -> None: ...

    assert app.get("send") is None
    assert (send.name, send.timeout, send.retry, send.is_async) == ("mail.send:v1", 30, policy, False)


def test_one_function_may_serve_under_two_names() -> None:
    app = App()

    @app.handler("second", timeout=1)
    @app.handler("first")
    def serve() -> str:
        return "served"

    assert [h.name for h in app.handlers.values()] == ["first", "second"]
    assert serve() == "served"
    assert serve.function is app.handlers["first"].function


@pytest.mark.parametrize("name", ["", "a b", "ä", "x" * 201, "a/b", "a\n"])
def test_a_name_that_no_task_can_have_is_refused(name: str) -> None:
    with pytest.raises(BadHandler, match="cannot name a handler"):
        App().handler(name)(lambda: None)


def test_a_function_without_a_usable_name_needs_one() -> None:
    with pytest.raises(BadHandler, match="'<lambda>' cannot name"):
        App().handler(lambda: None)
    with pytest.raises(BadHandler, match="'' cannot name"):
        App().handler(functools.partial(print))
    assert App().handler("ok")(functools.partial(lambda n: n, n=1)).name == "ok"


def test_a_name_can_be_taken_once() -> None:
    app = App()
    app.handler("same")(lambda: None)
    with pytest.raises(BadHandler, match="'same' is declared twice"):
        app.handler("same")(lambda: None)


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), 1e12])
def test_a_timeout_must_be_above_zero_and_at_most_ten_years(timeout: float) -> None:
    with pytest.raises(BadHandler, match="its timeout must be"):
        App().handler("h", timeout=timeout)(lambda: None)


@pytest.mark.parametrize("field", ["base", "jitter", "cap"])
@pytest.mark.parametrize("seconds", [-1, float("nan")])
def test_a_retry_policy_must_give_times_that_can_come(field: str, seconds: float) -> None:
    with pytest.raises(BadHandler, match="its delays must be"):
        App().handler("h", retry=RetryPolicy(**{field: seconds}))(lambda: None)
    with pytest.raises(BadHandler, match="its delays must be"):
        App().handler("h", retry=RetryPolicy(cap=float("inf")))(lambda: None)


def test_an_infinite_timeout_is_none() -> None:
    assert App().handler("h", timeout=float("inf"))(lambda: None).timeout == float("inf")


def test_parameters_that_no_payload_can_fill_are_refused_at_the_declaration() -> None:
    def positional(a: int, /) -> None: ...
    def star(*args: int) -> None: ...

    with pytest.raises(BadHandler, match="handler 'positional': the positional-only parameter 'a'"):
        App().handler(positional)
    with pytest.raises(BadHandler, match=r"handler 'star': the parameter '\*args'"):
        App().handler(star)


def test_generators_are_refused() -> None:
    def sync():  # type: ignore[no-untyped-def]
        yield 1

    async def async_():  # type: ignore[no-untyped-def]
        yield 1

    for function in (sync, async_):
        with pytest.raises(BadHandler, match="return it instead"):
            App().handler(function)


def test_callable_objects_can_be_handlers() -> None:
    class Sync:
        def __call__(self, n: int) -> int:
            return n

    class Async:
        async def __call__(self, n: int) -> int:
            return n

    assert not Handler(Sync(), "sync").is_async
    assert Handler(Async(), "async").is_async
    assert Handler(Async(), "async").binding.bind(b"1") == {"n": 1}


def test_check_names_the_handler_whose_annotations_cannot_be_used() -> None:
    app = App()

    @app.handler
    def good(n: int) -> None: ...

    app.check()

    @app.handler
    def bad(n: Missing) -> None: ...  # noqa: F821

    with pytest.raises(BadHandler, match=r"handler 'bad': its annotations .* 'Missing' is not defined"):
        app.check()
