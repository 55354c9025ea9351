"""The pytest plugin: the fixture `jobpipe_queue`, a TestQueue for your app, in tests with and without asyncio.

Say which app in the ini option `jobpipe_app = "package.module:app"`, or override the fixture `jobpipe_app`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

# Every pytest run of an environment that has Jobpipe loads this, so what is not needed for that is imported at its use:
# that is why it does not stand in `jobpipe.testing`.
if TYPE_CHECKING:
    from jobpipe.testing.queue import TestQueue
    from jobpipe.work.app import App


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the ini option."""
    parser.addini("jobpipe_app", "the app of the fixture jobpipe_queue, as package.module:app", default="")


@pytest.fixture
def jobpipe_app(pytestconfig: pytest.Config) -> App[Any]:
    """The app whose handlers are tested."""
    from jobpipe.work.loading import load_app

    name = pytestconfig.getini("jobpipe_app")
    if not name:
        raise pytest.UsageError("set the ini option jobpipe_app, or override the fixture jobpipe_app")
    return load_app(name)


@pytest.fixture
def jobpipe_queue(jobpipe_app: App[Any]) -> Iterator[TestQueue]:
    """A fresh TestQueue; `await jobpipe_queue.drain()`, or `drain_sync()` in a test without asyncio."""
    from jobpipe.testing.queue import TestQueue

    with TestQueue(jobpipe_app) as queue:
        yield queue
