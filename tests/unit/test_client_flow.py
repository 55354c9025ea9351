"""What is sent again and what is not: a call is repeated when that can do no harm, and never blindly."""

from __future__ import annotations

import re
from typing import Any, TypeVar
from urllib.parse import unquote

import msgspec
import pytest

from jobpipe.client.batch import outcomes
from jobpipe.client.errors import BAD_ANSWER, ConnectionFailed, ServerError, error_of
from jobpipe.client.exchange import Answer, Request
from jobpipe.client.flow import Caller, Distrust, Flow, Item, Pause, Retries
from jobpipe.core import errors
from jobpipe.core.retry import RetryPolicy
from jobpipe.runtime.clock import ManualClock

T = TypeVar("T")

UNSENT = ConnectionFailed("refused")
UNSEEN = ConnectionFailed("cut", maybe_sent=True)
READ = Request("GET", "/x", repeatable=True)
WRITE = Request("POST", "/x")
RETRIES = Retries(count=2, backoff=RetryPolicy(base=1.0, jitter=0.0, cap=8.0), longest=10.0)
CALLER = Caller(RETRIES, ManualClock(), lambda: 0.0)


def problem(status: int, code: str, **headers: str) -> Answer:
    body = {"title": "T", "status": status, "code": code, "error": "sentence", "detail": "why", "field": "f"}
    return Answer(status, msgspec.json.encode(body), {k.replace("_", "-"): v for k, v in headers.items()})


def drive(flow: Flow[T], *answers: Answer | ConnectionFailed) -> tuple[T, list[Any]]:
    """Run the flow against these answers; its result, and what it sent and how long it paused."""
    left, steps = list(answers), []
    try:
        step = next(flow)
        while True:
            if isinstance(step, Pause):
                steps.append(step.seconds)
                step = flow.send(None)
                continue
            steps.append(step)
            if isinstance(step, Distrust):
                step = flow.send(None)
                continue
            answer = left.pop(0)
            if isinstance(answer, Answer):
                answer = to(step, answer)
            step = flow.throw(answer) if isinstance(answer, ConnectionFailed) else flow.send(answer)
    except StopIteration as end:
        assert not left, "not every answer was asked for"
        return end.value, steps


def to(step: Any, answer: Answer) -> Any:
    """What a transport makes of it, from a server that answers with the ids that it was sent."""
    if answer.status < 300 and answer.body.startswith((b"{", b"[{")):
        of = re.fullmatch(r"/tasks/([^/?]+)(\?.*|/\w+)?", getattr(step, "path", ""))
        sent = {"id": unquote(of[1])} if of else msgspec.json.decode(step.body or b"null")
        told = (
            msgspec.json.decode(answer.body, type=Any, strict=False) if b"1e999" not in answer.body else None
        )
        if isinstance(told, dict) and isinstance(sent, dict) and "handler" in told:
            answer = Answer(answer.status, msgspec.json.encode({**told, "id": sent["id"]}), answer.headers)
        elif isinstance(told, list) and isinstance(sent, list) and len(told) == len(sent):
            for one, item in zip(told, sent, strict=True):
                if "task" in one:
                    one["task"]["id"] = item["id"]
            answer = Answer(answer.status, msgspec.json.encode(told), answer.headers)
    return outcomes([step], answer)[0] if isinstance(step, Item) else answer


def fails(request: Request, *answers: Answer | ConnectionFailed) -> Exception:
    with pytest.raises(errors.JobpipeError) as caught:
        drive(CALLER.call(request), *answers)
    return caught.value


def test_a_good_answer_needs_one_sending() -> None:
    answer = Answer(200, b"1")
    assert drive(CALLER.call(WRITE), answer) == (answer, [WRITE])


def test_what_was_never_sent_is_sent_again() -> None:
    _, steps = drive(CALLER.call(WRITE), UNSENT, UNSENT, Answer(200))
    assert steps == [WRITE, 1.0, WRITE, 2.0, WRITE]


