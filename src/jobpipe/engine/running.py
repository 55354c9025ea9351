"""What this server knows of the runs that it handed out: so that a settle need not read what it decides over.

It is a memory of what storage holds, never the truth: a settle stays conditional on its lease. Run times are judged on
the monotonic clock, which a jump of the wall clock does not touch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from jobpipe.core.task import Claim, Task


class Run:
    """One claim handed out: the task as claimed, when (monotonic seconds), and the handler's own timeout if told.

    `local`: to a worker of this server, known by more than the id that it gives.
    """

    __slots__ = ("began", "handler_timeout", "local", "task")

    def __init__(self, task: Task, began: float, local: bool = False) -> None:
        self.task = task
        self.local = local
        self.began = began
        self.handler_timeout: float | None = None


class Running:
    """All runs that are under way, by lease id. `default_timeout` (seconds) is the server's."""

    def __init__(self, monotonic: Callable[[], float], default_timeout: float) -> None:
        self._monotonic = monotonic
        self.default_timeout = default_timeout
        self._runs: dict[str, Run] = {}
        self._by_worker: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._runs)

    def tasks(self) -> list[Task]:
        """The tasks of all runs, in the order of their claims."""
        return [run.task for run in self._runs.values()]

    def begin(self, claims: Iterable[Claim], local: bool) -> None:
        """Claims were handed out."""
        now = self._monotonic()
        worker, n = None, 0
        for claim in claims:
            self._runs[claim.lease_id] = Run(claim.task, now, local)
            worker, n = claim.task.worker, n + 1
        if worker is not None:  # claims of one answer are one worker's
            self._by_worker[worker] = self._by_worker.get(worker, 0) + n

    def count_of(self, worker: str) -> int:
        """How many runs of a worker this server knows."""
        return self._by_worker.get(worker, 0)

    def is_local(self, lease_id: str) -> bool:
        """Whether a worker of this server holds the claim."""
        run = self._runs.get(lease_id)
        return run is not None and run.local

    def end(self, lease_id: str) -> None:
        """The claim was settled, or is not to be relied on any more."""
        run = self._runs.pop(lease_id, None)
        if run is not None and (worker := run.task.worker) is not None:
            left = self._by_worker.get(worker, 0) - 1
            if left > 0:
                self._by_worker[worker] = left
            else:
                self._by_worker.pop(worker, None)

    def task(self, id: str, lease_id: str) -> Task | None:
        """The task as it was last seen under this claim; None when this server does not know."""
        run = self._runs.get(lease_id)
        return run.task if run is not None and run.task.id == id else None

    def update(self, lease_id: str, task: Task) -> bool:
        """The task of a run was changed (its cancelling was requested); whether this run is known."""
        run = self._runs.get(lease_id)
        if run is None:
            return False
        run.task = task
        return True

    def of_worker(self, worker: str) -> Iterator[tuple[str, str]]:
        """Id and lease id of all that `worker`, one of this server's, claimed and did not settle."""
        for lease_id, run in self._runs.items():
            if run.local and run.task.worker == worker:
                yield run.task.id, lease_id

    def time_left(self, id: str, lease_id: str, handler_timeout: float | None) -> float | None:
        """Seconds until the run reaches its timeout (the task's own, else the handler's, else the server's).

        None for a run that this server did not hand out: after a restart nobody knows when it began on this clock.
        """
        run = self._runs.get(lease_id)
        if run is None or run.task.id != id:
            return None
        if handler_timeout is not None:
            run.handler_timeout = handler_timeout
        return run.began + self._timeout(run) - self._monotonic()

    def adopt(self, claims: dict[str, Task]) -> None:
        """Runs that go on from before a restart: their time begins anew on this clock."""
        for lease_id, task in claims.items():
            if lease_id not in self._runs:
                self._runs[lease_id] = Run(task, self._monotonic())
                if task.worker is not None:
                    self._by_worker[task.worker] = self._by_worker.get(task.worker, 0) + 1

    def overran(self, id: str, lease_id: str) -> bool:
        """Whether the run has used up its time."""
        left = self.time_left(id, lease_id, None)
        return left is not None and left <= 0

    def outlasted(self, task: Task, lease_id: str, ran_s: float) -> bool:
        """Whether a run that the store says has lasted `ran_s` seconds has used up its time, whoever handed it out.

        A handler's own timeout counts where this server was told it.
        """
        run = self._runs.get(lease_id)
        return ran_s >= self._timeout(Run(task, 0.0) if run is None else run)

    def _timeout(self, run: Run) -> float:
        if run.task.timeout is not None:
            return run.task.timeout
        return self.default_timeout if run.handler_timeout is None else run.handler_timeout
