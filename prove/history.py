"""What the users of a store were told and when, so that any later state of it can be judged.

Each task goes through a chain of states. A step begins when it is asked for and is known when it is answered; at any
moment the store may hold the state of the last answered step or of one that was asked for since.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

from msgspec import Struct

GONE = "gone"
RUNNING = "running"


class Step(Struct):
    """A task's way to `state`, between two moments; `known` None means that no answer came."""

    state: str
    asked: int
    known: int | None = None


class History:
    """The steps of every task, oldest first. Moments are numbers that only grow."""

    def __init__(self) -> None:
        self._steps: dict[str, list[Step]] = defaultdict(list)

    def ask(self, ids: Iterable[str], state: str, moment: int) -> list[Step]:
        """Steps that are asked for now, to be given to `know`; a task has one under way at most."""
        steps = []
        for id_ in ids:
            step = Step(state, moment)
            self._steps[id_].append(step)
            steps.append(step)
        return steps

    def latest(self, state: str) -> list[str]:
        """The tasks whose last step leads to this state."""
        return [id_ for id_, steps in self._steps.items() if steps[-1].state == state]

    @staticmethod
    def know(steps: Iterable[Step], moment: int) -> None:
        """They were answered."""
        for step in steps:
            step.known = moment

    def known(self) -> int:
        """How many steps were answered."""
        return sum(step.known is not None for steps in self._steps.values() for step in steps)

    def wrong(self, found: Mapping[str, str], moment: int) -> list[str]:
        """The tasks whose found state is none that they may have had at `moment`."""
        return [
            f"{id_}: found {found.get(id_, GONE)}, may be {sorted(allowed)}"
            for id_, steps in self._steps.items()
            if found.get(id_, GONE) not in (allowed := _allowed(steps, moment))
        ] + [f"{id_}: nobody inserted it" for id_ in found if id_ not in self._steps]


def _allowed(steps: list[Step], moment: int) -> set[str]:
    allowed = {GONE}
    for step in steps:
        if step.asked > moment:
            break
        if step.known is not None and step.known <= moment:
            allowed = {step.state}
        else:
            allowed.add(step.state)
    return allowed
