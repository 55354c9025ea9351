"""One task on the terminal: a field a line, then what is long: payload, result, attempts, traceback."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from jobpipe.cli.output import BOLD, COLOURS, paint, printable, printable_json, put, shown, time
from jobpipe.cli.remote import fields

_FIELDS: Final = (
    "id", "status", "handler", "queue", "priority", "attempts", "failures", "lost", "max_retries", "timeout",
    "created_at", "run_at", "started_at", "finished_at", "cancel_requested", "worker",
)  # fmt: skip

MOST_SHOWN: Final = 4000
MOST_LINES: Final = 60

_IF_USED: Final = ("key", "expires_at", "schedule", "scheduled_for")
"""What a task has only where it uses it."""


def put_task(body: bytes, attempts: Sequence[Mapping[str, Any]]) -> None:
    """Print the task."""
    task = fields(body, "payload", "result")
    width = max(map(len, _FIELDS))
    for name in (*_FIELDS, *(name for name in _IF_USED if name in task)):
        value = time(task[name]) if name.endswith("_at") else printable(shown(task[name]))
        colour = COLOURS.get(value, "") if name == "status" else ""
        put(f"{name:<{width}}  {paint(value, colour)}")
    if "unique" in task:
        put(f"{'unique':<{width}}  {printable(_unique(task['unique']))}")
    _put_json(body, "payload", "result")
    _put_attempts(attempts)
    _put_error(task["last_error"])


def _unique(rules: Mapping[str, Any]) -> str:
    until = rules["until"]
    words = [
        rules["key"],
        f"until {until}" if isinstance(until, str) else f"for {until:g} s",
        rules["on_conflict"],
    ]
    return ", ".join(words) + (f" within {rules['within']:g} s" if "within" in rules else "")


def _put_json(body: bytes, *names: str) -> None:
    import msgspec

    raw = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    for name in names:
        text = printable_json(msgspec.json.format(bytes(raw[name]), indent=2).decode())
        _put_block(name, _folded(text) if sys.stdout.isatty() else text.splitlines())


def _folded(text: str) -> list[str]:
    """What of a value people can read on a terminal, and how to get the rest."""
    lines = text[:MOST_SHOWN].splitlines()[:MOST_LINES]
    left = len(text) - sum(len(line) + 1 for line in lines)
    return lines if left <= 0 else [*lines, f"... {left:,} characters more: -o json shows all"]


def _put_attempts(attempts: Sequence[Mapping[str, Any]]) -> None:
    if attempts:
        _put_block("attempts that did not succeed", map(_attempt, attempts))


def _attempt(attempt: Mapping[str, Any]) -> str:
    error = attempt.get("error") or {}
    why = f"  {error['type']}: {error['message']}" if error else ""
    return f"{attempt['attempt']}  {time(attempt['ended_at'])}  {attempt['outcome']}{why}"


def _put_error(error: Mapping[str, Any] | None) -> None:
    if error is not None:
        lines = (error["traceback"] or f"{error['type']}: {error['message']}").splitlines()
        _put_block(f"last error (attempt {error['attempt']}, {time(error['at'])})", lines)


def _put_block(title: str, lines: Iterable[str]) -> None:
    put("")
    put(paint(title, BOLD))
    for line in lines:
        put(f"  {printable(line)}")
