"""`jobpipe task retry`, `cancel` and `delete`: tasks by their ids, or all that match.

What is meant by filters is counted first and asked about; deleting is always asked about. `--yes` answers, and where
nobody can be asked it must be given.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Final

from cyclopts import Parameter

from jobpipe.cli import exits
from jobpipe.cli.arguments import Which
from jobpipe.cli.output import Output, many, printable, put, put_json, say, told
from jobpipe.cli.remote import Remote, Target, bulk, elements, put_rows
from jobpipe.cli.tasks import COLUMNS
from jobpipe.core.errors import JobpipeError
from jobpipe.settings.server import BadSetting

if TYPE_CHECKING:
    from jobpipe.wire import BulkView


Id = Annotated[str, Parameter(name="ID", help="The tasks; left out: all that match the filters.")]

_DONE: Final = {"retry": "queued again", "cancel": "cancelled", "delete": "deleted"}


def retry_command(
    *ids: Id,
    which: Which = Which(),  # noqa: B008 - frozen
    output: Output = "table",
    target: Target = Target(),  # noqa: B008 - frozen
) -> int:
    """Queue failed or cancelled tasks again, their attempts counted anew."""
    return _steer("retry", ids, which, output, target)


def cancel_command(
    *ids: Id,
    which: Which = Which(),  # noqa: B008 - frozen
    output: Output = "table",
    target: Target = Target(),  # noqa: B008 - frozen
) -> int:
    """Cancel waiting tasks, and ask the workers of running ones to stop."""
    return _steer("cancel", ids, which, output, target)


def delete_command(
    *ids: Id,
    which: Which = Which(),  # noqa: B008 - frozen
    output: Output = "table",
    target: Target = Target(),  # noqa: B008 - frozen
) -> int:
    """Forget finished tasks for good."""
    return _steer("delete", ids, which, output, target)


def _steer(action: str, ids: Sequence[str], which: Which, output: Output, target: Target) -> int:
    filtered = which.all or bool(which.conditions())
    if ids and (filtered or which.dry_run):
        raise BadSetting("give ids or filters, not both")
    if not ids and not filtered:
        raise BadSetting("say which tasks: their ids, a filter like --status failed, or --all")
    with target.open() as remote:
        if not ids:
            return _matching(remote, action, which, output)
        if action == "delete" and not agreed(f"Delete {many(len(ids), 'task')}?", which.yes):
            return exits.REFUSED
        return _each(remote, action, ids, output)


def _each(remote: Remote, action: str, ids: Sequence[str], output: Output) -> int:
    """Every one for itself: one that cannot is told, and the others go on."""
    worst, bodies = exits.OK, []
    for id in ids:
        try:
            bodies.append(_one(remote, action, id))
        except JobpipeError as error:
            code = exits.code_of(error)
            if code in (exits.UNREACHABLE, exits.UNAUTHORIZED):
                raise
            say(f"task '{id}': {told(error)}")
            worst = worst or code
    if action == "delete":
        say(f"{many(len(bodies), 'task')} deleted")
    else:
        put_rows(elements(b"[%b]" % b",".join(bodies)), COLUMNS, output)
    return worst


def _one(remote: Remote, action: str, id: str) -> bytes:
    from jobpipe.client.exchange import Request
    from jobpipe.client.tasks import path_of

    if action == "delete":
        return remote.call(Request("DELETE", path_of(id))).body
    return remote.call(Request("POST", f"{path_of(id)}/{action}")).body


def _matching(remote: Remote, action: str, which: Which, output: Output) -> int:
    """All that match. What is asked about is the count of now; a task that comes later is not meant."""
    if which.dry_run or not which.yes:
        count = bulk(remote, action, which.body(dry_run=True))
        if which.dry_run:
            _put_counts(count, output)
            return exits.OK
        if not agreed(f"{action.capitalize()} {many(count.matched, 'task')}?", which.yes):
            return exits.REFUSED
    changed = bulk(remote, action, which.body(dry_run=False))
    say(f"{many(changed.changed, 'task')} {_DONE[action]}, {changed.matched:,} matched")
    if output != "table":
        _put_counts(changed, output)
    return exits.OK


def _put_counts(counts: BulkView, output: Output) -> None:
    from jobpipe.wire import encode_view

    if output == "table":
        put(f"{counts.matched}")
    else:
        put_json([encode_view(counts)], output, many=False)


def agreed(question: str, yes: bool) -> bool:
    """Whether the person says yes. Raises BadSetting where nobody can be asked."""
    if yes:
        return True
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise BadSetting(f"{question} Nobody can be asked here: say --yes")
    print(printable(f"{question} [y/N] "), end="", file=sys.stderr, flush=True)  # noqa: T201
    if sys.stdin.readline().strip().lower() in ("y", "yes"):
        return True
    say("nothing was changed")
    return False
