"""Where tasks live. `open_storage` picks the engine by its URL and imports only that one."""

from __future__ import annotations

from jobpipe.core.errors import StorageRefused
from jobpipe.runtime.clock import Clock, SystemClock
from jobpipe.storage.contract import Storage


def open_storage(
    url: str, *, capacity: int = 64, max_queues: int = 1000, clock: Clock | None = None
) -> Storage:
    """The engine for `url`, not yet opened: `sqlite:///file.db` (three slashes: relative, four: absolute), `memory:`,
    or `postgresql://user@host/database` (see storage/postgres/address.py for its parameters).

    `capacity` bounds the queued tasks of each queue, `max_queues` the queue names that hold tasks. Raises
    StorageRefused for a URL that no engine serves.
    """
    if url == "memory:" or url.startswith("sqlite:///"):
        from jobpipe.storage.sqlite import SqliteStorage

        path = None if url == "memory:" else url.removeprefix("sqlite:///")
        return SqliteStorage(path, capacity=capacity, max_queues=max_queues, clock=clock or SystemClock())
    if url.startswith(("postgresql://", "postgres://")):
        try:
            from jobpipe.storage.postgres import PostgresStorage
        except ModuleNotFoundError as error:
            if error.name != "asyncpg":
                raise
            raise StorageRefused(
                "postgresql stores need the extra: pip install 'jobpipe[postgres]'"
            ) from error
        return PostgresStorage(url, capacity=capacity, max_queues=max_queues, clock=clock or SystemClock())
    raise StorageRefused(
        f"no engine serves the store '{url.partition(':')[0]}': use sqlite:///FILE, memory: or postgresql://USER@HOST/DATABASE"
    )
