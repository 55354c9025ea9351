"""A handler that changes the working folder of its process."""

from __future__ import annotations

import os

from jobpipe import App

app = App()


@app.handler
def moves() -> None:
    os.chdir("/")
