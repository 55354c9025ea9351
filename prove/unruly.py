"""A worker that does what a worker may do wrong: it settles twice, late, beside a cancel or the end of its lease."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from types import TracebackType
from typing import Any, Self

from prove.client import connected

LEASE_S = 5.0
Task = dict[str, Any]


class Unruly:
    """Works on a queue at any of the servers, in threads, until the block ends."""

    def __init__(self, source: random.Random, ports: Sequence[int], queue: str, threads: int = 3) -> None:
        self._source, self._ports, self._queue = source, ports, queue
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._work, args=(f"unruly-{n}",)) for n in range(threads)]
        self._pool = ThreadPoolExecutor(8)
        self.done: Counter[str] = Counter()
        self.differing = self.accepted = 0

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()
        self._pool.shutdown()

    def _work(self, name: str) -> None:
        while not self._over.is_set():
            with contextlib.suppress(OSError, HTTPException, KeyError, ValueError):
                for task in self._lease(name):
                    self._misbehave(task)

    def _lease(self, name: str) -> Iterator[Task]:
        wish = {"worker_id": name, "queues": [self._queue], "max": 1, "total": 1, "wait": 1, "lease": LEASE_S}
        yield from self._ask("/lease", wish)["tasks"]

    def _misbehave(self, task: Task) -> None:
        ways: dict[str, tuple[int, Callable[[Task], None]]] = {
            "settles sent twice": (8, self._twice), "settles beside a cancel": (4, self._beside_cancel),
            "settles beside a rescue": (1, self._beside_rescue), "stale settles": (1, self._stale),
        }  # fmt: skip
        (what,) = self._source.choices(list(ways), [weight for weight, _ in ways.values()])
        ways[what][1](task)
        self.done[what] += 1

    def _twice(self, task: Task) -> None:
        answers = list(self._pool.map(self._settle, [task] * 2, [self._outcome()] * 2))
        self.differing += answers[0]["accepted"] != answers[1]["accepted"] and not self._taken_again(task)

    def _taken_again(self, task: Task) -> bool:
        """A settle may be answered with lease_lost once the task is leased anew."""
        answer = self._settle(task, {"outcome": "done"})
        return not answer["accepted"]

    def _beside_cancel(self, task: Task) -> None:
        cancelled = self._pool.submit(self._ask, f"/tasks/{task['id']}/cancel", None)
        self._settle(task, self._outcome())
        cancelled.exception()

    def _beside_rescue(self, task: Task) -> None:
        time.sleep(LEASE_S + self._source.uniform(-0.02, 0.6))
        self._settle(task, self._outcome())

    def _stale(self, task: Task) -> None:
        self._settle(task, {"outcome": "released"})
        answer = self._settle({**task, "lease_id": "0" * len(task["lease_id"])}, {"outcome": "done"})
        self.accepted += answer["accepted"]

    def _outcome(self) -> dict[str, Any]:
        return self._source.choice(
            [{"outcome": "done"}, {"outcome": "released"}, {"outcome": "released", "retry_in": 0.05},
             {"outcome": "released", "retry_in": 0.1, "hold": "key"}, {"outcome": "timed_out"},
             {"outcome": "failed", "error": {"type": "Unruly", "message": "as asked"}}]
        )  # fmt: skip

    def _settle(self, task: Task, outcome: dict[str, Any]) -> Any:
        return self._ask("/settle", [{"id": task["id"], "lease_id": task["lease_id"], **outcome}])[0]

    def _ask(self, path: str, body: Any) -> Any:
        with connected(self._source.choice(self._ports)) as client:
            return client.ask("POST", path, body).json()
