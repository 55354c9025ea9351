"""The kinds of values that settings have: how each is read from text, checked, and shown.

A flag, an environment variable and a line of `.env` are text; a key of `jobpipe.toml` has a type of its own, which
must fit. Every refusal is a ValueError whose message completes the sentence "the setting ...". Python's own `int` and
`float` are too generous for this (`1_000`, `nan`, blanks), so that the text is matched first.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from cyclopts import Token

from jobpipe.core.masking import masked

_WHOLE = re.compile(r"[+-]?[0-9]{1,18}")
_NUMBER = re.compile(r"[+-]?([0-9]{1,18}(\.[0-9]{0,18})?|\.[0-9]{1,18})([eE][+-]?[0-9]{1,3})?|inf", re.ASCII)
_SIZE = re.compile(r"([0-9]{1,15}) ?(B|KiB|MiB|GiB)?", re.IGNORECASE)
_UNITS = {"": 1, "b": 1, "kib": 1024, "mib": 1024**2, "gib": 1024**3}
MAX_SIZE = 1024**3


@dataclass(frozen=True)
class Kind:
    """What the values of a setting look like."""

    toml: ClassVar[tuple[type, ...]] = (str,)

    def describe(self) -> str:
        """What a value must be, to follow "must be"."""
        raise NotImplementedError

    def parse(self, text: str) -> Any:
        """The value that `text` stands for; ValueError when it stands for none."""
        raise NotImplementedError

    def fits(self, value: Any) -> bool:
        """Whether a value, from whatever source, is of the right type and within its bounds."""
        raise NotImplementedError

    def show(self, value: Any) -> str:
        """The text that `parse` would read as `value`, without secrets."""
        return str(value)

    def mask(self, text: str) -> str:
        """`text` as somebody gave it, for an error message, without secrets."""
        return masked(text)

    def check(self, value: Any) -> None:
        """Raise ValueError unless `value` fits."""
        if not self.fits(value):
            raise self.refusal()

    def refusal(self) -> ValueError:
        """The error for a value that is not of this kind."""
        return ValueError(f"must be {self.describe()}")

    def convert(self, tokens: Sequence[Token]) -> Any:
        """The converter that cyclopts calls: one token, its text read and checked."""
        value = self.parse(tokens[0].value)
        self.check(value)
        return value

    def text_of(self, native: object) -> str:
        """The text for a value of `jobpipe.toml`; ValueError when its type does not fit."""
        # A bool is an int to Python, and `workers = true` is a mistake.
        if not isinstance(native, self.toml) or (isinstance(native, bool) and bool not in self.toml):
            raise self.refusal()
        return str(native).lower() if isinstance(native, bool) else str(native)


@dataclass(frozen=True)
class Whole(Kind):
    """A whole number from `low` to `high`."""

    low: int
    high: int
    toml = (int,)

    def describe(self) -> str:
        return f"a whole number from {self.low} to {self.high}"

    def parse(self, text: str) -> int:
        if not _WHOLE.fullmatch(text):
            raise self.refusal()
        return int(text)

    def fits(self, value: Any) -> bool:
        return type(value) is int and self.low <= value <= self.high


@dataclass(frozen=True)
class Number(Kind):
    """A number from `low` to `high`; `unit` is for people.

    With `above`, `low` itself is excluded; with `infinite`, `inf` is let in beyond `high`.
    """

    low: float
    high: float
    unit: str = "seconds"
    above: bool = False
    infinite: bool = False
    toml = (int, float)

    def describe(self) -> str:
        what = f"a number of {self.unit}" if self.unit else "a number"
        low, high = self.show(self.low), self.show(self.high)
        bounds = f"above {low}, at most {high}" if self.above else f"from {low} to {high}"
        return f"{what} {bounds}" + (", or inf" if self.infinite else "")

    def parse(self, text: str) -> float:
        if not _NUMBER.fullmatch(text):
            raise self.refusal()
        value = float(text)
        if math.isinf(value) and text != "inf":  # 1e999 is a slip, not a wish
            raise self.refusal()
        return value

    def fits(self, value: Any) -> bool:
        if type(value) not in (int, float):
            return False
        if value == math.inf:
            return self.infinite
        return self.low <= value <= self.high and not (self.above and value == self.low)

    def show(self, value: Any) -> str:
        # 25.0 and 1e-05 are the machine's spelling; people write 25.
        return str(int(value)) if math.isfinite(value) and value == int(value) else str(value)


@dataclass(frozen=True)
class Size(Kind):
    """A number of bytes from `low` to `high`, given plainly or with a binary unit: 65536, 64KiB, 1MiB."""

    low: int = 1
    high: int = MAX_SIZE
    toml = (int, str)

    def describe(self) -> str:
        low = "1 byte" if self.low == 1 else self.show(self.low)
        return f"a size from {low} to {self.show(self.high)}, like 65536, 64KiB or 1MiB"

    def parse(self, text: str) -> int:
        match = _SIZE.fullmatch(text)
        if match is None:
            raise self.refusal()
        return int(match[1]) * _UNITS[(match[2] or "").lower()]

    def fits(self, value: Any) -> bool:
        return type(value) is int and self.low <= value <= self.high

    def show(self, value: Any) -> str:
        for unit, factor in (("GiB", 1024**3), ("MiB", 1024**2), ("KiB", 1024)):
            if value >= factor and value % factor == 0:
                return f"{value // factor}{unit}"
        return str(value)


@dataclass(frozen=True)
class Auto(Kind):
    """A value of another kind, or `auto` (None), which leaves it to Jobpipe; `what` says what that is."""

    kind: Kind
    what: str

    @property
    def toml(self) -> tuple[type, ...]:  # type: ignore[override]
        return (*self.kind.toml, str)

    def describe(self) -> str:
        return f"{self.kind.describe()}, or auto ({self.what})"

    def parse(self, text: str) -> Any:
        if text == "auto":
            return None
        try:
            return self.kind.parse(text)
        except ValueError:
            raise self.refusal() from None

    def fits(self, value: Any) -> bool:
        return value is None or self.kind.fits(value)

    def show(self, value: Any) -> str:
        return "auto" if value is None else self.kind.show(value)


@dataclass(frozen=True)
class Switch(Kind):
    """On or off."""

    toml = (bool,)
    words: ClassVar[dict[str, bool]] = {
        **dict.fromkeys(("true", "yes", "on", "1"), True),
        **dict.fromkeys(("false", "no", "off", "0"), False),
    }

    def describe(self) -> str:
        return "true or false"

    def parse(self, text: str) -> bool:
        if text.lower() not in self.words:
            raise self.refusal()
        return self.words[text.lower()]

    def fits(self, value: Any) -> bool:
        return type(value) is bool

    def show(self, value: Any) -> str:
        return "true" if value else "false"


@dataclass(frozen=True)
class Choice(Kind):
    """One of a few values, compared without regard to case and kept as listed."""

    values: tuple[str, ...] | tuple[int, ...]

    def describe(self) -> str:
        *most, last = map(str, self.values)
        return f"{', '.join(most)} or {last}"

    def parse(self, text: str) -> str | int:
        for value in self.values:
            if str(value).lower() == text.lower():
                return value
        raise self.refusal()

    def fits(self, value: Any) -> bool:
        return type(value) is type(self.values[0]) and value in self.values

    def text_of(self, native: object) -> str:
        if type(native) is not type(self.values[0]):
            raise self.refusal()
        return str(native)


@dataclass(frozen=True)
class Names(Kind):
    """A comma list of names, or in `jobpipe.toml` also an array; with `star`, `*` alone stands for all (None)."""

    what: str
    pattern: str
    star: bool = False
    fold: bool = False
    toml = (str, list)

    def describe(self) -> str:
        return ("* or " if self.star else "") + f"a comma list of {self.what}"

    def parse(self, text: str) -> frozenset[str] | None:
        if self.star and text == "*":
            return None
        names = [name.strip() for name in text.split(",")]
        return frozenset(name.lower() if self.fold else name for name in names)

    def fits(self, value: Any) -> bool:
        if value is None:
            return self.star
        if not isinstance(value, frozenset) or (self.star and not value):
            return False
        return all(isinstance(name, str) and re.fullmatch(self.pattern, name, re.ASCII) for name in value)

    def show(self, value: Any) -> str:
        return "*" if value is None else ",".join(sorted(value))

    def text_of(self, native: object) -> str:
        if isinstance(native, list) and all(isinstance(name, str) and "," not in name for name in native):
            return ",".join(native)
        if not isinstance(native, str):
            raise self.refusal()
        return native


@dataclass(frozen=True)
class Text(Kind):
    """Text of a form that `test` judges, in words `form`."""

    form: str
    test: Callable[[str], bool]

    def describe(self) -> str:
        return self.form

    def parse(self, text: str) -> str:
        return text

    def fits(self, value: Any) -> bool:
        return isinstance(value, str) and value.isprintable() and self.test(value)

    def show(self, value: Any) -> str:
        return masked(value)


@dataclass(frozen=True)
class Hidden(Text):
    """Text that is never shown."""

    def show(self, value: Any) -> str:
        return self.mask(value)

    def mask(self, text: str) -> str:
        return "***" if text else ""
