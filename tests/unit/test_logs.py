"""The log: readable or JSON lines, one entry is one line, and nobody can forge another."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import sys
from collections.abc import Callable, Iterator

import pytest

from jobpipe.runtime.logs import JsonFormatter, OwnHandler, TextFormatter, configure

LOGGER = logging.getLogger("jobpipe.test")


@pytest.fixture
def written(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[[], str]]:
    """What went to stderr so far, while the root logger is ours; its state comes back afterwards."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield lambda: capsys.readouterr().err
    root.handlers[:] = handlers
    root.setLevel(level)


def text(message: str, *args: object, **extra: object) -> str:
    record = LOGGER.makeRecord("jobpipe.test", logging.INFO, "f", 1, message, args, None, extra=extra or None)
    return TextFormatter().format(record)


def entry(message: str, *args: object, **extra: object) -> dict[str, object]:
    record = LOGGER.makeRecord("jobpipe.test", logging.INFO, "f", 1, message, args, None, extra=extra or None)
    line = JsonFormatter().format(record)
    assert "\n" not in line
    decoded: dict[str, object] = json.loads(line)
    return decoded


def failed(formatter: logging.Formatter, error: Exception) -> str:
    try:
        raise error
    except Exception:
        info = sys.exc_info()
    return formatter.format(LOGGER.makeRecord("jobpipe.test", logging.ERROR, "f", 1, "it failed", (), info))


def test_a_text_line_has_time_level_logger_message_and_fields() -> None:
    line = text("task %s ended", "t1", task="t1", attempt=2, note='two "words"')
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z INFO jobpipe\.test task t1 ended task=t1 attempt=2"
        r' note="two \\"words\\""',
        line,
    )


def test_a_json_line_has_the_documented_keys_and_the_fields_as_own_keys() -> None:
    decoded = entry("task %s ended", "t1", task="t1", attempt=2, ratio=0.5, none=None)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", str(decoded.pop("ts")))
    assert decoded == {
        "level": "INFO",
        "logger": "jobpipe.test",
        "msg": "task t1 ended",
        "task": "t1",
        "attempt": 2,
        "ratio": 0.5,
        "none": None,
    }


def test_a_field_cannot_hide_a_key_of_the_entry() -> None:
    assert entry("real", msg_="x", level="FORGED", ts="never")["level"] == "INFO"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1: 2}, object, b"\xff", "\ud800", {"a": [1]}])
def test_any_field_is_valid_json(value: object) -> None:
    assert "x" in entry("strange", x=value)


@pytest.mark.parametrize("control", ["\n", "\r", "\x1b[31m", "\x00", "\x7f", "\x9b31m", "\u2028", "\u202e"])
def test_no_message_and_no_field_can_forge_an_entry_or_drive_the_terminal(control: str) -> None:
    for line in (text("id %s", f"a{control}b"), text("id", task=f"a{control}b")):
        assert control[0] not in line
        assert control[0].encode("unicode_escape").decode() in line.replace("\\\\", "\\")
    assert entry("id %s", f"a{control}b", task=f"a{control}b")["msg"] == f"id a{control}b"


def test_a_traceback_takes_several_lines_that_cannot_be_taken_for_entries() -> None:
    forged = "boom\n2026-01-01T00:00:00.000Z ERROR jobpipe forged \x1b[2J"
    first, *rest = failed(TextFormatter(), ValueError(forged)).split("\n")
    assert first.endswith("ERROR jobpipe.test it failed")
    assert rest[0] == "  Traceback (most recent call last):"
    assert all(line.startswith("  ") for line in rest)
    assert "\x1b" not in "".join(rest)
    assert r"\x1b[2J" in rest[-1]


def test_a_traceback_in_json_is_one_string() -> None:
    line = failed(JsonFormatter(), ValueError("boom\nbang"))
    assert "\n" not in line
    assert str(json.loads(line)["exception"]).endswith("ValueError: boom\nbang")


def test_the_stack_is_shown_when_asked_for(written: Callable[[], str]) -> None:
    configure("INFO", "text")
    LOGGER.info("here", stack_info=True)
    assert "\n  Stack (most recent call last):\n" in written()


def test_entries_go_to_stderr_from_the_level_on(written: Callable[[], str]) -> None:
    configure("WARNING", "json")
    LOGGER.info("quiet")
    LOGGER.warning("loud", extra={"task": "t1"})
    assert [json.loads(line)["task"] for line in written().splitlines()] == ["t1"]


def test_configuring_twice_says_everything_once_in_the_last_form(written: Callable[[], str]) -> None:
    configure("INFO", "json")
    configure("DEBUG", "text")
    LOGGER.debug("once")
    (line,) = written().splitlines()
    assert line.endswith("DEBUG jobpipe.test once")
    assert sum(isinstance(handler, OwnHandler) for handler in logging.getLogger().handlers) == 1


def test_uvicorn_speaks_through_the_same_handler(written: Callable[[], str]) -> None:
    own = logging.getLogger("uvicorn.error")
    own.addHandler(logging.StreamHandler(sys.stdout))
    own.propagate = False
    configure("INFO", "json")
    own.info("Started")  # told by our own lines
    own.warning("Careful", extra={"color_message": "\x1b[1mStarted"})
    (line,) = written().splitlines()
    assert json.loads(line)["logger"] == "uvicorn.error"
    assert "color_message" not in line


async def test_lines_of_a_turn_are_written_at_once_and_in_order(written: Callable[[], str]) -> None:
    configure("INFO", "text")
    tasks, other = logging.getLogger("jobpipe.tasks"), logging.getLogger("jobpipe.other")
    tasks.info("one")
    tasks.info("two")
    assert written() == ""
    await asyncio.sleep(0)
    assert [line.split()[3] for line in written().splitlines()] == ["one", "two"]
    tasks.info("three")
    other.info("four")
    tasks.warning("five")
    tasks.info("six")
    assert [line.split()[3] for line in written().splitlines()] == ["three", "four", "five"]
    (own,) = [handler for handler in logging.getLogger().handlers if isinstance(handler, OwnHandler)]
    own.flush()  # as the end of the process does
    assert [line.split()[3] for line in written().splitlines()] == ["six"]


def test_without_an_event_loop_each_line_is_written_at_once(written: Callable[[], str]) -> None:
    configure("INFO", "text")
    logging.getLogger("jobpipe.tasks").info("one")
    assert written().split()[3] == "one"
