"""The command line: `jobpipe serve`, `jobpipe dev`, `jobpipe worker`, `jobpipe config`.

A command reads its settings, calls one function, and returns its exit code; what it needs is imported when it runs, so
that `--help` and a mistake are answered at once. Every mistake is one line on stderr and exit code 2.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from cyclopts import App, CoercionError, CycloptsError
from cyclopts.exceptions import UnusedCliTokensError

from jobpipe.cli.config import config_command
from jobpipe.cli.dev import dev_command
from jobpipe.cli.serve import serve_command
from jobpipe.cli.worker import worker_command
from jobpipe.settings import BadSetting
from jobpipe.settings_sources import Sources

EXIT_OK = 0
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (without the program's name; None for the process's own) and give the exit code."""
    sources = Sources()
    tokens = list(sys.argv[1:] if argv is None else argv)
    try:
        code = build(sources, tokens)(
            tokens,
            exit_on_error=False,
            print_error=False,
            verbose=False,
            result_action="return_value",
        )
    except CycloptsError as error:
        return _refuse(_usage(error, sources))
    except BadSetting as error:
        return _refuse(str(sources.located(error)))
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    return code if isinstance(code, int) else EXIT_OK


def build(sources: Sources, tokens: Sequence[str]) -> App:
    """The command line for `tokens`, with `sources` as what is asked after flags and environment."""
    app = App(
        name="jobpipe",
        help="Jobpipe: a durable task queue server with nothing else to install.",
        version=_version,
        config=[sources],
        suppress_keyboard_interrupt=False,  # main gives the exit code
    )
    app.command(serve_command, name="serve")
    app.command(dev_command(sources, tokens[1:]), name="dev")
    app.command(worker_command, name="worker")
    app.command(config_command(sources), name="config")
    return app


def _version() -> str:
    from importlib.metadata import version

    return f"jobpipe {version('jobpipe')}"


def _usage(error: CycloptsError, sources: Sources) -> str:
    """One line for what cyclopts found; a value that does not convert is told like every other bad setting."""
    if isinstance(error, CoercionError) and error.argument is not None and isinstance(error.msg, str):
        return str(sources.located(BadSetting(error.msg, error.argument.field_info.name)))
    if isinstance(error, UnusedCliTokensError) and error.unused_tokens:
        return f"unexpected argument {error.unused_tokens[0]!r}"
    return " ".join(str(error).split())


def _refuse(line: str) -> int:
    printable = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
    print(f"jobpipe: error: {printable}", file=sys.stderr)  # noqa: T201
    return EXIT_USAGE
