"""The client's calls without a network: no task twice, no task unheard of, nothing skipped in a listing."""

from __future__ import annotations

import dataclasses
import math
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import msgspec
import pydantic
import pytest
from test_client_fakes import leased
from test_client_flow import UNSEEN, UNSENT, drive, problem

from jobpipe.client import working
from jobpipe.client.address import Address, authorization, parse_address, resolve
from jobpipe.client.enqueue import enqueue, enqueue_many, item_of
from jobpipe.client.errors import ConnectionFailed, ServerError
from jobpipe.client.exchange import Answer
from jobpipe.client.flow import Caller, Retries
from jobpipe.client.tasks import first_query, get, page, wait
from jobpipe.client.values import Settle
from jobpipe.core.errors import Draining, Invalid, NotFound, QueueFull, TaskExists, TooLarge
from jobpipe.core.lifecycle import Kind
from jobpipe.core.retry import RetryPolicy
from jobpipe.core.task import Status
from jobpipe.runtime.clock import ManualClock
from jobpipe.wire.working import parse_settles

CLOCK = ManualClock()
CALLER = Caller(Retries(count=1, backoff=RetryPolicy(base=0.5, jitter=0.0)), CLOCK, lambda: 0.0)


def body(request: Any) -> Any:
    return msgspec.json.decode(request.body)


def stored(id: str = "t1", **fields: Any) -> Answer:
    return Answer(200, msgspec.json.encode(leased(id, **fields)))


def batch(*answers: dict[str, Any] | Answer) -> Answer:
    items = [
        msgspec.json.decode(one.body) if isinstance(one, Answer) else {"status": 202, "task": one}
        for one in answers
    ]
    return Answer(200, msgspec.json.encode(items))


# --- enqueue ---


def test_a_task_without_an_id_gets_one_here() -> None:
    _, (request,) = drive(enqueue(CALLER, {"handler": "greet", "payload": {"a": 1}}), stored())
    fields = body(request)
    assert fields.pop("id")[14] == "7"
    assert fields == {"handler": "greet", "payload": {"a": 1}}
    assert request.repeatable


def test_an_id_that_is_json_already_is_compared_as_what_it_means() -> None:
    raw: Any = msgspec.Raw(b'"caf\\u00e9"')
    assert item_of(CALLER, {"id": raw}).id == "café"


def test_a_task_with_the_callers_id_is_not_sent_twice_blindly() -> None:
    with pytest.raises(ConnectionFailed):
        drive(enqueue(CALLER, {"id": "mine"}), UNSEEN)
    with pytest.raises(TaskExists):
        drive(enqueue(CALLER, {"id": "mine"}), UNSENT, problem(409, "task_exists"))


def test_an_id_of_ours_that_exists_after_an_unseen_sending_is_our_task() -> None:
    task, steps = drive(enqueue(CALLER, {}), UNSEEN, problem(409, "task_exists"), stored("t9"))
    assert task.id == body(steps[0])["id"]
    assert steps[-1].path == f"/tasks/{task.id}"


def test_an_id_of_ours_that_exists_at_the_first_sending_is_refused() -> None:
    with pytest.raises(TaskExists):
        drive(enqueue(CALLER, {}), UNSENT, problem(409, "task_exists"))


def test_a_full_queue_is_raised_when_it_stays_full() -> None:
    with pytest.raises(QueueFull):
        drive(enqueue(CALLER, {}), problem(503, "queue_full"), problem(503, "queue_full"))


def test_times_are_sent_with_their_zone() -> None:
    berlin = datetime(2027, 1, 1, 12, 30, tzinfo=timezone(timedelta(hours=1)))
    _, (request,) = drive(enqueue(CALLER, {"run_at": berlin}), stored())
    assert body(request)["run_at"] == "2027-01-01T11:30:00Z"
    with pytest.raises(Invalid, match="time zone"):
        drive(enqueue(CALLER, {"run_at": datetime(2027, 1, 1)}))


@dataclasses.dataclass
class Point:
    x: int


class Model(pydantic.BaseModel):
    x: int


@pytest.mark.parametrize("value", [Point(1), Model(x=1), {"x": 1}])
def test_payloads_are_whatever_has_a_json_form(value: Any) -> None:
    _, (request,) = drive(enqueue(CALLER, {"payload": value}), stored())
    assert body(request)["payload"] == {"x": 1}


def test_a_payload_without_a_json_form_is_invalid_and_never_sent() -> None:
    with pytest.raises(Invalid) as error:
        drive(enqueue(CALLER, {"payload": object()}))
    assert error.value.field == "payload"


# --- enqueue_many ---


