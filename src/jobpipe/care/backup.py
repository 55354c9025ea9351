"""Backup and restore, by the store's URL: SQLite stores are copied here, PostgreSQL has tools of its own."""

from __future__ import annotations

from collections.abc import Callable

from jobpipe.core.errors import StorageRefused

Progress = Callable[[int, int], None]


def back_up(url: str, file: str, *, replace: bool, progress: Progress) -> None:
    """Copy the store at `url` to `file` while it is in use. Raises StorageError."""
    from jobpipe.storage.sqlite import backup

    backup.back_up(_path(url, "pg_dump"), file, replace=replace, progress=progress)


def restore(file: str, url: str, *, progress: Progress) -> None:
    """Make `file`, a backup, the store at `url`, where none is. Raises StorageError."""
    from jobpipe.storage.sqlite import backup

    backup.restore(file, _path(url, "pg_restore"), progress=progress)


def _path(url: str, tool: str) -> str:
    if url.startswith("sqlite:///"):
        return url.removeprefix("sqlite:///")
    if url == "memory:":
        raise StorageRefused("memory: lives in its server alone and cannot be copied")
    raise StorageRefused(f"a PostgreSQL store is copied by PostgreSQL's own {tool}")
