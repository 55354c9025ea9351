"""Rules of queues and keys as JSON: what people and apps say of them, and how they are shown."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType
from msgspec.structs import asdict

from jobpipe.core.errors import Invalid
from jobpipe.core.rates import BadRate, Rate, checked, parse_rate
from jobpipe.core.rules import MAX_CAPACITY, MAX_CONCURRENCY, Rules, Said
from jobpipe.wire import requests, strict
from jobpipe.wire.answers import Count, QueueView, RateBody, RulesView, Time

MAX_NAME = 200
MAX_DECLARED = 1000
"""Queues, and handlers, of one app."""

Lifted = Literal["none"]
_Whole = Annotated[int, Meta(ge=1, le=MAX_CONCURRENCY)]


RateForm = Annotated[str, Meta(description='"100/m" (s, m, h, d); "none" lifts an app\'s')] | RateBody


class RulesBody(Struct, forbid_unknown_fields=True):
    """What people say of a queue; null takes a rule back, "none" lifts that of an app."""

    paused: bool | UnsetType | None = UNSET
    capacity: Annotated[int, Meta(ge=1, le=MAX_CAPACITY)] | Lifted | UnsetType | None = UNSET
    concurrency: _Whole | Lifted | UnsetType | None = UNSET
    rate: RateForm | UnsetType | None = UNSET
    key_concurrency: _Whole | Lifted | UnsetType | None = UNSET
    key_rate: RateForm | UnsetType | None = UNSET
    fair: bool | Lifted | UnsetType | None = UNSET


class KeyRulesBody(Struct, forbid_unknown_fields=True):
    """What people say of one key; null takes a rule back, "none" lifts its queue's for this key."""

    paused: bool | UnsetType | None = UNSET
    concurrency: _Whole | Lifted | UnsetType | None = UNSET
    rate: RateForm | UnsetType | None = UNSET


class DeclaredBody(Struct, forbid_unknown_fields=True):
    """What an app says of a queue: as people do, but it cannot pause."""

    capacity: Annotated[int, Meta(ge=1, le=MAX_CAPACITY)] | None = None
    concurrency: _Whole | None = None
    rate: RateForm | None = None
    key_concurrency: _Whole | None = None
    key_rate: RateForm | None = None
    fair: bool | None = None


class DeclareBody(Struct, forbid_unknown_fields=True):
    """What an app says when its workers start; it takes the place of what it said before, unless that
    release was higher."""

    app: Annotated[str, Meta(min_length=1, max_length=200)]
    release: Annotated[int, Meta(ge=0, le=2**53)] | None = None
    handlers: Annotated[dict[str, Raw], Meta(max_length=MAX_DECLARED)] | None = None
    queues: Annotated[dict[str, DeclaredBody], Meta(max_length=MAX_DECLARED)] | None = None
    schedules: Annotated[dict[str, Raw], Meta(max_length=MAX_DECLARED)] | None = None


class SetView(RulesView, kw_only=True):
    """What people said, when they changed it last, and who did: the name of an API key."""

    changed_at: Time
    changed_by: str | None


class RuledQueueView(QueueView, kw_only=True):
    """A queue with what apps declared and people set of it, null where there is none; `hold_until` is the end of
    a hold."""

    declared: dict[str, RulesView] | None
    set: SetView | None
    hold_until: Time | None


class KeyUseView(Struct):
    """A key with unfinished tasks or rules; `rules` are those in force of it."""

    key: str
    queued: Count
    running: Count
    rules: RulesView
    hold_until: Time | None


class RuledKeyView(KeyUseView, kw_only=True):
    """A key with what people set of it, null where they set nothing."""

    set: SetView | None


