"""Finds the app that a command line names, as "package.module:app".

Whatever goes wrong is one AppNotFound whose message is one line: what was looked for, or where the user's code raised.
"""

from __future__ import annotations

import importlib
import operator
import os
import sys
import traceback
from typing import Any

from jobpipe.runtime import logs
from jobpipe.work.app import App
from jobpipe.work.errors import AppNotFound, BadHandler


def load_app(name: str, folder: str = "") -> App:
    """The App at `name`, "package.module:attribute" (`app` when left out).

    `folder` is searched first, the working folder where none is named. All its handlers are checked. Raises
    AppNotFound.
    """
    module_name, _, attribute = name.partition(":")
    attribute = attribute or "app"
    if not module_name or module_name.startswith("."):
        raise AppNotFound(f"'{name}' names no app: it should look like package.module:app")
    app = _attribute(_module(module_name, folder), module_name, attribute)
    logs.enable_ours()
    if not isinstance(app, App):
        raise AppNotFound(f"'{module_name}:{attribute}' is no jobpipe App but {type(app).__name__}")
    app.name = app.name or f"{module_name}:{attribute}"
    try:
        app.check()
    except BadHandler as error:
        raise AppNotFound(f"'{name}': {error}") from error
    return app


def _module(name: str, folder: str) -> Any:
    try:
        here = os.path.abspath(folder)
    except OSError as error:
        raise AppNotFound(f"the working folder, in which '{name}' is looked for, is gone") from error
    if not os.path.isdir(here):
        raise AppNotFound(f"{here}, in which '{name}' is looked for, is no folder")
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            raise AppNotFound(f"no module named '{error.name}', looked for from {here}") from error
        raise AppNotFound(_raised_inside(name, error)) from error
    except (Exception, SystemExit) as error:
        raise AppNotFound(_raised_inside(name, error)) from error


def _raised_inside(name: str, error: BaseException) -> str:
    what = " ".join(str(error).split())
    return f"importing '{name}' raised {type(error).__name__}: {what} ({_place(error)})"


def _place(error: BaseException) -> str:
    """File and line where it happened: of the syntax error itself, else of the innermost frame that has a file.

    Python's own frozen modules (os, importlib) have none: who called them is what people can mend.
    """
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    frame = next((f for f in reversed(frames) if not f.filename.startswith("<")), frames[-1])
    return f"{frame.filename}:{frame.lineno}"


def _attribute(module: Any, module_name: str, attribute: str) -> Any:
    try:
        return operator.attrgetter(attribute)(module)
    except AttributeError as error:
        raise AppNotFound(f"module '{module_name}' has no attribute '{attribute}'") from error
