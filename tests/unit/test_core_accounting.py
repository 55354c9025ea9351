"""Rule 3 of the design over whole lives: attempts = failures + lost, plus 1 for a run under way, done or cancelled."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from jobpipe.core.lifecycle import ALLOWED, Event, Kind, Outcome, Policy, decide
from jobpipe.core.task import Status, Task

STEPS = st.lists(
    st.sampled_from(["claim", "cancel", "retry", *Kind, *Kind])  # outcomes twice: most runs come to one
    | st.just("fail for good"),
    max_size=60,
)


class Life:
    """A task driven by events as a storage would drive it, with a tally of its own beside the task's."""

    def __init__(self, max_retries: int, policy: Policy) -> None:
        self.policy = policy
        self.task = Task(1, "t", "h", "q", b"null", 0, Status.QUEUED, 0, 0, 0, max_retries, None, 0, 0)
        self.failed = self.crashed = 0
        self.run_counts = False
        """Whether the latest run is one that counts beside failures and losses: under way, done or cancelled."""

    def step(self, event: str) -> None:
        if event == "claim" and self.task.status in ALLOWED[Event.CLAIM]:
            self.task = replace(self.task, status=Status.RUNNING, attempts=self.task.attempts + 1)
            self.run_counts = True
        elif event == "cancel":
            self._cancel()
        elif event == "retry" and self.task.status in ALLOWED[Event.RETRY]:
            self.task = replace(
                self.task, status=Status.QUEUED, attempts=0, failures=0, lost=0, cancel_requested=False
            )
            self.failed = self.crashed = 0
            self.run_counts = False
        elif event == "fail for good":
            self._settle(Outcome(Kind.FAILED, retryable=False))
        elif event in list(Kind):
            self._settle(Outcome(Kind(event)))

    def _cancel(self) -> None:
        if self.task.status is Status.QUEUED:
            self.task = replace(self.task, status=Status.CANCELLED)
        elif self.task.status is Status.RUNNING:
            self.task = replace(self.task, cancel_requested=True)

    def _settle(self, outcome: Outcome) -> None:
        cancelling = self.task.cancel_requested
        if self.task.status is not Status.RUNNING or (outcome.kind is Kind.CANCELLED and not cancelling):
            return
        to = decide(self.task, outcome, 0, self.policy, random.Random(0).random)
        self.run_counts = to.status in (Status.DONE, Status.CANCELLED)
        if not cancelling:
            self.failed += outcome.kind in (Kind.FAILED, Kind.TIMED_OUT)
            self.crashed += outcome.kind is Kind.LOST
        if to.status is Status.FAILED:
            assert (
                not outcome.retryable
                or self.failed > self.task.max_retries
                or self.crashed >= self.policy.max_lost
            )
        self.task = replace(
            self.task, status=to.status, attempts=to.attempts, failures=to.failures, lost=to.lost,
            cancel_requested=cancelling and to.status is not Status.QUEUED,
        )  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(steps=STEPS, max_retries=st.integers(0, 4), max_lost=st.integers(2, 4))
def test_the_accounting_holds_after_every_event_of_any_life(
    steps: list[str], max_retries: int, max_lost: int
) -> None:
    life = Life(max_retries, Policy(max_lost=max_lost))
    for event in steps:
        life.step(event)
        task = life.task
        assert (task.failures, task.lost) == (life.failed, life.crashed)
        assert task.attempts == task.failures + task.lost + life.run_counts
        assert task.failures <= max_retries + 1
        assert task.lost <= max_lost
        if task.status in (Status.QUEUED, Status.RUNNING):
            assert task.failures <= max_retries
            assert task.lost < max_lost
        if task.status is Status.QUEUED:
            assert not task.cancel_requested


@settings(max_examples=200, deadline=None)
@given(
    kinds=st.lists(st.sampled_from([Kind.FAILED, Kind.TIMED_OUT, Kind.LOST]), min_size=12, max_size=12),
    max_retries=st.integers(0, 4),
    max_lost=st.integers(2, 4),
)
def test_a_task_that_never_succeeds_ends_after_its_retries_or_losses(
    kinds: list[Kind], max_retries: int, max_lost: int
) -> None:
    life = Life(max_retries, Policy(max_lost=max_lost))
    runs = 0
    for kind in kinds:
        if life.task.status is Status.QUEUED:
            life.step("claim")
            life.step(kind)
            runs += 1
    assert life.task.status is Status.FAILED
    assert life.task.attempts == runs <= max_retries + max_lost
    assert life.task.failures == max_retries + 1 or life.task.lost == max_lost