def test_each_task_of_a_batch_has_its_own_answer() -> None:
    flow = enqueue_many(CALLER, [{"id": "a"}, {"payload": object()}, {"id": "b"}])
    answers, (request,) = drive(flow, batch(leased("a"), problem(409, "task_exists")))
    assert [type(answer).__name__ for answer in answers] == ["Task", "Invalid", "TaskExists"]
    assert [item["id"] for item in body(request)] == ["a", "b"]


def test_a_batch_is_cut_at_the_number_and_size_that_a_server_takes() -> None:
    many = [{"id": f"t{n}"} for n in range(10_001)]
    answers, steps = drive(
        enqueue_many(CALLER, many), batch(*(leased(one["id"]) for one in many[:-1])), batch(leased("t10000"))
    )
    assert [answer.id for answer in answers] == [one["id"] for one in many]  # type: ignore[union-attr]
    assert [len(body(step)) for step in steps] == [10_000, 1]

    large = [{"id": f"t{n}", "payload": "x" * 400} for n in range(5)]
    _, steps = drive(
        enqueue_many(CALLER, large, max_bytes=1000),
        *(batch(*(leased("t") for _ in range(n))) for n in (2, 2, 1)),
    )
    assert all(len(step.body) <= 1000 for step in steps)


def test_a_server_with_a_smaller_bound_gets_halves() -> None:
    flow = enqueue_many(CALLER, [{"id": str(n)} for n in range(3)])
    refused = problem(413, "too_large")
    answers, _ = drive(flow, refused, batch(leased("0")), refused, batch(leased("1")), refused)
    assert [answer.id for answer in answers[:2]] == ["0", "1"]  # type: ignore[union-attr]
    assert isinstance(answers[2], TooLarge)


def test_nothing_accepted_raises_and_later_failures_are_answers() -> None:
    with pytest.raises(Draining):
        drive(enqueue_many(CALLER, [{"id": "a"}]), problem(503, "draining"), problem(503, "draining"))
    tasks = [{"id": id, "payload": "x" * 60} for id in "abc"]
    answers, _ = drive(enqueue_many(CALLER, tasks, max_bytes=100), batch(leased("a")), UNSEEN)
    assert [type(answer).__name__ for answer in answers] == ["Task", "ConnectionFailed", "ConnectionFailed"]


def test_a_repeated_batch_finds_the_tasks_of_the_unseen_one() -> None:
    flow = enqueue_many(CALLER, [{}, {}])
    exists = problem(409, "task_exists")
    answers, (sent, _, _, found) = drive(flow, UNSEEN, batch(exists, leased("new")), stored("old"))
    assert [answer.id for answer in answers] == [one["id"] for one in body(sent)]  # type: ignore[union-attr]
    assert found.path == f"/tasks/{body(sent)[0]['id']}"


def test_a_batch_with_one_id_of_the_caller_is_not_repeated_blindly() -> None:
    with pytest.raises(ConnectionFailed):
        drive(enqueue_many(CALLER, [{}, {"id": "mine"}]), UNSEEN)


def test_an_answer_of_another_length_is_no_answer() -> None:
    with pytest.raises(ServerError) as error:
        drive(enqueue_many(CALLER, [{}, {}]), batch(leased("a")))
    assert error.value.code == "bad_answer"


def test_no_tasks_are_no_request() -> None:
    assert drive(enqueue_many(CALLER, [])) == ([], [])


# --- reading ---


def test_a_task_comes_as_values_of_python() -> None:
    error = {"type": "E", "message": "m", "traceback": None, "attempt": 1, "at": "2026-11-21T21:09:00.123Z"}
    task, (request,) = drive(
        get(CALLER, "a b/é"), stored("a b/é", payload={"a": [1]}, result="r", last_error=error)
    )
    assert request.path == "/tasks/a%20b%2F%C3%A9"
    assert (task.payload, task.result, task.status) == ({"a": [1]}, "r", Status.RUNNING)
    assert task.created_at == datetime(2026, 11, 21, 21, 9, 0, 123000, UTC)
    assert task.last_error is not None
    assert task.last_error.at == task.created_at
    assert not task.finished


def test_numbers_that_few_decoders_take_do_not_hide_a_task() -> None:
    raw = msgspec.Raw(b"[1e999,%b]" % (b"9" * 5000))
    task, _ = drive(get(CALLER, "t1"), stored(payload=raw))
    assert task.payload == [math.inf, Decimal("9" * 5000)]


@pytest.mark.parametrize("id", ["", ".", ".."])
def test_ids_that_would_change_the_path_are_refused_here(id: str) -> None:
    with pytest.raises(Invalid):
        drive(get(CALLER, id))


def test_a_listing_follows_the_link_wherever_a_proxy_put_it() -> None:
    link = '<http://proxy/jobs/tasks?limit=2&cursor=abc>; rel="next"'
    answer = Answer(200, msgspec.json.encode([leased("a")]), {"link": link})
    (found, query), (request,) = drive(page(CALLER, first_query(None, {"status": "done"})), answer)
    assert ([task.id for task in found], query) == (["a"], "limit=2&cursor=abc")
    assert request.path == "/tasks?limit=200&status=done"
    assert drive(page(CALLER, "x"), Answer(200, b"[]", {"link": '</tasks?a=1>; rel="prev"'}))[0] == ([], None)


