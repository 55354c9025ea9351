"""What people and apps say of a queue or of one of its keys, and what of it is in force.

People's rules stand over an app's, rule by rule, until they are taken back; of several apps the strictest holds.
Nothing here knows what runs: engines compare these rules with the store.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, TypeVar

from msgspec import UNSET, Struct, UnsetType
from msgspec.structs import asdict

from jobpipe.core.rates import Rate

MAX_CAPACITY = 10**9
MAX_CONCURRENCY = 10**6
MAX_KEY_RULES = 10_000
"""Single keys of a queue that may have rules of their own."""
MAX_KEYS = 100_000
"""Keys of a queue with key rules, or that is fair, that may have waiting tasks."""
MAX_HOLD_S = 3600.0

T = TypeVar("T")
Lifted = Literal["none"]
"""No such limit, whatever an app (or, for a key, its queue) says."""


class Said(Struct, frozen=True, omit_defaults=True):
    """What one source says of a queue; a rule left out is none of its business."""

    paused: bool | UnsetType = UNSET
    capacity: int | Lifted | UnsetType = UNSET
    concurrency: int | Lifted | UnsetType = UNSET
    rate: Rate | Lifted | UnsetType = UNSET
    key_concurrency: int | Lifted | UnsetType = UNSET
    key_rate: Rate | Lifted | UnsetType = UNSET
    fair: bool | Lifted | UnsetType = UNSET


class Rules(Struct, frozen=True, omit_defaults=True):
    """What is in force; None where nothing is."""

    paused: bool = False
    capacity: int | None = None
    concurrency: int | None = None
    rate: Rate | None = None
    key_concurrency: int | None = None
    key_rate: Rate | None = None
    fair: bool = False

    @property
    def by_key(self) -> bool:
        """Whether keys are told apart when tasks are claimed."""
        return self.fair or self.key_concurrency is not None or self.key_rate is not None

    @property
    def limited(self) -> bool:
        """Whether a start must be judged by what runs or began: nothing is prefetched from such a queue."""
        return self.by_key or self.concurrency is not None or self.rate is not None

    def of_key(self, said: Said) -> Rules:
        """The rules of a key by itself: what is said of it, else what the queue says of each key."""
        return Rules(
            paused=said.paused is True,
            concurrency=_over(said.concurrency, self.key_concurrency),
            rate=_over(said.rate, self.key_rate),
        )


NO_RULES = Rules()
NOTHING_SAID = Said()


def in_force(declared: Iterable[Said], people: Said) -> Rules:
    """The rules of a queue: `people`'s, else the strictest of what apps declared. An app cannot pause."""
    apps = list(declared)
    return Rules(
        paused=people.paused is True,
        capacity=_over(people.capacity, _least(app.capacity for app in apps)),
        concurrency=_over(people.concurrency, _least(app.concurrency for app in apps)),
        rate=_over(people.rate, _slowest(app.rate for app in apps)),
        key_concurrency=_over(people.key_concurrency, _least(app.key_concurrency for app in apps)),
        key_rate=_over(people.key_rate, _slowest(app.key_rate for app in apps)),
        fair=bool(_over(people.fair, any(app.fair is True for app in apps))),
    )


def changed(said: Said, change: dict[str, object]) -> Said:
    """What is said once `change` was: None takes a rule back."""
    stands = {name: value for name, value in {**asdict(said), **change}.items() if value is not None}
    return Said(**stands)


def _over(said: T | Lifted | UnsetType, otherwise: T | None) -> T | None:
    if said is UNSET:
        return otherwise
    return None if said == "none" else said


def _least(said: Iterable[int | Lifted | UnsetType]) -> int | None:
    return min((value for value in said if isinstance(value, int)), default=None)


def _slowest(said: Iterable[Rate | Lifted | UnsetType]) -> Rate | None:
    rates = [value for value in said if isinstance(value, Rate)]
    return min(rates, key=lambda rate: (rate.per_second, rate.at_once), default=None)
