"""Logging: the standard library's, to stderr, as text for people or as JSON lines for machines.

A line of the log is one line whatever a task, a client or a handler put into it: control characters are shown escaped,
so that nobody can forge an entry or drive a terminal. Only tracebacks take several lines, each but the first indented.
uvicorn's loggers speak through the same handler. Fields given as `extra={"task": ...}` are kept in both forms.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
import re
import sys
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from itertools import islice
from typing import TextIO

from jobpipe.runtime import streams
from jobpipe.runtime.tracing import running, traceparent

_UVICORN = ("uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi")
_CLIENTS = ("httpx2", "httpcore2")
_OFTEN = "jobpipe.tasks"
"""The logger with a line for each task that ends."""
_RECORD_SIZE = len(logging.makeLogRecord({}).__dict__)
_OWN = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "color_message", "taskName"}
_PLAIN = re.compile(r"[^\s\"'=]+")
# C0, DEL, C1, the line and paragraph separators, and the marks that turn the direction of writing.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_CONTROL_IN_BLOCK = re.compile(_CONTROL.pattern.replace(r"\x00-\x1f", r"\x00-\x08\x0b-\x1f"))


Fields = Mapping[str, object]
Said = tuple[str, dict[str, object]]
"""A message and its fields."""


class OwnHandler(logging.StreamHandler):  # type: ignore[type-arg]
    """The handler that `configure` installs, known again by its class when it is called twice.

    The lines that come once a task are written together at the end of the event loop's turn; whatever else is said
    takes them along first, so that the order stays.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._gathered: list[str] = []
        self._promised: asyncio.AbstractEventLoop | None = None

    def emit(self, record: logging.LogRecord) -> None:
        loop = (
            asyncio._get_running_loop() if record.name == _OFTEN and record.levelno <= logging.INFO else None
        )
        if loop is None:
            self.flush()
            super().emit(record)
            return
        try:
            self._gather(self.format(record), loop)
        except Exception:  # noqa: BLE001 - as logging itself does
            self.handleError(record)

    def say(self, name: str, said: Iterable[Said], loop: asyncio.AbstractEventLoop) -> None:
        """What `emit` makes of records of level INFO, without the records."""
        if isinstance(self.formatter, Lines):
            time_ = _time(time.time())
            for message, fields in said:
                self._gather(self.formatter.line(time_, "INFO", name, message, fields), loop)

    def _gather(self, line: str, loop: asyncio.AbstractEventLoop) -> None:
        self._gathered.append(line)
        if self._promised is not loop:
            self._promised = loop
            loop.call_soon(self.flush)

    def flush(self) -> None:
        """Write what was gathered."""
        with self.lock or contextlib.nullcontext():
            gathered, self._gathered, self._promised = self._gathered, [], None
            if gathered:
                self.stream.write("\n".join([*gathered, ""]))
            super().flush()


class OfRun(logging.Filter):
    """Puts the task and the trace that a handler runs for on each line that it logs, by whatever logger."""

    def filter(self, record: logging.LogRecord) -> bool:
        run = running()
        # Jobpipe's own lines name the tasks that they speak of, which need not be the one that runs here.
        if run is not None and (record.name == "jobpipe.task" or not record.name.startswith("jobpipe.")):
            record.__dict__.setdefault("task_id", run.task_id)
            if (trace := traceparent()) is not None:
                record.__dict__.setdefault("trace_id", trace.split("-")[1])
        return True


_NAMES = frozenset({"handler", "queue"})
"""Fields that say the same in most lines: what they look like is remembered."""


class Lines(logging.Formatter):
    """A formatter that can do without a record."""

    def line(self, time: str, level: str, name: str, message: str, fields: Fields) -> str:
        """The entry for what was said at `time`."""
        raise NotImplementedError


class TextFormatter(Lines):
    """`2026-11-21T21:09:00.123Z INFO jobpipe.server listening on ... port=8080`, then a traceback if there is one."""

    def line(self, time: str, level: str, name: str, message: str, fields: Fields) -> str:
        line = f"{time} {level} {name} {message}"
        if not line.isprintable():
            line = _escaped(line, _CONTROL)
        for key, value in fields.items():
            text = value if isinstance(value, str) else str(value)
            line += f" {key}={_name_field(text) if key in _NAMES else _text_field(text)}"
        return line

    def format(self, record: logging.LogRecord) -> str:
        line = self.line(
            _time(record.created), record.levelname, record.name, record.getMessage(), _extra(record)
        )
        if not (record.exc_info or record.stack_info):
            return line
        return line + "".join(f"\n  {line}" for line in _block(_trace(self, record)))


