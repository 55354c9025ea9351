"""`jobpipe task change`: what is to be done with a task that waits, as long as it waits."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, cast

from cyclopts import Parameter

from jobpipe.cli import exits
from jobpipe.cli.arguments import Expiry, Seconds, Time, Whole
from jobpipe.cli.details import put_task
from jobpipe.cli.output import Output, put_json
from jobpipe.cli.remote import Target
from jobpipe.settings.server import BadSetting

if TYPE_CHECKING:
    from jobpipe.client.values import Changes

Cleared = Literal["timeout", "expires"]
_NOTHING: Final = (
    "say what to change: --payload, --delay, --run-at, --priority, --max-retries, --timeout, --expires"
)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True, slots=True)
class ChangeFlags:
    """What is to be different."""

    payload: Annotated[str | None, Parameter(help="JSON.", allow_leading_hyphen=True, show_default=False)] = (
        None
    )
    priority: Annotated[int | None, Parameter(help="-100 to 100, higher first.", show_default=False)] = None
    delay: Annotated[
        Seconds | None, Parameter(help="Run it so much later than now; 0: now.", show_default=False)
    ] = None
    run_at: Annotated[Time | None, Parameter(help="Run it then: RFC 3339.", show_default=False)] = None
    max_retries: Annotated[Whole | None, Parameter(help="Retries after failures.", show_default=False)] = None
    timeout: Annotated[Seconds | None, Parameter(help="How long one run may take.", show_default=False)] = (
        None
    )
    expires: Annotated[
        Expiry | None, Parameter(help="Cancel it when no worker took it by then.", show_default=False)
    ] = None

    def given(self) -> dict[str, Any]:
        """Those that were given. Raises BadSetting."""
        from jobpipe.cli.lines import BadLine, raw_json

        values = {field.name: getattr(self, field.name) for field in fields(self)}
        said = {name: value for name, value in values.items() if value is not None}
        if self.payload is not None:
            try:
                said["payload"] = raw_json(self.payload.encode(errors="surrogateescape"))
            except BadLine as error:
                raise BadSetting(f"the payload is {error}") from None
        return said


def change_command(
    id: str,
    /,
    *,
    flags: ChangeFlags = ChangeFlags(),
    clear: Annotated[
        tuple[Cleared, ...], Parameter(help="Take this back.", negative=(), show_default=False)
    ] = (),
    output: Output = "table",
    target: Target = Target(),  # noqa: B008 - frozen
) -> int:
    """Change a task that waits: when it is due, what it is given, until when it is of use."""
    changes = flags.given() | dict.fromkeys(clear)
    if not changes:
        raise BadSetting(_NOTHING)
    from jobpipe.client.tasks import changing

    with target.open() as remote:
        body = remote.call(changing(id, cast("Changes", changes))).body
    if output == "table":
        put_task(body, ())
    else:
        put_json([body], output, many=False)
    return exits.OK
