"""The pytest plugin gives a queue to tests with and without asyncio."""

from __future__ import annotations

import pytest

pytest_plugins = ["pytester"]

APP = """
from contextlib import asynccontextmanager
from jobpipe import App, Context

seen = []

@asynccontextmanager
async def lifespan(app):
    seen.append("begin")
    yield 10
    seen.append("end")

app = App(lifespan=lifespan)

@app.handler
async def add(ctx: Context[int], a: int) -> int:
    return ctx.deps + a
"""

TESTS = """
from theapp import add, seen

def test_without_asyncio(jobpipe_queue):
    task = add.enqueue_sync(a=1)
    jobpipe_queue.drain_sync()
    assert jobpipe_queue.task(task.id).result == 11

def test_that_it_ended():
    assert seen == ["begin", "end"]

async def test_with_asyncio(jobpipe_queue):
    task = await add.enqueue(a=2)
    await jobpipe_queue.drain()
    assert jobpipe_queue.task(task.id).result == 12

def test_that_it_ended_again():
    assert seen == ["begin", "end"] * 2
"""

ARGUMENTS = ["-p", "no:randomly", "-p", "no:cacheprovider", "-W", "error"]


def _project(pytester: pytest.Pytester, ini: str) -> None:
    pytester.makepyfile(theapp=APP)
    pytester.makeini(
        f"[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\npythonpath = .\n{ini}\n"
    )
    pytester.syspathinsert()


def test_the_fixture_serves_tests_with_and_without_asyncio(pytester: pytest.Pytester) -> None:
    _project(pytester, "jobpipe_app = theapp:app")
    pytester.makepyfile(TESTS)
    pytester.runpytest_subprocess(*ARGUMENTS).assert_outcomes(passed=4)


def test_the_app_may_come_from_an_own_fixture(pytester: pytest.Pytester) -> None:
    _project(pytester, "")
    pytester.makeconftest(
        "import pytest, theapp\n\n@pytest.fixture\ndef jobpipe_app():\n    return theapp.app\n"
    )
    pytester.makepyfile(TESTS)
    pytester.runpytest_subprocess(*ARGUMENTS).assert_outcomes(passed=4)


def test_without_an_app_the_fixture_says_what_is_missing(pytester: pytest.Pytester) -> None:
    _project(pytester, "")
    pytester.makepyfile(TESTS)
    result = pytester.runpytest_subprocess(*ARGUMENTS, "-k", "without_asyncio")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*set the ini option jobpipe_app, or override the fixture jobpipe_app*"])
