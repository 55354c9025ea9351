"""From a call's arguments to the payload of a task: the inverse of `jobpipe.work.binding`, and judged by it.

What the handler could not be called with is refused at the call, with the error that its run would have had.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from jobpipe.work.binding import Binding, signature
from jobpipe.work.convert import Write, writer
from jobpipe.work.errors import InvalidPayload


class PayloadForm:
    """How calls of one function become payloads."""

    def __init__(self, function: Callable[..., Any], binding: Binding) -> None:
        shape = signature(function)
        self._binding = binding
        self._signature = shape.replace(
            parameters=[p for p in shape.parameters.values() if p.name not in binding.contexts]
        )
        self._rest = next((p.name for p in shape.parameters.values() if p.kind is p.VAR_KEYWORD), None)
        plain = [p for p in self._signature.parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
        usual = len(plain) == len(self._signature.parameters)
        self._positions = [p.name for p in plain] if usual else []
        self._required = {p.name for p in plain if p.default is p.empty} if usual else {""}
        self._write = {field.name: writer(field.type) for field in binding.fields}
        self._write_rest = writer(Any if binding.rest is None else binding.rest)

    def pack(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> msgspec.Raw:
        """The payload that calls the function like this. Raises InvalidPayload, also for what has no JSON form."""
        given = self._quickly(args, kwargs) or self._carefully(args, kwargs)
        payload = self._payload(given)
        bound = self._binding.bind(payload)
        self._check_kept(given, bound)
        return msgspec.Raw(payload)

    def _quickly(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """The usual call, a third of the time of an enqueue sooner than by the signature; None for all others."""
        if len(args) > len(self._positions):
            return None
        given = {**dict(zip(self._positions, args, strict=False)), **kwargs}
        if len(given) != len(args) + len(kwargs) or not self._required <= given.keys() <= self._write.keys():
            return None
        return given

    def _carefully(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
        try:
            return self._signature.bind(*args, **kwargs).arguments
        except TypeError as error:
            raise InvalidPayload(str(error)) from None

    def _payload(self, given: Mapping[str, Any]) -> bytes:
        if self._binding.whole:
            (field,) = self._binding.fields
            return self._write[field.name](given[field.name]) if field.name in given else b"null"
        parts = {name: self._write[name](value) for name, value in given.items() if name != self._rest}
        for name, value in given.get(self._rest or "", {}).items():
            parts[name] = self._write_rest(value)
        return msgspec.json.encode({name: msgspec.Raw(part) for name, part in parts.items()})

    def _check_kept(self, given: Mapping[str, Any], bound: Mapping[str, Any]) -> None:
        """null stands for a whole payload that was left out; None must not turn into another default unseen."""
        for name, value in given.items():
            if name != self._rest and name not in bound:
                default = self._signature.parameters[name].default
                if default is not value:
                    raise InvalidPayload(f"`{name}` cannot be {value!r}: as a payload that means its default")


def json_of(value: Any) -> msgspec.Raw:
    """The payload that is `value` itself. Raises InvalidPayload when it has no JSON form."""
    return msgspec.Raw(_write_any(value))


_write_any: Write = writer(Any)
