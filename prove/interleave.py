"""Deterministic concurrency: everybody at once on one queue under a virtual clock, each run from a seed.

The pool, the queue, the rescuer and the storage's own code are the real ones. What they meet is rescues beside settles,
cancels beside settles, claims given up half way, a drain beside claims, jumps of the wall clock; then a second server
over the same store, on which all must come to an end.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Sequence

from jobpipe import App, Context
from jobpipe.core.errors import Draining, JobpipeError, LeaseLost
from jobpipe.core.lifecycle import Kind, Outcome, Policy, Transition
from jobpipe.core.retry import RetryPolicy
from jobpipe.core.task import Claim, NewTask, Status, Task
from jobpipe.engine.maintenance import Alarm, Rescuer
from jobpipe.engine.queue import TaskQueue
from jobpipe.engine.values import Heartbeat, Report
from jobpipe.server.workers.pool import LocalSource
from jobpipe.storage.base import Settled
from jobpipe.work.executor import Executor
from jobpipe.work.pool import Pool
from prove.proof import Figure, Trial, none
from prove.virtual import SimulatedStorage, Stuck, VirtualClock, VirtualLoop

POLICY = Policy(retry=RetryPolicy(base=0.5, jitter=0.1, cap=5.0), max_lost=3)
WORKERS = 3
LEASE_S = 5.0
BUSY_S = 20.0
"""How long everybody is at it before the drain."""
END_S = 600.0
"""By then all must be at an end."""
POOL = "pool"


class Wrong(Exception):
    """A promise does not hold."""


class World:
    """One seed's world. `trace` says all that happened, so that two runs of a seed can be compared."""

    def __init__(self, seed: int | str, loop: VirtualLoop) -> None:
        self.source = random.Random(seed)
        self.loop, self.clock = loop, VirtualClock(loop)
        self.storage = SimulatedStorage(
            random.Random(self.source.random()), self.clock, capacity=40, max_queues=3
        )
        self.queue = self.new_queue()
        self.acknowledged: set[str] = set()
        self.lives: Counter[str] = Counter()
        """How often each task was accepted or queued again by hand."""
        self.ends: Counter[str] = Counter()
        self.written: Counter[tuple[str, str]] = Counter()
        """Settles that were written, by task and lease."""
        self.running = 0
        self.draining = False
        self.trace: list[str] = []
        self.made = 0

    # --- the parts ---

    def new_queue(self) -> TaskQueue:
        """A server's queue over the store."""
        queue = TaskQueue(
            self.storage, policy=POLICY, default_timeout=30.0, clock=self.clock, random=self.source.random
        )
        queue.observe(self)
        return queue

    def new_pool(self) -> Pool:
        """Workers that run handlers of every temper."""
        app = App()

        @app.handler
        async def busy(ctx: Context) -> None:
            await self.handle(ctx)

        executor = Executor(app, timeout=4.0, clock=self.clock, random=self.source.random)
        source = LocalSource(self.queue, POOL, None)
        pool = Pool(source, executor, WORKERS, random=self.source.random)

        def cancel(_: str, lease_id: str) -> None:
            pool.cancel(lease_id)

        self.queue.listen_to_cancels(cancel)
        return pool

    async def handle(self, ctx: Context) -> None:
        """Take a while; fail, run too long, or ignore a cancel for a moment now and then."""
        self.running += 1
        self.note("begin", ctx.id)
        try:
            if self.running > WORKERS:
                raise Wrong(f"{self.running} handlers run at a time")
            await asyncio.sleep(self.source.choice([0, 0.01, 0.5, 2.0, 6.0]))
            if self.source.random() < 0.2:
                raise ValueError("as asked")
        except asyncio.CancelledError:
            await asyncio.sleep(self.source.choice([0, 0, 0.1]))
            raise
        finally:
            self.running -= 1

    # --- the observer: what the queue tells ---

    def accepted(self, tasks: Sequence[Task]) -> None:
        """Each begins its first life."""
        for task in tasks:
            self.lives[task.id] += 1

    def claimed(self, claims: Sequence[Claim]) -> None:
        """Handed out."""
        self.note("claimed", *(claim.task.id for claim in claims))

    def deleted(self, tasks: Sequence[Task]) -> None:
        """Nobody deletes here."""

    def settled(self, ends: Sequence[tuple[Task, Transition]]) -> None:
        """A run ended, and maybe its task."""
        for task, to in ends:
            self.note(to.kind, task.id)
            self.ended(task.id, to.status)

    def steered(self, tasks: Sequence[Task]) -> None:
        """Cancelled, marked, or queued again."""
        for task in tasks:
            self.note("steered", task.id, task.status)
            self.ended(task.id, task.status)
            self.lives[task.id] += task.status is Status.QUEUED

    def ended(self, id: str, status: Status) -> None:
        """Count an end: one for each life."""
        self.ends[id] += status in (Status.DONE, Status.FAILED, Status.CANCELLED)

    def note(self, *words: object) -> None:
        """Write down what happened."""
        self.trace.append(f"{self.loop.now:.6f} {' '.join(map(str, words))}")

    # --- those who use the queue ---

    async def producer(self) -> None:
        """Post; sometimes wait for the end."""
        while not self.draining:
            await self.pause()
            tasks = [self.new_task() for _ in range(self.source.randint(1, 3))]
            try:
                answers = await self.queue.enqueue(tasks)
            except Draining:
                return
            for answer in answers:
                if isinstance(answer, Task):
                    if answer.id in self.acknowledged:
                        raise Wrong(f"{answer.id} was accepted twice")
                    self.acknowledged.add(answer.id)
            if self.source.random() < 0.3:
                await self.queue.wait_finished(tasks[0].id, self.source.choice([0.1, 5.0, 60.0]))

    def new_task(self) -> NewTask:
        """Mostly new ones."""
        self.made += 1
        number = self.made if self.source.random() < 0.9 else self.source.randint(1, self.made)
        later = self.clock.now() + self.source.choice([0, 0, 0, 800])
        return NewTask(
            f"t{number}", "busy", queue=self.source.choice(["a", "b"]), priority=self.source.randint(0, 1),
            max_retries=self.source.randint(0, 2), run_at=later, timeout=self.source.choice([None, None, 1.0]),
        )  # fmt: skip

    async def remote(self, name: str) -> None:
        """A worker elsewhere: it leases, may be slow, may die, may send twice, may lose its connection amid a claim."""
        while not self.over:
            await self.pause()
            for claim in await self.lease(name):
                await self.work(claim)

    async def lease(self, name: str) -> list[Claim]:
        """Claim, unless the connection breaks."""
        wait = self.source.choice([0, 0.5, 3.0])
        claiming = asyncio.ensure_future(
            self.queue.claim(name, self.source.randint(1, 2), lease_s=LEASE_S, local=False, wait=wait)
        )
        if self.source.random() < 0.15:
            await self.pause()
            claiming.cancel()
        try:
            return await claiming
        except asyncio.CancelledError:
            return []

    async def work(self, claim: Claim) -> None:
        """Run for a while, with or without heartbeats, and settle."""
        if self.source.random() < 0.1:
            return  # it dies
        for _ in range(self.source.randint(0, 2)):
            await asyncio.sleep(self.source.choice([0.001, 0.5, LEASE_S - 0.01, LEASE_S, LEASE_S + 0.01]))
            if self.source.random() < 0.6:
                await self.queue.extend([Heartbeat(claim.task.id, claim.lease_id, LEASE_S)])
        kind = self.source.choice([Kind.DONE, Kind.DONE, Kind.FAILED, Kind.TIMED_OUT, Kind.RELEASED])
        for _ in range(self.source.choice([1, 1, 2])):
            (answer,) = await self.queue.settle([Report(claim.task.id, claim.lease_id, Outcome(kind))])
            self.told(claim, answer)

    def told(self, claim: Claim, answer: Settled | JobpipeError) -> None:
        """One lease is settled once."""
        if isinstance(answer, Settled):
            self.written[claim.task.id, claim.lease_id] += not answer.repeated
            if self.written[claim.task.id, claim.lease_id] > 1:
                raise Wrong(f"lease {claim.lease_id} was settled twice")
        elif not isinstance(answer, LeaseLost):
            raise Wrong(f"a settle was answered {answer!r}")

    async def meddler(self) -> None:
        """Cancels, queues again, and sets the wall clock."""
        while not self.draining:
            await self.pause()
            ids = [f"t{self.source.randint(1, max(1, self.made))}" for _ in range(2)]
            await (self.queue.cancel if self.source.random() < 0.7 else self.queue.retry)(ids)
            if self.source.random() < 0.05:
                self.clock.jump(self.source.choice([-3600, 3600, 86400]))

    async def pause(self) -> None:
        """Until the next deed."""
        await asyncio.sleep(self.source.choice([0, 0.001, 0.1, 1.0]))

    @property
    def over(self) -> bool:
        """Whether the workers elsewhere go home."""
        return self.loop.now > BUSY_S + 10

    # --- the story ---

    async def run(self) -> None:
        """Everybody at once; a drain at a random moment; a second server; the books."""
        await self.storage.open()
        alarm = self.rescuing()
        pool = self.new_pool()
        pool.start()
        others = [
            *(asyncio.ensure_future(self.producer()) for _ in range(3)),
            *(asyncio.ensure_future(self.remote(f"r{n}")) for n in range(3)),
            asyncio.ensure_future(self.meddler()),
        ]
        await asyncio.sleep(self.source.uniform(0.5, BUSY_S))
        self.draining = True
        self.queue.drain()
        await pool.drain(self.source.choice([0, 0.3, 3.0]))
        await self.check_drained(pool)
        await alarm.stop()
        self.queue = self.new_queue()
        alarm = self.rescuing()
        await asyncio.gather(*others)
        await self.finish()
        await alarm.stop()
        await self.check()
        await self.queue.close()

    def rescuing(self) -> Alarm:
        """The server's own rescuer, under way."""
        alarm = Alarm("rescuer", Rescuer(self.queue, self.storage).run_once, self.clock)
        self.queue.on_lease = alarm.ring_within
        alarm.start()
        return alarm

    async def check_drained(self, pool: Pool) -> None:
        """Nothing of the pool's is left, once what `close` waits for has been given back."""
        await self.queue._claiming.settled()
        if pool.busy and self.running == 0:
            raise Wrong("a drained pool holds tasks")
        tasks = [task for task in await self.queue.get(sorted(self.acknowledged)) if task is not None]
        held = [task.id for task in tasks if task.status is Status.RUNNING and task.worker == POOL]
        if held:
            raise Wrong(f"a drained pool still has {held}")

    async def finish(self) -> None:
        """One patient worker does what is left."""
        while self.loop.now < END_S:
            for claim in await self.queue.claim("last", 50, wait=2.0):
                (answer,) = await self.queue.settle(
                    [Report(claim.task.id, claim.lease_id, Outcome(Kind.DONE))]
                )
                self.told(claim, answer)
            counts = await self.queue.counts()
            if counts[Status.QUEUED] + counts[Status.RUNNING] == 0:
                return
            if self.source.random() < 0.5:
                self.clock.jump(90_000)  # what was put off by a jump back comes due
        raise Wrong(f"stuck: {await self.queue.counts()}")

    async def check(self) -> None:
        """Each life has one end, and the books add up."""
        tasks = [task for task in await self.queue.get(sorted(self.acknowledged)) if task is not None]
        if len(tasks) != len(self.acknowledged):
            raise Wrong("an acknowledged task is gone")
        for task in tasks:
            _check_books(task)
            if self.ends[task.id] != self.lives[task.id]:
                raise Wrong(f"{task.id} had {self.lives[task.id]} lives and {self.ends[task.id]} ends")
        counts = await self.queue.counts()
        if sum(counts.values()) != len(tasks):
            raise Wrong(f"the kept counts are wrong: {counts}")
        if await self.storage.lost(10) or await self.storage.next_expiry() is not None:
            raise Wrong("a claim is left")
        left = [claim for name in ("last", "r0", "r1", "r2", POOL) for claim in self.queue.claims_of(name)]
        if left:
            raise Wrong(f"the queue remembers runs that ended: {left}")


