"""Where settings come from: flags and environment through cyclopts, `.env` and `jobpipe.toml` through this module.

Sources is the one callable that cyclopts asks after it took the flags and the environment. It adds what the two files
in the current directory say about settings still open, and remembers for each setting its origin, for error messages
and for `jobpipe config`. A file that cannot be read or holds a mistake stops the start with BadSetting.
"""

from __future__ import annotations

import difflib
import io
import re
from collections.abc import MutableMapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cyclopts import App, ArgumentCollection, Token

from jobpipe.core.errors import Invalid
from jobpipe.core.masking import masked
from jobpipe.core.rules import Said
from jobpipe.settings.server import KINDS, BadSetting, env_names

DOTENV = ".env"
TOML = "jobpipe.toml"
DEFAULT = "default"

_TYPES = {
    str: "a string",
    bool: "a boolean",
    int: "an integer",
    float: "a float",
    list: "an array",
    dict: "a table",
}


_LINK = re.compile(r"(tcp|udp|sctp)://[^/]+:[0-9]+")


def without_links(environ: MutableMapping[str, str]) -> list[str]:
    """Take away variables that only look like settings, and name them.

    Kubernetes and Docker tell each container of the services beside it: one called `jobpipe` is
    `JOBPIPE_PORT=tcp://10.96.12.34:8080`.
    """
    names = [name for setting in KINDS for name in env_names(setting)]
    links = [name for name in names if _LINK.fullmatch(environ.get(name, ""))]
    for name in links:
        del environ[name]
    return links


class Given(NamedTuple):
    """A value as somebody wrote it, and where: `flag`, `environment WORKERS`, `.env` or `jobpipe.toml`."""

    origin: str
    text: str


class Sources:
    """The files of one start, read in `folder`, and the origin of each setting that is not left at its default."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder or Path()
        self.given: dict[str, Given] = {}
        self.rules: dict[str, Said] = {}
        """What `[rules.QUEUE]` says."""

    def origin(self, name: str) -> str:
        """Where the value of the setting `name` came from."""
        return self.given[name].origin if name in self.given else DEFAULT

    def located(self, error: BadSetting) -> BadSetting:
        """The same error with the origin and the text that were given, as far as they are known here."""
        if error.name is None or error.origin is not None:
            return error
        given = self.given.get(error.name)
        if given is None:
            return BadSetting(error.problem, error.name, error.shown, DEFAULT)
        return BadSetting(error.problem, error.name, _mask(error.name, given.text), given.origin)

    def __call__(self, app: App, commands: Sequence[str], arguments: ArgumentCollection) -> None:
        """Complete `arguments` from the files; called by cyclopts after the flags and the environment."""
        # Both files are read whole, although a flag may win: a mistake in them is shown now and not on another day.
        files = {DOTENV: self._dotenv(), TOML: self._toml()}
        for argument in arguments:
            name = argument.field_info.name
            if name not in KINDS:
                continue
            for source, values in files.items():
                if name in values and not argument.tokens:
                    argument.append(Token(keyword=name, value=values[name], source=source))
            if argument.tokens:
                self.given[name] = _given(argument.tokens[-1])

    def _dotenv(self) -> dict[str, str]:
        text = self._read(DOTENV)
        if text is None:
            return {}
        from dotenv.parser import parse_stream

        lines: dict[str, str] = {}
        for binding in parse_stream(io.StringIO(text)):
            if binding.error:
                raise BadSetting(f"{DOTENV}: line {binding.original.line} is not of the form NAME=value")
            if binding.key is not None:
                lines[binding.key] = binding.value or ""
        return {name: lines[key] for name in KINDS for key in reversed(env_names(name)) if key in lines}

    def _toml(self) -> dict[str, str]:
        text = self._read(TOML)
        if text is None:
            return {}
        import tomllib

        try:
            keys = tomllib.loads(text)
        except (tomllib.TOMLDecodeError, RecursionError) as error:
            raise BadSetting(f"{TOML}: {error}") from error
        values: dict[str, str] = {}
        self.rules = _rules(keys.pop("rules", {}))
        for key, native in keys.items():
            name = _known(key, native)
            if name in values:
                raise BadSetting("is given twice", name, None, TOML)
            values[name] = _text(name, native)
        return values

    def _read(self, name: str) -> str | None:
        try:
            return (self._folder / name).read_text(encoding="utf-8-sig")
        except FileNotFoundError:
            return None
        except OSError as error:
            raise BadSetting(f"{name}: cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise BadSetting(f"{name}: is not UTF-8 text") from error


def _given(token: Token) -> Given:
    if token.source == "cli":
        # A switch has no text of its own: the flag's spelling says it.
        switch = isinstance(token.implicit_value, bool)
        return Given("flag", str(token.keyword) if switch else token.value)
    if token.source == "env":
        return Given(f"environment {token.keyword}", token.value)
    return Given(token.source, token.value)


def _rules(tables: object) -> dict[str, Said]:
    """The tables [rules.QUEUE]."""
    if not isinstance(tables, dict) or not all(isinstance(table, dict) for table in tables.values()):
        raise BadSetting(f"{TOML}: rules stand in tables, like [rules.mail]")
    from jobpipe.wire.rules import check_queue, said_of

    found = {}
    for queue, table in tables.items():
        try:
            check_queue(queue)
            found[queue] = said_of(table)
        except Invalid as error:
            where = f", {error.field}" if error.field else ""
            raise BadSetting(f"{TOML}: [rules.{queue}]{where}: {error}") from None
    return found


def _known(key: str, native: object) -> str:
    """The setting that a key of the TOML names, also with dashes as in the flag."""
    name = key.replace("-", "_")
    if name in KINDS:
        return name
    if isinstance(native, dict):
        raise BadSetting(
            f"{TOML}: has no table [{key}]: settings stand at the top of the file".replace("\n", " ")
        )
    close = difflib.get_close_matches(name, KINDS, n=1)
    hint = f", did you mean {close[0]}?" if close else ""
    raise BadSetting(f"{TOML}: unknown setting {key!r}{hint}")


def _text(name: str, native: Any) -> str:
    try:
        text = KINDS[name].text_of(native)
    except ValueError as error:
        type_ = _TYPES.get(type(native), "a time")
        raise BadSetting(str(error), name, _mask(name, _spelt(native)), f"{type_} in {TOML}") from error
    return text


def _mask(name: str, text: str) -> str:
    return KINDS[name].mask(text) if name in KINDS else masked(text)


def _spelt(native: object) -> str:
    return str(native).lower() if isinstance(native, bool) else str(native)
