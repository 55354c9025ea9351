"""SQLite: what was acknowledged survives power cuts, on a simulated disk that forgets what was not synced.

`python -m prove --only power` does the same ten thousand times.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from prove.disk import Disk, Platter
from prove.powercut import survivors
from prove.proof import Size, Trial
from prove.stores import FILE, put, reopen, scratch

from jobpipe.core.task import NewTask
from jobpipe.runtime.clock import ManualClock
from jobpipe.storage import open_storage


async def test_a_rollback_journal_that_comes_back_undoes_nothing() -> None:
    """The one of the file's creation: nothing forces its deletion to the disk but a sync of the folder."""
    with scratch() as folder, Disk() as disk:
        store = open_storage(f"sqlite:///{folder / FILE}", clock=ManualClock())
        await store.open()
        await store.insert([NewTask("t1", "h")], 1_700_000_000_000)
        platter = Platter()
        for event in disk.log:
            if event.what != "delete" or event.offset:
                platter.take(event)
        await store.close()
        put(platter.cut(None), folder / "after")
        assert (await reopen(folder / "after" / FILE)).states == {"t1": "queued"}


@pytest.mark.parametrize("torn", [bytes(2560), b"SQLite format 3\0"[:9], bytes(100)])
async def test_a_file_that_was_torn_while_it_was_made_is_made_again(torn: bytes) -> None:
    with scratch() as folder, Disk() as disk:
        store = open_storage(f"sqlite:///{folder / FILE}", clock=ManualClock())
        await store.open()
        await store.close()
        platter = Platter()
        for event in disk.log:
            if (event.what, event.file) == ("write", FILE):
                break
            platter.take(event)
        put(platter.cut(None) | {FILE: torn}, folder / "after")
        verdict = await reopen(folder / "after" / FILE)
        assert (verdict.corrupt, verdict.states) == (False, {})


@pytest.mark.parametrize(("synchronous", "loses"), [("FULL", False), ("NORMAL", True)])
def test_power_cuts_lose_what_was_acknowledged_only_without_full_syncs(
    tmp_path: Path, synchronous: str, loses: bool
) -> None:
    found = survivors(Trial(tmp_path, 7, Size.SHORT), synchronous, cuts=60)
    assert found["cuts"] >= 60
    assert bool(found["wrong"]) is loses
    assert (found["corrupt"], found["counts"]) == (0, 0)
