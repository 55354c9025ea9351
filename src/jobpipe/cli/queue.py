"""`jobpipe queue`: what holds of a queue and of its keys; pausing it, and setting rules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final
from urllib.parse import urlencode

from cyclopts import Parameter

from jobpipe.cli import exits
from jobpipe.cli.output import Column, Output, column, put, put_json, time
from jobpipe.cli.remote import Remote, Target, fields, put_rows
from jobpipe.cli.server_state import queue_app
from jobpipe.settings.server import BadSetting

__all__ = ["queue_app"]

Name = Annotated[str, Parameter(name="QUEUE", help="The queue.")]
OfKey = Annotated[
    str | None,
    Parameter(name="--of", help="Of this key alone, instead of the whole queue.", show_default=False),
]
Rules = Annotated[
    str,
    Parameter(
        name="RULE", help="concurrency=5 rate=100/m key_concurrency=1 key_rate=2/s fair=true capacity=1000"
    ),
]

KEY_COLUMNS: Final = (
    column("key"),
    column("queued", right=True),
    Column("running", lambda row: _fill(row), right=True),  # noqa: PLW0108 - it stands below
    Column("rules", lambda row: _rules(row["rules"])),
    Column("held until", lambda row: time(row["hold_until"]) if row["hold_until"] else ""),
)
_SWITCHES: Final = {"true": True, "false": False}


@queue_app.command(name="show")
def queue_show_command(queue: Name, /, *, output: Output = "table", target: Target = Target()) -> int:  # noqa: B008 - frozen
    """A queue: what apps declare, what people set, and what of both is in force."""
    with target.open() as remote:
        _put(remote.get(_path(queue)), output)
    return exits.OK


@queue_app.command(name="pause")
def queue_pause_command(queue: Name, /, *, output: Output = "table", target: Target = Target()) -> int:  # noqa: B008 - frozen
    """Let nothing of a queue start; it goes on taking tasks."""
    return _steer(queue, "pause", output, target)


@queue_app.command(name="resume")
def queue_resume_command(queue: Name, /, *, output: Output = "table", target: Target = Target()) -> int:  # noqa: B008 - frozen
    """End a pause, and a hold."""
    return _steer(queue, "resume", output, target)


@queue_app.command(name="set")
def queue_set_command(
    queue: Name,
    /,
    *rules: Rules,
    of: OfKey = None,
    output: Output = "table",
    target: Target = Target(),  # noqa: B008 - frozen
) -> int:
    """Set rules of a queue, or of one key; `RULE=none` lifts what an app declares."""
    change = dict(_rule(text) for text in rules)
    if not change:
        raise BadSetting("say at least one rule, like concurrency=5")
    with target.open() as remote:
        _put(_patch(remote, _path(queue, of), change), output)
    return exits.OK


@queue_app.command(name="unset")
def queue_unset_command(
    queue: Name,
    /,
    *names: Annotated[
        str, Parameter(name="RULE", help="The rules to take back; left out: all that people set.")
    ],
    of: OfKey = None,
    output: Output = "table",
    target: Target = Target(),  # noqa: B008 - frozen
) -> int:
    """Take back what people set: what apps declare holds again."""
    with target.open() as remote:
        if names:
            _put(_patch(remote, _path(queue, of), dict.fromkeys(map(_name, names))), output)
        else:
            from jobpipe.client.exchange import Request

            remote.call(Request("DELETE", _path(queue, of), repeatable=True))
    return exits.OK


@queue_app.command(name="keys")
def queue_keys_command(
    queue: Name,
    /,
    *,
    limit: Annotated[int, Parameter(help="How many keys at most.")] = 100,
    output: Output = "table",
    target: Target = Target(),  # noqa: B008 - frozen
) -> int:
    """Keys that have unfinished tasks or rules of their own, by name."""
    with target.open() as remote:
        put_rows(remote.array(f"{_path(queue)}/keys?{urlencode({'limit': limit})}"), KEY_COLUMNS, output)
    return exits.OK


def _steer(queue: str, action: str, output: Output, target: Target) -> int:
    from jobpipe.client.exchange import Request

    with target.open() as remote:
        _put(remote.call(Request("POST", f"{_path(queue)}/{action}", repeatable=True)).body, output)
    return exits.OK


def _patch(remote: Remote, path: str, change: dict[str, Any]) -> bytes:
    import msgspec

    from jobpipe.client.exchange import Request

    return remote.call(Request("PATCH", path, msgspec.json.encode(change), repeatable=True)).body


def _rule(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not value:
        raise BadSetting(f"a rule looks like concurrency=5, not {text!r}")
    if value.isascii() and value.isdecimal():
        return _name(name), int(value[:20])
    return _name(name), _SWITCHES.get(value, value)


def _name(name: str) -> str:
    return name.replace("-", "_")


def _path(queue: str, key: str | None = None) -> str:
    from jobpipe.client.queues import path_of

    return path_of(queue, key)


def _put(body: bytes, output: Output) -> None:
    if output != "table":
        put_json([body], output, many=False)
        return
    shown = fields(body)
    lines = {
        "queue": shown.get("queue", ""),
        "key": shown.get("key", ""),
        "queued": shown["queued"],
        "running": shown["running"],
        "paused": "yes" if shown.get("paused") or (shown.get("rules") or {}).get("paused") else "",
        "held until": time(shown["hold_until"]) if shown["hold_until"] else "",
        "in force": _rules(shown.get("rules") or {}),
        "set": _rules(shown.get("set") or {}),
        **{f"declared by {app}": _rules(said) for app, said in (shown.get("declared") or {}).items()},
    }
    width = max(map(len, lines))
    for name, text in lines.items():
        if text != "":
            put(f"{name:<{width}}  {text}")


def _rules(rules: dict[str, Any]) -> str:
    return "  ".join(f"{name}={_value(value)}" for name, value in rules.items())


def _value(value: Any) -> str:
    if isinstance(value, dict):
        burst = "" if value.get("burst") is None else f", burst {value['burst']}"
        return f"{value['limit']} in {value['period']:g} s{burst}"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _fill(row: Mapping[str, Any]) -> str:
    most = row["rules"].get("concurrency")
    return str(row["running"]) if most is None else f"{row['running']}/{most}"