class JsonFormatter(Lines):
    """One object a line: `ts` (RFC 3339, UTC), `level`, `logger`, `msg`, the extra fields, and `exception` if any."""

    def line(self, time: str, level: str, name: str, message: str, fields: Fields) -> str:
        return _object({"ts": time, "level": level, "logger": name, "msg": message}, fields)

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, object] = {
            "ts": _time(record.created),
            "level": record.levelname,
            "logger": record.name,
            "msg": record.getMessage(),
        }
        if trace := _trace(self, record):
            entry["exception"] = trace
        return _object(entry, _extra(record))


def _object(entry: dict[str, object], fields: Fields) -> str:
    # An extra field never hides one of the entry's own.
    return json.dumps(entry | {key: _scalar(value) for key, value in fields.items() if key not in entry})


def configure(level: str, format: str) -> None:
    """Log from `level` (DEBUG, INFO, WARNING, ERROR) on, to stderr, as `format` (text, json). May be called again.

    The process's own set-up: its streams bear whatever becomes of their readers (streams.py), and the root logger gets
    one handler of ours; handlers of others (a test's) stay.
    """
    streams.spare("stdout", "stderr")
    formatter = JsonFormatter() if format == "json" else TextFormatter()
    streams.speak(
        lambda n: formatter.line(_time(time.time()), "WARNING", "jobpipe.logs", streams.told(n), {})
    )
    handler = OwnHandler(sys.stderr)
    handler.addFilter(OfRun())
    handler.setFormatter(formatter)
    root = logging.getLogger()
    for old in [old for old in root.handlers if isinstance(old, OwnHandler)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level)
    # What no line of ours shows need not be found out for each.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    for name in _UVICORN:
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        # Its start and stop are told by the server's own lines.
        logger.setLevel(logging.DEBUG if level == "DEBUG" else logging.WARNING)
    for name in _CLIENTS:
        # A line for each task that a handler enqueues tells nobody anything.
        logging.getLogger(name).setLevel(logging.DEBUG if level == "DEBUG" else logging.WARNING)


def enable_ours() -> None:
    """Speak again after `logging.config.dictConfig`, whose default disables all loggers that are there already.

    The loggers of handlers (`ctx.log`) and our own errors are not what an app means to silence by configuring its own.
    """
    for name, logger in list(logging.root.manager.loggerDict.items()):
        if isinstance(logger, logging.Logger) and name.partition(".")[0] == "jobpipe":
            logger.disabled = False


def often(logger: logging.Logger, said: Iterable[Said]) -> None:
    """Say at level INFO what is said for each task: as `logger.info` would, for a small part of its cost.

    Where nobody but our own handler listens, no records are made; they would be taken apart again at once.
    """
    own, loop = _only_ours(logger), asyncio._get_running_loop()
    if own is not None and loop is not None:
        own.say(logger.name, said, loop)
        return
    for message, fields in said:
        logger.handle(logger.makeRecord(logger.name, logging.INFO, "", 0, message, (), None, extra=fields))


def _only_ours(logger: logging.Logger) -> OwnHandler | None:
    """Our handler, when it is the only one that would hear this logger."""
    while (above := logger.parent) is not None:
        if logger.handlers or logger.filters or not logger.propagate:
            return None
        logger = above
    only = logger.handlers[0] if len(logger.handlers) == 1 else None
    return only if isinstance(only, OwnHandler) and only.level == logging.NOTSET else None


@lru_cache(maxsize=4)
def _second(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _time(created: float) -> str:
    millis = int(created * 1000)
    return f"{_second(millis // 1000)}.{millis % 1000:03d}Z"


def _extra(record: logging.LogRecord) -> dict[str, object]:
    # What logging itself sets comes first: the extra fields are behind it, beside what other formatters left there.
    behind = islice(record.__dict__.items(), _RECORD_SIZE, None)
    return {key: value for key, value in behind if key not in _OWN}


def _trace(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    trace = formatter.formatException(record.exc_info) if record.exc_info and record.exc_info[0] else ""
    return "\n".join(filter(None, [trace, record.stack_info and formatter.formatStack(record.stack_info)]))


def _block(text: str) -> list[str]:
    # Indented, because an exception's own text may hold a line that looks like an entry.
    return _escaped(text, _CONTROL_IN_BLOCK).split("\n") if text else []


def _escaped(text: str, control: re.Pattern[str]) -> str:
    if text.isprintable():  # as nearly every line is, and found out ten times as fast
        return text
    return control.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), text)


def _text_field(value: str) -> str:
    if _PLAIN.fullmatch(value) and value.isprintable():
        return value
    text = _escaped(value, _CONTROL)
    return text if _PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=False)


@lru_cache(maxsize=1000)
def _name_field(value: str) -> str:
    return _text_field(value)


def _scalar(value: object) -> object:
    """What JSON knows stays; anything else is text, so that a strange field cannot cost the entry."""
    if (
        value is None
        or isinstance(value, (bool, int, str))
        or (isinstance(value, float) and math.isfinite(value))
    ):
        return value
    return str(value)
