"""Testing your own handlers: a real queue in memory, real serialisation, a clock to move, and no network.

    async def test_a_picture_is_resized():
        async with TestQueue(app) as queue:
            task = await resize.enqueue(path="a.png", width=200)
            await queue.drain()
            assert queue.task(task.id).result == "a-200.png"

Nothing runs but in `drain` and `advance`, one task at a time, in the queue's own order. With pytest the fixture
`jobpipe_queue` is such a queue; see `jobpipe.testing.plugin`.
"""

from jobpipe.runtime.clock import ManualClock
from jobpipe.testing.queue import TasksFailed, TestQueue

__all__ = ["ManualClock", "TasksFailed", "TestQueue"]
