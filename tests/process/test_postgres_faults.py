"""What befalls a database under three servers and their workers, each fault once or twice, while clients post.

`make prove` does the same for longer, at random.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from prove.postgres_faults import faults
from prove.proof import Size, Trial

import postgres

pytestmark = [pytest.mark.process, pytest.mark.timeout(180)]


def test_whatever_befalls_the_database_nothing_is_lost_and_workers_soon_work_again(tmp_path: Path) -> None:
    postgres.require()
    figures = faults(Trial(tmp_path, 7, Size.SHORT))
    assert [figure for figure in figures if not figure.holds] == []
    assert {figure.name: figure.value for figure in figures}["acknowledged"] > 100
