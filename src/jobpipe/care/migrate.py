"""Bringing a store's schema up to date without serving it, as one step of an upgrade that is done beforehand."""

from __future__ import annotations

import asyncio

from jobpipe.storage import open_storage


def migrate(url: str) -> None:
    """Make the store's schema the current one. Raises StorageRefused when that cannot be, and touches nothing then."""
    asyncio.run(_opened(url))


async def _opened(url: str) -> None:
    store = open_storage(url)
    await store.open()
    await store.close()
