"""The backoff is the documented one: min(cap, base * 2^(n-1)) + random(0, jitter), for each retry number."""

from __future__ import annotations

from collections.abc import Sequence

from jobpipe.core.lifecycle import Kind, Outcome, Policy, decide
from jobpipe.core.retry import RetryPolicy
from jobpipe.core.task import Status, Task
from prove.proof import Figure, Trial, none

RETRIES = 15
POLICIES = (
    RetryPolicy(),
    RetryPolicy(base=1.0, jitter=0.0, cap=60.0),
    RetryPolicy(base=0.05, jitter=5.0, cap=2.0),
)
ROUNDING_MS = 0.5
"""Times are kept as whole milliseconds."""


def backoff(trial: Trial) -> Sequence[Figure]:
    """Sample what the queue would write for failure number n, and compare with the documentation's own formula."""
    samples = trial.sized(1_000, 10_000, 10_000)
    source = trial.source()
    outside = late = checked = 0
    for policy in POLICIES:
        for retry in range(1, RETRIES + 1):
            least = min(policy.cap, policy.base * 2 ** (retry - 1)) * 1000
            delays = [_delay_ms(policy, retry, source.random) for _ in range(samples)]
            outside += sum(
                not least - ROUNDING_MS <= d <= least + policy.jitter * 1000 + ROUNDING_MS for d in delays
            )
            middle = least + policy.jitter * 500
            late += abs(sum(delays) / samples - middle) > policy.jitter * 50 + ROUNDING_MS
            checked += samples
    return [
        Figure("retry numbers, under each of three policies", RETRIES),
        Figure("samples of each", samples),
        Figure("samples", checked),
        none("out of range", outside),
        none("retry numbers whose mean is off by over a tenth of the jitter's half", late),
    ]


def _delay_ms(policy: RetryPolicy, retry: int, random: object) -> float:
    task = Task(
        seq=1, id="t", handler="h", queue="q", payload=b"null", priority=0, status=Status.RUNNING, attempts=retry,
        failures=retry - 1, lost=0, max_retries=1000, timeout=None, run_at=0, created_at=0,
    )  # fmt: skip
    return decide(task, Outcome(Kind.FAILED), 0, Policy(policy), random).run_at  # type: ignore[arg-type]