_rules = msgspec.json.Decoder(RulesBody)
_rules_fields: dict[str, Any] = dict.fromkeys(RulesBody.__struct_fields__)
_key_rules = msgspec.json.Decoder(KeyRulesBody)
_key_rules_fields: dict[str, Any] = dict.fromkeys(KeyRulesBody.__struct_fields__)
_declare = msgspec.json.Decoder(DeclareBody)
_declare_fields: dict[str, Any] = dict.fromkeys(DeclareBody.__struct_fields__)
_encode = msgspec.json.encode


def parse_rules(body: bytes) -> dict[str, Any]:
    """A change of a queue's rules. Raises InvalidJson or Invalid with the field."""
    return _change(strict.decode(_rules, body, _rules_fields))


def parse_key_rules(body: bytes) -> dict[str, Any]:
    """A change of one key's rules. Raises InvalidJson or Invalid with the field."""
    return _change(strict.decode(_key_rules, body, _key_rules_fields))


def parse_declare(body: bytes) -> tuple[str, int, dict[str, Said], bytes, dict[str, Raw]]:
    """App, release, rules by queue, handlers' schemas as JSON, and schedules as they came.

    Raises InvalidJson or Invalid with the field.
    """
    parsed = strict.decode(_declare, body, _declare_fields)
    requests.check_name(parsed.app, "app")
    queues = {}
    for name, said in (parsed.queues or {}).items():
        requests.queues.check(name)
        queues[name] = Said(
            **{
                rule: value
                for rule, value in _change(said).items()
                if value is not None and value is not False
            }
        )
    for name in parsed.handlers or {}:
        requests.handlers.check(name)
    return parsed.app, parsed.release or 0, queues, _encode(parsed.handlers or {}), parsed.schedules or {}


def check_queue(queue: str) -> None:
    """Raise Invalid for what cannot name a queue."""
    requests.queues.check(queue)


def check_key(key: str) -> None:
    """Raise Invalid for what no task can have as its key."""
    requests.check_name(key, "key")
    if len(key) > MAX_NAME:
        raise Invalid(f"has at most {MAX_NAME} characters", field="key")


def said_of(rules: dict[str, Any]) -> Said:
    """What an app's own code, or a file of settings, says of a queue. Raises Invalid with the field."""
    try:
        body = msgspec.convert(rules, DeclaredBody)
    except msgspec.ValidationError as error:
        raise strict.as_invalid(error) from None
    return Said(
        **{rule: value for rule, value in _change(body).items() if value is not None and value is not False}
    )


def rules_view(rules: Rules | Said, *, paused: bool = True) -> RulesView:
    """The rules that are in force or said."""
    shown = _shown(rules)
    if not paused:
        shown.pop("paused", None)
    return RulesView(**shown)


def set_view(said: Said, changed_at: str, changed_by: str | None) -> SetView:
    """What people said."""
    return SetView(**_shown(said), changed_at=changed_at, changed_by=changed_by)


def declared_json(rules: Said) -> dict[str, Any]:
    """As `queues` of POST /declare has it."""
    found: dict[str, Any] = msgspec.to_builtins(rules_view(rules))
    return found


def _shown(rules: Rules | Said) -> dict[str, Any]:
    is_said = isinstance(rules, Said)
    return {
        name: _rate_form(value) if isinstance(value, Rate) else value
        for name, value in asdict(rules).items()
        if value is not UNSET and value is not None and (is_said or value is not False)
    }


def _rate_form(rate: Rate) -> str | RateBody:
    return rate.sent or RateBody(rate.limit, rate.period, rate.burst)


def _change(body: RulesBody | KeyRulesBody | DeclaredBody) -> dict[str, Any]:
    change = {name: value for name, value in asdict(body).items() if value is not UNSET}
    for name in ("rate", "key_rate"):
        if change.get(name) not in (None, "none"):
            change[name] = _rate(change[name], name)
    return change


def _rate(form: str | RateBody, field: str) -> Rate:
    try:
        if isinstance(form, str):
            return parse_rate(form)
        return checked(Rate(form.limit, form.period, form.burst))
    except BadRate as error:
        raise Invalid(str(error), field=field) from None
