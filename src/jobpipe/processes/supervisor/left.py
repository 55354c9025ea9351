"""What becomes of a run that a worker process left behind when it ended."""

from __future__ import annotations

from jobpipe.core.lifecycle import Kind, Outcome
from jobpipe.processes.supervisor.child import Exit


def left_by(exit: Exit, lease_id: str) -> Outcome:
    """Timed out where the process ended for that; lost where the handler had begun; released where it had not, or where
    the process was ended because its parent stops."""
    late = exit.late.get(lease_id)
    if late is not None:
        return Outcome(
            Kind.TIMED_OUT,
            error_type=Kind.TIMED_OUT.value,
            message=f"timed out after {late.timeout:g} s; its handler did not stop, so its process was ended",
            retry_in=late.pause,
        )
    if lease_id in exit.begun and not exit.stopped:
        return Outcome(Kind.LOST, message=f"its worker process {exit.how}")
    return Outcome(Kind.RELEASED)