def _check_books(task: Task) -> None:
    ran = task.started_at is not None
    one_more = task.status is Status.DONE or (task.status is Status.CANCELLED and ran)
    adds_up = task.attempts == task.failures + task.lost + one_more
    if (
        not adds_up
        or not task.finished
        or task.failures > task.max_retries + 1
        or task.lost > POLICY.max_lost
    ):
        raise Wrong(f"the books of {task}")


def one(seed: int | str) -> World:
    """Play one seed. Raises Wrong or Stuck."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, VirtualLoop)
        world = World(seed, loop)
        runner.run(world.run())
        return world


def interleavings(trial: Trial) -> Sequence[Figure]:
    """Many seeds; the first that fail are named, so that they can be played again by `one`."""
    logging.disable(logging.CRITICAL)
    seeds = trial.sized(60, 1_500, 10_000)
    wrong: list[str] = []
    events = tasks = 0
    for number in range(seeds):
        name = f"{trial.seed}/{number}"
        try:
            world = one(name)
        except (Wrong, Stuck) as error:
            wrong.append(f"{name}: {type(error).__name__}: {error}")
        else:
            events += len(world.trace)
            tasks += len(world.acknowledged)
    logging.disable(logging.NOTSET)
    for line in wrong[:5]:
        print(line)
    return [
        Figure("seeds", seeds),
        Figure("tasks", tasks),
        Figure("claims, begins, ends and steerings", events),
        none("seeds with a task that is lost, stuck, ended twice or badly counted", len(wrong)),
    ]
