"""`jobpipe keys`: make, list and remove the API keys of a file. A key is shown once, when it is made."""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from jobpipe.cli.output import put, say
from jobpipe.core.keys import (
    MAX_RATE,
    NAME,
    BadKeys,
    Key,
    digest_of,
    line_of,
    parse_keys,
    parse_scopes,
)
from jobpipe.settings.server import BadSetting

PREFIX = "jp_"
"""By which people, and scanners for secrets, know what it is."""

KeysFile = Annotated[
    Path,
    Parameter(name="--file", env_var="JOBPIPE_API_KEYS_FILE", help="The file of keys that the server reads."),
]
Name = Annotated[str, Parameter(name="--name", help="Whose key it is; errors and /keys/self say this name.")]


app = App(name="keys", help="Make, list and remove API keys.")


@app.command(name="new")
def new_command(
    *,
    name: Name,
    scope: Annotated[
        list[str],
        Parameter(
            help="What it opens: enqueue, work, read, declare, finish or admin; several as a,b or given again."
        ),
    ],
    no_declare: Annotated[
        bool,
        Parameter(
            help="With the scope work: leave out declare, by which an app says what holds of queues.",
            negative="",
        ),
    ] = False,
    rate: Annotated[float | None, Parameter(help="Requests a second that it may make.")] = None,
    file: Annotated[
        Path | None, Parameter(help="Add it to this file, which is made if need be; else its line is shown.")
    ] = None,
) -> int:
    """Make a key. It goes to stdout, once: only its hash is kept."""
    secret = PREFIX + secrets.token_urlsafe(32)
    key = _key(name, scope if no_declare else _with_declare(scope), rate, secret)
    if file is None:
        say("add this line to the file of JOBPIPE_API_KEYS_FILE:")
        say(line_of(key))
    else:
        _append(file, key)
        say(f"added {key.name!r} to {file}; the key, shown this once:")
    put(secret)
    return 0


@app.command(name="list")
def list_command(*, file: KeysFile) -> int:
    """Show the names, scopes and rates of the keys in a file."""
    for key in _read(file):
        name, scopes, _, *rate = line_of(key).split(":")
        put("\t".join([name, scopes, *rate]))
    return 0


@app.command(name="remove")
def remove_command(*, name: Name, file: KeysFile) -> int:
    """Take a key out of a file. A running server refuses it within a second."""
    if name not in {key.name for key in _read(file)}:
        raise BadSetting(f"must be the name of a key in {file}", "name", name, "flag")
    kept = [line for line in _text(file).splitlines(keepends=True) if line.partition(":")[0].strip() != name]
    _replace(file, "".join(kept))
    return 0


def _with_declare(scopes: Sequence[str]) -> list[str]:
    """Workers tell what their app says of queues when they start."""
    named = {scope.strip() for text in scopes for scope in text.split(",")}
    return [*scopes, "declare"] if "work" in named and "declare" not in named else [*scopes]


def _key(name: str, scopes: Sequence[str], rate: float | None, secret: str) -> Key:
    if not NAME.fullmatch(name):
        raise BadSetting("must have 1 to 100 characters A-Z a-z 0-9 _ . -", "name", name, "flag")
    if rate is not None and not 0 < rate <= MAX_RATE:
        raise BadSetting(f"must be above 0, at most {MAX_RATE:g}", "rate", str(rate), "flag")
    try:
        return Key(name, parse_scopes(",".join(scopes)), digest_of(secret.encode()), rate)
    except BadKeys as error:
        raise BadSetting(str(error), "scope", ",".join(scopes), "flag") from None


def _append(file: Path, key: Key) -> None:
    """Add one line in a single write; a file made for it is its owner's alone. Raises BadSetting."""
    old = _text(file) if file.exists() else ""
    if key.name in {known.name for known in _read(file, old)}:
        raise BadSetting(f"must have no key of this name yet (see {file})", "name", key.name, "flag")
    line = ("" if not old or old.endswith("\n") else "\n") + line_of(key) + "\n"
    try:
        opened = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        with open(opened, "ab", buffering=0) as appended:
            appended.write(line.encode())
            os.fsync(appended)
    except OSError as error:
        raise _unusable(file, "written", error) from error


def _replace(file: Path, text: str) -> None:
    """Put `text` in the place of the file, whole, with the same rights. Raises BadSetting."""
    target = file.resolve()
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        with open(handle, "wb") as written:
            written.write(text.encode())
            written.flush()
            os.fsync(written)
        _take_rights(target, temporary)
        os.replace(temporary, target)
    except OSError as error:
        raise _unusable(file, "written", error) from error


def _take_rights(target: Path, temporary: str) -> None:
    had = target.stat()
    os.chmod(temporary, had.st_mode & 0o777)
    if sys.platform != "win32":
        with contextlib.suppress(
            PermissionError
        ):  # it was somebody else's: now it is ours, with the same rights
            os.chown(temporary, had.st_uid, had.st_gid)


def _read(file: Path, text: str | None = None) -> list[Key]:
    try:
        return parse_keys(_text(file) if text is None else text)
    except BadKeys as error:
        raise BadSetting(f"must hold API keys ({error})", "file", str(file), "flag") from None


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise _unusable(file, "read", error) from error
    except UnicodeDecodeError:
        raise BadSetting("must be UTF-8 text", "file", str(file), "flag") from None


def _unusable(file: Path, done: str, error: OSError) -> BadSetting:
    return BadSetting(f"must be a file that can be {done} ({error.strerror})", "file", str(file), "flag")
