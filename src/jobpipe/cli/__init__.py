"""The command line: one table of commands, and what all of them share: errors as one line, and exit codes.

A command reads its arguments, calls what does the work, and returns its exit code. Its module is imported when it is
asked for, and what that needs when it runs, so that `--help` and a mistake are answered at once. A new command is one
line of COMMANDS. Data goes to stdout, everything said to people to stderr.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from cyclopts import App, CoercionError, CycloptsError, Group
from cyclopts.exceptions import UnusedCliTokensError

from jobpipe.cli import exits
from jobpipe.cli.invocation import Invocation, current
from jobpipe.cli.output import printable, say, told
from jobpipe.core.errors import JobpipeError
from jobpipe.runtime.streams import open_closed, spare
from jobpipe.runtime.tracing import TracingMissing
from jobpipe.settings.server import BadSetting
from jobpipe.settings.sources import Sources, without_links


class Command(NamedTuple):
    """A command: where its function (or its App of commands) is, and whether it takes a server's settings.

    Settings are read from `.env` and `jobpipe.toml` too; flags of other commands that happen to have the name of a
    setting are not.
    """

    target: str
    settings: bool = False


_UNWRITABLE: Final = frozenset({errno.ENOSPC, errno.EIO, errno.EFBIG, errno.EDQUOT})

COMMANDS: Final[dict[str, dict[str, Command]]] = {
    "Serve and work": {
        "serve": Command("serve:serve_command", settings=True),
        "dev": Command("dev:dev_command", settings=True),
        "worker": Command("worker:worker_command", settings=True),
        "config": Command("config:config_command", settings=True),
    },
    "Look and steer, over HTTP": {
        "enqueue": Command("enqueue:enqueue_command"),
        "task": Command("task:app"),
        "queue": Command("queue:queue_app"),
        "schedule": Command("schedule:app"),
        "workers": Command("server_state:workers_app"),
        "errors": Command("server_state:errors_app"),
        "stats": Command("server_state:stats_command"),
        "top": Command("top:top_command"),
        "watch": Command("watch:watch_command"),
        "bench": Command("bench:bench_command"),
    },
    "Look after a server": {
        "doctor": Command("doctor:doctor_command", settings=True),
        "migrate": Command("migrate:migrate_command", settings=True),
        "copy": Command("copy:copy_command"),
        "backup": Command("backup:backup_command", settings=True),
        "restore": Command("backup:restore_command", settings=True),
        "keys": Command("keys:app"),
    },
    "Tools": {
        "openapi": Command("openapi:openapi_command"),
        "completion": Command("completion:app"),
    },
}
"""By the heading that they stand under in `jobpipe --help`."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (without the program's name; None for the process's own) and give the exit code."""
    open_closed()
    spare("stderr")  # what is said to people must not change what is done; data that cannot be written must
    sources = Sources()
    tokens = list(sys.argv[1:] if argv is None else argv)
    current.set(Invocation(tokens, sources))
    _ignore_links(tokens)
    try:
        code = _run(tokens, sources)
        sys.stdout.flush()
    except CycloptsError as error:
        return _refuse(_usage(error, sources), exits.USAGE)
    except BadSetting as error:
        return _refuse(str(sources.located(error)), exits.USAGE)
    except TracingMissing as error:
        return _refuse(str(sources.located(BadSetting(str(error), "otel", "true"))), exits.USAGE)
    except JobpipeError as error:
        return _refuse(told(error), exits.code_of(error))
    except KeyboardInterrupt:
        return exits.INTERRUPTED
    except BrokenPipeError:
        _drop_output()  # nobody reads on (`| head`): silent
        return exits.PIPE_CLOSED
    except OSError as error:
        if error.errno not in _UNWRITABLE:
            raise
        _drop_output()
        return _refuse(f"the output cannot be written: {error.strerror}", exits.REFUSED)
    return code


def _ignore_links(tokens: Sequence[str]) -> None:
    """Ignore what an orchestrator says of a service that is called jobpipe; told where settings are read."""
    links = without_links(os.environ)
    named = {name: command for commands in COMMANDS.values() for name, command in commands.items()}
    if tokens and tokens[0] in named and named[tokens[0]].settings:
        for name in links:
            say(f"jobpipe: {name} is the address of a service (Kubernetes, Docker), not a setting: ignored")


def _drop_output() -> None:
    """What is left in the buffer goes nowhere: else the interpreter would complain of it at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def build(sources: Sources, *, whole: bool = False) -> App:
    """The command line, with `sources` as what is asked for settings after flags and environment.

    Commands are imported when they are called, or at once as a `whole`: their own words are what describes them.
    """
    app = App(
        name="jobpipe",
        help="Jobpipe: a durable task queue server with nothing else to install.",
        help_epilogue=f"Exit codes:\n{exits.listing()}",
        help_format="plaintext",
        help_formatter="default" if sys.stdout.isatty() else "plain",
        version=_version,
        suppress_keyboard_interrupt=False,  # main gives the exit code
    )
    for place, (heading, commands) in enumerate(COMMANDS.items()):
        group = Group(heading, sort_key=place)
        for name, command in commands.items():
            more: dict[str, Any] = {"config": [sources]} if command.settings else {}
            app.command(f"jobpipe.cli.{command.target}", name=name, group=group, **more)
            if whole:
                app[name]  # imports it
    return app


def _run(tokens: Sequence[str], sources: Sources) -> int:
    code = build(sources, whole=tokens[:1] in ([], ["--help"], ["-h"]))(
        tokens,
        exit_on_error=False,
        print_error=False,
        verbose=False,
        result_action="return_value",
    )
    return code if isinstance(code, int) else exits.OK


def _version() -> str:
    from importlib.metadata import version

    return f"jobpipe {version('jobpipe')}"


def _usage(error: CycloptsError, sources: Sources) -> str:
    """One line for what cyclopts found; a value that does not convert is told like every other bad setting."""
    if isinstance(error, CoercionError) and error.argument is not None and isinstance(error.msg, str):
        name = error.argument.field_info.name
        if name in sources.given:
            return str(sources.located(BadSetting(error.msg, name)))
        return f"{error.argument.tokens[-1].keyword or name}: {error.msg}"
    if isinstance(error, UnusedCliTokensError) and error.unused_tokens:
        return f"unexpected argument {error.unused_tokens[0]!r}"
    return " ".join(str(error).split())


def _refuse(line: str, code: int) -> int:
    print(f"jobpipe: error: {printable(line)}", file=sys.stderr)  # noqa: T201
    return code
