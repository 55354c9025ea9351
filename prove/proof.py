"""What a proof is: a function that makes faults, compares, and gives figures, some of which have a bound to hold.

All chance comes from the trial's seed, so that the same command makes the same run again, as far as the machine's pace
lets it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from msgspec import Struct


class Size(StrEnum):
    """How much is done: `short` in CI, `default` by hand, `full` for the record."""

    SHORT = "short"
    DEFAULT = "default"
    FULL = "full"


class Figure(Struct, frozen=True):
    """A number that a proof found; with `at_most` or `at_least` the promise holds only within that bound."""

    name: str
    value: float
    unit: str = ""
    at_most: float | None = None
    at_least: float | None = None

    @property
    def holds(self) -> bool:
        """Whether the value keeps its bound; one without a bound always does."""
        over = self.at_most is not None and self.value > self.at_most
        under = self.at_least is not None and self.value < self.at_least
        return not (over or under)


def none(name: str, count: float) -> Figure:
    """A count that the promise says is zero."""
    return Figure(name, int(count), at_most=0)


def skipped(name: str, missing: str) -> Figure:
    """What was not done because something is missing here."""
    return Figure(name, 0, f"(skipped: {missing})")


class Broken(Exception):
    """The proof itself could not be carried out: nothing is shown either way. The message is for people."""


class Trial(NamedTuple):
    """One run of a proof: an empty folder of its own, the seed, and how much is to be done."""

    folder: Path
    seed: int
    size: Size

    def source(self, name: str = "") -> random.Random:
        """A source of chance of its own for each part, so that parts do not disturb each other's."""
        return random.Random(f"{self.seed}/{name}")

    def sized(self, short: int, default: int, full: int) -> int:
        """The number for this trial's size."""
        return {Size.SHORT: short, Size.DEFAULT: default, Size.FULL: full}[self.size]


class Proof(NamedTuple):
    """`rows` are the numbers of the promises in docs/reliability.md that it shows.

    `timed` proofs judge how long something takes, and run with no other beside them.
    """

    rows: tuple[int, ...]
    title: str
    run: Callable[[Trial], Sequence[Figure]]
    timed: bool = False
    needs: Callable[[], str | None] = lambda: None
    """What is missing here to carry it out; None when nothing is."""
