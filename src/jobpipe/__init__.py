"""Jobpipe: a durable task queue server with nothing else to install.

    from jobpipe import App

    app = App()

    @app.handler
    async def greet(name: str) -> str:
        return f"hello {name}"

Run it with `jobpipe serve module:app`, and post tasks to `POST /enqueue`.
"""

from jobpipe.core.retry import RetryPolicy
from jobpipe.work.app import App
from jobpipe.work.context import Context
from jobpipe.work.errors import Fail, Retry

__all__ = ["App", "Context", "Fail", "Retry", "RetryPolicy"]
