"""`jobpipe completion`: what the shell needs to complete commands and flags at the Tab key."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Final, Literal, cast, get_args

from cyclopts import App, Parameter

from jobpipe.cli import exits
from jobpipe.cli.output import put, say
from jobpipe.settings.server import BadSetting

Shell = Literal["bash", "zsh", "fish"]
ShellFlag = Annotated[Shell | None, Parameter(help="Left out: that of SHELL.", show_default=False)]

_NEXT: Final = {
    "bash": "The next bash that is started completes, where bash-completion is installed; else source the file.",
    "zsh": "Put this before compinit in ~/.zshrc: fpath=({folder} $fpath)",
    "fish": "The next fish that is started completes.",
}

app = App(name="completion", help="Completion of commands and flags for your shell.")


@app.command(name="show")
def show_command(*, shell: ShellFlag = None) -> int:
    """Print the completion script."""
    put(_script(shell or _shell()))
    return exits.OK


@app.command(name="install")
def install_command(*, shell: ShellFlag = None) -> int:
    """Write the completion script to where your shell looks for it. Start-up files are left alone."""
    shell = shell or _shell()
    path = _place(shell)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(_script(shell) + "\n", encoding="utf-8")
    except OSError as error:
        raise BadSetting(f"{path}: {error.strerror}") from error
    put(str(path))
    say(_NEXT[shell].format(folder=path.parent))
    return exits.OK


def _shell() -> Shell:
    name = Path(os.environ.get("SHELL", "")).name
    if name in get_args(Shell):
        return cast("Shell", name)
    raise BadSetting("say which shell: --shell bash, zsh or fish")


def _script(shell: Shell) -> str:
    from jobpipe.cli import build
    from jobpipe.settings.sources import Sources

    return build(Sources(), whole=True).generate_completion(prog_name="jobpipe", shell=shell)


def _place(shell: Shell) -> Path:
    data = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share")
    config = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return {
        "bash": data / "bash-completion/completions/jobpipe",
        "zsh": data / "zsh/site-functions/_jobpipe",
        "fish": config / "fish/completions/jobpipe.fish",
    }[shell]