def test_what_may_have_been_carried_out_is_not_sent_again() -> None:
    assert fails(WRITE, UNSEEN) is UNSEEN
    assert isinstance(fails(WRITE, problem(503, "storage_down")), errors.StorageError)
    assert isinstance(fails(WRITE, Answer(504, b"<html>")), ServerError)


def test_a_repeatable_request_is_sent_again_after_any_outage() -> None:
    _, steps = drive(CALLER.call(READ), UNSEEN, Answer(502, b"<html>"), Answer(200))
    assert steps == [READ, 1.0, READ, 2.0, READ]


def test_the_number_of_retries_is_bounded() -> None:
    assert fails(READ, UNSENT, UNSENT, UNSEEN) is UNSEEN


@pytest.mark.parametrize("code", ["queue_full", "too_many_queues", "draining"])
def test_a_refusal_for_now_is_waited_for_as_the_server_says(code: str) -> None:
    _, steps = drive(CALLER.call(WRITE), problem(503, code, retry_after="5"), Answer(200))
    assert steps == [WRITE, 5.0, WRITE]


def test_a_longer_retry_after_than_allowed_is_not_waited_for() -> None:
    assert isinstance(fails(WRITE, problem(503, "draining", retry_after="11")), errors.Draining)


def test_rate_limits_are_refusals_for_now() -> None:
    _, steps = drive(CALLER.call(WRITE), problem(429, "rate_limited", retry_after="1"), Answer(200))
    assert steps == [WRITE, 1.0, WRITE]


@pytest.mark.parametrize(
    ("status", "code"), [(400, "invalid"), (404, "not_found"), (500, "internal"), (507, "storage_full")]
)
def test_a_final_answer_is_never_asked_for_twice(status: int, code: str) -> None:
    fails(READ, problem(status, code))


@pytest.mark.parametrize("value", ["soon", "-1", "٣", "1.5", "Wed, 21 Oct 2026 07:28:00 GMT"])
def test_a_retry_after_that_is_no_number_is_left_aside(value: str) -> None:
    _, steps = drive(CALLER.call(WRITE), problem(503, "draining", retry_after=value), Answer(200))
    assert steps == [WRITE, 1.0, WRITE]


def test_no_retries_means_one_sending() -> None:
    caller = Caller(Retries(count=0), ManualClock())
    with pytest.raises(ConnectionFailed):
        drive(caller.call(READ), UNSENT)


# --- errors ---


def test_every_code_of_the_tree_comes_back_as_its_class() -> None:
    for code, kind in {
        "invalid": errors.Invalid, "invalid_json": errors.InvalidJson, "too_large": errors.TooLarge,
        "task_exists": errors.TaskExists, "not_found": errors.NotFound, "not_finished": errors.NotFinished,
        "already_finished": errors.AlreadyFinished, "not_retryable": errors.NotRetryable,
        "lease_lost": errors.LeaseLost, "queue_full": errors.QueueFull, "draining": errors.Draining,
        "too_many_queues": errors.TooManyQueues, "storage_down": errors.StorageError,
        "storage_full": errors.StorageFull, "unauthorized": errors.Unauthorized,
        "forbidden": errors.Forbidden, "rate_limited": errors.RateLimited,
    }.items():  # fmt: skip
        error = error_of(409, problem(409, code).body)
        assert (type(error), error.code, error.detail, error.field) == (kind, code, "why", "f")


def test_a_code_without_a_class_keeps_its_name_and_status() -> None:
    error = error_of(421, problem(421, "wrong_host").body)
    assert isinstance(error, ServerError)
    assert (error.code, error.status, str(error)) == ("wrong_host", 421, "why")
    assert ServerError(500, "internal").code == "internal"


@pytest.mark.parametrize("body", [b"", b"<html>", b"\xff", b"[]", b'{"code":1}', b"[" * 100_000])
def test_an_answer_in_other_words_says_so(body: bytes) -> None:
    error = error_of(502, body)
    assert isinstance(error, ServerError)
    assert (error.code, error.status) == (BAD_ANSWER, 502)
