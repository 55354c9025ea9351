"""The commands of `jobpipe task`."""

from __future__ import annotations

from cyclopts import App

from jobpipe.cli.change import change_command
from jobpipe.cli.steering import cancel_command, delete_command, retry_command
from jobpipe.cli.tasks import list_command, show_command, wait_command

app = App(name="task", help="Look at tasks and steer them.")
app.command(list_command, name="list")
app.command(show_command, name="show")
app.command(wait_command, name="wait")
app.command(change_command, name="change")
app.command(retry_command, name="retry")
app.command(cancel_command, name="cancel")
app.command(delete_command, name="delete")
