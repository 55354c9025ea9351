"""Chance of our own: neither a seed of the program around us nor a fork makes two processes draw the same."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import random
import subprocess
import sys
import uuid
from collections.abc import Callable

import pytest
from opentelemetry.sdk.trace import TracerProvider

from jobpipe.runtime import randomness, tracing
from jobpipe.wire import ids, new_id

NOW = 1_700_000_000_000
SEEDED = """
import random; random.seed(42)
from jobpipe.wire import new_id
random.seed(42)
print([new_id(1_700_000_000_000) for _ in range(5)])
"""

can_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")


@pytest.fixture
def no_ids_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ids, "_last", 0)


def drawn() -> tuple[list[str], list[float]]:
    """What a process draws in one millisecond."""
    return [new_id(NOW) for _ in range(50)], [randomness.random() for _ in range(5)]


def test_a_seed_of_the_program_changes_no_draw_and_no_draw_changes_its_own() -> None:
    random.seed(42)
    expected = random.random()
    random.seed(42)
    first = [randomness.random() for _ in range(5)]
    assert random.random() == expected
    random.seed(42)
    assert [randomness.random() for _ in range(5)] != first


@pytest.mark.usefixtures("no_ids_before")
def test_a_seed_makes_no_id_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    for _ in range(3):
        monkeypatch.setattr(ids, "_last", 0)
        random.seed(42)
        made += [new_id(NOW) for _ in range(100)]
    assert len(set(made)) == 300


def test_two_processes_with_the_same_seed_make_different_ids() -> None:
    printed = [
        subprocess.run([sys.executable, "-c", SEEDED], check=True, capture_output=True).stdout
        for _ in range(2)
    ]
    assert printed[0] != printed[1]


@can_fork
@pytest.mark.usefixtures("no_ids_before")
def test_forked_children_draw_each_their_own() -> None:
    new_id(NOW)
    drawn_by = [forked(drawn) for _ in range(4)] + [drawn()]
    all_ids = [id for made, _ in drawn_by for id in made]
    assert len(set(all_ids)) == len(all_ids)
    assert len({tuple(floats) for _, floats in drawn_by}) == 5
    begun_at = [uuid.UUID(made[0]).int for made, _ in drawn_by[:4]]
    assert min(abs(a - b) for a, b in itertools.combinations(begun_at, 2)) > 2**40


def forked(call: Callable[[], tuple[list[str], list[float]]]) -> tuple[list[str], list[float]]:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, repr(call()).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        answer: tuple[list[str], list[float]] = eval(pipe.read())
    os.waitpid(child, 0)
    return answer


@can_fork
@pytest.mark.usefixtures("no_ids_before")
def test_a_pool_of_processes_that_seeds_each_draws_different_ids() -> None:
    context = multiprocessing.get_context("fork")
    with context.Pool(3, initializer=random.seed, initargs=(42,)) as pool:
        made = [id for batch in pool.map(made_at, [NOW] * 30, chunksize=1) for id in batch]
    assert len(set(made)) == len(made) == 300


def made_at(now: int) -> list[str]:
    return [new_id(now) for _ in range(10)]


def test_ids_of_traces_are_no_draws_of_the_programs_generator(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[TracerProvider] = []
    monkeypatch.setattr(tracing, "on", lambda: False)
    monkeypatch.setattr("opentelemetry.trace.set_tracer_provider", made.append)
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "console")
    tracing.start("jobpipe")
    contexts = []
    for _ in range(2):
        random.seed(42)
        contexts.append(made[0].get_tracer("t").start_span("s").get_span_context())
    assert contexts[0].trace_id != contexts[1].trace_id
    assert contexts[0].span_id != contexts[1].span_id
    made[0].shutdown()