def test_filters_with_times_need_a_zone() -> None:
    after = datetime(2027, 1, 1, tzinfo=UTC)
    assert "created_after=2027-01-01T00%3A00%3A00Z" in first_query(5, {"created_after": after, "queue": None})
    with pytest.raises(Invalid):
        first_query(5, {"created_after": datetime(2027, 1, 1)})


def test_waiting_is_done_in_polls_of_a_minute_at_most() -> None:
    clock = ManualClock()
    flow = wait(Caller(clock=clock), "t1", 100)
    first: Any = next(flow)
    clock.advance(60)
    second: Any = flow.send(stored())
    clock.advance(40)
    with pytest.raises(TimeoutError):
        flow.send(stored())
    assert [first.path, second.path] == ["/tasks/t1?wait=60.000", "/tasks/t1?wait=40.000"]
    assert (first.wait, second.wait) == (60.0, 40.0)


def test_waiting_ends_with_the_task() -> None:
    task, steps = drive(wait(CALLER, "t1", None), stored(status="done"))
    assert (task.status, len(steps)) == (Status.DONE, 1)
    with pytest.raises(NotFound):
        drive(wait(CALLER, "t1", None), problem(404, "not_found"))


def test_a_draining_server_is_not_asked_in_a_busy_loop() -> None:
    _, steps = drive(wait(CALLER, "t1", None), stored(), stored(), stored(status="done"))
    assert [step for step in steps if isinstance(step, float)] == [0.5, 1.0]


# --- working ---


def test_settles_are_what_the_server_reads() -> None:
    settles = [
        Settle("a", "l1", Kind.DONE, result={"x": 1}),
        Settle("b", "l2", Kind.FAILED, error_type="E", message="m", retryable=False, retry_in=2.0),
        Settle("c", "l3", Kind.RELEASED),
    ]
    answer = Answer(200, b'[{"id":null,"accepted":false,"code":"invalid"}]')
    (settled,), (request,) = drive(working.settle(CALLER, settles), answer)
    assert (settled.id, settled.code) == (None, "invalid")
    done, failed, released = parse_settles(request.body, 1000)
    assert done.outcome.result == b'{"x":1}'  # type: ignore[union-attr]
    assert (failed.outcome.error_type, failed.outcome.retryable) == ("E", False)  # type: ignore[union-attr]
    assert released.outcome.kind is Kind.RELEASED  # type: ignore[union-attr]


# --- addresses ---


@pytest.mark.parametrize(
    ("url", "address", "base"),
    [
        ("http://h", Address("h", 80), "http://h"),
        ("https://h/jobs/", Address("h", 443, True, prefix="/jobs"), "https://h/jobs"),
        ("http://[::1]:9", Address("::1", 9), "http://[::1]:9"),
        ("unix:/run/j.sock", Address("localhost", 0, socket="/run/j.sock"), "http://localhost"),
        ("unix:///run/j.sock", Address("localhost", 0, socket="/run/j.sock"), "http://localhost"),
    ],
)
def test_addresses(url: str, address: Address, base: str) -> None:
    assert parse_address(url) == address
    assert address.url == base


@pytest.mark.parametrize(
    "url",
    ["", "h:80", "ftp://h", "http://", "http://h:x", "unix:", "http://h?q", "http://u:p@h", "http://[::1"],
)
def test_what_is_no_address_is_invalid(url: str) -> None:
    with pytest.raises(Invalid) as error:
        parse_address(url)
    assert error.value.field == "url"


def test_the_key_of_the_environment_stays_with_its_url() -> None:
    environ = {"JOBPIPE_URL": "http://env", "JOBPIPE_KEY": "k"}
    assert resolve(None, None, environ) == ([Address("env", 80)], "k")
    assert resolve(None, "mine", environ) == ([Address("env", 80)], "mine")
    assert resolve("http://other", None, environ) == ([Address("other", 80)], None)
    assert resolve(None, None, {}) == ([Address("127.0.0.1", 8080)], None)


def test_a_key_that_no_header_can_carry_is_invalid() -> None:
    assert authorization("k") == {"authorization": "Bearer k"}
    for key in ("a\r\nb: c", "ключ"):
        with pytest.raises(Invalid):
            authorization(key)


def test_only_certain_addresses_are_local() -> None:
    local = ["unix:/x", "http://localhost", "http://127.9.9.9", "http://[::1]"]
    assert all(parse_address(url).local for url in local)
    assert not any(parse_address(url).local for url in ("http://10.0.0.1", "http://example.com"))
