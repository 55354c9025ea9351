"""Clients under way: threads that post tasks, one by one and in batches, and write down what was acknowledged.

A request whose answer did not come is sent again with the same ids: whether it was taken is unknown, and 409 says that
it was. Such a task counts as acknowledged like any other.
"""

from __future__ import annotations

import http.client
import random
import threading
import time
from collections.abc import Callable
from typing import Any

from prove.client import Answer, Client
from prove.journal import Journal

RETRY_S = 0.02
TAKEN = (202, 409)
MakeTask = Callable[[random.Random, str], dict[str, Any]]
"""A task with this id."""


class Load:
    """`clients` threads that post what `make` gives until they are stopped; `batch` is the longest array."""

    def __init__(
        self,
        port: int,
        journal: Journal,
        source: random.Random,
        make: MakeTask,
        *,
        clients: int = 6,
        batch: int = 20,
        pause_s: float = 0.0,
    ) -> None:
        self._port, self._journal, self._make = port, journal, make
        self._batch, self._pause_s = batch, pause_s
        self._stop = threading.Event()
        self.refused = 0
        """Answers of a server that was full or stopping."""
        self.odd: list[tuple[int, str]] = []
        """Answers that no client should get."""
        self._threads = [
            threading.Thread(target=self._run, args=(f"c{n}", random.Random(source.random())), daemon=True)
            for n in range(clients)
        ]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, name: str, source: random.Random) -> None:
        client = Client(self._port, 10)
        number = 0
        while not self._stop.is_set():
            size = source.choice([1, 1, 1, source.randint(2, self._batch)])
            tasks = [self._make(source, f"{name}-{number + n}") for n in range(size)]
            number += size
            self._post(client, tasks)
            if self._pause_s:
                self._stop.wait(source.uniform(0, 2 * self._pause_s))
        client.close()

    def _post(self, client: Client, tasks: list[dict[str, Any]]) -> None:
        """Send until each task is known to be taken, or the load ends."""
        while tasks:
            try:
                answer = client.ask("POST", "/enqueue", tasks if len(tasks) > 1 else tasks[0])
            except (OSError, http.client.HTTPException):
                pass
            else:
                tasks = self._left(tasks, answer)
            if self._stop.is_set():
                return
            if tasks:
                time.sleep(RETRY_S)

    def _left(self, tasks: list[dict[str, Any]], answer: Answer) -> list[dict[str, Any]]:
        """Which tasks are to be sent again."""
        statuses = _statuses(answer, len(tasks))
        self._journal.record(
            task["id"] for task, status in zip(tasks, statuses, strict=True) if status in TAKEN
        )
        left = [task for task, status in zip(tasks, statuses, strict=True) if status not in TAKEN]
        self.refused += len(left)
        if any(status not in (*TAKEN, 503) for status in statuses):
            self.odd.append((answer.status, answer.body[:300].decode(errors="replace")))
        return left


def _statuses(answer: Answer, count: int) -> list[int]:
    if answer.status == 200 and count > 1:
        return [item["status"] for item in answer.json()]
    return [answer.status] * count
